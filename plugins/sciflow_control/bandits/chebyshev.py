"""Chebyshev polynomials of a feature, and least squares on them from sums."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def polynomials(u: float, count: int) -> list[float]:
    """The first `count` Chebyshev polynomials T_0, T_1, ... at u in [-1, 1], by their recurrence."""
    before, now = 1.0, u
    found = [1.0]
    for _ in range(count - 1):
        found.append(now)
        before, now = now, 2 * u * now - before
    return found


def gram(moments: np.ndarray, count: int) -> np.ndarray:
    """The sums of products of polynomials from the sums of polynomials.

    Parameters
    ----------
    moments : ndarray, shape (..., 2 count - 1)
        Sums of T_0, ..., T_{2 count - 2} over some points.
    count : int
        Polynomials.

    Returns
    -------
    ndarray, shape (..., count, count)
        Sums of T_i T_j over the same points.

    Notes
    -----
    ``T_i T_j = (T_{i+j} + T_|i-j|) / 2``: 2 count - 1 sums hold what a matrix of count^2 does.
    """
    plus, minus = _indices(count)
    found: np.ndarray = 0.5 * (moments[..., plus] + moments[..., minus])
    return found


@lru_cache
def _indices(count: int) -> tuple[np.ndarray, np.ndarray]:
    i, j = np.ogrid[:count, :count]
    return i + j, abs(i - j)


def gram2(moments: np.ndarray, first: int, second: int) -> np.ndarray:
    """`gram` for products of polynomials of two variables.

    Parameters
    ----------
    moments : ndarray, shape (..., 2 first - 1, 2 second - 1)
        Sums of T_p(u) T_q(v) over some points.
    first, second : int
        Polynomials of u and of v.

    Returns
    -------
    ndarray, shape (..., first second, first second)
        Sums of products of T_i(u) T_j(v), i slow.
    """
    inner = gram(moments, second)
    both = gram(np.moveaxis(inner, -3, -1), first)
    found = np.moveaxis(both, (-4, -3, -2, -1), (-3, -1, -4, -2))
    return found.reshape(*moments.shape[:-2], first * second, first * second)


def boxed(matrix: np.ndarray, vector: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """The minimiser of ``x A x / 2 - b x``, moved into ``|x_i| <= bounds_i``.

    Parameters
    ----------
    matrix : ndarray, shape (n, n)
        Symmetric positive definite.
    vector, bounds : ndarray, shape (n,)
        Bounds are not negative.

    Returns
    -------
    ndarray, shape (n,)

    Notes
    -----
    Unknowns beyond their bounds are fixed there and the others solved for again, at most n times. Where no
    bound is met it is one solve, O(n^3), and the minimiser; else it is within the bounds and near the
    minimiser in them (an unknown once fixed is not set free again).
    """
    x: np.ndarray = np.linalg.solve(matrix, vector)
    size = abs(x)
    if not (size > bounds).any():
        return x
    fixed = np.zeros(len(x), dtype=bool)
    for _ in range(len(x)):
        fixed |= size > bounds
        x = np.where(fixed, np.clip(x, -bounds, bounds), 0.0)
        free = ~fixed
        if not free.any():
            break
        x[free] = np.linalg.solve(matrix[np.ix_(free, free)], (vector - matrix @ x)[free])
        size = abs(x)
        if not (size > bounds * (1 + 1e-12)).any():
            break
    return x
