"""Test equations with known behaviour: right-hand sides, random starts, and what their solutions keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

MU = 0.012277471
"""Mass of the moon over that of both, in Arenstorf's orbit."""


def van_der_pol(t: float, y: Any, p: Any, out: Any) -> None:
    """An oscillator with a slow and a fast phase; p = (mu,)."""
    out[0] = y[1]
    out[1] = p[0] * (1.0 - y[0] * y[0]) * y[1] - y[0]


def lotka_volterra(t: float, y: Any, p: Any, out: Any) -> None:
    """Prey and predators; p = (growth, hunting, death, gain)."""
    out[0] = y[0] * (p[0] - p[1] * y[1])
    out[1] = y[1] * (p[3] * y[0] - p[2])


def brusselator(t: float, y: Any, p: Any, out: Any) -> None:
    """An oscillating reaction; p = (a, b)."""
    fast = y[0] * y[0] * y[1]
    out[0] = p[0] + fast - (p[1] + 1.0) * y[0]
    out[1] = p[1] * y[0] - fast


def arenstorf(t: float, y: Any, p: Any, out: Any) -> None:
    """A satellite between earth and moon, in their frame; p = (mass of the moon,)."""
    x, z, rest = y[0], y[1], 1.0 - p[0]
    earth = ((x + p[0]) ** 2 + z * z) ** 1.5
    moon = ((x - rest) ** 2 + z * z) ** 1.5
    out[0] = y[2]
    out[1] = y[3]
    out[2] = x + 2.0 * y[3] - rest * (x + p[0]) / earth - p[0] * (x - rest) / moon
    out[3] = z - 2.0 * y[2] - rest * z / earth - p[0] * z / moon


def fitzhugh_nagumo(t: float, y: Any, p: Any, out: Any) -> None:
    """A nerve that fires; p = (current, a, b, rate of recovery)."""
    out[0] = y[0] - y[0] ** 3 / 3.0 - y[1] + p[0]
    out[1] = p[3] * (y[0] + p[1] - p[2] * y[1])


def pendulum(t: float, y: Any, p: Any, out: Any) -> None:
    """Angle and its rate without friction; p = (square of the frequency,)."""
    out[0] = y[1]
    out[1] = -p[0] * math.sin(y[0])


def lorenz(t: float, y: Any, p: Any, out: Any) -> None:
    """Convection, chaotic; p = (sigma, rho, beta)."""
    out[0] = p[0] * (y[1] - y[0])
    out[1] = y[0] * (p[1] - y[2]) - y[1]
    out[2] = y[0] * y[1] - p[2] * y[2]


@dataclass(frozen=True)
class Equation:
    """One of them.

    Attributes
    ----------
    rhs : callable
        See `runge_kutta.RungeKutta`.
    draw : callable
        Parameters and initial state, from a random generator.
    invariant : callable or None
        Of parameters and state.
    """

    rhs: Callable[..., None]
    draw: Callable[[np.random.Generator], tuple[list[float], list[float]]]
    invariant: Callable[[Any, Any], float] | None = None


def _van_der_pol(rng: np.random.Generator) -> tuple[list[float], list[float]]:
    return [0.5 * 40.0 ** rng.random()], [rng.uniform(-2, 2), rng.uniform(-1, 1)]


def _lotka_volterra(rng: np.random.Generator) -> tuple[list[float], list[float]]:
    return [rng.uniform(0.5, 2.0) for _ in range(4)], [rng.uniform(0.5, 4.0) for _ in range(2)]


def _brusselator(rng: np.random.Generator) -> tuple[list[float], list[float]]:
    a = rng.uniform(0.7, 1.3)
    return [a, rng.uniform(1.2, 2.5) * (1 + a * a)], [rng.uniform(0.5, 3.0), rng.uniform(0.5, 3.0)]


def _arenstorf(rng: np.random.Generator) -> tuple[list[float], list[float]]:
    """Two periodic orbits, and starts slightly beside them."""
    speed = (-2.00158510637908, -2.03173262955734)[rng.integers(2)]
    return [MU], [0.994, 0.0, 0.0, speed * (1 + 1e-3 * rng.standard_normal())]


def _fitzhugh_nagumo(rng: np.random.Generator) -> tuple[list[float], list[float]]:
    return [rng.uniform(0.35, 1.0), 0.7, 0.8, rng.uniform(0.05, 0.12)], [
        rng.uniform(-2, 2),
        rng.uniform(-0.5, 1.5),
    ]


def _pendulum(rng: np.random.Generator) -> tuple[list[float], list[float]]:
    return [rng.uniform(0.5, 4.0)], [rng.uniform(0.5, 3.0), 0.0]


def _lorenz(rng: np.random.Generator) -> tuple[list[float], list[float]]:
    return [10.0, rng.uniform(24.0, 35.0), 8.0 / 3.0], [rng.uniform(-15, 15) for _ in range(2)] + [
        rng.uniform(15, 35)
    ]


def _hunt(p: Any, y: Any) -> float:
    return float(p[3] * y[0] - p[2] * math.log(y[0]) + p[1] * y[1] - p[0] * math.log(y[1]))


def _swing(p: Any, y: Any) -> float:
    return float(y[1] ** 2 / 2 + p[0] * (1 - math.cos(y[0])))


def _jacobi(p: Any, y: Any) -> float:
    earth, moon = math.hypot(y[0] + p[0], y[1]), math.hypot(y[0] - 1 + p[0], y[1])
    potential = (y[0] ** 2 + y[1] ** 2) / 2 + (1 - p[0]) / earth + p[0] / moon
    return float(2 * potential - y[2] ** 2 - y[3] ** 2)


EQUATIONS = {
    "van_der_pol": Equation(van_der_pol, _van_der_pol),
    "lotka_volterra": Equation(lotka_volterra, _lotka_volterra, _hunt),
    "brusselator": Equation(brusselator, _brusselator),
    "arenstorf": Equation(arenstorf, _arenstorf, _jacobi),
    "fitzhugh_nagumo": Equation(fitzhugh_nagumo, _fitzhugh_nagumo),
    "pendulum": Equation(pendulum, _pendulum, _swing),
    "lorenz": Equation(lorenz, _lorenz),
}
