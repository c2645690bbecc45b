"""One run of a solver under a step controller: what it cost, how exact it was, and each of its steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from sciflow.errors import Diverged, Invalid
from sciflow.stages.metrics import relative_l2
from sciflow.step_controller import StepController, Stepper
from sciflow.stepping import Leg, Stepping
from sciflow_control.steering.episodes import Episodes

SMALLEST = 1e-17
"""Errors below count as this: rounding leaves nothing to tell."""
RECORD = ("time", "length", "value", "error", "accepted", "drift", "fallback")
"""Columns of the record of attempts; the first row is the start, of length 0. The last one: whether a guarded
controller had given the word to its fallback."""


@dataclass(frozen=True)
class Outcome:
    """What came of one run.

    Attributes
    ----------
    error : float
        log10 of the relative error at the end; infinite for a run that failed, NaN if nothing tells it.
    largest : float
        The same of the largest drift after any step.
    cost : float
        Work of all attempts.
    steps, rejected : int
        Steps that stand, and attempts taken back.
    reason : str
        Why it failed; empty where it did not.
    counts : mapping of str to int
        What the controller counted, see `counts_of`.
    record : ndarray, shape (attempt + 1, len(RECORD)), or None
        Of a run that is watched.
    bodies : ndarray, shape (attempt + 1, body, axis), or None
        Positions after each attempt that stands, else NaN; of a watched run of a solver that knows some.
    """

    error: float
    largest: float
    cost: float
    steps: int
    rejected: int
    reason: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    record: np.ndarray | None = None
    bodies: np.ndarray | None = None


def play(
    episodes: Episodes,
    controller: StepController,
    seed: int,
    *,
    reference: StepController | None = None,
    watched: bool = False,
    limit: int = 1_000_000,
    told: Callable[[float], None] = lambda _: None,
) -> Outcome:
    """Let a controller steer a run to its end.

    Parameters
    ----------
    episodes : Episodes
        Gives the run.
    controller : StepController
        Steers it.
    seed : int
        Of the run.
    reference : StepController or None
        Steers another run from the same seed, whose solution is taken for exact.
    watched : bool
        Whether every attempt is kept.
    limit : int
        Attempts after which the run has failed.
    told : callable
        Called with the time after each step.

    Returns
    -------
    Outcome
        Also of a run that failed.

    Raises
    ------
    Invalid
        If the controller cannot steer this solver, chooses what is no positive number, or the solver tells
        no solution to compare with that of the reference.
    """
    stepper = episodes.begin(seed)
    stepping, leg, log = Stepping(stepper, controller), Leg(), _Log(stepper, watched)
    largest, reason, seen = 0.0, "", 0
    try:
        while stepper.time < episodes.until:
            stepping.step(episodes.until, leg)
            drift = abs(stepper.drift())
            # A drift that is not finite stays what it is.
            largest = drift if not drift <= largest else largest
            log.add(leg, drift, stepping.memory)
            told(stepper.time)
            seen = len(leg.taken) + len(leg.rejected)
            if seen >= limit and stepper.time < episodes.until:
                reason = f"at time {stepper.time:.6g} after {seen} attempts"
                break
    except Diverged as error:
        reason = str(error)
        log.add(leg, math.nan, stepping.memory)
    drift = abs(stepper.drift()) if not reason else math.inf
    if reference is not None and not reason:
        drift = _distance(stepper, episodes, reference, seed)
    return Outcome(
        error=log10(drift),
        largest=log10(largest if not reason else math.inf),
        cost=leg.cost,
        steps=len(leg.taken),
        rejected=len(leg.rejected),
        reason=reason,
        counts=counts_of(stepping.memory),
        record=log.rows,
        bodies=log.bodies,
    )


def counts_of(memory: Mapping[str, object]) -> dict[str, int]:
    """What a controller counted: integers under ``counts`` in its memory, none where it counts nothing."""
    found = memory.get("counts")
    if not isinstance(found, Mapping):
        return {}
    return {str(k): int(v) for k, v in found.items() if isinstance(v, (int, float))}


def log10(value: float) -> float:
    """Of an error, which counts as `SMALLEST` where it is smaller; infinity and NaN stay what they are."""
    if math.isnan(value):
        return math.nan
    return math.log10(max(value, SMALLEST)) if value < math.inf else math.inf


def _distance(stepper: Stepper, episodes: Episodes, reference: StepController, seed: int) -> float:
    """Relative L2 distance of two solutions at the end of the run."""
    exact = episodes.begin(seed)
    try:
        Stepping(exact, reference).to(episodes.until)
    except Diverged as error:
        raise Invalid(f"the reference {reference.name} failed for seed {seed}: {error}") from None
    return float(relative_l2(solution(stepper)[None], solution(exact)[None])[0])


def solution(stepper: Stepper) -> np.ndarray:
    """The state that stands, shape (dof,).

    Raises
    ------
    Invalid
        If the solver does not tell it.
    """
    tell = getattr(stepper, "solution", None)
    if tell is None:
        raise Invalid(
            f"{type(stepper).__name__} tells no solution(); leave out the reference, its drift is the error"
        )
    return np.asarray(tell(), dtype=float).ravel()


class _Log:
    """Every attempt of a run that is watched; of others nothing."""

    def __init__(self, stepper: Stepper, watched: bool) -> None:
        self._stepper, self._watched = stepper, watched
        self._knows = hasattr(stepper, "positions")
        self._rows: list[tuple[float, ...]] = []
        self._places: list[np.ndarray] = []
        self._taken = self._rejected = 0
        if watched:
            self._put((stepper.time, 0.0, math.nan, math.nan, 1.0, 0.0, 0.0), True)

    def add(self, leg: Leg, drift: float, memory: Mapping[str, object]) -> None:
        """What was attempted since the last call: the rejected ones came first."""
        if not self._watched:
            return
        back = zip(leg.rejected[self._rejected :], leg.rejected_by[self._rejected :], strict=True)
        for r, source in back:
            who = float(source == "fallback")
            self._put((r.time, r.length, r.value, r.error, 0.0, math.nan, who), False)
        who = float(memory.get("source") == "fallback")
        for r in leg.taken[self._taken :]:
            self._put((r.time, r.length, r.value, r.error, 1.0, drift, who), True)
        self._taken, self._rejected = len(leg.taken), len(leg.rejected)

    def _put(self, row: tuple[float, ...], stands: bool) -> None:
        self._rows.append(row)
        if self._knows:
            now = np.array(getattr(self._stepper, "positions"), dtype=float)  # noqa: B009 - not of every stepper
            self._places.append(now if stands else np.full_like(now, np.nan))

    @property
    def rows(self) -> np.ndarray | None:
        """Shape (attempt + 1, len(RECORD))."""
        return np.array(self._rows) if self._watched else None

    @property
    def bodies(self) -> np.ndarray | None:
        """Shape (attempt + 1, body, axis)."""
        return np.array(self._places) if self._places else None
