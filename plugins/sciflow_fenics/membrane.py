"""Cook's membrane: nodes, supports and load on a lattice; numpy alone.

The lattice's columns go from the clamped edge to the loaded one, its rows from the lower to the upper edge.
"""

from __future__ import annotations

import numpy as np

WIDTH, CLAMPED, LOADED = 48.0, 44.0, 16.0
"""Distance between the clamped and the loaded edge and their lengths, mm.

References
----------
R. D. Cook, "Improved two-dimensional finite element", J. Struct. Div. ASCE 100, 1974.
"""


def nodes(cells: int) -> np.ndarray:
    """Nodes of the mesh.

    Parameters
    ----------
    cells : int
        Along each side of the lattice.

    Returns
    -------
    ndarray, shape (cells + 1, cells + 1, 2)
        mm, by row and column.
    """
    along = np.arange(cells + 1) / cells
    up = along[:, None]
    low = CLAMPED * along
    high = CLAMPED + LOADED * along
    x = np.broadcast_to(WIDTH * along, (cells + 1, cells + 1))
    return np.stack([x, (1 - up) * low + up * high], axis=-1)


def supports(cells: int) -> np.ndarray:
    """Which displacements vanish: both on the clamped edge.

    Returns
    -------
    ndarray of bool, shape (2 * (2 * cells + 1)**2,)
        By node of the lattice and direction.
    """
    fixed = np.zeros((2 * cells + 1, 2 * cells + 1, 2), dtype=bool)
    fixed[:, 0] = True
    return fixed.reshape(-1)


def lift(cells: int) -> np.ndarray:
    """Load of a uniform traction along y on the loaded edge, one in all.

    Returns
    -------
    ndarray, shape (2 * (2 * cells + 1)**2,)
        1: force over the whole force.
    """
    edge = np.zeros(2 * cells + 1)
    edge[0:-1:2] += 1 / 6
    edge[1::2] += 4 / 6
    edge[2::2] += 1 / 6
    load = np.zeros((2 * cells + 1, 2 * cells + 1, 2))
    load[:, -1, 1] = edge / cells
    return load.reshape(-1)
