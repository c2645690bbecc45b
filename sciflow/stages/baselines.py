"""What needs no model: the mean of the training outputs, and the output of the nearest training sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sciflow.stages import metrics

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow.samples import Batch
    from sciflow.stored import Stored

BYTES = 2**26
"""Of training samples that are in memory at once, about."""


def baselines(seen: Stored, batch: Batch, ctx: Context) -> tuple[np.ndarray, np.ndarray]:
    """Relative L2 errors of the mean predictor and of the nearest training sample.

    Parameters
    ----------
    seen : Stored
        Training samples; they are read twice, some at a time.
    batch : Batch
        Samples that are predicted, with their outputs.
    ctx : Context
        Told how far it is.

    Returns
    -------
    mean, nearest : ndarray, shape (sample,)
        The root mean square over the outputs; NaN where the training samples are on another grid.
    """
    size = max(1, BYTES // sample_bytes(seen))
    means, scales = _moments(seen, list(batch.y), size)
    inputs = seen.signature.inputs
    nearest = None
    if all(values.shape[1:] == seen.signature.shape_of(inputs[name]) for name, values in batch.x.items()):
        near = nearest_sample(seen, batch.x, scales, size, ctx)
        nearest = seen.take(near).y
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    for name, truth in batch.y.items():
        if nearest is None or means[name].shape != truth.shape[1:]:
            rows.append((np.full(len(truth), np.nan), np.full(len(truth), np.nan)))
            continue
        centre = np.broadcast_to(means[name], truth.shape)
        rows.append((metrics.relative_l2(centre, truth), metrics.relative_l2(nearest[name], truth)))
    first, second = (np.sqrt(np.mean(np.square(errors), axis=0)) for errors in zip(*rows, strict=True))
    return first, second


def sample_bytes(seen: Stored) -> int:
    """Bytes of one sample in double precision."""
    fields = (*seen.signature.inputs.values(), *seen.signature.outputs.values())
    return 8 * sum(math.prod(seen.signature.shape_of(field)) for field in fields)


def _moments(seen: Stored, names: list[str], size: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Means of the outputs, and the spread of every input over the samples."""
    # Counted from one sample, so that what they have in common takes no digits from the spread.
    start = {name: values[0].astype(np.float64) for name, values in seen.take([0]).x.items()}
    sums = {name: np.zeros_like(values) for name, values in start.items()}
    squares = {name: np.zeros_like(values) for name, values in start.items()}
    totals = {name: np.zeros(seen.signature.shape_of(seen.signature.outputs[name])) for name in names}
    for one in seen.batches(size, seed=None):
        for name in names:
            totals[name] = totals[name] + one.y[name].sum(axis=0, dtype=np.float64)
        for name, values in one.x.items():
            apart = values - start[name]
            sums[name] = sums[name] + apart.sum(axis=0)
            squares[name] = squares[name] + np.square(apart).sum(axis=0)
    count = len(seen)
    scales = {n: float(np.sqrt(np.mean(squares[n] / count - (sums[n] / count) ** 2).clip(0))) for n in start}
    return {n: total / count for n, total in totals.items()}, {n: s or 1.0 for n, s in scales.items()}


def nearest_sample(
    seen: Stored, asked: Mapping[str, np.ndarray], scales: Mapping[str, float], size: int, ctx: Context
) -> np.ndarray:
    """Position of the training sample nearest to each of some inputs, the first of several.

    Parameters
    ----------
    seen : Stored
        Training samples.
    asked : mapping of str to ndarray, shape (sample, ...)
        Inputs on the grid of `seen`.
    scales : mapping of str to float
        What each input is divided by.
    size : int
        Training samples that are read at once.
    ctx : Context
        Told how far it is.

    Returns
    -------
    ndarray of int64, shape (sample,)
    """

    def scaled(x: Mapping[str, np.ndarray], name: str) -> np.ndarray:
        flat = x[name].reshape(len(x[name]), -1).astype(np.float64)
        return np.asarray(flat / (scales[name] * math.sqrt(flat.shape[1])))

    ours = {name: scaled(asked, name) for name in asked}
    count = len(next(iter(ours.values())))
    least, place, begin = np.full(count, np.inf), np.zeros(count, dtype=np.int64), 0
    for one in seen.batches(size, seed=None):
        ctx.progress(begin, len(seen), "training samples")
        distance = np.zeros((count, len(one)))
        for name, a in ours.items():
            b = scaled(one.x, name)
            distance += (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)[None]
        row = distance.argmin(axis=1)
        found = distance[np.arange(count), row]
        place, least = np.where(found < least, begin + row, place), np.minimum(least, found)
        begin += len(one)
    ctx.progress(begin, len(seen), "training samples")
    return place
