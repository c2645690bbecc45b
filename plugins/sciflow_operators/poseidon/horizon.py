"""The longest lead time of a set of samples."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sciflow.context import Comm
    from sciflow.samples import Samples
    from sciflow.surrogate import Arrays


def longest(samples: Samples, comm: Comm) -> float:
    """The longest lead time of the samples of all ranks, in s; collective.

    Parameters
    ----------
    samples : Samples
        With an input ``lead_time``.
    comm : Comm
        With several ranks an mpi4py communicator.

    Returns
    -------
    float
        1 where all are zero.
    """
    mine = np.zeros(1)
    for batch in samples.batches(64, seed=None):
        mine[0] = max([mine[0], *np.ravel(batch.x["lead_time"])])
    if comm.size > 1:
        everyone = np.empty(comm.size)
        mpi: Any = comm
        mpi.Allgather(mine, everyone)
        mine = everyone
    return float(mine.max()) or 1.0


def noted(checkpoint: Arrays) -> float:
    """The longest lead time that a checkpoint was trained with, in s; 0 where it does not say."""
    try:
        return float(json.loads(bytes(checkpoint["about"]))["surrogate"]["horizon_time"])
    except (KeyError, TypeError, ValueError):
        return 0.0
