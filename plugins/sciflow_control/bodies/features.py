"""What a controller is told of bodies, in two sets."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from sciflow.errors import Invalid
from sciflow_control.bodies.kernels import apart, faster, pace
from sciflow_control.kernels.compiling import unchecked

if TYPE_CHECKING:
    from sciflow.step_controller import Knob
    from sciflow_control.bodies.n_body import Features
    from sciflow_control.bodies.state import Bodies

LEAST = 1e-16
"""Smaller relative errors of the energy are taken for this one: they are rounding."""


@unchecked
def seen(
    masses: np.ndarray, gravity: float, state: np.ndarray, length: float, speed: float
) -> tuple[float, ...]:
    """Of the closest pair and the second closest: logarithms and the cosine; see `Physics`.

    Returns
    -------
    tuple of float
        Decimal logarithms of the smallest and the second distance over `length`, of the relative speed of
        the closest pair over `speed`, the cosine between its distance and its velocity, and the decimal
        logarithm of the shortest time scale.
    """
    n = masses.shape[0]
    first, second, fast, cosine = math.inf, math.inf, 0.0, 0.0
    for i in range(n):
        for o in range(i + 1, n):
            x0, x1, x2 = apart(state, i, o)
            r2 = x0 * x0 + x1 * x1 + x2 * x2
            if r2 < first:
                v0, v1, v2 = faster(state, i, o)
                second, first, fast = first, r2, v0 * v0 + v1 * v1 + v2 * v2
                away = x0 * v0 + x1 * v1 + x2 * v2
                cosine = away / math.sqrt(r2 * fast) if fast > 0.0 else 0.0
            elif r2 < second:
                second = r2
    if n == 2:
        second = first
    fastest, _ = pace(masses, gravity, state)
    return (
        0.5 * math.log10(first / length**2),
        0.5 * math.log10(second / length**2),
        0.5 * math.log10(max(fast / speed**2, 1e-12)),
        cosine,
        -0.5 * math.log10(fastest),
    )


class View(ABC):
    """Names and values of what is told.

    Attributes
    ----------
    names : tuple of str
        In order.
    """

    names: tuple[str, ...]

    @abstractmethod
    def of(self, state: np.ndarray, error: float, drift: float, value: float) -> dict[str, float]:
        """What is told of a state.

        Parameters
        ----------
        state : ndarray, shape (row, body, 3)
            Positions, velocities, and what else the integrator keeps.
        error, drift : float
            Relative change of the energy over the last interval, and since the start; NaN at the start.
        value : float
            Of the knob in the last interval; NaN at the start.
        """


class Physics(View):
    """Numbers that the order of the bodies, a rotation and the units do not change.

    ``closest`` and ``second`` are decimal logarithms of the two smallest distances over R, the mean distance
    at the start weighted as the potential energy, ``(sum m_i m_j) / (sum m_i m_j / r_ij)``; with two bodies
    they are equal. ``speed`` is that of the relative speed of the closest pair over ``sqrt(G M / R)``,
    ``radial`` the cosine between its distance and its velocity, ``pace`` the decimal logarithm of the
    interval over the shortest time scale of a pair. ``error`` is ``(log10 |dE/E| + 8) / 4`` of the last
    interval and ``knob`` its value on the logarithm between the knob's bounds; 0 and 1/2 at the start.

    Parameters
    ----------
    bodies : Bodies
        At the start.
    knob : Knob
        What is chosen, with its bounds.
    """

    names = ("closest", "second", "speed", "radial", "pace", "error", "knob")

    def __init__(self, bodies: Bodies, knob: Knob) -> None:
        m, x = bodies.masses, bodies.positions
        first, second = np.triu_indices(len(m), 1)
        pairs = m[first] * m[second]
        self._masses, self._gravity = m, bodies.gravity
        self._length = float(pairs.sum() / (pairs / np.linalg.norm(x[first] - x[second], axis=1)).sum())
        self._speed = math.sqrt(bodies.gravity * float(m.sum()) / self._length)
        assert knob.held is not None
        self._held = math.log10(knob.held)
        self._low, self._range = math.log10(knob.low), math.log10(knob.high / knob.low)

    def of(self, state: np.ndarray, error: float, drift: float, value: float) -> dict[str, float]:
        """See `View.of`."""
        closest, second, speed, radial, pace = seen(
            self._masses, self._gravity, state, self._length, self._speed
        )
        return {
            "closest": closest,
            "second": second,
            "speed": speed,
            "radial": radial,
            "pace": self._held - pace,
            "error": 0.0 if math.isnan(error) else (math.log10(max(error, LEAST)) + 8) / 4,
            "knob": 0.5 if math.isnan(value) else (math.log10(value) - self._low) / self._range,
        }


class Paper(View):
    """Coordinates in the plane, as in the published set-up: 13 numbers for three bodies.

    Positions in tens of the unit of length, velocities in ``sqrt(G M)`` over its root, M the mass of all
    bodies, and ``-log10 |dE/E|`` since the start, 0 at the start. The unit of length must be the
    astronomical unit for the numbers to be those that were published, and the bodies in a plane.

    Parameters
    ----------
    bodies : Bodies
        At the start.
    knob : Knob
        What is chosen; not looked at.

    Raises
    ------
    Invalid
        If the bodies leave the plane z = 0.

    References
    ----------
    V. Saz Ulibarrena, S. Portegies Zwart, "Reinforcement learning for adaptive time-stepping in the chaotic
    gravitational three-body problem", arXiv:2502.12809.
    """

    def __init__(self, bodies: Bodies, knob: Knob) -> None:
        if bodies.positions[:, 2].any() or bodies.velocities[:, 2].any():
            raise Invalid("the published features are of bodies in the plane z = 0; take 'physics'")
        count = len(bodies.masses)
        places = [f"{axis}{i + 1}" for i in range(count) for axis in ("x", "y")]
        speeds = [f"v{axis}{i + 1}" for i in range(count) for axis in ("x", "y")]
        self.names = (*places, *speeds, "drift")
        unit = math.sqrt(bodies.gravity * float(bodies.masses.sum()))
        self._scale = np.array([0.1, 1 / unit])[:, None, None]

    def of(self, state: np.ndarray, error: float, drift: float, value: float) -> dict[str, float]:
        """See `View.of`."""
        numbers = (state[:2, :, :2] * self._scale).ravel().tolist()
        told = dict(zip(self.names, numbers, strict=False))
        told["drift"] = 0.0 if math.isnan(drift) else -math.log10(max(drift, LEAST))
        return told


def view(features: Features, bodies: Bodies, knob: Knob) -> View:
    """The set of that name."""
    return Physics(bodies, knob) if features == "physics" else Paper(bodies, knob)
