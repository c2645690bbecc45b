"""Exponential time differencing of order 4 for ``v' = L v + N(v)`` with diagonal L."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

CONTOUR = 32
"""Points on the contour that the coefficients are averaged over."""
TERMS = 18
"""Of the Taylor series of phi_3, for arguments within the unit circle: to 1e-16."""
THETA = 0.6
"""Part of the last weight that the embedded solution gives to the end of the step."""


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
    linear : ndarray, any shape
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


def phis(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``phi_1, phi_2, phi_3`` of real numbers: ``phi_0 = exp`` and ``phi_(k+1)(z) = (phi_k(z) - 1/k!) / z``.

    Parameters
    ----------
    z : ndarray, any shape
        Any real numbers.

    Notes
    -----
    By the recursion upwards where ``|z| >= 1``; else phi_3 by its series and the recursion downwards. About
    thirty operations a number, relative error 1e-15.
    """
    far = np.abs(z) >= 1
    large, small = np.where(far, z, 1.0), np.where(far, 0.0, z)
    first = np.expm1(large) / large
    second = (first - 1) / large
    third = (second - 0.5) / large
    series = np.zeros_like(small)
    for j in reversed(range(TERMS)):
        series = series * small + 1 / math.factorial(j + 3)
    down = small * series + 0.5
    return np.where(far, first, small * down + 1), np.where(far, second, down), np.where(far, third, series)


def quick_coefficients(linear: np.ndarray, step: float) -> Scheme:
    """`coefficients` to round-off without the contour, for steps that are all of different length.

    Parameters
    ----------
    linear : ndarray, any shape
        Eigenvalues of L, real.
    step : float
        h, in the problem's unit of time.

    References
    ----------
    S. M. Cox and P. C. Matthews, "Exponential time differencing for stiff systems", J. Comput. Phys. 176
    (2002), equations 26-29.
    """
    z = step * linear
    one, two, three = phis(z)
    half = np.where(z == 0, 1.0, z / 2)
    return Scheme(
        np.exp(z),
        np.exp(z / 2),
        step / 2 * np.where(z == 0, 1.0, np.expm1(half) / half),
        step * (one - 3 * two + 4 * three),
        step * (two - 2 * three),
        step * (4 * three - two),
    )


def advance_embedded(v: Any, n0: Any, nonlinear: Callable[[Any], Any], s: Scheme) -> tuple[Any, Any, Any]:
    """One step of `advance`, with its error.

    Parameters
    ----------
    v, n0 : array, complex
        Spectral coefficients and N of them.
    nonlinear : callable
        N.
    s : Scheme
        Of the step size, broadcastable to `v`.

    Returns
    -------
    new, n1, difference : array, complex
        The solution at the end of the step, N of it, and the solution less the embedded one of order 3.

    Notes
    -----
    The last stage and the solution itself belong to the same time. Give a part theta of the last stage's
    weight to N of the solution, and all conditions up to order three still hold (``sum_j a_4j c_j = sum_j
    b_j c_j = 1/2``), one of order four does not; the difference is ``theta last (n3 - n1)``, where n1 is
    needed for the next step anyway. Four evaluations of N. For L = 0 it is ``h/10 (k4 - k5)``.

    References
    ----------
    S. Balac and F. Mahe, "Embedded Runge-Kutta scheme for step-size control in the interaction picture
    method", Comput. Phys. Commun. 184 (2013) 1211-1219 (the same for an integrating factor).
    """
    new, last = _advance(v, n0, nonlinear, s)
    n1 = nonlinear(new)
    return new, n1, THETA * s.last * (last - n1)


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
    return _advance(v, nonlinear(v), nonlinear, s)[0]


def _advance(v: Any, n0: Any, nonlinear: Callable[[Any], Any], s: Scheme) -> tuple[Any, Any]:
    """The end of a step, and N in its last stage."""
    a = s.half * v + s.q * n0
    na = nonlinear(a)
    b = s.half * v + s.q * na
    nb = nonlinear(b)
    c = s.half * a + s.q * (2 * nb - n0)
    nc = nonlinear(c)
    return s.whole * v + s.first * n0 + 2 * s.middle * (na + nb) + s.last * nc, nc
