"""Five-point stencils on a square grid as sparse matrices."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from scipy import sparse

ORDER = ("south", "west", "centre", "east", "north")
"""Neighbours in the order of their columns; north is the next row of the grid."""


def five_point(
    south: np.ndarray, west: np.ndarray, centre: np.ndarray, east: np.ndarray, north: np.ndarray
) -> Any:
    """The matrix of a five-point stencil.

    Parameters
    ----------
    south, west, centre, east, north : ndarray, shape (size, size)
        What each grid point at (y, x) takes of its neighbour; what points outside the grid is left out.

    Returns
    -------
    scipy.sparse.csr_matrix, shape (size^2, size^2)
        Of float64 with sorted int32 indices; unknowns are numbered row by row.

    Notes
    -----
    The pattern of a size is made once; then O(n) with a small factor (1 ms for n = 1e4).
    """
    size = len(centre)
    indptr, indices, kept = _pattern(size)
    values = np.stack([south, west, centre, east, north], axis=-1).reshape(size * size, 5)
    data = values.astype(np.float64, copy=False)[kept]
    return sparse.csr_matrix((data, indices.copy(), indptr.copy()), shape=(size * size, size * size))


@lru_cache(maxsize=8)
def _pattern(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    number = np.arange(size * size, dtype=np.int32)
    row, column = np.divmod(number, size)
    kept = np.stack([row > 0, column > 0, row >= 0, column < size - 1, row < size - 1], axis=1)
    offsets = np.array([-size, -1, 0, 1, size], dtype=np.int32)
    indices = (number[:, None] + offsets)[kept]
    indptr = np.zeros(size * size + 1, dtype=np.int32)
    np.cumsum(kept.sum(axis=1), out=indptr[1:])
    return indptr, indices, kept


def diffusion(coefficient: np.ndarray) -> Any:
    """``-div(c grad u) h^2`` with u = 0 on the boundary, by finite volumes around the grid points.

    Parameters
    ----------
    coefficient : ndarray, shape (size + 2, size + 2)
        Positive, at the grid points with those of the boundary.

    Returns
    -------
    scipy.sparse.csr_matrix, shape (size^2, size^2)
        Symmetric and positive definite, an M-matrix. ``h = 1 / (size + 1)``.

    Notes
    -----
    The flux between two neighbours is the difference of their values times the harmonic mean of the
    coefficient; second order for smooth coefficients.
    """
    c = coefficient
    down = 2 * c[:-1] * c[1:] / (c[:-1] + c[1:])
    across = 2 * c[:, :-1] * c[:, 1:] / (c[:, :-1] + c[:, 1:])
    south, north = down[:-1, 1:-1], down[1:, 1:-1]
    west, east = across[1:-1, :-1], across[1:-1, 1:]
    return five_point(-south, -west, south + north + west + east, -east, -north)


def columns(coefficient: np.ndarray, shift: int = 0) -> Any:
    """The stencil ``4 c_ij u_ij - sum of c u over the neighbours``: each coefficient stands with its unknown.

    Parameters
    ----------
    coefficient : ndarray, shape (size + 2, size + 2)
        At the grid points with those of the boundary.
    shift : int
        The coefficient before the southern neighbour is taken so many places too early, counted row by row.

    Returns
    -------
    scipy.sparse.csr_matrix, shape (size^2, size^2)

    Notes
    -----
    Without `shift` this is the Laplacian times diag(c), so that ``-Laplace(c u) = f`` is solved. With
    Jacobi's preconditioner on the right all coefficients then have one and the same operator.
    """
    c = np.asarray(coefficient, dtype=np.float64)
    size = len(c) - 2
    south = c[:-2, 1:-1].ravel()
    if shift:
        south = np.concatenate([np.zeros(shift), south[:-shift]])
    return five_point(
        -south.reshape(size, size), -c[1:-1, :-2], 4 * c[1:-1, 1:-1], -c[1:-1, 2:], -c[2:, 1:-1]
    )
