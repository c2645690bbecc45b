"""Triangular factors of tall matrices that come in blocks of rows, on one rank or many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Invalid
from sciflow_rom.compress.snapshots import BLOCK

if TYPE_CHECKING:
    from sciflow.context import Comm

TALL = 8
"""Rows of a factorisation, in multiples of the columns: fewer repeat work, more leave the cache."""


class Accumulator(ABC):
    """What is known of a matrix from the blocks of rows seen so far."""

    @abstractmethod
    def add(self, block: np.ndarray) -> None:
        """Take in a block, shape (row, column).

        Parameters
        ----------
        block : ndarray, shape (row, column)
            Best in Fortran order.
        """

    @abstractmethod
    def state(self) -> np.ndarray:
        """All that was learned, to go on from later."""

    @property
    def finite(self) -> bool:
        """Whether that is finite."""
        return bool(np.isfinite(self.state()).all())

    @abstractmethod
    def triangle(self, comm: Comm) -> np.ndarray:
        """The factor of the rows of all ranks, the same bits on each; collective.

        Returns
        -------
        ndarray, shape (min(row, column), column)
            Upper triangular (trapezoidal) with a diagonal that is not negative.
        """


class Householder(Accumulator):
    """``R`` of ``S = Q R`` by orthogonal transformations (TSQR).

    Parameters
    ----------
    columns : int
        Of the matrix.
    state : ndarray or None
        Of an earlier one.

    Notes
    -----
    The factor of the rows so far is stacked on the next ones and factorised again; those of the ranks
    are combined in pairs along a binary tree. Costs ``2 n N^2 (1 + 1/8)`` operations for ``n`` rows and
    ``N`` columns and ``log2 P`` messages of ``N^2`` numbers. ``R`` is that of a matrix whose every
    column differs from that of ``S`` by a relative ``O(eps)``: singular values are right down to
    ``eps`` times the largest.

    References
    ----------
    J. Demmel, L. Grigori, M. Hoemmen, J. Langou, "Communication-optimal parallel and sequential QR and LU
    factorizations", SIAM J. Sci. Comput. 34 (2012) A206-A239, sections 3 (parallel) and 4 (sequential).
    """

    def __init__(self, columns: int, state: np.ndarray | None = None) -> None:
        self._factor = np.zeros((0, columns)) if state is None else state
        self._height = tall(columns)
        self._stack = np.empty((columns, columns + self._height))

    def add(self, block: np.ndarray) -> None:
        """Take in a block, shape (row, column)."""
        above = len(self._factor)
        for start in range(0, len(block), self._height):
            part = block[start : start + self._height]
            # Transposed as LAPACK wants it: no copy that jumps through memory.
            stack = self._stack[:, : above + len(part)]
            stack[:, :above], stack[:, above:] = self._factor.T, part.T
            self._factor = triangular(stack.T)
            above = len(self._factor)

    def state(self) -> np.ndarray:
        """The factor so far."""
        return self._factor

    def triangle(self, comm: Comm) -> np.ndarray:
        """See `Accumulator.triangle`."""
        factor = self._factor
        if comm.size > 1:
            factor = _tree(factor, comm)
        return upright(factor)


class Gram(Accumulator):
    """``R`` of ``S = Q R`` from the inner products ``S^T S``.

    Parameters
    ----------
    columns : int
        Of the matrix.
    state : ndarray or None
        Of an earlier one.

    Notes
    -----
    One symmetric product of ``n N^2`` operations and one reduction of ``N^2`` numbers. Products of
    numbers that differ by more than ``1e8`` in size are lost in the sum: singular values below about
    ``1e-8`` of the largest are noise. Columns are scaled to unit norm before ``S^T S`` is decomposed, so
    that a small snapshot is as exact as a large one.
    """

    def __init__(self, columns: int, state: np.ndarray | None = None) -> None:
        self._sum = np.zeros((columns, columns)) if state is None else state
        self._part = np.empty((columns, columns))

    def add(self, block: np.ndarray, other: np.ndarray | None = None) -> None:
        """Take in a block, shape (row, column), and what it is to be multiplied with (itself)."""
        with np.errstate(over="ignore", invalid="ignore"):
            np.matmul(block.T, block if other is None else other, out=self._part)
        self._sum += self._part

    def state(self) -> np.ndarray:
        """The sum so far."""
        return self._sum

    def triangle(self, comm: Comm) -> np.ndarray:
        """See `Accumulator.triangle`."""
        total = self._sum
        if comm.size > 1:
            total = np.empty_like(self._sum)
            mpi: Any = comm
            mpi.Allreduce(np.ascontiguousarray(self._sum), total)
        return shared(root_of(total), comm)


def tall(columns: int) -> int:
    """New rows of one factorisation.

    Notes
    -----
    The stack, numpy's copy of it and LAPACK's, and the factor take ``8 N (3 (N + h) + N)`` bytes for `h` new
    rows: as many as fit in a block and three matrices of ``N x N``, but no fewer than `N`.
    """
    return max(columns, min(TALL * columns, BLOCK // (24 * columns) - columns // 3))


def triangular(values: np.ndarray) -> np.ndarray:
    """``R`` of a matrix, shape (row, column), by Householder reflections; one without rows is its own."""
    if not len(values):
        return values
    found: Any = np.linalg.qr(values, mode="r")
    return np.asarray(found)


def upright(factor: np.ndarray) -> np.ndarray:
    """A triangular factor, shape (row, column), with rows turned so that its diagonal is not negative."""
    signs = np.where(np.diagonal(factor) < 0, -1.0, 1.0)
    return np.asarray(factor * signs[:, None])


def root_of(gram: np.ndarray) -> np.ndarray:
    """A triangular ``R`` with ``R^T R`` the part of a Gram matrix that is not negative.

    Parameters
    ----------
    gram : ndarray, shape (column, column)
        Symmetric.

    Returns
    -------
    ndarray, shape (column, column)

    Raises
    ------
    Invalid
        If it has negative eigenvalues beyond rounding.
    """
    if not np.isfinite(gram).all():
        raise Invalid("inner products of the snapshots overflow; take a larger unit")
    norms = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    scale = np.where(norms > 0, norms, 1.0)
    values, vectors = np.linalg.eigh(gram / scale / scale[:, None])
    if values[0] < -1e-8 * values[-1] or (np.diagonal(gram) < 0).any():
        raise Invalid("the inner product is not positive: a combination of snapshots has a negative square")
    root = np.sqrt(np.maximum(values, 0.0))[::-1, None] * vectors.T[::-1]
    # A column of zeros gets none of the rounding of the others.
    return np.asarray(upright(triangular(root)) * norms)


def shared(values: np.ndarray, comm: Comm) -> np.ndarray:
    """Rank 0's values, of one shape, on every rank, so that they are the same bits; collective."""
    if comm.size > 1:
        values = np.ascontiguousarray(values)
        mpi: Any = comm
        mpi.Bcast(values)
    return values


def _tree(factor: np.ndarray, comm: Comm) -> np.ndarray:
    """The factor of all ranks' factors, on every rank."""
    mpi: Any = comm
    columns = factor.shape[1]
    heights = np.zeros(comm.size, dtype=np.int64)
    mpi.Allgather(np.array([len(factor)], dtype=np.int64), heights)
    step = 1
    while step < comm.size:
        for low in range(0, comm.size - step, 2 * step):
            high = low + step
            if comm.rank == high:
                mpi.Send(np.ascontiguousarray(factor), dest=low)
            elif comm.rank == low:
                other = np.empty((heights[high], columns))
                mpi.Recv(other, source=high)
                factor = triangular(np.concatenate([factor, other]))
            heights[low] = min(columns, heights[low] + heights[high])
        step *= 2
    if comm.rank:
        factor = np.empty((heights[0], columns))
    return shared(factor, comm)
