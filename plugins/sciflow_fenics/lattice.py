"""Triangles on a square lattice: mesh, rank-independent numbering, sampling on a regular grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from sciflow.artifact.share import Share
from sciflow.errors import Invalid
from sciflow.problem import Part
from sciflow.schema import Field

if TYPE_CHECKING:
    from sciflow.context import Context


def communicator(ctx: Context) -> Any:
    """The real communicator behind a context."""
    return ctx.comm if ctx.comm.size > 1 else MPI.COMM_SELF


def square(comm: Any, cells: int, side: float) -> Any:
    """A square cut into ``2 * cells**2`` triangles; the same ranks get the same cells every time.

    Raises
    ------
    Invalid
        On every rank, if some rank would have no cell.

    Notes
    -----
    PT-SCOTCH 7 splits a mesh otherwise in every process if it may use threads. A member that is continued
    would then be another one in the last bits, so it gets one thread unless the environment says otherwise.
    """
    import os

    from dolfinx import mesh

    os.environ.setdefault("SCOTCH_PTHREAD_NUMBER", "1")

    if 2 * cells * cells < 4 * comm.size:
        raise Invalid(
            f"a mesh of {cells} x {cells} cells is too coarse for {comm.size} ranks: take at least "
            f"{int(np.ceil(np.sqrt(2 * comm.size)))} cells a side, or fewer ranks"
        )
    made = mesh.create_rectangle(comm, [[0.0, 0.0], [side, side]], [cells, cells], mesh.CellType.triangle)
    from sciflow_fenics.compat import owned

    counts = np.empty(comm.size, dtype=np.int64)
    comm.Allgather(np.array([owned(made)], dtype=np.int64), counts)
    if counts.min() == 0:
        raise Invalid(f"rank {int(counts.argmin())} of {comm.size} got no cell of the {cells} x {cells} mesh")
    return made


def on_rim(side: float) -> Callable[[np.ndarray], np.ndarray]:
    """A marker of the boundary of a square.

    Parameters
    ----------
    side : float
        Length, m.

    Returns
    -------
    callable
        Takes coordinates of shape (3, n), m, gives booleans of shape (n,).
    """
    near = 1e-9 * side

    def rim(x: np.ndarray) -> np.ndarray:
        return np.asarray((np.minimum(x[0], x[1]) < near) | (np.maximum(x[0], x[1]) > side - near))

    return rim


def lattice_index(coordinates: np.ndarray, per_side: int, side: float) -> np.ndarray:
    """Row-major position of points that lie on a square lattice.

    Parameters
    ----------
    coordinates : ndarray, shape (n, 2 or more)
        m.
    per_side : int
        Lattice points along each side.
    side : float
        Length, m.

    Returns
    -------
    ndarray of int64, shape (n,)
        ``row * per_side + column``: the same on any number of ranks.
    """
    steps = np.rint(coordinates[:, :2] / side * (per_side - 1)).astype(np.int64)
    return np.asarray(steps[:, 1] * per_side + steps[:, 0])


def resampled(values: np.ndarray, per_side: int) -> np.ndarray:
    """Piecewise linear values on a square lattice, at the points of another one.

    Parameters
    ----------
    values : ndarray, shape (n, n)
        At the nodes of `square` with ``n - 1`` cells a side, row by row; linear in each of its triangles,
        which the diagonals from low to high coordinates make.
    per_side : int
        Points along each side of the other lattice.

    Returns
    -------
    ndarray, shape (per_side, per_side)
        The same numbers where the lattices are the same.
    """
    cells = len(values) - 1
    if per_side == cells + 1:
        return values
    line = np.linspace(0.0, cells, per_side)
    low = np.minimum(line.astype(np.int64), cells - 1)
    across, up = np.meshgrid(line - low, line - low)
    column, row = np.meshgrid(low, low)
    first, last = values[row, column], values[row + 1, column + 1]
    beside, above = values[row, column + 1], values[row + 1, column]
    below = across >= up
    middle = np.where(below, beside, above)
    small, large = np.minimum(across, up), np.maximum(across, up)
    return np.asarray(first + (middle - first) * large + (last - middle) * small)


class Sampler:
    """Evaluates finite-element functions on a regular grid, every point on exactly one rank.

    Parameters
    ----------
    space : dolfinx function space
        Of the functions.
    grid : int
        Points along each side.
    side : float
        Length, m.

    Raises
    ------
    Invalid
        If a point of the grid lies in no cell of the mesh; on every rank.
    """

    def __init__(self, space: Any, grid: int, side: float) -> None:
        from sciflow_fenics.compat import cells_at

        comm = space.mesh.comm
        line = np.linspace(0.0, side, grid)
        points = np.zeros((grid * grid, 3))
        points[:, 0], points[:, 1] = np.tile(line, grid), np.repeat(line, grid)
        cells = cells_at(space.mesh, points)
        # A point on an edge between two ranks belongs to the lower one.
        claim = np.where(cells >= 0, comm.rank, comm.size).astype(np.int64)
        owner = np.empty_like(claim)
        comm.Allreduce(claim, owner, op=MPI.MIN)
        if owner.max() >= comm.size:
            raise Invalid(f"{int((owner >= comm.size).sum())} grid points lie in no cell of the mesh")
        self.index = np.flatnonzero(owner == comm.rank)
        self._points, self._cells = points[self.index], cells[self.index]

    def __call__(self, function: Any) -> Part:
        """Values of a function at this rank's points.

        Returns
        -------
        Part
            Positions in the (y, x) array and values.
        """
        if not len(self.index):
            return Part(self.index, np.empty(0))
        values = function.eval(self._points, self._cells)
        return Part(self.index, np.asarray(values, dtype=np.float64).reshape(-1))


class DofOrder:
    """This rank's degrees of freedom, and where they are in the lattice order.

    Parameters
    ----------
    space : dolfinx function space
        Lagrange elements on `square`.
    per_side : int
        Nodes along each side.
    side : float
        Length, m.
    """

    def __init__(self, space: Any, per_side: int, side: float) -> None:
        size = space.dofmap.index_map.size_local
        self._size, self._comm = size, space.mesh.comm
        self.index = lattice_index(space.tabulate_dof_coordinates()[:size], per_side, side)

    def __call__(self, function: Any) -> Share:
        """This rank's values, to be written as they are, and their positions in the lattice."""
        return Share(index=self.index, values=np.array(function.x.array[: self._size], dtype=np.float64))

    def values(self, index: np.ndarray, values: np.ndarray) -> np.ndarray:
        """What this rank holds of values that the ranks held, maybe in another way; collective.

        Parameters
        ----------
        index, values : ndarray, shape (n,)
            Of this rank then: positions in the lattice, each on one rank.

        Returns
        -------
        ndarray, shape (m,)
            At the degrees of freedom that this rank owns now.
        """
        mine = np.array([np.array_equal(index, self.index), len(index)], dtype=np.int64)
        everyone = np.empty((self._comm.size, 2), dtype=np.int64)
        self._comm.Allgather(mine, everyone)
        if everyone[:, 0].all():
            return values
        counts = everyone[:, 1]
        places, found = np.empty(counts.sum(), dtype=np.int64), np.empty(counts.sum())
        self._comm.Allgatherv(np.ascontiguousarray(index, dtype=np.int64), (places, counts))
        self._comm.Allgatherv(np.ascontiguousarray(values, dtype=np.float64), (found, counts))
        whole = np.empty_like(found)
        whole[places] = found
        return np.asarray(whole[self.index])


@lru_cache(maxsize=4)
def mesh_arrays(cells: int, degree: int, side: float, unit: str) -> Mapping[str, tuple[Field, np.ndarray]]:
    """The mesh as arrays in the lattice order, and the coordinates of the degrees of freedom.

    Parameters
    ----------
    cells, degree : int
        Of the mesh and the elements.
    side : float
        Length, in `unit`.
    unit : str
        Of the coordinates.

    Returns
    -------
    mapping
        ``mesh``, whose attributes describe the others; ``node_x``, ``node_y`` (node); ``triangles``
        (face, corner) into the nodes, anticlockwise. For degree 2 also ``dof_x``, ``dof_y`` (dof)
        and ``cell_dofs`` (face, local): corners, then the middles of the edges 01, 12, 20.

    References
    ----------
    UGRID conventions 1.0, two-dimensional unstructured mesh, ``face_node_connectivity``.
    """
    from sciflow_fenics.compat import geometry_cells

    mesh = square(MPI.COMM_SELF, cells, side)
    index = lattice_index(mesh.geometry.x, cells + 1, side)
    triangles = np.sort(index[geometry_cells(mesh)], axis=1)
    triangles = triangles[np.lexsort(triangles.T[::-1])]
    row, column = np.divmod(triangles, cells + 1)
    right, up = np.diff(column, axis=1), np.diff(row, axis=1)
    clockwise = right[:, 0] * up[:, 1] < right[:, 1] * up[:, 0]
    triangles[clockwise, 1:] = triangles[clockwise, :0:-1]

    def lattice(per_side: int) -> tuple[np.ndarray, np.ndarray]:
        line = np.linspace(0.0, side, per_side)
        return np.tile(line, per_side), np.repeat(line, per_side)

    node_x, node_y = lattice(cells + 1)
    dof_x, dof_y = lattice(cells * degree + 1)
    role = {"cf_role": "face_node_connectivity", "start_index": 0}
    topology = {
        "cf_role": "mesh_topology",
        "topology_dimension": 2,
        "node_coordinates": "node_x node_y",
        "face_node_connectivity": "triangles",
    }
    found = {
        "mesh": (Field((), "1", "int32", "topology of the mesh", topology), np.zeros((), np.int32)),
        "node_x": (Field(("node",), unit, "float64", "x of the nodes"), node_x),
        "node_y": (Field(("node",), unit, "float64", "y of the nodes"), node_y),
        "triangles": (Field(("face", "corner"), "1", "int64", "nodes of each triangle", role), triangles),
    }
    if degree == 2:
        row, column = np.divmod(triangles, cells + 1)
        corners = 2 * row * (2 * cells + 1) + 2 * column
        middles = (corners + np.roll(corners, -1, axis=1)) // 2
        local = Field(("face", "local"), "1", "int64", "degrees of freedom of each triangle")
        found |= {
            "dof_x": (Field(("dof",), unit, "float64", "x of the degrees of freedom"), dof_x),
            "dof_y": (Field(("dof",), unit, "float64", "y of the degrees of freedom"), dof_y),
            "cell_dofs": (local, np.concatenate([corners, middles], axis=1)),
        }
    return found
