"""Lifting: the second pass, from combinations of columns back to fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from sciflow.context import summed
from sciflow.errors import Invalid
from sciflow_rom.compress.products import Product
from sciflow_rom.compress.snapshots import BLOCK, SnapshotMatrix

if TYPE_CHECKING:
    pass


def lift(
    snapshots: SnapshotMatrix,
    weights: np.ndarray,
    after: np.ndarray | None = None,
    *,
    out: np.ndarray | None = None,
    block: int = BLOCK,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Combinations ``S W`` of the columns, this rank's rows, block by block; without communication.

    Parameters
    ----------
    snapshots : SnapshotMatrix
        ``S``. Its ranks need not be those of the pass that made the coordinates.
    weights : ndarray, shape (column, n)
        ``W``: those of all bases side by side, zero where a basis does not use a column.
    after : ndarray, shape (n, m), or None
        Multiplied from the right to what was lifted: see `correction`.
    out : ndarray, shape (row of this rank, n or m), or None
        Memory for the whole result, best in Fortran order; the values given are then parts of it.
    block : int
        Bytes of a block.

    Yields
    ------
    rows : slice
        Among the rows of all ranks.
    values : ndarray of float64, shape (row, n) or (row, m)
        In Fortran order.

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
    first = snapshots.mine.start
    for rows in blocks:
        count = rows.stop - rows.start
        if not count:
            continue
        values = snapshots.look(rows, space[: snapshots.columns * count].reshape(snapshots.columns, count))
        own = None if out is None else out[rows.start - first : rows.stop - first].T
        # Transposed: the product is quicker where the long axis is the contiguous one.
        if after is None:
            yield rows, np.matmul(weights.T, values.T, out=own).T
        else:
            yield rows, np.matmul(after.T, weights.T @ values.T, out=own).T


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

    Raises
    ------
    Invalid
        If the product is of other positions or time levels.
    """
    product.check(snapshots)
    total = np.zeros((weights.shape[1], weights.shape[1]))
    for rows in snapshots.blocks(max(1, int(snapshots.height(block) / product.growth))):
        if product.matrix is not None:
            modes, others = (part @ weights for part in product.applied(snapshots, rows))
        else:
            modes = others = product.rooted(snapshots, rows) @ weights
        total += modes.T @ others
    return summed(total, snapshots.comm)


def correction(products: np.ndarray) -> np.ndarray:
    """What turns a lifted basis that is nearly orthonormal into one that is (a step of Cholesky QR).

    Parameters
    ----------
    products : ndarray, shape (n, n)
        From `inner_products`.

    Returns
    -------
    ndarray, shape (n, n)
        Upper triangular: the span of the first ``k`` modes stays for every ``k``. For `lift`.

    Notes
    -----
    Rounding of the snapshots tilts a mode of singular value ``sigma`` by ``eps sigma_1 / sigma``. It has to
    be corrected behind the lift: other weights would meet the same rounding again.
    """
    return np.asarray(np.linalg.inv(np.linalg.cholesky(products)).T)
