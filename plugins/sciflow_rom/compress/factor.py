"""The one pass over the snapshots: from blocks of rows to a small triangular factor."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from sciflow.context import Context
from sciflow.errors import SciflowError
from sciflow_rom.compress.products import Product
from sciflow_rom.compress.snapshots import BLOCK, SnapshotMatrix
from sciflow_rom.compress.tsqr import Accumulator, Gram, Householder, triangular, upright

if TYPE_CHECKING:
    from collections.abc import Callable

LOOSE = 1e-6
"""From this tolerance on, inner products are exact enough."""
OFTEN = 2.0
"""Seconds between checkpoints."""
METHODS: Mapping[str, Callable[..., Accumulator]] = {"gram": Gram, "tsqr": Householder}


@dataclass(frozen=True)
class Factor:
    """What one pass leaves of the snapshots.

    Attributes
    ----------
    triangle : ndarray, shape (min(row, column), column)
        ``R`` with ``R^T R = S^T M S``, upper triangular, the same bits on every rank.
    method : {"gram", "tsqr"}
        How it was found.
    floor : float
        Size, relative to the largest singular value, below which singular values are noise.
    """

    triangle: np.ndarray
    method: str
    floor: float


def factorise(
    snapshots: SnapshotMatrix,
    product: Product | None = None,
    *,
    tolerance: float = LOOSE,
    method: Literal["auto", "gram", "tsqr"] = "auto",
    ctx: Context | None = None,
    kept: Path | None = None,
    block: int = BLOCK,
) -> Factor:
    """Compress snapshots to ``R`` in one pass; collective over ``snapshots.comm``.

    Parameters
    ----------
    snapshots : SnapshotMatrix
        ``S``, its rows spread over the ranks.
    product : Product or None
        ``M``; None is the Euclidean one.
    tolerance : float
        Relative size of the errors that later steps may ask for.
    method : {"auto", "gram", "tsqr"}
        ``auto`` takes ``gram`` for tolerances of `LOOSE` or more.
    ctx : Context or None
        For progress, and to stop when told to.
    kept : Path or None
        Directory for checkpoints, of which a later call with the same arguments goes on.
    block : int
        Bytes of a block of rows.

    Returns
    -------
    Factor

    Raises
    ------
    Invalid
        If a value is not finite or the product does not fit.
    Failed
        On the other ranks.

    Notes
    -----
    Memory: two blocks and three matrices of (column, column); above 1300 columns, orthogonal
    transformations take one block and eight such matrices.
    """
    product = product or Product()
    product.check(snapshots)
    ctx = ctx or Context(comm=snapshots.comm)
    chosen = method if method != "auto" else "gram" if tolerance >= LOOSE else "tsqr"
    height = max(1, int(snapshots.height(block) / product.growth))
    save = None if kept is None else Checkpoint(kept, snapshots, product, chosen, height)
    done, state = (0, None) if save is None else save.latest()
    found = METHODS[chosen](snapshots.columns, state)
    _pass(snapshots, product, found, done, ctx, save, height)
    triangle = found.triangle(snapshots.comm)
    return Factor(trapezoid(triangle, snapshots.rows), chosen, floor_of(chosen, snapshots.columns))


def floor_of(method: str, columns: int) -> float:
    """Relative size of singular values that a method cannot tell from noise."""
    eps = float(np.finfo(np.float64).eps)
    return float(np.sqrt(columns)) * eps if method == "tsqr" else float(np.sqrt(np.sqrt(columns) * eps))


def _pass(
    snapshots: SnapshotMatrix,
    product: Product,
    found: Accumulator,
    done: int,
    ctx: Context,
    save: Checkpoint | None,
    height: int,
) -> None:
    blocks = snapshots.blocks(height)
    space = np.empty(snapshots.columns * max(b.stop - b.start for b in blocks))
    for number, rows in enumerate(blocks):
        problem: Exception | None = None
        # Ranks that were killed go on from blocks of their own, but meet after each of them.
        if number >= done:
            try:
                if isinstance(found, Gram) and product.matrix is not None:
                    found.add(*product.applied(snapshots, rows))
                else:
                    found.add(product.rooted(snapshots, rows, space))
                if not found.finite:
                    snapshots.refuse(rows)
                if save is not None:
                    save.offer(number + 1, found)
            except (SciflowError, OSError) as error:
                problem = error
        ctx.all_ok(problem)
        ctx.check_together()
        ctx.progress(number + 1, len(blocks), "blocks of rows")


def trapezoid(triangle: np.ndarray, rows: int) -> np.ndarray:
    """A factor (column, column) without the rows that a matrix of fewer rows than columns cannot have."""
    if rows >= len(triangle):
        return triangle
    _, values, vectors = np.linalg.svd(triangle, full_matrices=False)
    return upright(triangular(values[:rows, None] * vectors[:rows]))


class Checkpoint:
    """What one rank knows after some of its blocks, as safetensors.

    Parameters
    ----------
    directory : Path
        Where; it survives a kill.
    snapshots, product, method, height
        Of the pass that may go on from it, on as many ranks.
    """

    def __init__(
        self, directory: Path, snapshots: SnapshotMatrix, product: Product, method: str, height: int
    ) -> None:
        rank, size = snapshots.comm.rank, snapshots.comm.size
        self._file = directory / f"compress-{rank:05d}-of-{size:05d}.safetensors"
        parts = [snapshots.members, snapshots.levels, product.weights, product.times]
        for operator in (product.matrix, product.root if product.matrix is None else None):
            parts += [] if operator is None else [operator.indptr, operator.indices, operator.data]
        text = f"{method} {height} {snapshots.stacked} {snapshots.positions} {snapshots.identity}"
        self._key = hashlib.sha256(text.encode())
        for part in parts:
            self._key.update(b"-" if part is None else np.ascontiguousarray(part).tobytes())
        self._last = time.monotonic()

    def offer(self, done: int, found: Accumulator) -> None:
        """Keep what is known, unless that was done a moment ago."""
        if time.monotonic() - self._last < OFTEN:
            return
        from sciflow.artifact.disk import Disk
        from sciflow.stages.train import tensors

        key = np.frombuffer(self._key.digest(), dtype=np.uint8)
        data = tensors({"key": key, "done": np.array(done), "state": found.state()})
        Disk("rename").replace(self._file, data)
        self._last = time.monotonic()

    def latest(self) -> tuple[int, np.ndarray | None]:
        """Blocks that were taken in, and what was known then; nothing if there is no such checkpoint."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            data = load(self._file.read_bytes())
            if data["key"].tobytes() == self._key.digest():
                return int(data["done"]), np.array(data["state"])
        except (OSError, ValueError, KeyError, SafetensorError):
            pass
        return 0, None
