"""A few integration points in place of all: cubature, interpolation, gappy reconstruction."""
