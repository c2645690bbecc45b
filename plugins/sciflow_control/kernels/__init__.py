"""Relaxation in numba, for places where a library call costs more than the sweep."""
