"""Arrays that are spread over the ranks of a mesh: gathered, summed, compared; plain buffers, no pickle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sciflow.context import Comm


def gather_rows(values: np.ndarray, comm: Comm) -> np.ndarray:
    """The rows of all ranks, rank after rank, on rank 0; none elsewhere. Collective, as plain buffers.

    Parameters
    ----------
    values : ndarray, shape (n, ...)
        Rows of equal shape and dtype on all ranks, any number of them.
    comm : Comm
        With several ranks an mpi4py communicator.
    """
    if comm.size == 1:
        return values
    mpi: Any = comm
    mine = np.ascontiguousarray(values)
    counts = _counts(mine, mpi)
    first = comm.rank == 0
    found = np.empty(sum(counts) if first else 0, dtype=mine.dtype)
    mpi.Gatherv(mine.reshape(-1), [found, counts] if first else None)
    return found.reshape(-1, *values.shape[1:])


def all_rows(values: np.ndarray, comm: Comm) -> np.ndarray:
    """The rows of all ranks, rank after rank, on every rank; collective, as plain buffers.

    Parameters
    ----------
    values : ndarray of float64, shape (n, m)
        Any number of rows.
    comm : Comm
        With several ranks an mpi4py communicator.
    """
    if comm.size == 1:
        return values
    mpi: Any = comm
    mine = np.ascontiguousarray(values)
    counts = _counts(mine, mpi)
    found = np.empty(sum(counts))
    mpi.Allgatherv(mine.reshape(-1), [found, counts])
    return found.reshape(-1, values.shape[1])


def _counts(values: np.ndarray, mpi: Any) -> list[int]:
    """How many numbers each rank has, on every rank; collective."""
    counts = np.zeros(mpi.size, dtype=np.int64)
    mpi.Allgather(np.array([values.size], dtype=np.int64), counts)
    return [int(n) for n in counts]


def sum_ranks(values: np.ndarray, comm: Comm) -> np.ndarray:
    """The sum over the ranks, of one shape, on every rank; collective."""
    if comm.size == 1:
        return values
    mpi: Any = comm
    total = np.empty_like(values)
    mpi.Allreduce(np.ascontiguousarray(values), total)
    return total


def max_ranks(values: np.ndarray, comm: Comm) -> np.ndarray:
    """The largest of the values of all ranks, of one shape, on every rank; collective."""
    if comm.size == 1:
        return values
    mpi: Any = comm
    everyone = np.empty((comm.size, *values.shape), dtype=values.dtype)
    mpi.Allgather(np.ascontiguousarray(values), everyone)
    return np.asarray(everyone.max(axis=0))


def from_first(values: np.ndarray, comm: Comm) -> np.ndarray:
    """Integers of rank 0, shape (n,) with any n, on every rank; collective."""
    if comm.size == 1:
        return values
    mpi: Any = comm
    count = np.array([len(values)], dtype=np.int64)
    mpi.Bcast(count)
    found = np.ascontiguousarray(values) if comm.rank == 0 else np.empty(int(count[0]), dtype=np.int64)
    mpi.Bcast(found)
    return found
