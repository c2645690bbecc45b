"""Steps of a model that is fed what it predicted: which time levels they give, and how one is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle, pairwise, takewhile

import numpy as np

from sciflow.errors import Invalid
from sciflow.surrogate import Model

History = dict[str, np.ndarray]
"""The last time levels of every input that moves, each of shape (member, level, ...)."""


@dataclass(frozen=True)
class Step:
    """One answer of the model.

    Attributes
    ----------
    levels : tuple of int
        Time levels of the trajectory that it gives.
    time : float
        Of the first of them, in the unit of the trajectory's time.
    lead : float
        From the level that the model is fed to the one that it gives.
    place : int
        Levels that the steps before it give.
    """

    levels: tuple[int, ...]
    time: float
    lead: float
    place: int


def window_steps(window: tuple[int, int], start: int, end: int, times: np.ndarray) -> list[Step]:
    """Steps of a model of a window (k, l), which follow each other without a gap.

    Parameters
    ----------
    window : tuple of int
        Levels in and out.
    start, end : int
        First level that the model is fed, and the first that is not predicted any more.
    times : ndarray, shape (time,)
        Of the levels.
    """
    before, after = window
    firsts = range(start + before, end, after)
    return [
        Step(tuple(range(f, min(f + after, end))), float(times[f]), 0.0, f - start - before) for f in firsts
    ]


def pair_steps(leads: tuple[int, ...], start: int, end: int, times: np.ndarray, direct: bool) -> list[Step]:
    """Steps of a model of lead times.

    Parameters
    ----------
    leads : tuple of int
        Levels that the steps leap, in turn, from the first again after the last.
    start, end, times
        See `window_steps`.
    direct : bool
        Leap from `start` to each of the levels, and not from one to the next.
    """
    levels = list(takewhile(lambda level: level < end, accumulate(cycle(leads), initial=start)))
    return [
        Step((b,), float(times[b]), float(times[b] - times[start if direct else a]), place)
        for place, (a, b) in enumerate(pairwise(levels))
    ]


class Stepper:
    """Feeds a model what it predicted.

    Parameters
    ----------
    model : Model
        Of a window or of pairs of levels.
    moving : sequence of str
        Inputs that change with time; each is an output as well.
    direct : bool
        Keep feeding it the initial state.

    Raises
    ------
    Invalid
        If an input that moves is no output, so that it is unknown after the first step.
    """

    def __init__(self, model: Model, moving: Sequence[str], direct: bool = False) -> None:
        self.model, self.moving, self.direct = model, tuple(moving), direct
        inputs, self.outputs = model.signature.inputs, model.signature.outputs
        self.scalars = [name for name in ("time", "lead_time") if name in inputs]
        missing = sorted(set(moving) - set(self.outputs))
        if missing and not direct:
            raise Invalid(
                f"a roll-out needs the inputs {missing} at later time levels, and the model does not predict "
                "them; train it with them among outputs_of"
            )

    def begin(self, x: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], History]:
        """Split a batch of inputs into those that stay as they are and the first levels of the others."""
        still = {name: v for name, v in x.items() if name not in (*self.moving, *self.scalars)}
        return still, {name: x[name] if self._many(name) else x[name][:, None] for name in self.moving}

    def _many(self, name: str) -> bool:
        return "time" in self.model.signature.inputs[name].axes

    def take(
        self, still: Mapping[str, np.ndarray], history: History, step: Step
    ) -> tuple[dict[str, np.ndarray], History]:
        """One step.

        Parameters
        ----------
        still, history
            As `begin` gives them; what the model is fed, in the dtype of its inputs.
        step : Step
            Which one.

        Returns
        -------
        predicted : dict of str to ndarray, shape (member, level, ...)
            The outputs, in their dtype, with as many levels as the step gives.
        history : dict of str to ndarray
            For the next step.
        """
        count = len(next(iter({**still, **history}.values())))
        x = {name: h if self._many(name) else h[:, 0] for name, h in history.items()}
        clock = {"time": step.time, "lead_time": step.lead}
        x.update({name: np.full(count, clock[name], dtype=np.float32) for name in self.scalars})
        found = self.model.predict({**still, **x})
        predicted = {}
        for name, field in self.outputs.items():
            with np.errstate(over="ignore"):  # what single precision cannot hold is found by the guard
                values = np.asarray(found[name]).astype(field.dtype)
            predicted[name] = (values if "lead" in field.axes else values[:, None])[:, : len(step.levels)]
        if self.direct:
            return predicted, history
        longer = {n: np.concatenate([h, predicted[n]], axis=1) for n, h in history.items()}
        return predicted, {n: values[:, -history[n].shape[1] :] for n, values in longer.items()}


def sizes(values: np.ndarray) -> np.ndarray:
    """Root of the mean square of every time level: shape (member, level, ...) to (member, level)."""
    flat = values.reshape(*values.shape[:2], -1).astype(np.float64)
    return np.asarray(np.sqrt(np.mean(flat**2, axis=2)))


def whole_levels(predicted: Mapping[str, np.ndarray], bounds: Mapping[str, float]) -> np.ndarray:
    """How many levels of a step are kept for each member, int64, shape (member,).

    A level is kept where every output is finite and its size (`sizes`) is within its bound, and so are
    the levels before it.
    """
    good: np.ndarray | None = None
    for name, values in predicted.items():
        with np.errstate(invalid="ignore", over="ignore"):
            inside = sizes(values) <= bounds[name]  # NaN is not
        good = inside if good is None else good & inside
    assert good is not None
    return np.asarray(np.cumprod(good, axis=1).sum(axis=1))


def time_below(correlation: np.ndarray, times: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """When the correlation with the truth first falls below a threshold.

    Parameters
    ----------
    correlation : ndarray, shape (sample, time)
        NaN counts as below.
    times : ndarray, shape (time,)
        Since the last level that was known.
    threshold : float

    Returns
    -------
    time : ndarray, shape (sample,)
        Of the first level below; of the last level where there is none, which is a lower bound.
    fell : ndarray of bool, shape (sample,)
        Whether there is one.
    """
    below = ~(correlation >= threshold)
    fell = below.any(axis=1)
    return times[np.where(fell, below.argmax(axis=1), len(times) - 1)], fell
