"""Steps of an embedded Runge-Kutta method, wherever the numbers are."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sciflow.errors import Invalid
from sciflow.step_controller import Knob, Stepper, StepResult, ending
from sciflow_control.integrators.initial_value import InitialValue
from sciflow_control.integrators.tableaus import tableau

TINY, HUGE = 1e-16, 1e16


@dataclass(frozen=True)
class Tried:
    """What is known of a step.

    Attributes
    ----------
    error : float
        Norm of the embedded difference.
    stiffness : float
        Step times a lower bound of the Lipschitz constant of the right-hand side.
    length : float
        Of the step, in the equation's unit of time.
    end : float
        Time at which it ends, in that unit.
    """

    error: float = 1.0
    stiffness: float = 1.0
    length: float = 1.0
    end: float = 0.0


class Embedded(Stepper):
    """An embedded Runge-Kutta method; the solution of higher order is gone on from.

    Parameters
    ----------
    problem : InitialValue
        What is integrated.
    method : str
        One of `tableaus.METHODS`.
    bounds : tuple of float
        Shortest and longest step.
    restart : mapping of str to ndarray or None
        What `restart` gave: goes on from there instead of from the start.

    Raises
    ------
    NotFound
        If there is no such method.
    Invalid
        If the bounds are not in order, the state or the scale are not what they must be, or `restart` is not
        what was saved.

    Notes
    -----
    The error of a step is the norm of the difference of the two solutions; the norm of v is the root of the
    mean of ``(v / (scale + max(|y|, |y_new|)))^2``. It is proportional to ``h^(q + 1)``, q the lower order.
    The cost of an attempt are the evaluations of the right-hand side that were made for it: the first stage
    once for each state, not again after a rejection, and never where the step before ended with it.

    Features: ``log_error`` and ``log_stiffness`` of the last step that stands, ``log_step``, its length over
    the longest, and ``log_pace``, the longest step over the time in which the state changes by its own size,
    all decimal logarithms. The stiffness of a step is ``h |f_1 - f_2| / |y_1 - y_2|`` over its last two
    stages [1]_ [2]_, which are at one time for dormand_prince and tsitouras; for the others a slope that
    depends on time itself disturbs it. Before the first step all but the pace are 0.

    References
    ----------
    .. [1] E. Hairer, G. Wanner, Solving ordinary differential equations II, section IV.2.
    .. [2] A. Pal et al., Opening the blackbox, ICML 2021, arXiv:2105.03918, equation 8.
    """

    features = ("log_error", "log_step", "log_pace", "log_stiffness")

    def __init__(
        self,
        problem: InitialValue,
        method: str,
        bounds: tuple[float, float],
        restart: Mapping[str, np.ndarray] | None,
    ) -> None:
        self.tableau = tableau(method)
        order = float(min(self.tableau.order, self.tableau.lower) + 1)
        self.knob = Knob("dt", problem.unit, bounds[0], bounds[1], order, iterates=False)
        self.time = float(problem.time)
        self._problem = problem
        self._last: Tried | None = None
        self._tried: Tried | None = None
        self._sloped, self._due = False, 0  # the first stage is there; evaluations not yet counted
        if restart is not None:
            _check(restart)
            self.time = float(restart["time"])
            if restart["last"].size:
                error, stiffness, length = restart["last"].tolist()
                self._last = Tried(error, stiffness, length, self.time)
            self._sloped = "slope" in restart

    @abstractmethod
    def _slope(self) -> None:
        """Evaluate the first stage."""

    @abstractmethod
    def _step(self, length: float) -> tuple[float, float]:
        """Try a step, the first stage being there; error and stiffness, the error NaN if it failed."""

    @abstractmethod
    def _advance(self) -> None:
        """What was tried is the state, and its last stage the slope if it is the same."""

    @abstractmethod
    def _pace(self) -> float:
        """Norm of the slope."""

    @abstractmethod
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Copies of the state and of the slope."""

    @abstractmethod
    def _quantity(self) -> float:
        """The invariant of the state; NaN where none is known."""

    def attempt(self, value: float, until: float) -> StepResult:
        """See `Stepper.attempt`; NaN or infinity in any number of the new state is a failure."""
        length = min(value, until - self.time)
        self._first()
        cost, self._due = self._due + self.tableau.stages - 1, 0
        error, stiffness = self._step(length)
        self._tried = Tried(error, stiffness, length, ending(self.time, length, until))
        return StepResult(
            self.time, length, length, self.knob, error, cost=float(cost), converged=math.isfinite(error)
        )

    def accept(self) -> None:
        """See `Stepper.accept`."""
        assert self._tried is not None
        self._advance()
        self._last, self._tried = self._tried, None
        self.time = self._last.end
        self._sloped = self.tableau.first_same_as_last

    def reject(self) -> None:
        """See `Stepper.reject`."""
        self._tried = None

    def observe(self) -> dict[str, float]:
        """See `Stepper.observe`."""
        self._first()
        pace, last = self._pace() * self.knob.high, self._last
        if last is None:
            return {"log_error": 0.0, "log_step": 0.0, "log_pace": _log(pace), "log_stiffness": 0.0}
        return {
            "log_error": _log(last.error),
            "log_step": _log(last.length / self.knob.high),
            "log_pace": _log(pace),
            "log_stiffness": _log(last.stiffness),
        }

    def drift(self) -> float:
        """See `Stepper.drift`."""
        now = self._quantity()
        start = self._start
        return abs(now - start) / abs(start) if start else abs(now)

    def restart(self) -> dict[str, np.ndarray]:
        """See `Stepper.restart`."""
        state, slope = self._arrays()
        last = self._last
        found = {
            "time": np.array(self.time),
            "state": state,
            "start": np.array(self._start),
            "last": np.array([] if last is None else [last.error, last.stiffness, last.length]),
        }
        # The slope of a start is evaluated again, so that an attempt that was taken back leaves no trace.
        if last is not None and self.tableau.first_same_as_last:
            found["slope"] = slope
        return found

    def _begin(self, restart: Mapping[str, np.ndarray] | None) -> None:
        """To be called when the state is there."""
        self._start = self._quantity() if restart is None else float(restart["start"])

    def _first(self) -> None:
        if not self._sloped:
            self._slope()
            self._sloped, self._due = True, self._due + 1


def _check(restart: Mapping[str, np.ndarray]) -> None:
    absent = {"time", "state", "start", "last"} - set(restart)
    if absent:
        there = ", ".join(sorted(restart))
        raise Invalid(f"what a run goes on from lacks {', '.join(sorted(absent))}; it holds {there}")
    if np.shape(restart["last"]) not in ((0,), (3,)) or not math.isfinite(float(restart["time"])):
        raise Invalid("what a run goes on from is damaged: 'last' is not three numbers, or 'time' is none")


def _log(value: float) -> float:
    """Decimal logarithm within bounds, the upper one where there is no number."""
    return math.log10(max(value, TINY)) if value < HUGE else math.log10(HUGE)
