"""Integrals over triangles on a lattice: points, weights and strains in an order free of the ranks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from petsc4py import PETSc
from scipy.sparse import csr_matrix

from sciflow.reduction import Integrals
from sciflow_fenics import compat
from sciflow_fenics.lattice import lattice_index, square

BARYCENTRIC = np.full((3, 3), 1 / 6) + np.eye(3) / 2
"""Points of the symmetric rule of degree 2, equal weights: one point near each corner.

References
----------
A. H. Stroud, "Approximate Calculation of Multiple Integrals", 1971, formula T2:2-1.
"""


@dataclass(frozen=True)
class Triangles:
    """This rank's triangles on a lattice, each with its nodes in an order that the lattice gives.

    Attributes
    ----------
    corners : ndarray of int64, shape (cell, 3)
        Positions in the lattice of corners, increasing.
    dofs : ndarray of int64, shape (cell, local)
        This rank's numbers of the scalar degrees of freedom: corners, then for degree 2 the middles
        of the edges 01, 12 and 20.
    order : ndarray of int64, shape (cell,)
        Position of the triangle among all, that of ``lattice.mesh_arrays``.
    index : ndarray of int64, shape (dof,)
        Positions in the lattice of degrees of freedom, those of other ranks behind.
    """

    corners: np.ndarray
    dofs: np.ndarray
    order: np.ndarray
    index: np.ndarray


def triangles(space: Any, cells: int, degree: int, side: float = 1.0) -> Triangles:
    """Triangles of `lattice.square`, independent of how dolfinx numbers them.

    Parameters
    ----------
    space : dolfinx function space
        Scalar Lagrange elements.
    cells, degree : int
        Of mesh and elements.
    side : float
        Length of the square.

    Returns
    -------
    Triangles
    """
    per_side = cells * degree + 1
    index = lattice_index(space.tabulate_dof_coordinates(), per_side, side)
    dofs = compat.cell_dofs(space)
    found = index[dofs]
    row, column = np.divmod(found, per_side)
    rank = np.argsort(found, axis=1)
    if degree == 1:
        ordered = rank
    else:
        # Corners are the nodes with two even coordinates; the middle of an edge is their mean.
        even = ((row % 2) + (column % 2)) == 0
        first = np.take_along_axis(found, np.argsort(~even * per_side**2 + found, axis=1)[:, :3], axis=1)
        wanted = np.concatenate([first, (first + np.roll(first, -1, axis=1)) // 2], axis=1)
        ordered = np.empty_like(rank)
        np.put_along_axis(ordered, np.argsort(wanted, axis=1), rank, axis=1)
    at = np.take_along_axis(found, ordered, axis=1)[:, :3]
    row, column = np.divmod(at, per_side)
    corners = (row // degree) * (cells + 1) + column // degree
    low, left = row.min(axis=1) // degree, column.min(axis=1) // degree
    # Of the two triangles of a square, the one below the diagonal has two corners on the lower side.
    above = ((row // degree == low[:, None]).sum(axis=1) == 1).astype(np.int64)
    order = 2 * (low * cells + left) + above
    return Triangles(corners, np.take_along_axis(dofs, ordered, axis=1).astype(np.int64), order, index)


def shapes(at: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lagrange functions at the points of the rule.

    Parameters
    ----------
    at : ndarray, shape (cell, 3, 2)
        Corners of each triangle.
    degree : int
        1 or 2.

    Returns
    -------
    values : ndarray, shape (3, local)
        Equal in all cells.
    gradients : ndarray, shape (cell, 3, local, 2)
        One over the unit of `at`.
    weights : ndarray, shape (cell, 3)
        Sum to the area.
    """
    edges = np.stack([at[:, 1] - at[:, 0], at[:, 2] - at[:, 0]], axis=1)
    area = np.abs(np.linalg.det(edges)) / 2
    inverse = np.linalg.inv(edges)  # (cell, direction, edge)
    barycentric = np.stack([-inverse.sum(axis=2), inverse[:, :, 0], inverse[:, :, 1]], axis=1)
    a = BARYCENTRIC
    if degree == 1:
        values, slopes = a, np.broadcast_to(np.eye(3), (3, 3, 3))
    else:
        b, unit = np.roll(a, -1, axis=1), np.eye(3)
        values = np.concatenate([a * (2 * a - 1), 4 * a * b], axis=1)
        corner = (4 * a - 1)[:, :, None] * unit
        middle = 4 * (b[:, :, None] * unit + a[:, :, None] * np.roll(unit, -1, axis=0))
        slopes = np.concatenate([corner, middle], axis=1)
    gradients = np.einsum("pla,cad->cpld", slopes, barycentric)
    return values, gradients, np.repeat(area[:, None] / 3, 3, axis=1)


class Ghosts:
    """Copies the values of shared degrees of freedom from the rank that owns them.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        The ranks.
    numbers : dolfinx index map
        Of the scalar degrees of freedom.
    block : int
        Components at each.

    Attributes
    ----------
    owned, size : int
        Values that this rank owns, and those together with the ones of other ranks.
    whole : ndarray of int32, shape (size / block,)
        PETSc's number of each scalar degree of freedom.
    """

    def __init__(self, comm: Any, numbers: Any, block: int) -> None:
        first, last = numbers.local_range
        others = np.asarray(numbers.ghosts, dtype=PETSc.IntType)
        self.owned, self.size = block * (last - first), block * (last - first + len(others))
        self.whole = np.concatenate([np.arange(first, last, dtype=PETSc.IntType), others])
        self._comm = comm
        self.vector = PETSc.Vec().createGhost(others, (self.owned, None), bsize=block, comm=comm)

    def complete(self, vectors: np.ndarray) -> np.ndarray:
        """Owned values with those of other ranks behind; collective.

        Parameters
        ----------
        vectors : ndarray, shape (owned, n)

        Returns
        -------
        ndarray, shape (size, n)
        """
        if self._comm.size == 1:
            return vectors
        whole = np.empty((self.size, vectors.shape[1]))
        for i in range(vectors.shape[1]):
            self.vector.array[:] = vectors[:, i]
            self.vector.ghostUpdate(addv=PETSc.InsertMode.INSERT, mode=PETSc.ScatterMode.FORWARD)
            with self.vector.localForm() as local:
                whole[:, i] = local.array_r
        return whole

    def collect(self, whole: np.ndarray) -> np.ndarray:
        """Sums of the ranks' contributions at this rank's unknowns; collective.

        Parameters
        ----------
        whole : ndarray, shape (size,)

        Returns
        -------
        ndarray, shape (owned,)
        """
        if self._comm.size == 1:
            return whole
        with self.vector.localForm() as local:
            local.array[:] = whole
        self.vector.ghostUpdate(addv=PETSc.InsertMode.ADD, mode=PETSc.ScatterMode.REVERSE)
        return np.array(self.vector.array)


class Elements(Integrals):
    """`Integrals` of finite elements from the strains of each element's degrees of freedom.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        The ranks.
    ghosts : Ghosts
        Of the unknowns.
    blocks : ndarray, shape (cell, 3 * component, local)
        Strains at the points of each cell for a one at each of its degrees of freedom.
    dofs : ndarray of int64, shape (cell, local)
        This rank's numbers of those.
    order : ndarray of int64, shape (cell,)
        As in `Triangles`.
    at : ndarray, shape (cell, 3, 2)
        Corners.
    weights : ndarray, shape (cell, 3)
        Of the points.
    rows, loads, mesh
        As in `Integrals`.

    Notes
    -----
    `strains` is one product with a sparse matrix: ``2 * point * component * local * n`` operations.
    """

    def __init__(
        self,
        comm: Any,
        ghosts: Ghosts,
        blocks: np.ndarray,
        dofs: np.ndarray,
        order: np.ndarray,
        at: np.ndarray,
        weights: np.ndarray,
        rows: np.ndarray,
        loads: np.ndarray,
        mesh: str,
    ) -> None:
        self.comm, self.rows, self.loads, self.mesh = comm, rows, loads, mesh
        self.places = (3 * order[:, None] + np.arange(3)).reshape(-1)
        self.points = np.einsum("pa,cad->cpd", BARYCENTRIC, at).reshape(-1, 2)
        self.weights = weights.reshape(-1)
        self.components = blocks.shape[1] // 3
        count, height, width = blocks.shape
        ends = np.arange(0, blocks.size + 1, width)
        columns = np.repeat(dofs, height, axis=0).reshape(-1)
        self.operator = csr_matrix((blocks.reshape(-1), columns, ends), shape=(count * height, ghosts.size))
        self._ghosts = ghosts

    def strains(self, vectors: np.ndarray) -> np.ndarray:
        """See `Integrals.strains`."""
        whole = self._ghosts.complete(np.asarray(vectors, dtype=np.float64))
        found = self.operator @ whole
        return np.asarray(found.reshape(len(self.weights), self.components, whole.shape[1]))


def nodal(comm: Any, cells: int, side: float, name: str) -> Elements:
    """The weak form of a temperature at the nodes: strains are its value and its two derivatives; no loads.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        The ranks; collective.
    cells : int
        Along each side of the square.
    side : float
        Its length.
    name : str
        Of mesh and elements, for the fingerprint.
    """
    space = compat.function_space(square(comm, cells, side), 1)
    found = triangles(space, cells, 1, side)
    at = np.stack(np.divmod(found.corners, cells + 1)[::-1], axis=-1) / cells * side
    values, gradients, weights = shapes(at, 1)
    blocks = np.empty((len(at), 3, 3, 3))
    blocks[:, :, 0] = values
    blocks[:, :, 1:] = gradients.transpose(0, 1, 3, 2)
    ghosts = Ghosts(comm, space.dofmap.index_map, 1)
    rows = found.index[: ghosts.owned]
    mesh = hashlib.sha256(name.encode()).hexdigest()
    loads, shape = np.zeros((len(rows), 0)), (len(at), 9, 3)
    return Elements(
        comm, ghosts, blocks.reshape(shape), found.dofs, found.order, at, weights, rows, loads, mesh
    )
