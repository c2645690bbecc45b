"""Exponential time differencing of order 4 for ``v' = L v + N(v)`` with diagonal L."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

CONTOUR = 32
"""Points on the contour that the coefficients are averaged over."""


@dataclass(frozen=True)
class Scheme:
    """Coefficients for one step size.

    Attributes
    ----------
    whole, half : array
        ``exp(h L)`` and ``exp(h L / 2)``.
    q, first, middle, last : array
        As in the reference.
    """

    whole: Any
    half: Any
    q: Any
    first: Any
    middle: Any
    last: Any


def coefficients(linear: np.ndarray, step: float) -> Scheme:
    """Coefficients of the scheme without cancellation.

    Parameters
    ----------
    linear : ndarray
        Eigenvalues of L, real.
    step : float
        h, in the problem's unit of time.

    References
    ----------
    A.-K. Kassam and L. N. Trefethen, "Fourth-order time-stepping for stiff PDEs", SIAM J. Sci.
    Comput. 26 (2005), section 3.
    """
    roots = np.exp(1j * np.pi * (np.arange(1, CONTOUR + 1) - 0.5) / CONTOUR)
    z = step * linear[..., None] + roots

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(step * values.mean(axis=-1).real)

    e = np.exp(z)
    return Scheme(
        np.exp(step * linear),
        np.exp(step * linear / 2),
        mean((np.exp(z / 2) - 1) / z),
        mean((-4 - z + e * (4 - 3 * z + z**2)) / z**3),
        mean((2 + z + e * (z - 2)) / z**3),
        mean((-4 - 3 * z - z**2 + e * (4 - z)) / z**3),
    )


def advance(v: Any, nonlinear: Callable[[Any], Any], s: Scheme) -> Any:
    """One step.

    Parameters
    ----------
    v : array, complex
        Spectral coefficients.
    nonlinear : callable
        N.
    s : Scheme
        Of the step size, broadcastable to `v`.
    """
    n0 = nonlinear(v)
    a = s.half * v + s.q * n0
    na = nonlinear(a)
    b = s.half * v + s.q * na
    nb = nonlinear(b)
    c = s.half * a + s.q * (2 * nb - n0)
    nc = nonlinear(c)
    return s.whole * v + s.first * n0 + 2 * s.middle * (na + nb) + s.last * nc
