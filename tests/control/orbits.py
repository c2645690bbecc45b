"""Orbits that are known, and runs of bodies with one value of the knob, for the tests."""

import math

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


def kepler(eccentricity, ratio=1.0):
    """Two bodies at their closest, of period 2 pi and semi-major axis 1, with G and all mass 1.

    `ratio` is the mass of the first over that of the second.
    """
    apart, speed = 1 - eccentricity, math.sqrt((1 + eccentricity) / (1 - eccentricity))
    masses = np.array([ratio, 1.0]) / (1 + ratio)
    share = np.array([-masses[1], masses[0]])
    return Bodies(masses, np.outer(share, [apart, 0, 0]), np.outer(share, [0, speed, 0]), 1.0)


def kepler_at(eccentricity, time):
    """Where the second body of `kepler` is then, seen from the first; Kepler's equation solved by Newton."""
    anomaly = math.remainder(time, 2 * math.pi)
    e = anomaly if eccentricity < 0.8 else math.copysign(math.pi, anomaly)
    for _ in range(60):
        e -= (e - eccentricity * math.sin(e) - anomaly) / (1 - eccentricity * math.cos(e))
    return np.array([math.cos(e) - eccentricity, math.sqrt(1 - eccentricity**2) * math.sin(e)])


def figure_eight():
    """Three equal bodies that follow each other on one curve, with G and masses 1.

    The period is 6.32591398. Initial values of C. Simó as given in A. Chenciner, R. Montgomery, "A
    remarkable periodic solution of the three-body problem in the case of equal masses", Annals of
    Mathematics 152 (2000) 881.
    """
    x, v = np.array([0.97000436, -0.24308753, 0.0]), np.array([-0.93240737, -0.86473146, 0.0])
    return Bodies(np.ones(3), np.array([x, -x, np.zeros(3)]), np.array([-v / 2, -v / 2, v]), 1.0)
