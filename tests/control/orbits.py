"""Runs of bodies with one value of the knob, for the tests."""

import numpy as np

from sciflow_control.bodies.state import Bodies


def run(stepper, value, until):
    """Intervals with one value, all of which must converge; the stepper and the work."""
    cost = 0.0
    while stepper.time < until:
        result = stepper.attempt(value, until)
        assert result.converged
        stepper.accept()
        cost += result.cost
    return stepper, cost


def now(stepper):
    """The bodies as they are."""
    b = stepper.bodies
    return Bodies(b.masses, stepper.positions, stepper.velocities, b.gravity)


def scattered(seed=0, count=4):
    """Bodies at random places in space that are bound to each other."""
    rng = np.random.default_rng(seed)
    return Bodies(
        rng.uniform(0.5, 2.0, count), rng.normal(size=(count, 3)), 0.4 * rng.normal(size=(count, 3)), 1.0
    ).centred()


def rotation(seed=0):
    """A random rotation."""
    found, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return found * np.sign(np.linalg.det(found))
