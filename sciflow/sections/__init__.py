"""What a report says of an artifact: a module for each kind, each with a function ``section``."""
