"""Linear finite elements on triangles: a plate with a slot, its mesh and its Laplacian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse, spatial

WIDTH, HEIGHT = 1.0, 1.6
"""Of the plate, m; its centre is the origin."""
SLOT_WIDTH, SLOT_HEIGHT = 0.1, 0.8
"""Of the slot in its middle, m."""


@dataclass(frozen=True)
class Mesh:
    """A triangulation.

    Attributes
    ----------
    points : ndarray, shape (node, 2)
        At (x, y), m.
    triangles : ndarray, shape (cell, 3)
        Nodes of each, anticlockwise.
    """

    points: np.ndarray
    triangles: np.ndarray


def plate(squares: int, seed: int = 0) -> Mesh:
    """An irregular triangulation of a rectangle with a slot in its middle.

    Parameters
    ----------
    squares : int
        Nodes are ``0.05 m / squares`` apart on the boundary, and about as far inside.
    seed : int
        Of the random shifts of the inner nodes.

    Returns
    -------
    Mesh
        About ``620 squares^2`` nodes.

    Notes
    -----
    Delaunay's triangulation of a square grid whose inner nodes are shifted by up to a quarter of the spacing
    in each direction. They stay outside the circles over the boundary's edges, so that these edges are
    edges of triangles and no triangle lies partly in the slot.
    """
    h = 0.05 / squares
    across, up = np.arange(-10 * squares, 10 * squares + 1), np.arange(-16 * squares, 16 * squares + 1)
    x, y = (a.ravel() for a in np.meshgrid(across, up))
    inside_slot = (np.abs(x) < squares) & (np.abs(y) < 8 * squares)
    x, y = x[~inside_slot], y[~inside_slot]
    edge = (np.abs(x) == 10 * squares) | (np.abs(y) == 16 * squares)
    edge |= (np.abs(x) <= squares) & (np.abs(y) <= 8 * squares)
    shift = np.random.default_rng(seed).uniform(-0.25, 0.25, (len(x), 2))
    points = h * (np.stack([x, y], axis=1) + np.where(edge[:, None], 0.0, shift))
    triangles = spatial.Delaunay(points).simplices
    centre = points[triangles].mean(axis=1)
    hole = (np.abs(centre[:, 0]) < SLOT_WIDTH / 2) & (np.abs(centre[:, 1]) < SLOT_HEIGHT / 2)
    return Mesh(points, _anticlockwise(points, triangles[~hole]))


def _anticlockwise(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    a, b, c = (points[triangles[:, i]] for i in range(3))
    (x, y), (v, w) = (b - a).T, (c - a).T
    turned = x * w - y * v < 0
    kept = triangles.copy()
    kept[turned] = kept[turned][:, ::-1]
    return kept


def stiffness(mesh: Mesh) -> Any:
    """The matrix of ``int grad u . grad v`` for linear elements, without boundary conditions.

    Parameters
    ----------
    mesh : Mesh
        Its triangles are not degenerate.

    Returns
    -------
    scipy.sparse.csr_matrix, shape (node, node)
        Symmetric and positive semidefinite; its rows add up to zero. Sorted int32 indices.

    Notes
    -----
    With the edges e_i opposite to the nodes, each triangle adds ``e_i . e_j / (4 area)``. O(cells).
    """
    corners = mesh.points[mesh.triangles]
    edges = np.roll(corners, -2, axis=1) - np.roll(corners, -1, axis=1)
    area = (edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]) / 2
    local = np.einsum("cid,cjd->cij", edges, edges) / (4 * area)[:, None, None]
    rows = np.repeat(mesh.triangles, 3, axis=1).ravel()
    cols = np.tile(mesh.triangles, 3).ravel()
    n = len(mesh.points)
    matrix = sparse.coo_matrix((local.ravel(), (rows, cols)), shape=(n, n)).tocsr()
    matrix.sort_indices()
    return matrix


def flux_load(mesh: Mesh, side: np.ndarray) -> np.ndarray:
    """``int v`` over a straight vertical part of the boundary, for every node.

    Parameters
    ----------
    mesh : Mesh
        The triangulation.
    side : ndarray, shape (node,)
        Whether a node lies there.

    Returns
    -------
    ndarray, shape (node,)
        In m; adds up to the length.
    """
    load = np.zeros(len(mesh.points))
    nodes = np.flatnonzero(side)
    nodes = nodes[np.argsort(mesh.points[nodes, 1])]
    lengths = np.diff(mesh.points[nodes, 1])
    np.add.at(load, nodes[:-1], lengths / 2)
    np.add.at(load, nodes[1:], lengths / 2)
    return load
