"""Fourier neural operators, dense and factorised."""
