"""Empirical interpolation: a few points at which a function is known give it everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sciflow.errors import Invalid


@dataclass(frozen=True)
class Interpolation:
    """Points and the matrix that takes values there to coefficients of the modes.

    Attributes
    ----------
    points : ndarray of int64, shape (n,)
        Rows of the modes, in the order in which they were found.
    matrix : ndarray of float64, shape (n, n)
        ``(P^T U)^-1``: coefficients are ``matrix @ values``.
    growth : float
        Its spectral norm, for orthonormal modes: no interpolation is further from a function than this
        times the best approximation by the modes.
    """

    points: np.ndarray
    matrix: np.ndarray
    growth: float

    def coefficients(self, values: np.ndarray) -> np.ndarray:
        """Coefficients of the modes.

        Parameters
        ----------
        values : ndarray, shape (n, ...)
            At `points`.
        """
        return np.asarray(np.tensordot(self.matrix, values, axes=1))


def deim(modes: np.ndarray) -> Interpolation:
    """Choose points one by one where the interpolation with those before errs most.

    Parameters
    ----------
    modes : ndarray, shape (row, n)
        Linearly independent, the most important first; orthonormal ones for the bound to hold.

    Raises
    ------
    Invalid
        See `checked_modes`.

    Notes
    -----
    For each mode, the point where ``|u - U c|`` is largest, with ``c`` from the points before; so the
    matrix at the points has an LU factorisation with partial pivoting, which it takes. Cost O(row n^2).

    References
    ----------
    S. Chaturantabut, D. C. Sorensen, "Nonlinear model reduction via discrete empirical interpolation",
    SIAM J. Sci. Comput. 32, 2010: algorithm 1, and (3.8) for the bound.
    """
    rest = checked_modes(modes).copy()
    points = np.empty(rest.shape[1], dtype=np.int64)
    for column in range(rest.shape[1]):
        points[column] = np.argmax(np.abs(rest[:, column]))
        pivot = rest[points[column], column]
        _refuse_dependent(pivot, np.abs(modes[:, column]).max(), column)
        # One step of elimination for all later modes, as in LU with pivots.
        factors = rest[points[column], column + 1 :] / pivot
        rest[:, column + 1 :] -= rest[:, column, None] * factors
    return at_points(modes, points)


def qdeim(modes: np.ndarray) -> Interpolation:
    """Choose points by a QR factorisation of the transposed modes with column pivots.

    Parameters
    ----------
    modes : ndarray, shape (row, n)
        Linearly independent, in any order; orthonormal ones for the bound to hold.

    Returns
    -------
    Interpolation
        Its points, as a set, do not depend on the basis of an orthonormal space.

    Raises
    ------
    Invalid
        See `checked_modes`.

    Notes
    -----
    The next point is the row with the largest part orthogonal to the rows before. Cost O(row n^2).

    References
    ----------
    Z. Drmac, S. Gugercin, "A new selection operator for the discrete empirical interpolation method",
    SIAM J. Sci. Comput. 38, 2016: (2.3) and theorem 2.1.
    """
    return at_points(modes, pivots(checked_modes(modes)))


def pivots(modes: np.ndarray, count: int | None = None, chosen: np.ndarray | None = None) -> np.ndarray:
    """Rows in the order of QR with column pivots of the transposed matrix.

    Parameters
    ----------
    modes : ndarray, shape (row, n)
        Linearly independent.
    count : int or None
        How many rows; None for n.
    chosen : ndarray of int, shape (k,), or None
        Rows that are there already: what is left is orthogonal to them.

    Returns
    -------
    ndarray of int64, shape (count,)

    Raises
    ------
    Invalid
        If the rows span less than that.
    """
    rest = np.array(modes, dtype=np.float64)
    scale = float(np.linalg.norm(rest, axis=1).max(initial=0.0))
    if chosen is not None and len(chosen):
        basis, sizes, _ = np.linalg.svd(rest[chosen].T, full_matrices=False)
        basis = basis[:, sizes > 1e-10 * scale]
        rest -= (rest @ basis) @ basis.T
    points = np.empty(rest.shape[1] if count is None else count, dtype=np.int64)
    for i in range(len(points)):
        squares = np.einsum("ij,ij->i", rest, rest)
        points[i] = np.argmax(squares)
        size = float(np.sqrt(squares[points[i]]))
        _refuse_dependent(size, scale, i)
        direction = rest[points[i]] / size
        rest -= np.outer(rest @ direction, direction)
    return points


def at_points(modes: np.ndarray, points: np.ndarray) -> Interpolation:
    """Interpolation of modes, shape (row, n), at n given points."""
    square = np.asarray(modes, dtype=np.float64)[points]
    return Interpolation(
        points, np.linalg.inv(square), float(1 / np.linalg.svd(square, compute_uv=False)[-1])
    )


def checked_modes(modes: np.ndarray) -> np.ndarray:
    """Modes, shape (row, n), as float64.

    Raises
    ------
    Invalid
        If they are no matrix with at least as many rows as columns, or not finite; the functions that
        call this also refuse modes that are linearly dependent.
    """
    values = np.asarray(modes, dtype=np.float64)
    if values.ndim != 2 or not 0 < values.shape[1] <= len(values) or not np.isfinite(values).all():
        raise Invalid(f"modes are a finite matrix (row, n) with n <= rows, got the shape {values.shape}")
    return values


def _refuse_dependent(size: float, scale: float, column: int) -> None:
    if abs(size) <= 1e-13 * scale or not scale:
        raise Invalid(f"the modes are linearly dependent: {column} of them span all. Ask for fewer")
