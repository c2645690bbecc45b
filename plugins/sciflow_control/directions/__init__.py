"""Learned search directions for conjugate gradients."""
