"""Reduced models that grow by the full solutions they ask for."""
