"""Inner products of snapshots: weights, or sparse matrices over the positions of a time level."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Invalid
from sciflow_rom.snapshots import SnapshotMatrix

if TYPE_CHECKING:
    from sciflow.context import Comm

SLAB = 8
"""Columns that a sparse product is applied to at once, because scipy copies them first."""


@dataclass(frozen=True)
class Product:
    """``<u, v> = sum_l tau_l u_l^T M v_l`` over the time levels ``l`` of two columns.

    Attributes
    ----------
    weights : ndarray, shape (position,), or None
        The diagonal of ``M`` where it is diagonal; None without `root` and `matrix` is the identity.
    root : sparse matrix, shape (any, position), or None
        ``G`` with ``G^T G = M``; its rows are sorted by their first column.
    times : ndarray, shape (level,), or None
        Weights ``tau`` of the time levels; None for ones.
    """

    weights: np.ndarray | None = None
    root: Any = None
    times: np.ndarray | None = None
    _cut: dict[tuple[int, int], tuple[Any, Any]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def matrix(self) -> Any:
        """``M`` as a sparse matrix; None for the identity."""
        from scipy import sparse

        if self.root is not None:
            return (self.root.T @ self.root).tocsr()
        return None if self.weights is None else sparse.diags(self.weights).tocsr()

    @property
    def growth(self) -> float:
        """Rows of ``G`` for each row of the snapshots."""
        return 1.0 if self.root is None else max(1.0, self.root.shape[0] / self.root.shape[1])

    def check(self, snapshots: SnapshotMatrix) -> None:
        """Refuse snapshots of another size.

        Raises
        ------
        Invalid
            If positions or levels do not agree.
        """
        sizes = [len(self.weights)] if self.weights is not None else []
        sizes += [self.root.shape[1]] if self.root is not None else []
        if any(n != snapshots.positions for n in sizes):
            raise Invalid(f"the product is of {sizes[0]} positions, the snapshots have {snapshots.positions}")
        if self.times is not None and len(self.times) != snapshots.stacked:
            raise Invalid(f"the product has {len(self.times)} time levels, a column {snapshots.stacked}")

    def rooted(self, snapshots: SnapshotMatrix, rows: slice, space: np.ndarray | None = None) -> np.ndarray:
        """A block of ``(tau^1/2 G) S``, whose inner products are those of the snapshots.

        Parameters
        ----------
        snapshots : SnapshotMatrix
            ``S``.
        rows : slice
            Of the snapshots; the rows of ``G`` that belong to them are those whose first column is
            among them.
        space : ndarray, shape (at least column * row,), or None
            Memory for the values read.

        Returns
        -------
        ndarray, shape (row, column)
            Fortran order. Valid until `space` is used again.
        """
        count, columns = rows.stop - rows.start, snapshots.columns
        if self.root is not None:
            return self._sparse(snapshots, rows)
        out = None if space is None else space[: columns * count].reshape(columns, count)
        block = snapshots.read(rows, out)
        if self.weights is not None or self.times is not None:
            for part, level, where in _placed(snapshots, rows):
                block[part] *= np.sqrt(self._factor(level, where))[:, None]
        return block

    def _factor(self, level: int, where: slice) -> np.ndarray:
        space = np.ones(where.stop - where.start) if self.weights is None else self.weights[where]
        return space if self.times is None else space * self.times[level]

    def _sparse(self, snapshots: SnapshotMatrix, rows: slice) -> np.ndarray:
        pieces = [(level, *self._rows_of(where)) for level, where in snapshots.pieces(rows)]
        out = np.empty((snapshots.columns, sum(operator.shape[0] for _, operator, _ in pieces)))
        done = 0
        for level, operator, where in pieces:
            values = np.empty((snapshots.columns, operator.shape[1]))
            snapshots.at(level, where, values)
            snapshots.finite(values)
            if self.times is not None:
                values *= np.sqrt(self.times[level])
            more = operator.shape[0]
            for start in range(0, snapshots.columns, SLAB):
                slab = slice(start, start + SLAB)
                out[slab, done : done + more] = (operator @ values[slab].T).T
            done += more
        return out.T

    def _rows_of(self, where: slice) -> tuple[Any, Any]:
        """Rows of ``G`` that belong to some positions, restricted to the positions that they touch."""
        key = (where.start, where.stop)
        if key not in self._cut:
            root = self.root
            owners = root.indices[root.indptr[:-1]]
            first, last = np.searchsorted(owners, key)
            part = root[first:last]
            touched = np.unique(part.indices)
            if len(touched) == 0:
                return part[:, :0], slice(0, 0)
            low, high = int(touched[0]), int(touched[-1]) + 1
            if high - low <= 1.5 * len(touched):
                self._cut[key] = part[:, low:high], slice(low, high)
            else:
                self._cut[key] = part[:, touched], touched
        return self._cut[key]


def _placed(snapshots: SnapshotMatrix, rows: slice) -> list[tuple[slice, int, slice]]:
    """Pieces of a block with their rows in it."""
    found, at = [], 0
    for level, where in snapshots.pieces(rows):
        found.append((slice(at, at + where.stop - where.start), level, where))
        at += where.stop - where.start
    return found


def of_root(root: Any, times: np.ndarray | None = None) -> Product:
    """The product of a sparse ``G`` with ``M = G^T G``.

    Parameters
    ----------
    root : sparse matrix or array, shape (any, position)
        Its rows may be in any order.
    times : ndarray, shape (level,), or None
        Weights of the time levels.
    """
    from scipy import sparse

    made = sparse.csr_matrix(root, dtype=np.float64)
    made.eliminate_zeros()
    made.sort_indices()
    made = made[np.diff(made.indptr) > 0]
    order = np.argsort(made.indices[made.indptr[:-1]], kind="stable")
    return Product(root=made[order].tocsr(), times=times)


def of_matrix(matrix: Any, times: np.ndarray | None = None, comm: Comm | None = None) -> Product:
    """The product of a symmetric positive definite matrix.

    Parameters
    ----------
    matrix : ndarray, sparse matrix or PETSc.Mat
        ``M``, shape (position, position), or its diagonal, shape (position,). A PETSc matrix may be
        spread over `comm` in any way; collective then.
    times : ndarray, shape (level,), or None
        Weights of the time levels.
    comm : Comm or None
        Ranks of a PETSc matrix.

    Raises
    ------
    Invalid
        If it is not symmetric and positive definite.

    Notes
    -----
    ``M = L D L^T`` by a sparse factorisation with a symmetric permutation, ``G = D^1/2 L^T``. Every
    rank holds the whole of ``M`` and ``G``; the fill of ``G`` decides how many rows beside its own a block
    needs. Products made by `grid` and `triangles` need no factorisation.
    """
    from scipy import sparse

    if hasattr(matrix, "getValuesCSR"):
        matrix = _gathered(matrix, comm)
    if getattr(matrix, "ndim", 2) == 1:
        weights = np.asarray(matrix, dtype=np.float64)
        if not (np.isfinite(weights).all() and (weights > 0).all()):
            raise Invalid("weights of an inner product must be positive")
        return Product(weights=weights, times=times)
    made = sparse.csc_matrix(matrix, dtype=np.float64)
    if made.shape[0] != made.shape[1]:
        raise Invalid(f"an inner product is a square matrix, this has shape {made.shape}")
    largest = abs(made).max() if made.nnz else 0.0
    if not np.isfinite(largest) or largest == 0 or abs(made - made.T).max() > 1e-12 * largest:
        raise Invalid("the matrix of an inner product must be symmetric")
    return of_root(_cholesky(made), times)


def _cholesky(matrix: Any) -> Any:
    """``G = D^1/2 L^T P`` with ``G^T G`` the matrix."""
    from scipy import sparse
    from scipy.sparse.linalg import splu

    wrong = "the matrix of an inner product must be positive definite"
    if (matrix.diagonal() <= 0).any():
        raise Invalid(wrong)
    options = {"SymmetricMode": True}
    try:
        factor = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    except RuntimeError as error:
        raise Invalid(f"{wrong} ({error})") from None
    diagonal = factor.U.diagonal()
    if not np.array_equal(factor.perm_r, factor.perm_c) or not (diagonal > 0).all():
        raise Invalid(wrong)
    return (sparse.diags(np.sqrt(diagonal)) @ factor.L.T).tocsr()[:, factor.perm_c]


def _gathered(matrix: Any, comm: Comm | None) -> Any:
    """The whole of a PETSc matrix on every rank, from the rows that each owns."""
    from scipy import sparse

    pointers, columns, values = (np.asarray(part) for part in matrix.getValuesCSR())
    if comm is not None and comm.size > 1:
        counts = _joined(np.diff(pointers).astype(np.int64), comm)
        pointers = np.concatenate([[0], np.cumsum(counts)])
        columns, values = _joined(columns.astype(np.int64), comm), _joined(values, comm)
    return sparse.csr_matrix((values, columns, pointers), shape=matrix.getSize())


def _joined(values: np.ndarray, comm: Comm) -> np.ndarray:
    """The arrays of all ranks one after the other, on every rank."""
    mpi: Any = comm
    sizes = np.zeros(comm.size, dtype=np.int64)
    mpi.Allgather(np.array([len(values)], dtype=np.int64), sizes)
    out = np.empty(int(sizes.sum()), dtype=values.dtype)
    mpi.Allgatherv(np.ascontiguousarray(values), [out, sizes.tolist()])
    return out
