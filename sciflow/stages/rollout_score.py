"""Roll-outs beside the truth: errors at every time level, how long they last, pictures of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sciflow.artifact.gather import Gather
from sciflow.artifact.member import DATA
from sciflow.schema import Field
from sciflow.stages import metrics
from sciflow.stages.rollout import ROLLOUT, THRESHOLDS, WINDOWS
from sciflow.stages.stepping import time_below
from sciflow.stored import Stored

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.samples import Signature
    from sciflow.store import Writer

FRAMES = 6
"""Time levels that are kept of one member for pictures, where a level is more than a line."""


def score(
    ensemble: Artifact,
    signature: Signature,
    samples: Stored,
    first: np.ndarray,
    levels: list[int],
    out: Writer,
) -> None:
    """Compare what was rolled out with the truth, a member at a time, and write it.

    Parameters
    ----------
    ensemble : Artifact
        The truth.
    signature : Signature
        Of the model.
    samples : Stored
        The model's, for its first levels.
    first : ndarray of int64, shape (sample,)
        Sample of each member that begins the roll-out.
    levels : list of int
        Time levels that were predicted.
    out : Writer
        Holds the predictions, and takes the errors.
    """
    members = samples.sample_members[first]
    # The last level that the model is fed: a pair begins with that of the inputs.
    fed, given = samples.sample_levels[first[0]].tolist()
    known = max(fed, given - 1)
    truths = Stored(ensemble, (), tuple(signature.outputs), members)
    pairs = Predictions(signature, truths, members, levels, out)
    curves: dict[str, list[np.ndarray]] = {"relative_l2": [], "vrmse": [], "pearson": [], "persistence": []}
    for row in range(len(members)):
        for name, values in _curves(pairs, row, known).items():
            curves[name].append(values)
    whole = {name: np.stack(rows) for name, rows in curves.items()}
    times = ensemble.read("time")
    unit = ensemble.schema["time"].unit
    since = times[levels] - times[known]
    _write(whole, since, unit, out)
    out.write("members", members, ROLLOUT["members"])
    out.write("time", times[levels], Field(("time",), unit, "float64", ROLLOUT["time"].description))
    out.write("since", since, Field(("time",), unit, "float64", ROLLOUT["since"].description))
    out.write("kept", np.array(pairs.kept), ROLLOUT["kept"])
    _example(pairs, whole["relative_l2"], times[levels], out)


class Predictions:
    """What was rolled out, and the truth.

    Parameters
    ----------
    signature : Signature
        Of the model.
    truths : Stored
        Trajectories, a sample for each of `members`.
    members : ndarray of int64, shape (sample,)
    levels : list of int
        Time levels of the trajectory that were predicted.
    out : Writer
        Holds the predictions.
    """

    def __init__(
        self, signature: Signature, truths: Stored, members: np.ndarray, levels: list[int], out: Writer
    ) -> None:
        self.signature, self.levels = signature, levels
        self._truths, self._members = truths, members
        known = out.committed()
        self.kept = [int(known[int(m)].get("levels", 0)) for m in members]
        self._gathers = {n: Gather(out.path / DATA / f"predicted_{n}") for n in signature.outputs}

    def truth(self, row: int) -> dict[str, np.ndarray]:
        """Whole trajectories of one member, shape (time, ...)."""
        return {name: values[0] for name, values in self._truths.take([row]).y.items()}

    def guess(self, row: int) -> dict[str, np.ndarray]:
        """What was predicted of one member until it was stopped, shape (level, ...)."""
        member, count = self._members[row : row + 1], self.kept[row]
        found = {}
        for name, gather in self._gathers.items():
            if count:
                found[name] = gather.read(member, np.zeros(1, dtype=np.int64), count)[0]
            else:
                found[name] = np.empty((0, *gather.layout.sample_shape), gather.layout.dtype)
        return found


def _curves(pairs: Predictions, row: int, known: int) -> dict[str, np.ndarray]:
    """Errors of one member at every predicted level: inf, and no correlation, after it was stopped."""
    count = pairs.kept[row]
    truth, guess = pairs.truth(row), pairs.guess(row)
    rows: dict[str, list[np.ndarray]] = {"relative_l2": [], "vrmse": [], "pearson": [], "persistence": []}
    for name, values in truth.items():
        wanted = values[pairs.levels]
        for measure in ("relative_l2", "vrmse", "pearson"):
            curve = np.full(len(wanted), np.nan if measure == "pearson" else np.inf)
            curve[:count] = getattr(metrics, measure)(guess[name], wanted[:count])
            rows[measure].append(curve)
        rows["persistence"].append(metrics.relative_l2(np.broadcast_to(values[known], wanted.shape), wanted))
    return {
        name: np.mean(found, axis=0) if name == "pearson" else np.sqrt(np.mean(np.square(found), axis=0))
        for name, found in rows.items()
    }


def _write(curves: dict[str, np.ndarray], since: np.ndarray, unit: str, out: Writer) -> None:
    for name, values in curves.items():
        out.write(name, values, ROLLOUT[name])
    lasted = [time_below(curves["pearson"], since, threshold) for threshold in THRESHOLDS]
    field = ROLLOUT["time_below"]
    out.write(
        "time_below",
        np.stack([time for time, _ in lasted], axis=1),
        Field(field.axes, unit, "float64", field.description),
    )
    fell = np.stack([one for _, one in lasted], axis=1).astype(np.uint8)
    out.write("fell_below", fell, ROLLOUT["fell_below"])
    for begin, end in WINDOWS:
        if len(since) >= end:
            mean = curves["vrmse"][:, begin:end].mean(axis=1)
            out.write(f"vrmse_{begin}_{end}", mean, Field(("sample",), "1", "float64"))


def _example(pairs: Predictions, errors: np.ndarray, times: np.ndarray, out: Writer) -> None:
    """Keep truth and prediction of the median member, some levels of the first output."""
    kept = np.array(pairs.kept)
    longest = np.flatnonzero(kept == kept.max())
    if not kept.max():
        return
    last = errors[longest, kept.max() - 1]
    row = int(longest[np.argsort(last, kind="stable")[len(last) // 2]])
    name = next(iter(pairs.signature.outputs))
    field = pairs.signature.outputs[name]
    axes = tuple(axis for axis in field.axes if axis != "lead")
    frames = kept[row] if len(axes) < 2 else min(FRAMES, kept[row])
    pick = np.unique(np.linspace(0, kept[row] - 1, frames).round().astype(int))
    for axis in axes:
        values = np.asarray(pairs.signature.coordinates[axis], dtype=np.float64)
        out.write(axis, values, Field((axis,), "any", "float64"))
    stored = Field(("frame", *axes), field.unit, field.dtype)
    out.write("example_truth", pairs.truth(row)[name][np.array(pairs.levels)[pick]], stored)
    out.write("example_prediction", pairs.guess(row)[name][pick], stored)
    out.write("example_time", times[pick], Field(("frame",), "any", "float64"))
    out.describe(example_of=name, example_row=row)
