"""A package with a problem."""
