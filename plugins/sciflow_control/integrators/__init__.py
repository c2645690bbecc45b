"""Integrators of ordinary differential equations, one step at a time, for controllers to steer."""
