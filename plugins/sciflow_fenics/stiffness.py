"""Residual and tangent of elements whose law is plain numpy, and the linear solves with them."""

from __future__ import annotations

import numpy as np
from petsc4py import PETSc

from sciflow.errors import Diverged
from sciflow_fenics.quadrature import Elements, Ghosts
from sciflow_fenics.steady_heat import linear_solver


class Stiffness:
    """``f = B^T (w s)`` and ``K = B^T (w D) B`` with supports, over the ranks of a mesh.

    Parameters
    ----------
    form : Elements
        Points and strains.
    ghosts : Ghosts
        Of the unknowns.
    blocks : ndarray, shape (cell, 3 * component, local)
        As in `Elements`.
    dofs : ndarray of int64, shape (cell, local)
        As in `Elements`.
    fixed : ndarray of bool, shape (size,)
        Unknowns that stay zero, those of other ranks included.
    block : int
        Unknowns at each node.

    Notes
    -----
    The pattern is found once. A tangent costs ``2 * 3 * component * local * (component + local)``
    operations for each cell, one pass over the entries, and the numbers of an LU.
    """

    def __init__(
        self,
        form: Elements,
        ghosts: Ghosts,
        blocks: np.ndarray,
        dofs: np.ndarray,
        fixed: np.ndarray,
        block: int,
    ) -> None:
        self.form, self._ghosts, self._blocks = form, ghosts, blocks
        self.free = ~fixed[: ghosts.owned]
        self._transposed = np.ascontiguousarray(blocks.transpose(0, 2, 1))
        self._back = form.operator.T.tocsr()
        self._weights = form.weights[:, None]
        self._pattern(dofs, fixed)
        whole = (block * ghosts.whole[:, None] + np.arange(block)).reshape(-1).astype(PETSc.IntType)
        self._rows, self._columns = whole, whole[self._local]
        comm = form.comm
        self._matrix = PETSc.Mat().create(comm)
        self._matrix.setSizes(((ghosts.owned, None), (ghosts.owned, None)))
        self._matrix.setType("aij")
        most = 2 * int(np.diff(self._ends).max(initial=1))
        size = self._matrix.getSize()[1]
        self._matrix.setPreallocationNNZ((min(most, size), min(most, size)))
        self._vector, self._change = ghosts.vector.duplicate(), ghosts.vector.duplicate()
        self._solver = linear_solver(comm, self._matrix)

    def _pattern(self, dofs: np.ndarray, fixed: np.ndarray) -> None:
        """Where each entry of each element goes; those of supports go behind the last one."""
        size, local = self._ghosts.size, dofs.shape[1]
        rows, columns = np.repeat(dofs, local, axis=1).reshape(-1), np.tile(dofs, (1, local)).reshape(-1)
        inside = ~(fixed[rows] | fixed[columns])
        own = np.flatnonzero(~self.free)
        keys = np.concatenate([rows[inside] * size + columns[inside], own * size + own])
        entries, place = np.unique(keys, return_inverse=True)
        self._scatter = np.full(len(rows), len(entries), dtype=np.int64)
        self._scatter[inside] = place[: int(inside.sum())]
        self._ones = place[int(inside.sum()) :]
        self._local = entries % size
        counts = np.bincount(entries // size, minlength=size)
        self._ends = np.concatenate([[0], np.cumsum(counts)]).astype(PETSc.IntType)

    def force(self, stress: np.ndarray) -> np.ndarray:
        """``B^T (w s)`` of this rank's unknowns; collective.

        Parameters
        ----------
        stress : ndarray, shape (point, component)

        Returns
        -------
        ndarray, shape (row,)
        """
        whole = self._back @ (self._weights * stress).reshape(-1)
        return self._ghosts.collect(whole)

    def correction(self, tangent: np.ndarray, residual: np.ndarray) -> np.ndarray:
        """Solve ``K x = r`` with x = 0 at the supports; collective.

        Parameters
        ----------
        tangent : ndarray, shape (point, component, component)
        residual : ndarray, shape (row,)
            Zero at the supports.

        Returns
        -------
        ndarray, shape (row,)

        Raises
        ------
        Diverged
            On every rank, if the linear solver fails.
        """
        cells, height, local = self._blocks.shape
        count = height // 3
        weighted = tangent * self._weights[:, :, None]
        right = np.matmul(weighted.reshape(-1, count, count), self._blocks.reshape(-1, count, local)).reshape(
            cells, height, local
        )
        elements = np.matmul(self._transposed, right).reshape(-1)
        values = np.bincount(self._scatter, weights=elements, minlength=len(self._local) + 1)[:-1]
        values[self._ones] = 1.0
        self._matrix.zeroEntries()
        self._matrix.setValuesIJV(self._ends, self._columns, values, PETSc.InsertMode.ADD_VALUES, self._rows)
        self._matrix.assemble()
        self._vector.array[:] = residual
        self._solver.solve(self._vector, self._change)
        reason = self._solver.getConvergedReason()
        if reason < 0:
            raise Diverged(f"the linear solver failed, PETSc reason {reason}")
        return np.array(self._change.array)
