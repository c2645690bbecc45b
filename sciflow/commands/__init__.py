"""What `sciflow` does for each of its larger commands; `sciflow.cli` reads the words."""
