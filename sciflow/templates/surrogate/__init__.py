"""A package with a surrogate."""
