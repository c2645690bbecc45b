"""A package with a linear solver."""
