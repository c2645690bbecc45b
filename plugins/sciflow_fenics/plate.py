"""A quarter of a plate with a hole: nodes, supports and traction on a lattice; numpy alone.

The lattice's columns go from the hole to the outer edges, its rows from the x axis to the y axis.
"""

from __future__ import annotations

import numpy as np

GRADING = 1.5
"""Logarithm of how much longer the cells at the outer edges are than those at the hole."""


def nodes(cells: int, side: float, hole: float) -> np.ndarray:
    """Nodes of the mesh.

    Parameters
    ----------
    cells : int
        Along each side of the lattice, even: the corner of the plate is a node.
    side : float
        Length of the quarter, m.
    hole : float
        Radius, m.

    Returns
    -------
    ndarray, shape (cells + 1, cells + 1, 2)
        m, by row and column.
    """
    angle = np.pi / 2 * np.arange(cells + 1) / cells
    share = np.expm1(GRADING * np.arange(cells + 1) / cells) / np.expm1(GRADING)
    ray = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    ray[-1, 0] = 0.0
    outer = side * ray / ray.max(axis=1, keepdims=True)
    return np.asarray(hole * ray[:, None] * (1 - share)[:, None] + outer[:, None] * share[:, None])


def quadratic(corners: np.ndarray) -> np.ndarray:
    """Nodes and middles of the straight edges between them.

    Parameters
    ----------
    corners : ndarray, shape (n + 1, n + 1, 2)

    Returns
    -------
    ndarray, shape (2 n + 1, 2 n + 1, 2)
        Squares are cut from their first to their last corner.
    """
    n = len(corners) - 1
    found = np.empty((2 * n + 1, 2 * n + 1, 2))
    found[::2, ::2] = corners
    found[1::2, ::2] = (corners[:-1] + corners[1:]) / 2
    found[::2, 1::2] = (corners[:, :-1] + corners[:, 1:]) / 2
    found[1::2, 1::2] = (corners[:-1, :-1] + corners[1:, 1:]) / 2
    return found


def supports(cells: int) -> np.ndarray:
    """Which displacements vanish: along y on the x axis, along x on the y axis.

    Returns
    -------
    ndarray of bool, shape (2 * (2 * cells + 1)**2,)
        By node of the lattice and direction.
    """
    fixed = np.zeros((2 * cells + 1, 2 * cells + 1, 2), dtype=bool)
    fixed[0, :, 1] = True
    fixed[-1, :, 0] = True
    return fixed.reshape(-1)


def pull(cells: int, side: float) -> np.ndarray:
    """Load of a unit traction along x on the edge ``x = side``.

    Returns
    -------
    ndarray, shape (2 * (2 * cells + 1)**2,)
        m: force per length over traction.
    """
    height = nodes(cells, side, side / 2)[: cells // 2 + 1, -1, 1]
    lengths = np.diff(height)
    load = np.zeros((2 * cells + 1, 2 * cells + 1, 2))
    edge = np.zeros(2 * cells + 1)
    edge[0:cells:2] += lengths / 6
    edge[1:cells:2] += 4 * lengths / 6
    edge[2 : cells + 1 : 2] += lengths / 6
    load[:, -1, 0] = edge
    return load.reshape(-1)
