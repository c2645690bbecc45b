"""A package with a stage."""
