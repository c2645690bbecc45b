"""Lifting: the second pass, from combinations of columns back to fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Invalid
from sciflow_rom.products import Product
from sciflow_rom.snapshots import BLOCK, SnapshotMatrix

if TYPE_CHECKING:
    from sciflow.context import Comm


def lift(
    snapshots: SnapshotMatrix, weights: np.ndarray, block: int = BLOCK
) -> Iterator[tuple[slice, np.ndarray]]:
    """Combinations ``S W`` of the columns, this rank's rows, block by block; without communication.

    Parameters
    ----------
    snapshots : SnapshotMatrix
        ``S``. Its ranks need not be those of the pass that made the coordinates.
    weights : ndarray, shape (column, n)
        ``W``: those of all bases side by side, zero where a basis does not use a column.
    block : int
        Bytes of a block.

    Yields
    ------
    rows : slice
        Among the rows of all ranks.
    values : ndarray of float64, shape (row, n)

    Raises
    ------
    Invalid
        If the number of columns is another one.

    Notes
    -----
    One product of ``2 n N r`` operations for ``n`` rows, ``N`` columns and ``r`` combinations. Memory: one
    block and its result.
    """
    if weights.shape[0] != snapshots.columns:
        raise Invalid(f"weights for {weights.shape[0]} columns, there are {snapshots.columns}")
    blocks = snapshots.blocks(snapshots.height(block))
    space = np.empty(snapshots.columns * max(b.stop - b.start for b in blocks))
    for rows in blocks:
        count = rows.stop - rows.start
        if count:
            out = space[: snapshots.columns * count].reshape(snapshots.columns, count)
            yield rows, snapshots.read(rows, out) @ weights


def inner_products(
    snapshots: SnapshotMatrix, product: Product, weights: np.ndarray, block: int = BLOCK
) -> np.ndarray:
    """``(S W)^T M (S W)`` as the fields have it, to check how orthonormal a lifted basis is; collective.

    Parameters
    ----------
    snapshots : SnapshotMatrix
        ``S``.
    product : Product
        ``M``.
    weights : ndarray, shape (column, n)
        ``W``.
    block : int
        Bytes of a block.

    Returns
    -------
    ndarray, shape (n, n)
        The identity, for an orthonormal basis.
    """
    total = np.zeros((weights.shape[1], weights.shape[1]))
    for rows in snapshots.blocks(max(1, int(snapshots.height(block) / product.growth))):
        modes = product.rooted(snapshots, rows) @ weights
        total += modes.T @ modes
    return _summed(total, snapshots.comm)


def orthonormalised(weights: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Weights of a basis corrected by what `inner_products` found (a step of Cholesky QR).

    Parameters
    ----------
    weights : ndarray, shape (column, n)
    products : ndarray, shape (n, n)
        Close to the identity.

    Returns
    -------
    ndarray, shape (column, n)
        The span stays that of the first ``k`` for every ``k``.
    """
    lower = np.linalg.cholesky(products)
    return np.asarray(np.linalg.solve(lower, weights.T).T)


def _summed(values: np.ndarray, comm: Comm) -> np.ndarray:
    if comm.size == 1:
        return values
    total = np.empty_like(values)
    mpi: Any = comm
    mpi.Allreduce(np.ascontiguousarray(values), total)
    return total
