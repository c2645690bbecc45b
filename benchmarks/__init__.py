"""Figures that sciflow promises, measured; see `benchmarks.__main__`."""
