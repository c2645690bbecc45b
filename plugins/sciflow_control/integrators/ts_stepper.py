"""A time stepper of PETSc under a step controller."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sciflow.errors import Invalid
from sciflow.step_controller import Knob, Stepper, StepResult, ending
from sciflow_control.integrators import petsc_schemes as petsc

TINY = 1e-16
FAR = 1e300
"""PETSc takes no step without a last time."""


@dataclass(frozen=True)
class _Try:
    """A step that was begun.

    Attributes
    ----------
    length, end : float
        In time.
    number : int
        PETSc's count of steps before it.
    newton : int
        PETSc's count of iterations before it.
    doubled : bool
        Taken once more as two steps.
    """

    length: float
    end: float
    number: int
    newton: int
    doubled: bool


class TSStepper(Stepper):
    """The steps of a TS of petsc4py, of type rk, beuler, cn, theta, arkimex, rosw or bdf.

    Parameters
    ----------
    ts : petsc4py.PETSc.TS
        Ready to be solved, at its initial time. From here on its step length, final time, tolerances and
        adaptor are the stepper's.
    u : petsc4py.PETSc.Vec
        The state, at the start the initial one.
    bounds : tuple of float
        Shortest and longest step.
    estimate : {"auto", "embedded", "differences", "doubling"}
        Of the error: from the method's own second solution (rk, arkimex, rosw) or its earlier states (bdf);
        from divided differences of the states that stand (beuler, cn, theta); or from two steps of half the
        length, which are then gone on from (three times the work, for all but bdf). "auto" takes the first
        that the method has.
    scale : float
        A size of the state below which an error is absolute, > 0.
    unit : str
        Of the time.
    restart : mapping of str to ndarray or None
        What `restart` gave on this rank: goes on from there, with a `ts` made anew.

    Raises
    ------
    Invalid
        If the type of the TS is another one, has no such estimate, or bounds or scale are not positive.
    Missing
        If PETSc's functions cannot be reached.

    Notes
    -----
    The error is the root of the mean of ``(e / (scale + max(|u|, |u_new|)))^2`` over all numbers of all
    ranks. Where differences lack earlier states, at the start, the step is taken as with "doubling".

    The cost is the number of linear solves (Newton iterations), for explicit methods that of evaluations of
    the right-hand side. A solve that fails is a step that did not converge; bdf then begins anew with its
    order 1, the others go on as if it had not been tried.

    Features: ``log_error`` and ``log_step`` (its length over the longest), decimal logarithms, and
    ``newton``, a tenth of the Newton iterations, of the last step that stands; 0 before.
    """

    features = ("log_error", "log_step", "newton")

    def __init__(
        self,
        ts: Any,
        u: Any,
        bounds: tuple[float, float],
        estimate: str = "auto",
        *,
        scale: float = 1.0,
        unit: str = "s",
        restart: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        if not 0 < scale < math.inf:
            raise Invalid(f"scale={scale} must be positive")
        self.scheme = petsc.scheme(ts)
        self._estimate = _chosen(self.scheme, estimate)
        order = self.scheme.order + (0 if self._estimate == "embedded" and not self.scheme.remembers else 1)
        self.knob = Knob("dt", unit, *bounds, order=float(order), iterates=not self.scheme.stages)
        self.ts, self.u, self._scale = ts, u, scale
        petsc.fix_steps(ts)
        ts.setTolerances(rtol=1.0, atol=scale)
        if ts.getSolution() != u:
            ts.setSolution(u)
        self.time = float(ts.getTime())
        self._before, self._work = u.duplicate(), u.duplicate()
        self._history: list[tuple[float, Any]] = []
        self._last: StepResult | None = None
        self._try: _Try | None = None
        self._result: StepResult | None = None
        self._failed = False
        # As PETSc sees it: nothing is known of earlier steps; the last one was taken back.
        self._fresh, self._back = True, False
        if restart is not None:
            self._resume(restart)

    def solution(self) -> np.ndarray:
        """The state of the last step that stands, this rank's part; a copy."""
        found: np.ndarray = self.u.getArray(readonly=True).copy()
        return found

    def attempt(self, value: float, until: float) -> StepResult:
        """See `Stepper.attempt`; collective over the ranks of the TS."""
        self.begin(min(value, until - self.time), until)
        self.ts.setMaxTime(min(until, FAR))
        self.ts.step()
        return self.outcome()

    def begin(self, length: float, until: float) -> None:
        """Prepare a step that PETSc then takes, in `attempt` or in ``ts.solve``."""
        doubled = self._estimate == "doubling" or self._lacks_history()
        self.u.copy(self._before)
        self._try = _Try(
            length,
            ending(self.time, length, until),
            self.ts.getStepNumber(),
            self.ts.getSNESIterations(),
            doubled,
        )
        self.ts.setTimeStep(length)

    def outcome(self) -> StepResult:
        """What came of the step that was prepared, taken once more now where that is the estimate."""
        tried = self._try
        assert tried is not None
        if tried.doubled and self.ts.getConvergedReason() >= 0:
            self._halves(tried)
        self._failed = self.ts.getConvergedReason() < 0
        error = math.nan if self._failed else self._error(tried)
        newton = self.ts.getSNESIterations() - tried.newton
        self._result = StepResult(
            self.time,
            tried.length,
            tried.length,
            self.knob,
            error,
            iterations=self._hardest(newton, tried),
            cost=float(self._evaluations(tried) if self.scheme.stages else max(newton, 1)),
            converged=math.isfinite(error),
        )
        return self._result

    def restarted(self) -> None:
        """PETSc has been told that the state was changed: a callback was called."""
        self._fresh = True

    def accept(self) -> None:
        """See `Stepper.accept`."""
        assert self._try is not None
        self._remember()
        self.time = self._try.end
        self.ts.setTime(self.time)
        self._last, self._try = self._result, None
        self._fresh = self._back = False

    def reject(self) -> None:
        """See `Stepper.reject`; the state is copied back, since PETSc's own way back rounds."""
        tried, self._try = self._try, None
        if tried is None:
            return
        if self._failed or tried.doubled:
            self.ts.setStepNumber(tried.number)
            self.ts.restartStep()
            self._fresh, self._back = self.scheme.remembers or self._fresh, True
        else:
            self.ts.rollBack()
            self._back = True
            if self._fresh and self.scheme.remembers:
                self.ts.restartStep()
        self._before.copy(self.u)
        self.ts.setTime(self.time)

    def observe(self) -> dict[str, float]:
        """See `Stepper.observe`."""
        last = self._last
        if last is None:
            return {"log_error": 0.0, "log_step": 0.0, "newton": 0.0}
        step, error = math.log10(last.length / self.knob.high), math.log10(max(last.error, TINY))
        return {"log_error": error, "log_step": step, "newton": last.iterations / 10}

    def restart(self) -> dict[str, np.ndarray]:
        """See `Stepper.restart`.

        Raises
        ------
        Invalid
            For bdf: PETSc does not give out the states that it remembers.
        """
        if self.scheme.remembers:
            raise Invalid(f"a TS of type {self.scheme.type} cannot be stored: PETSc keeps its earlier states")
        last = self._last
        return {
            "time": np.array(self.time),
            "number": np.array(self.ts.getStepNumber()),
            "state": self.solution(),
            "past": np.array([v.getArray(readonly=True) for _, v in self._history]),
            "past_times": np.array([t for t, _ in self._history]),
            "last": np.array([] if last is None else [last.error, last.length, last.iterations]),
        }

    def _resume(self, restart: Mapping[str, np.ndarray]) -> None:
        absent = {"time", "number", "state", "past", "past_times", "last"} - set(restart)
        if absent:
            raise Invalid(f"what a TS goes on from lacks {', '.join(sorted(absent))}")
        size, there = self.u.getLocalSize(), np.shape(restart["state"])
        if there != (size,) or not np.isfinite(restart["state"]).all():
            wanted = f"a state of {size} finite numbers on this rank"
            raise Invalid(f"what a TS goes on from is {wanted}, got one of shape {there}")
        self.u.setArray(restart["state"])
        self.time = float(restart["time"])
        self.ts.setTime(self.time)
        self.ts.setStepNumber(int(restart["number"]))
        for time, state in zip(restart["past_times"], restart["past"], strict=True):
            vector = self.u.duplicate()
            vector.setArray(state)
            self._history.append((float(time), vector))
        if restart["last"].size:
            error, length, newton = restart["last"].tolist()
            self._last = StepResult(self.time, length, length, self.knob, error, int(newton))

    def _halves(self, tried: _Try) -> None:
        """Take the step once more as two; the end of the single one is kept."""
        self.u.copy(self._work)
        self.ts.rollBack()
        self._before.copy(self.u)
        for _ in range(2):
            self.ts.setTimeStep(tried.length / 2)
            self.ts.step()
            if self.ts.getConvergedReason() < 0:
                return

    def _evaluations(self, tried: _Try) -> int:
        """Of the right-hand side; PETSc reuses a last stage where it remembers it."""
        stages, saved = self.scheme.stages, int(self.scheme.same)
        first = stages - (0 if self._fresh or self._back else saved)
        return first + 2 * stages - saved if tried.doubled else first

    def _lacks_history(self) -> bool:
        return self._estimate == "differences" and len(self._history) < self.scheme.order

    def _remember(self) -> None:
        """Keep the state before the step, if differences need it."""
        if self._estimate != "differences":
            return
        self._history.insert(0, (self.time, self._before))
        full = len(self._history) > self.scheme.order
        self._before = self._history.pop()[1] if full else self.u.duplicate()

    def _hardest(self, newton: int, tried: _Try) -> int:
        """Newton iterations of the hardest solve: known of the last one, and the mean of a step's solves."""
        if self.scheme.stages:
            return 0
        last = int(self.ts.getSNES().getIterationNumber())
        return max(last, -(-newton // 3)) if tried.doubled else last

    def _error(self, tried: _Try) -> float:
        order = self.scheme.order
        if tried.doubled:
            return self._norm(self._difference()) / float(2**order - 1)
        if self._estimate == "differences":
            return self._norm(self._differences(tried))
        if self.scheme.remembers:
            return petsc.truncation(self.ts)
        if not petsc.embedded(self.ts, order - 1, self._work):
            raise Invalid(f"this method of type {self.scheme.type} has no second solution; take 'doubling'")
        return self._norm(self._difference())

    def _difference(self) -> np.ndarray:
        found: np.ndarray = self.u.getArray(readonly=True) - self._work.getArray(readonly=True)
        return found

    def _differences(self, tried: _Try) -> np.ndarray:
        """The leading term of the error of a step, this rank's part."""
        times = [tried.end, self.time, *(t for t, _ in self._history)]
        states = [v.getArray(readonly=True) for v in (self.u, self._before, *(v for _, v in self._history))]
        total = np.zeros_like(states[0])
        for i, state in enumerate(states):
            total += state / math.prod((times[i] - t) / tried.length for j, t in enumerate(times) if j != i)
        order = self.scheme.order
        found: np.ndarray = self.scheme.constant * math.factorial(order + 1) * total
        return found

    def _norm(self, part: np.ndarray) -> float:
        """Of an error; collective."""
        old, new = self._before.getArray(readonly=True), self.u.getArray(readonly=True)
        with np.errstate(invalid="ignore", over="ignore"):
            weighted = part / (self._scale + np.maximum(np.abs(old), np.abs(new)))
        self._work.setArray(weighted)
        return float(self._work.norm()) / math.sqrt(self.u.getSize())


def _chosen(scheme: petsc.Scheme, estimate: str) -> str:
    if estimate == "auto":
        return scheme.estimates[0]
    if estimate not in scheme.estimates:
        raise Invalid(
            f"a TS of type {scheme.type} has no estimate {estimate!r}, but {', '.join(scheme.estimates)}"
        )
    return estimate
