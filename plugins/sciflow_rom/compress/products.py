"""Inner products of snapshots: weights, or sparse matrices over the positions of a time level."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Invalid
from sciflow_rom.compress.snapshots import SnapshotMatrix

if TYPE_CHECKING:
    from sciflow.context import Comm

SLAB = 8
"""Columns that a sparse product is applied to at once, because scipy copies them first."""
POSITIVE = "the matrix of an inner product must be positive definite"
CUT = 4
"""Parts of an operator that are kept: a whole level comes again, other parts seldom."""


@dataclass(frozen=True)
class Product:
    """``<u, v> = sum_l tau_l u_l^T M v_l`` over the time levels ``l`` of two columns.

    Without arguments, the Euclidean one. See `of_matrix` and `of_root`.

    Attributes
    ----------
    weights : ndarray, shape (position,), or None
        The diagonal of ``M`` where it is diagonal.
    matrix : sparse matrix, shape (position, position), or None
        ``M``, where only that is known.
    given : sparse matrix, shape (any, position), or None
        ``G`` with ``G^T G = M``, where that is known; its rows are sorted by their first column.
    times : ndarray, shape (level,), or None
        Weights ``tau`` of the time levels; None for ones.
    """

    weights: np.ndarray | None = None
    matrix: Any = None
    given: Any = None
    times: np.ndarray | None = None
    _cut: dict[tuple[int, int, int], tuple[Any, Any]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def root(self) -> Any:
        """``G`` with ``G^T G = M``, a sparse matrix; None where ``M`` is diagonal.

        Raises
        ------
        Invalid
            If ``M`` is not positive definite.
        """
        return self.given if self.matrix is None else sorted_rows(cholesky(self.matrix))

    def dense(self) -> np.ndarray | None:
        """``M`` as an array, for small cases; None for the identity."""
        if self.weights is not None:
            return np.diag(self.weights)
        found = self.matrix if self.matrix is not None else self.given
        if found is None:
            return None
        return np.asarray((found if found is self.matrix else found.T @ found).toarray())

    @property
    def growth(self) -> float:
        """Rows that a block becomes, for each row read."""
        return 1.0 if self.given is None else max(1.0, self.given.shape[0] / self.given.shape[1])

    def check(self, snapshots: SnapshotMatrix) -> None:
        """Refuse snapshots of another size.

        Raises
        ------
        Invalid
            If positions or levels do not agree.
        """
        known = [len(self.weights)] if self.weights is not None else []
        known += [m.shape[1] for m in (self.matrix, self.given) if m is not None]
        if any(n != snapshots.positions for n in known):
            raise Invalid(f"the product is of {known[0]} positions, the snapshots have {snapshots.positions}")
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
            Not to be changed. Valid until `space` is used again.
        """
        if self.root is not None:
            return self._sparse(self.root, snapshots, rows)[1]
        count, columns = rows.stop - rows.start, snapshots.columns
        space = np.empty(columns * count) if space is None else space
        out = space[: columns * count].reshape(columns, count)
        if self.weights is None and self.times is None:
            return snapshots.look(rows, out)
        block = snapshots.read(rows, out)
        for part, level, where in _placed(snapshots, rows):
            block[part] *= np.sqrt(self._factor(level, where))[:, None]
        return block

    def applied(self, snapshots: SnapshotMatrix, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """A block of ``S`` and the same rows of ``M S``, for a product with `matrix`.

        Parameters
        ----------
        snapshots, rows
            As in `rooted`.

        Returns
        -------
        ndarray, ndarray, shape (row, column)
            Times ``tau^1/2`` both.
        """
        return self._sparse(self.matrix, snapshots, rows)

    def _factor(self, level: int, where: slice) -> np.ndarray:
        space = np.ones(where.stop - where.start) if self.weights is None else self.weights[where]
        return space if self.times is None else space * self.times[level]

    def _sparse(self, operator: Any, snapshots: SnapshotMatrix, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """The block (only for `matrix`) and what `operator` makes of it."""
        runs = [(first, n, at, *self._rows_of(operator, at)) for first, n, at in snapshots.runs(rows)]
        out = np.empty((snapshots.columns, sum(n * part.shape[0] for _, n, _, part, _ in runs)))
        own = np.empty((snapshots.columns, rows.stop - rows.start if operator is self.matrix else 0))
        done = read = 0
        for first, levels, at, part, where in runs:
            if not part.shape[0]:
                continue
            values = self._values(snapshots, first, levels, where, part.shape[1])
            if operator is self.matrix:
                begin = (
                    at.start - where.start if isinstance(where, slice) else np.searchsorted(where, at.start)
                )
                count = at.stop - at.start
                more = own[:, read : read + levels * count]
                more[...] = values[:, :, begin : begin + count].reshape(more.shape)
                read += levels * count
            for start in range(0, snapshots.columns, SLAB):
                slab = values[start : start + SLAB]
                result = (part @ slab.reshape(-1, part.shape[1]).T).T.reshape(len(slab), -1)
                out[start : start + SLAB, done : done + levels * part.shape[0]] = result
            done += levels * part.shape[0]
        return own.T, out.T

    def _values(
        self, snapshots: SnapshotMatrix, first: int, levels: int, where: slice | np.ndarray, count: int
    ) -> np.ndarray:
        """Some positions of a level or several, with their weights, shape (column, level, position)."""
        values = np.empty((snapshots.columns, levels, count))
        if levels > 1:
            snapshots.whole(first, levels, values.reshape(snapshots.columns, -1))
        else:
            snapshots.at(first, where, values[:, 0])
        if self.times is not None:
            values *= np.sqrt(self.times[first : first + levels])[:, None]
        return values

    def _rows_of(self, operator: Any, at: slice) -> tuple[Any, Any]:
        """Rows of an operator that belong to some positions, and the positions that they touch."""
        key = (id(operator), at.start, at.stop)
        if key not in self._cut:
            while len(self._cut) >= CUT:
                del self._cut[next(iter(self._cut))]
            if operator is self.matrix:
                part = operator[at]
            else:
                owners = operator.indices[operator.indptr[:-1]]
                first, last = np.searchsorted(owners, (at.start, at.stop))
                part = operator[first:last]
            touched = np.unique(part.indices)
            low, high = (int(touched[0]), int(touched[-1]) + 1) if len(touched) else (0, 0)
            whole = at.stop - at.start == operator.shape[1]
            if whole:
                low, high = at.start, at.stop
            where = slice(low, high) if whole or high - low <= 1.5 * len(touched) else touched
            self._cut[key] = part[:, where], where
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
    return Product(given=sorted_rows(root), times=times)


def sorted_rows(root: Any) -> Any:
    """A sparse matrix without empty rows, sorted by the first column in each row."""
    from scipy import sparse

    made = sparse.csr_matrix(root, dtype=np.float64)
    made.eliminate_zeros()
    made.sort_indices()
    made = made[np.diff(made.indptr) > 0]
    order = np.argsort(made.indices[made.indptr[:-1]], kind="stable")
    return made[order].tocsr()


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
        If it is not symmetric, or its diagonal not positive.

    Notes
    -----
    Every rank holds the whole of ``M``, which is small beside the snapshots. Inner products need ``M``
    alone. Orthogonal transformations need a ``G`` with ``G^T G = M``: see `cholesky`.
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
    if (made.diagonal() <= 0).any():
        raise Invalid(POSITIVE)
    rows = made.tocsr()
    rows.eliminate_zeros()
    rows.sort_indices()
    return Product(matrix=rows, times=times)


def cholesky(matrix: Any) -> Any:
    """A sparse ``G = D^1/2 L^T P`` with ``G^T G`` a symmetric positive definite matrix.

    Parameters
    ----------
    matrix : sparse matrix, shape (position, position)

    Returns
    -------
    sparse matrix, shape (position, position)

    Raises
    ------
    Invalid
        If it is not positive definite.

    Notes
    -----
    ``P M P^T = L D L^T`` with a permutation that keeps ``L`` sparse. Its fill decides how many rows beside
    its own a block needs: in two dimensions few, in three many; the roots of `sciflow_rom.compress.metrics`
    have none.
    """
    from scipy import sparse
    from scipy.sparse.linalg import splu

    wrong, matrix = POSITIVE, matrix.tocsc()
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
