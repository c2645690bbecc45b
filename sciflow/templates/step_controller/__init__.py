"""A package with a step controller."""
