"""Two-phase media from cosine waves, and five-point finite volumes for the flow through them."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import linalg


def gaussian(modes: int, points: int, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian field N(0, (-D + 9 I)^-2) on the unit square with Neumann conditions.

    Parameters
    ----------
    modes : int
        Cosine waves along each side, the constant included.
    points : int
        Grid points along each side, the boundary included.
    rng : numpy Generator
        One number for each pair of waves, whatever the grid.

    Returns
    -------
    ndarray, shape (points, points)
        Values of one function, which does not depend on `points`, at (y, x).

    Notes
    -----
    ``sum_kl xi_kl / (pi^2 (k^2 + l^2) + 9) phi_k(y) phi_l(x)`` with phi_0 = 1, phi_k = sqrt(2) cos(pi k x).
    The constant k = l = 0 is left out, as in the data of the paper: with it many media would be of nearly
    one phase. O(points modes (points + modes)).

    References
    ----------
    Z. Li et al., "Fourier neural operator for parametric partial differential equations", ICLR
    2021, section 5.2.
    """
    k = np.arange(modes)
    xi = rng.standard_normal((modes, modes)) / (np.pi**2 * (k[:, None] ** 2 + k**2) + 9)
    xi[0, 0] = 0.0
    waves = np.cos(np.pi * np.outer(np.linspace(0, 1, points), k)) * np.where(k > 0, np.sqrt(2), 1.0)
    return np.asarray(waves @ xi @ waves.T)


def between(a: np.ndarray, axis: int, faces: str) -> np.ndarray:
    """Permeability between neighbours along an axis.

    Parameters
    ----------
    a : ndarray, shape (n, n)
        At the grid points.
    axis : int
        Of the neighbours.
    faces : {"harmonic", "arithmetic"}
        Which mean of the two.

    Returns
    -------
    ndarray
        One shorter along `axis`.
    """
    first, second = (np.take(a, range(i, a.shape[axis] - 1 + i), axis) for i in (0, 1))
    if faces == "harmonic":
        return np.asarray(2 * first * second / (first + second))
    return np.asarray((first + second) / 2)


def pressure(a: np.ndarray, source: np.ndarray, faces: str) -> np.ndarray:
    """``-div(a grad u) = source`` in the unit square, u = 0 on its boundary.

    Parameters
    ----------
    a, source : ndarray, shape (n, n)
        At the grid points, which include the boundary.
    faces : {"harmonic", "arithmetic"}
        See `between`.

    Returns
    -------
    ndarray, shape (n, n)

    Notes
    -----
    The flux between two neighbours is their difference times the mean permeability over h; what flows
    out of the cell around a grid point is the source in it. The matrix is symmetric and an M-matrix.
    Minimum-degree ordering, O(n^3) time and O(n^2 log n) memory.
    """
    n = len(a)
    inside = n - 2
    down, right = between(a, 0, faces), between(a, 1, faces)
    north, south = down[:-1, 1:-1], down[1:, 1:-1]
    west, east = right[1:-1, :-1], right[1:-1, 1:]
    centre = north + south + west + east
    # Links across the ends of a row are none.
    across = east.copy()
    across[:, -1] = 0.0
    matrix = sparse.diags(
        [
            centre.ravel(),
            -across.ravel()[:-1],
            -across.ravel()[:-1],
            -south[:-1].ravel(),
            -south[:-1].ravel(),
        ],
        [0, 1, -1, inside, -inside],
        format="csc",
    )
    factors = linalg.splu(
        matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    u = np.zeros((n, n))
    u[1:-1, 1:-1] = factors.solve(source[1:-1, 1:-1].ravel() / (n - 1) ** 2).reshape(inside, inside)
    return u
