"""Compiled steps of N bodies: Hermite's fourth-order method and the leapfrog, with their time scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

PLACE, SPEED, FORCE, JERK = 0, 1, 2, 3
"""Rows of a state: position, velocity, acceleration and its derivative, each of shape (body, 3)."""
TINY = 1e-15
"""A step that is a smaller part of the interval does not move its time."""


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call; a division by zero is an infinity. Kept beside the source where possible."""
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        return njit(nogil=True, error_model="numpy")(function)


@compiled
def jerks(
    masses: np.ndarray, gravity: float, x: np.ndarray, v: np.ndarray, a: np.ndarray, j: np.ndarray
) -> None:
    """Accelerations and their derivatives."""
    n = masses.shape[0]
    for i in range(n):
        for k in range(3):
            a[i, k] = 0.0
            j[i, k] = 0.0
    for i in range(n):
        for o in range(i + 1, n):
            x0, x1, x2 = x[o, 0] - x[i, 0], x[o, 1] - x[i, 1], x[o, 2] - x[i, 2]
            v0, v1, v2 = v[o, 0] - v[i, 0], v[o, 1] - v[i, 1], v[o, 2] - v[i, 2]
            one = 1.0 / (x0 * x0 + x1 * x1 + x2 * x2)
            weight = gravity * one * math.sqrt(one)
            turn = 3.0 * (x0 * v0 + x1 * v1 + x2 * v2) * one
            v0, v1, v2 = v0 - turn * x0, v1 - turn * x1, v2 - turn * x2
            mine, theirs = weight * masses[o], weight * masses[i]
            a[i, 0] += mine * x0
            a[i, 1] += mine * x1
            a[i, 2] += mine * x2
            j[i, 0] += mine * v0
            j[i, 1] += mine * v1
            j[i, 2] += mine * v2
            a[o, 0] -= theirs * x0
            a[o, 1] -= theirs * x1
            a[o, 2] -= theirs * x2
            j[o, 0] -= theirs * v0
            j[o, 1] -= theirs * v1
            j[o, 2] -= theirs * v2


@compiled
def forces(masses: np.ndarray, gravity: float, x: np.ndarray, a: np.ndarray) -> None:
    """Accelerations."""
    n = masses.shape[0]
    for i in range(n):
        for k in range(3):
            a[i, k] = 0.0
    for i in range(n):
        for o in range(i + 1, n):
            x0, x1, x2 = x[o, 0] - x[i, 0], x[o, 1] - x[i, 1], x[o, 2] - x[i, 2]
            one = 1.0 / (x0 * x0 + x1 * x1 + x2 * x2)
            weight = gravity * one * math.sqrt(one)
            mine, theirs = weight * masses[o], weight * masses[i]
            a[i, 0] += mine * x0
            a[i, 1] += mine * x1
            a[i, 2] += mine * x2
            a[o, 0] -= theirs * x0
            a[o, 1] -= theirs * x1
            a[o, 2] -= theirs * x2


@compiled
def pace(masses: np.ndarray, gravity: float, x: np.ndarray, v: np.ndarray) -> tuple[float, float]:
    """Square of the shortest time scale of a pair, and the derivative of its logarithm, as if alone.

    The time scale is the smaller of ``r / v`` and the time to fall ``sqrt(r^3 / (G (m_1 + m_2)))``.
    """
    n = masses.shape[0]
    shortest, growth = math.inf, 0.0
    for i in range(n):
        for o in range(i + 1, n):
            x0, x1, x2 = x[o, 0] - x[i, 0], x[o, 1] - x[i, 1], x[o, 2] - x[i, 2]
            v0, v1, v2 = v[o, 0] - v[i, 0], v[o, 1] - v[i, 1], v[o, 2] - v[i, 2]
            one = 1.0 / (x0 * x0 + x1 * x1 + x2 * x2)
            passing = (v0 * v0 + v1 * v1 + v2 * v2) * one
            falling = gravity * (masses[i] + masses[o]) * one * math.sqrt(one)
            scale = 1.0 / max(passing, falling)
            if not scale >= shortest:
                shortest = scale
                apart = (x0 * v0 + x1 * v1 + x2 * v2) * one
                growth = apart * (1.0 + falling / passing) if passing > falling else 1.5 * apart
    return shortest, growth


@compiled
def energy(masses: np.ndarray, gravity: float, x: np.ndarray, v: np.ndarray) -> float:
    """Kinetic and potential energy."""
    n = masses.shape[0]
    total = 0.0
    for i in range(n):
        total += 0.5 * masses[i] * (v[i, 0] * v[i, 0] + v[i, 1] * v[i, 1] + v[i, 2] * v[i, 2])
        for o in range(i + 1, n):
            x0, x1, x2 = x[o, 0] - x[i, 0], x[o, 1] - x[i, 1], x[o, 2] - x[i, 2]
            total -= gravity * masses[i] * masses[o] / math.sqrt(x0 * x0 + x1 * x1 + x2 * x2)
    return total


@compiled
def step_of(
    masses: np.ndarray, gravity: float, x: np.ndarray, v: np.ndarray, mu: float, symmetric: bool, rest: float
) -> float:
    """The next step: `mu` times the time scale, taken in the middle of the step or at its start.

    With the time scale tau and its growth g = tau'/tau at the start, ``h = mu tau / (1 - mu tau g/2)`` is to
    first order the mean of what both ends of the step ask for; g is cut where h would more than double. Of
    the rest up to where the steps must end, two like steps are made rather than a long one and a tiny one.
    """
    shortest, growth = pace(masses, gravity, x, v)
    h = mu * math.sqrt(shortest)
    if symmetric:
        h /= 1.0 - min(0.5 * h * growth, 0.5)
    if h >= rest:
        return rest
    return rest / 2 if h > rest / 2 else h


@compiled
def corrected(
    masses: np.ndarray, gravity: float, before: np.ndarray, after: np.ndarray, h: float, corrections: int
) -> None:
    """One step of Hermite's method: predicted, then evaluated and corrected so many times."""
    n = masses.shape[0]
    x0, v0, a0, j0 = before[0], before[1], before[2], before[3]
    x, v, a, j = after[0], after[1], after[2], after[3]
    for i in range(n):
        for k in range(3):
            x[i, k] = x0[i, k] + h * (v0[i, k] + h / 2 * (a0[i, k] + h / 3 * j0[i, k]))
            v[i, k] = v0[i, k] + h * (a0[i, k] + h / 2 * j0[i, k])
    for _ in range(corrections):
        jerks(masses, gravity, x, v, a, j)
        for i in range(n):
            for k in range(3):
                v[i, k] = v0[i, k] + h / 2 * (a0[i, k] + a[i, k] + h / 6 * (j0[i, k] - j[i, k]))
                x[i, k] = x0[i, k] + h / 2 * (v0[i, k] + v[i, k] + h / 6 * (a0[i, k] - a[i, k]))


@compiled
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
    """Hermite's method from one state to another, both of shape (4, body, 3).

    Returns
    -------
    evaluations : int
        Of all accelerations and jerks.
    energy : float
        At the end; NaN where a step vanished, more than `most` evaluations were needed, or numbers were not
        finite.
    """
    before = np.empty_like(start)
    end[:] = start
    rest, cost = length, 0
    while rest > 0.0:
        h = step_of(masses, gravity, end[0], end[1], mu, symmetric, rest)
        if not h > TINY * length or cost + corrections > most:
            return cost, math.nan
        before[:] = end
        corrected(masses, gravity, before, end, h, corrections)
        cost += corrections
        rest = 0.0 if h >= rest else rest - h
    return cost, energy(masses, gravity, end[0], end[1])


@compiled
def kick_drift_kick(
    masses: np.ndarray, gravity: float, x: np.ndarray, v: np.ndarray, a: np.ndarray, h: float
) -> None:
    """One step of the leapfrog in place."""
    n = masses.shape[0]
    for i in range(n):
        for k in range(3):
            v[i, k] += h / 2 * a[i, k]
            x[i, k] += h * v[i, k]
    forces(masses, gravity, x, a)
    for i in range(n):
        for k in range(3):
            v[i, k] += h / 2 * a[i, k]


@compiled
def leapfrog(
    masses: np.ndarray,
    gravity: float,
    start: np.ndarray,
    end: np.ndarray,
    dt: float,
    length: float,
    most: int,
) -> tuple[int, float]:
    """The leapfrog with the least number of equal steps that are not longer than `dt`; states (3, body, 3).

    Returns
    -------
    evaluations, energy
        As `hermite`.
    """
    end[:] = start
    wanted = math.ceil(length / dt * (1 - 1e-12))
    if not wanted <= most:
        return 0, math.nan
    steps = max(int(wanted), 1)
    for _ in range(steps):
        kick_drift_kick(masses, gravity, end[0], end[1], end[2], length / steps)
    return steps, energy(masses, gravity, end[0], end[1])


@compiled
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
    """The leapfrog with steps of `mu` times the shortest time scale; states of shape (3, body, 3).

    Returns
    -------
    evaluations, energy
        As `hermite`.
    """
    end[:] = start
    rest, cost = length, 0
    while rest > 0.0:
        h = step_of(masses, gravity, end[0], end[1], mu, symmetric, rest)
        if not h > TINY * length or cost >= most:
            return cost, math.nan
        kick_drift_kick(masses, gravity, end[0], end[1], end[2], h)
        cost += 1
        rest = 0.0 if h >= rest else rest - h
    return cost, energy(masses, gravity, end[0], end[1])


@compiled
def seen(
    masses: np.ndarray, gravity: float, state: np.ndarray, length: float, speed: float
) -> tuple[float, ...]:
    """Of the closest pair and the second closest: logarithms and the cosine; see `features.Physics`.

    Returns
    -------
    tuple of float
        Decimal logarithms of the smallest and the second distance over `length`, of the relative speed of
        the closest pair over `speed`, the cosine between its distance and its velocity, and the decimal
        logarithm of the shortest time scale.
    """
    n = masses.shape[0]
    x, v = state[0], state[1]
    first, second, fast, cosine = math.inf, math.inf, 0.0, 0.0
    for i in range(n):
        for o in range(i + 1, n):
            x0, x1, x2 = x[o, 0] - x[i, 0], x[o, 1] - x[i, 1], x[o, 2] - x[i, 2]
            r2 = x0 * x0 + x1 * x1 + x2 * x2
            if r2 < first:
                v0, v1, v2 = v[o, 0] - v[i, 0], v[o, 1] - v[i, 1], v[o, 2] - v[i, 2]
                second, first, fast = first, r2, v0 * v0 + v1 * v1 + v2 * v2
                apart = x0 * v0 + x1 * v1 + x2 * v2
                cosine = apart / math.sqrt(r2 * fast) if fast > 0.0 else 0.0
            elif r2 < second:
                second = r2
    if n == 2:
        second = first
    shortest, _ = pace(masses, gravity, x, v)
    return (
        0.5 * math.log10(first / length**2),
        0.5 * math.log10(second / length**2),
        0.5 * math.log10(max(fast / speed**2, 1e-12)),
        cosine,
        0.5 * math.log10(shortest),
    )
