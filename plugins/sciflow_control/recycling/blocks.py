"""Blocks of vectors that are spread over ranks: one gemv and one sum over the ranks for many dot products."""

from __future__ import annotations

from typing import Any

import numpy as np
from petsc4py import PETSc
from scipy.linalg import blas

DEPENDENT = 1e-10
"""Singular values below this, relative to the largest, make a direction count as dependent."""
SQUARED = 1e-5
"""Cholesky QR squares the condition: below this ratio of diagonal entries it gives way to Householder's."""


class Reduction:
    """Sums over the ranks of a communicator.

    Parameters
    ----------
    comm : petsc4py.PETSc.Comm
        Of the operator.
    """

    def __init__(self, comm: Any) -> None:
        self.size: int = comm.getSize()
        self._comm = comm.tompi4py() if self.size > 1 else None

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum over the ranks, of one shape, the same bits on each; collective."""
        if self._comm is None:
            return values
        total = np.empty_like(values)
        self._comm.Allreduce(np.ascontiguousarray(values), total)
        return total

    def stack(self, values: np.ndarray) -> np.ndarray:
        """Every rank's array, one below the other, on every rank; collective.

        Parameters
        ----------
        values : ndarray, shape (r, c)
            Of one shape on all ranks.
        """
        if self._comm is None:
            return values
        everyone = np.empty((self.size, *values.shape))
        self._comm.Allgather(np.ascontiguousarray(values), everyone)
        return everyone.reshape(-1, values.shape[1])


class Block:
    """Vectors side by side in one array, each of them a PETSc vector on the same memory.

    Parameters
    ----------
    matrix : petsc4py.PETSc.Mat
        Square; the vectors are laid out as its rows.
    count : int
        How many.

    Attributes
    ----------
    values : ndarray, shape (local row, count)
        In Fortran order: columns lie together.
    vectors : list of petsc4py.PETSc.Vec
        One per column.
    """

    def __init__(self, matrix: Any, count: int) -> None:
        rows, total = matrix.getSizes()[0]
        self.values = np.zeros((rows, count), order="F")
        self.vectors = [
            PETSc.Vec().createWithArray(self.values[:, j], size=(rows, total), comm=matrix.getComm())
            for j in range(count)
        ]

    def touch(self, column: int) -> None:
        """Tell PETSc that a column was written through `values`: it keeps norms that it has computed."""
        self.vectors[column].stateIncrease()


def dots(block: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """This rank's part of the dot products of all columns, shape (row, column), with a vector."""
    if not len(vector) or not block.shape[1]:
        return np.zeros(block.shape[1])
    found: np.ndarray = blas.dgemv(1.0, block, vector, trans=1)
    return found


def add(vector: np.ndarray, block: np.ndarray, factors: np.ndarray, scale: float = 1.0) -> None:
    """``vector += scale * block @ factors``, in place; shapes (row,), (row, column), (column,)."""
    if len(vector) and block.shape[1]:
        blas.dgemv(scale, block, factors, beta=1.0, y=vector, overwrite_y=1)


def scale(vector: np.ndarray, factor: float) -> None:
    """``vector *= factor``, shape (row,), in place; BLAS refuses the empty vector of a rank without rows."""
    if len(vector):
        blas.dscal(factor, vector)


def move(vector: np.ndarray, direction: np.ndarray, step: float = 1.0) -> None:
    """``vector += step * direction``, shape (row,), in place; empty where a rank has no rows."""
    if len(vector):
        blas.daxpy(direction, vector, a=step)


def combined(block: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """``block @ factors``, shapes (row, column), (column, n), in Fortran order, without a copy of block."""
    return np.asarray((factors.T @ block.T).T)


def orthonormal(block: np.ndarray, ranks: Reduction) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal columns for the span of a block; collective.

    Parameters
    ----------
    block : ndarray, shape (local row, c)
        Finite.
    ranks : Reduction
        Over which the rows are spread.

    Returns
    -------
    q : ndarray, shape (local row, r)
        ``block @ t``, orthonormal to rounding; ``r < c`` where columns depend on each other.
    t : ndarray, shape (c, r)
        What was done to the columns.

    Notes
    -----
    Cholesky QR, twice [1]_: two products with the transpose and two sums over the ranks. Where the
    columns are close to dependent, the first time is a QR of every rank's rows and of the stacked
    triangles instead, with a singular value decomposition that leaves out what depends on the rest.

    References
    ----------
    .. [1] Y. Yamamoto, Y. Nakatsukasa, Y. Yanagisawa, T. Fukaya, "Roundoff error analysis of the
       CholeskyQR2 algorithm", Electronic Transactions on Numerical Analysis 44 (2015), 306-326.
    """
    factor = _by_cholesky(block, ranks)
    if factor is None:
        factor = _by_householder(block, ranks)
    q = combined(block, factor)
    again = _by_cholesky(q, ranks)
    if again is None:
        again = _by_householder(q, ranks)
    return combined(q, again), factor @ again


def _by_cholesky(block: np.ndarray, ranks: Reduction) -> np.ndarray | None:
    """The triangle that makes columns orthonormal; None where they are too close to dependent."""
    gram = ranks.sum(block.T @ block)
    scale = np.sqrt(gram.diagonal())
    if not gram.size or not np.isfinite(scale).all() or scale.min() == 0:
        return None
    try:
        triangle = np.linalg.cholesky(gram / np.outer(scale, scale)).T
    except np.linalg.LinAlgError:
        return None
    if triangle.diagonal().min() < SQUARED:
        return None
    return np.asarray(np.linalg.inv(triangle) / scale[:, None])


def _by_householder(block: np.ndarray, ranks: Reduction) -> np.ndarray:
    """The transform that makes columns orthonormal, without those that depend on others."""
    count = block.shape[1]
    scale = np.sqrt(ranks.sum(np.einsum("ij,ij->j", block, block)))
    used = np.flatnonzero((scale > 0) & np.isfinite(scale))
    if not len(used):
        return np.zeros((count, 0))
    local = np.linalg.qr(block[:, used] / scale[used], mode="r")
    padded = np.zeros((len(used), len(used)))
    padded[: len(local)] = local
    _, values, right = np.linalg.svd(ranks.stack(padded), full_matrices=False)
    kept = values > DEPENDENT * values[0]
    factor = np.zeros((count, int(kept.sum())))
    factor[used] = right[kept].T / values[kept] / scale[used, None]
    return factor
