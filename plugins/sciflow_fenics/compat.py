"""The differences between dolfinx 0.5 and later releases, in one place."""

from __future__ import annotations

from typing import Any

import dolfinx.fem.petsc
import numpy as np
from dolfinx import fem, geometry


def function_space(mesh: Any, degree: int) -> Any:
    """Continuous Lagrange elements; the name changed its case in 0.7."""
    make = getattr(fem, "functionspace", None) or fem.FunctionSpace
    return make(mesh, ("Lagrange", degree))


def vector_of(function: Any) -> Any:
    """The PETSc vector of a function; it moved in 0.9."""
    return function.x.petsc_vec if hasattr(function.x, "petsc_vec") else function.vector


def owned(mesh: Any) -> int:
    """Number of cells that this rank owns."""
    return int(mesh.topology.index_map(mesh.topology.dim).size_local)


def cells_at(mesh: Any, points: np.ndarray) -> np.ndarray:
    """An owned cell that contains each point.

    Parameters
    ----------
    mesh : dolfinx.mesh.Mesh
    points : ndarray, shape (n, 3)
        m.

    Returns
    -------
    ndarray of int32, shape (n,)
        -1 where no owned cell does.
    """
    dim = mesh.topology.dim
    entities = np.arange(owned(mesh), dtype=np.int32)
    if hasattr(geometry, "bb_tree"):
        tree = geometry.bb_tree(mesh, dim, entities, padding=1e-12)
        candidates = geometry.compute_collisions_points(tree, points)
    else:
        tree = geometry.BoundingBoxTree(mesh, dim, entities, 1e-12)
        candidates = geometry.compute_collisions(tree, points)
    colliding = geometry.compute_colliding_cells(mesh, candidates, points)
    first = np.full(len(points), -1, dtype=np.int32)
    offsets = colliding.offsets
    hit = np.flatnonzero(np.diff(offsets))
    first[hit] = colliding.array[offsets[hit]]
    return first


def geometry_cells(mesh: Any) -> np.ndarray:
    """Nodes of each owned cell, local numbering, shape (cell, 3)."""
    dofmap = mesh.geometry.dofmap
    array = dofmap.array.reshape(-1, 3) if hasattr(dofmap, "array") else np.asarray(dofmap)
    return np.asarray(array[: owned(mesh)])


def cell_dofs(space: Any) -> np.ndarray:
    """Degrees of freedom of each owned cell, local numbering, shape (cell, local)."""
    dofs = space.dofmap.list
    cells = space.mesh.topology.index_map(space.mesh.topology.dim)
    count = cells.size_local + cells.num_ghosts
    array = dofs.array.reshape(count, -1) if hasattr(dofs, "array") else np.asarray(dofs)
    return np.asarray(array[: owned(space.mesh)])


def direct_solver(comm: Any) -> str:
    """Name of the sparse LU that PETSc has for these ranks; empty where there is none.

    Of those in Debian's PETSc its own is the fastest on one rank, and it is nowhere missing.
    """
    from petsc4py import PETSc

    if comm.size == 1:
        return "petsc"
    return "mumps" if PETSc.Sys.hasExternalPackage("mumps") else ""


def assemble_matrix(A: Any, form: Any, bcs: list[Any]) -> None:
    """Assemble into an existing matrix."""
    A.zeroEntries()
    dolfinx.fem.petsc.assemble_matrix(A, form, bcs=bcs)
    A.assemble()


def assemble_vector(b: Any, form: Any) -> None:
    """Assemble into an existing vector, contributions of other ranks added."""
    from petsc4py import PETSc

    with b.localForm() as local:
        local.set(0.0)
    dolfinx.fem.petsc.assemble_vector(b, form)
    b.ghostUpdate(addv=PETSc.InsertMode.ADD, mode=PETSc.ScatterMode.REVERSE)


create_matrix = dolfinx.fem.petsc.create_matrix


def create_vector(space: Any) -> Any:
    """A ghosted vector that fits a function space."""
    function = fem.Function(space)  # since 0.9 its vector is destroyed together with it
    return vector_of(function).duplicate()
