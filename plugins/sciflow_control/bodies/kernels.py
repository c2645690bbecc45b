"""Compiled steps of N bodies: Hermite's fourth-order method and the leapfrog, with their time scale."""

from __future__ import annotations

import math

import numpy as np

from sciflow_control.kernels.compiling import unchecked

PLACE, SPEED, REST, FORCE, JERK = 0, 1, 2, 3, 4
"""Rows of a state: position, velocity, what a position lost in rounding, acceleration and its derivative.

Each is of shape (body, 3). A pair that is 1e-6 apart at a distance of 10 from the origin would have no more
than nine digits of its distance, and lose its energy to rounding, were it not for what is kept in `REST`.
Kernels take whole states: to make a view of a row costs as much as what three bodies do with it.
"""
TINY = 1e-15
"""A step that is a smaller part of the interval does not move its time."""


@unchecked
def apart(state: np.ndarray, i: int, o: int) -> tuple[float, float, float]:
    """The way from body i to body o in a state (row, body, 3)."""
    return (
        (state[PLACE, o, 0] - state[PLACE, i, 0]) + (state[REST, o, 0] - state[REST, i, 0]),
        (state[PLACE, o, 1] - state[PLACE, i, 1]) + (state[REST, o, 1] - state[REST, i, 1]),
        (state[PLACE, o, 2] - state[PLACE, i, 2]) + (state[REST, o, 2] - state[REST, i, 2]),
    )


@unchecked
def faster(state: np.ndarray, i: int, o: int) -> tuple[float, float, float]:
    """The velocity of body o seen from body i in a state (row, body, 3)."""
    return (
        state[SPEED, o, 0] - state[SPEED, i, 0],
        state[SPEED, o, 1] - state[SPEED, i, 1],
        state[SPEED, o, 2] - state[SPEED, i, 2],
    )


@unchecked
def drift(old: np.ndarray, new: np.ndarray, i: int, k: int, way: float) -> None:
    """Move a coordinate of body i, and keep what is lost in rounding (the sum of two floats, Knuth).

    States are of shape (row, body, 3).
    """
    x, way = old[PLACE, i, k], way + old[REST, i, k]
    total = x + way
    part = total - x
    new[PLACE, i, k] = total
    new[REST, i, k] = (x - (total - part)) + (way - part)


@unchecked
def pull(
    state: np.ndarray, row: int, i: int, o: int, mine: float, theirs: float, x: float, y: float, z: float
) -> None:
    """Add a vector times `mine` to body i, and take it times `theirs` from body o; (row, body, 3)."""
    state[row, i, 0] += mine * x
    state[row, i, 1] += mine * y
    state[row, i, 2] += mine * z
    state[row, o, 0] -= theirs * x
    state[row, o, 1] -= theirs * y
    state[row, o, 2] -= theirs * z


@unchecked
def jerks(masses: np.ndarray, gravity: float, state: np.ndarray) -> None:
    """Accelerations and their derivatives of a state (5, body, 3), in place."""
    n = masses.shape[0]
    for i in range(n):
        for k in range(3):
            state[FORCE, i, k] = 0.0
            state[JERK, i, k] = 0.0
    for i in range(n):
        for o in range(i + 1, n):
            x0, x1, x2 = apart(state, i, o)
            v0, v1, v2 = faster(state, i, o)
            one = 1.0 / (x0 * x0 + x1 * x1 + x2 * x2)
            weight = gravity * one * math.sqrt(one)
            turn = 3.0 * (x0 * v0 + x1 * v1 + x2 * v2) * one
            pull(state, FORCE, i, o, weight * masses[o], weight * masses[i], x0, x1, x2)
            v0, v1, v2 = v0 - turn * x0, v1 - turn * x1, v2 - turn * x2
            pull(state, JERK, i, o, weight * masses[o], weight * masses[i], v0, v1, v2)


@unchecked
def forces(masses: np.ndarray, gravity: float, state: np.ndarray) -> None:
    """Accelerations of a state (4, body, 3), in place."""
    n = masses.shape[0]
    for i in range(n):
        for k in range(3):
            state[FORCE, i, k] = 0.0
    for i in range(n):
        for o in range(i + 1, n):
            x0, x1, x2 = apart(state, i, o)
            one = 1.0 / (x0 * x0 + x1 * x1 + x2 * x2)
            weight = gravity * one * math.sqrt(one)
            pull(state, FORCE, i, o, weight * masses[o], weight * masses[i], x0, x1, x2)


@unchecked
def pace(masses: np.ndarray, gravity: float, state: np.ndarray) -> tuple[float, float]:
    """Square of the largest rate of a pair, and how its time scale grows: d(log tau)/dt, as if alone.

    Masses are of shape (body,), the state (row, body, 3). The time scale, one over the rate, is the smaller
    of ``r / v`` and the time to fall ``sqrt(r^3 / (G (m_1 + m_2)))``.
    """
    n = masses.shape[0]
    fastest, growth = 0.0, 0.0
    for i in range(n):
        for o in range(i + 1, n):
            x0, x1, x2 = apart(state, i, o)
            v0, v1, v2 = faster(state, i, o)
            one = 1.0 / (x0 * x0 + x1 * x1 + x2 * x2)
            passing = (v0 * v0 + v1 * v1 + v2 * v2) * one
            falling = gravity * (masses[i] + masses[o]) * one * math.sqrt(one)
            rate = max(passing, falling)
            if not rate <= fastest:
                fastest = rate
                away = (x0 * v0 + x1 * v1 + x2 * v2) * one
                growth = away * (1.0 + falling / passing) if passing > falling else 1.5 * away
    return fastest, growth


@unchecked
def energy(masses: np.ndarray, gravity: float, state: np.ndarray) -> float:
    """Kinetic and potential energy of masses (body,) in a state of shape (row, body, 3)."""
    n = masses.shape[0]
    total = 0.0
    for i in range(n):
        v0, v1, v2 = state[SPEED, i, 0], state[SPEED, i, 1], state[SPEED, i, 2]
        total += 0.5 * masses[i] * (v0 * v0 + v1 * v1 + v2 * v2)
        for o in range(i + 1, n):
            x0, x1, x2 = apart(state, i, o)
            total -= gravity * masses[i] * masses[o] / math.sqrt(x0 * x0 + x1 * x1 + x2 * x2)
    return total


@unchecked
def copied(start: np.ndarray, end: np.ndarray) -> None:
    """Copy a state, shape (row, body, 3)."""
    for row in range(start.shape[0]):
        for i in range(start.shape[1]):
            for k in range(3):
                end[row, i, k] = start[row, i, k]


@unchecked
def step_of(
    masses: np.ndarray, gravity: float, state: np.ndarray, mu: float, symmetric: bool, rest: float
) -> float:
    """The next step: `mu` times the time scale, taken in the middle of the step or at its start; see `pace`.

    With the time scale tau and its growth g = tau'/tau at the start, ``h = mu tau / (1 - mu tau g/2)`` is to
    first order the mean of what both ends of the step ask for; g is cut where h would more than double. Of
    the rest up to where the steps must end, two like steps are made rather than a long one and a tiny one.
    """
    fastest, growth = pace(masses, gravity, state)
    h = mu / math.sqrt(fastest)
    if symmetric:
        h /= 1.0 - min(0.5 * h * growth, 0.5)
    if h >= rest:
        return rest
    return rest / 2 if h > rest / 2 else h


@unchecked
def corrected(
    masses: np.ndarray, gravity: float, old: np.ndarray, new: np.ndarray, h: float, corrections: int
) -> None:
    """One step of Hermite's method: predicted, then evaluated and corrected so many times; (5, body, 3)."""
    n = masses.shape[0]
    half, third, sixth = h / 2, h / 3, h / 6
    for i in range(n):
        for k in range(3):
            v, a, j = old[SPEED, i, k], old[FORCE, i, k], old[JERK, i, k]
            drift(old, new, i, k, h * (v + half * (a + third * j)))
            new[SPEED, i, k] = v + h * (a + half * j)
    for _ in range(corrections):
        jerks(masses, gravity, new)
        for i in range(n):
            for k in range(3):
                v, a, j = old[SPEED, i, k], old[FORCE, i, k], old[JERK, i, k]
                after = v + half * (a + new[FORCE, i, k] + sixth * (j - new[JERK, i, k]))
                new[SPEED, i, k] = after
                drift(old, new, i, k, half * (v + after + sixth * (a - new[FORCE, i, k])))


@unchecked
def hermite(
    masses: np.ndarray,
    gravity: float,
    start: np.ndarray,
    end: np.ndarray,
    mu: float,
    length: float,
    most: int,
    symmetric: bool,
    corrections: int,
) -> tuple[int, float]:
    """Hermite's method from one state to another, both of shape (5, body, 3).

    Returns
    -------
    evaluations : int
        Of all accelerations and jerks.
    energy : float
        At the end; NaN where a step vanished, more than `most` evaluations were needed, or numbers were not
        finite.
    """
    old = np.empty_like(start)
    copied(start, end)
    rest, cost = length, 0
    while rest > 0.0:
        h = step_of(masses, gravity, end, mu, symmetric, rest)
        if not h > TINY * length or cost + corrections > most:
            return cost, math.nan
        copied(end, old)
        corrected(masses, gravity, old, end, h, corrections)
        cost += corrections
        rest = 0.0 if h >= rest else rest - h
    return cost, energy(masses, gravity, end)


@unchecked
def kick_drift_kick(masses: np.ndarray, gravity: float, state: np.ndarray, h: float) -> None:
    """One step of the leapfrog in place, state (4, body, 3)."""
    n, half = masses.shape[0], h / 2
    for i in range(n):
        for k in range(3):
            state[SPEED, i, k] += half * state[FORCE, i, k]
            drift(state, state, i, k, h * state[SPEED, i, k])
    forces(masses, gravity, state)
    for i in range(n):
        for k in range(3):
            state[SPEED, i, k] += half * state[FORCE, i, k]


@unchecked
def leapfrog(
    masses: np.ndarray,
    gravity: float,
    start: np.ndarray,
    end: np.ndarray,
    dt: float,
    length: float,
    most: int,
) -> tuple[int, float]:
    """The leapfrog with the least number of equal steps that are not longer than `dt`; states (4, body, 3).

    Returns
    -------
    evaluations, energy
        As `hermite`.
    """
    copied(start, end)
    wanted = length / dt * (1 - 1e-12)
    if not wanted <= most:
        return 0, math.nan
    steps = max(math.ceil(wanted), 1)
    h = length / steps
    for _ in range(steps):
        kick_drift_kick(masses, gravity, end, h)
    return steps, energy(masses, gravity, end)


@unchecked
def adaptive_leapfrog(
    masses: np.ndarray,
    gravity: float,
    start: np.ndarray,
    end: np.ndarray,
    mu: float,
    length: float,
    most: int,
    symmetric: bool,
) -> tuple[int, float]:
    """The leapfrog with steps of `mu` times the shortest time scale; states of shape (4, body, 3).

    Returns
    -------
    evaluations, energy
        As `hermite`.
    """
    copied(start, end)
    rest, cost = length, 0
    while rest > 0.0:
        h = step_of(masses, gravity, end, mu, symmetric, rest)
        if not h > TINY * length or cost >= most:
            return cost, math.nan
        kick_drift_kick(masses, gravity, end, h)
        cost += 1
        rest = 0.0 if h >= rest else rest - h
    return cost, energy(masses, gravity, end)
