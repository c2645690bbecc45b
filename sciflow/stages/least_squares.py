"""Nonlinear least squares within a box of the unit cube, with derivatives by differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

NOWHERE = 1e6
"""Residual where there is no answer: a search turns away from there."""

Residual = Callable[[np.ndarray], np.ndarray]
"""Of a place, shape (parameter,), or of many, shape (place, parameter): shape (..., observation)."""


def size_of(residual: np.ndarray) -> float:
    """Root mean square of a residual, shape (observation,)."""
    return float(np.sqrt(np.mean(residual**2)))


def secant(slope: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The slope nearest to a known one that gives a change over a step: Broyden's update.

    Parameters
    ----------
    slope : ndarray, shape (observation, parameter)
        Known so far.
    step : ndarray, shape (parameter,)
        Taken; where it is zero the slope stays.
    change : ndarray, shape (observation,)
        Seen over it.

    References
    ----------
    C. G. Broyden, "A class of methods for solving nonlinear simultaneous equations", Math. Comp. 19 (1965)
    577-593.
    """
    size = float(step @ step)
    return slope + np.outer(change - slope @ step, step) / size if size > 0 else slope


def derivatives(residual: Residual, place: np.ndarray, step: float) -> np.ndarray:
    """By central differences, one-sided at the ends of the unit cube.

    Parameters
    ----------
    residual : callable
        Asked for two places for each parameter at once.
    place : ndarray, shape (parameter,)
        In the unit cube.
    step : float
        Of the differences.

    Returns
    -------
    ndarray, shape (observation, parameter)
    """
    ahead, back = np.clip(place + step, 0, 1), np.clip(place - step, 0, 1)
    rows = np.repeat(place[None], 2 * len(place), axis=0)
    for i in range(len(place)):
        rows[2 * i, i], rows[2 * i + 1, i] = ahead[i], back[i]
    values = residual(rows)
    return np.asarray((values[::2] - values[1::2]).T / (ahead - back))


def minimised(
    residual: Residual,
    start: np.ndarray,
    low: np.ndarray | float,
    high: np.ndarray | float,
    step: float,
    tolerance: float = 1e-8,
) -> np.ndarray:
    """Where a residual is least, near a start, by trust-region reflective least squares.

    Parameters
    ----------
    residual : callable
        What is not finite counts as `NOWHERE`.
    start : ndarray, shape (parameter,)
        In the unit cube.
    low, high : ndarray, shape (parameter,), or float
        Ends of the box.
    step : float
        Of the differences that give derivatives.
    tolerance : float
        Relative step at which the search ends.

    Returns
    -------
    ndarray, shape (parameter,)
    """
    from scipy.optimize import least_squares

    def finite(z: np.ndarray) -> np.ndarray:
        return np.nan_to_num(residual(z), nan=NOWHERE, posinf=NOWHERE, neginf=-NOWHERE)

    low, high = np.broadcast_to(low, start.shape), np.broadcast_to(high, start.shape)
    high = np.where(high - low > 1e-9, high, low + 1e-9)
    begin = np.clip(start, low + 1e-6 * (high - low), high - 1e-6 * (high - low))
    found = least_squares(
        finite, begin, jac=lambda z: derivatives(finite, z, step), bounds=(low, high), xtol=tolerance
    )
    return np.asarray(np.clip(found.x, low, high))
