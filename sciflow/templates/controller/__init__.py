"""A package with a controller."""
