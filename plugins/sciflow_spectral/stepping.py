"""Steps of a length that a controller chooses, for the periodic problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sciflow.context import Context
from sciflow.errors import Invalid
from sciflow.problem import State
from sciflow.step_controller import Knob, StepController, Stepper, StepResult, ending
from sciflow.step_log import StepLog
from sciflow.stepping import Stepping
from sciflow_spectral.equations import System, finite
from sciflow_spectral.etdrk4 import advance_embedded, quick_coefficients

SHORTEST = 1e-8
"""Of the whole time: a shorter step is asked for where the solution blows up."""
UNKNOWN = 1e-6
"""Stands for the error before the first step."""
EVALUATIONS = 4.0
"""Of the nonlinear term in an attempt."""


def step_knob(end: float) -> Knob:
    """The length of a step up to a time."""
    return Knob("dt", "1", SHORTEST * end, end, order=4.0, iterates=False)


class SpectralSteps(Stepper):
    """One member, by ETDRK4 with an embedded solution of order 3.

    Parameters
    ----------
    system : System
        With one member.
    end : float
        The longest step.
    restart : mapping of str to ndarray or None
        What `restart` gave.

    Notes
    -----
    The error of a step is the L2 norm of the solution less the embedded one, over that of the solution. The
    cost is the number of evaluations of the nonlinear term, two transforms each on a line and five in the
    plane: four an attempt, and one before the first step, which no attempt has among its own.
    Features: log10 of the last error, over six; log10 of the last step times the largest speed over the grid
    size (Courant number), times the largest gradient of the velocity (a front forms where that is one), and
    times the largest eigenvalue of the linear part. Before the first step the Courant number is one.
    """

    features = ("error", "courant", "steepness", "diffusion")

    def __init__(
        self,
        system: System,
        end: float,
        restart: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.knob = step_knob(end)
        self._system = system
        self._v, self.time, self._error, self._length = system.start, 0.0, UNKNOWN, 0.0
        if restart is not None:
            self._v = system.xp.take(_coefficients(restart, system))
            self.time, self._error, self._length = (float(value) for value in restart["last"])
        with np.errstate(all="ignore"):
            self._rate = system.nonlinear(self._v)
        self._linear = np.stack(system.linear)
        self._stiffest = float(np.abs(self._linear).max())
        # By Parseval's identity: all but the first and the last of the last axis stand for two waves.
        weight = np.full(self._linear.shape[-1], 2.0)
        weight[[0, -1]] = 1.0
        self._weight = system.xp.take(weight)
        self._tried: tuple[Any, Any, float, float, float] | None = None

    def attempt(self, value: float, until: float) -> StepResult:
        """See `Stepper.attempt`."""
        with np.errstate(all="ignore"):
            scheme = self._system.xp.scheme(quick_coefficients(self._linear, value))
            new, rate, gap = advance_embedded(self._v, self._rate, self._system.nonlinear, scheme)
            size, error = self._norm(new), self._norm(gap)
        converged = bool(np.isfinite(size) and np.isfinite(error))
        error = (error / size if size else 0.0) if converged else float("nan")
        self._tried = (new, rate, ending(self.time, value, until), error, value)
        return StepResult(self.time, value, value, self.knob, error, cost=EVALUATIONS, converged=converged)

    def accept(self) -> None:
        """See `Stepper.accept`."""
        assert self._tried is not None, "no step was tried"
        self._v, self._rate, self.time, self._error, self._length = self._tried
        self._tried = None

    def reject(self) -> None:
        """See `Stepper.reject`."""
        self._tried = None

    def observe(self) -> dict[str, float]:
        """See `Stepper.observe`; three transforms on a line or in the plane."""
        speed, gradient = self._system.rates(self._v)
        step = self._length or min(1 / max(speed, 1 / self.knob.high), self.knob.high)
        numbers = (speed, gradient, self._stiffest)
        logs = np.log10(np.clip([self._error, *(step * n for n in numbers)], 1e-12, 1e12))
        logs[0] /= 6
        return dict(zip(self.features, logs.tolist(), strict=True))

    def restart(self) -> dict[str, np.ndarray]:
        """See `Stepper.restart`."""
        last = np.array([self.time, self._error, self._length])
        return {"coefficients": self._system.xp.give(self._v), "last": last}

    def show(self) -> dict[str, np.ndarray]:
        """The fields, each with an axis for the one member; NaN where single precision cannot hold them."""
        with np.errstate(all="ignore"):
            return {name: finite(values) for name, values in self._system.show(self._v).items()}

    def solution(self) -> np.ndarray:
        """The fields that stand, one after the other."""
        return np.concatenate([values.ravel() for values in self.show().values()])

    def _norm(self, v: Any) -> float:
        return float((self._weight * abs(v) ** 2).sum() ** 0.5)


def _coefficients(restart: Mapping[str, np.ndarray], system: System) -> np.ndarray:
    wanted = system.xp.give(system.start).shape
    there = {name: np.shape(array) for name, array in restart.items()}
    if there.get("coefficients") != wanted or there.get("last") != (3,):
        raise Invalid(
            f"what a member goes on from holds 'coefficients' of shape {wanted} and three numbers 'last', "
            f"got {there}; were the points others?"
        )
    if not (np.isfinite(restart["coefficients"]).all() and np.isfinite(restart["last"]).all()):
        raise Invalid("what a member goes on from is damaged: it holds what is no finite number")
    return restart["coefficients"]


def stepped(
    stepper: SpectralSteps,
    controller: StepController,
    times: np.ndarray,
    ctx: Context,
    restart: Mapping[str, np.ndarray] | None = None,
) -> Iterator[State]:
    """The states of a member at `times`, or those that follow a restart.

    Parameters
    ----------
    stepper : SpectralSteps
        At its start, or where `restart` was saved.
    controller : StepController
        Chooses the steps.
    times : ndarray, shape (time,)
        Met exactly; the first is zero.
    ctx : Context
        Of the member.
    restart : mapping of str to ndarray or None
        What ``State.restart`` gave.

    Yields
    ------
    State
        With the metrics ``steps``, ``rejected`` and ``evaluations`` since the state before.

    Raises
    ------
    Diverged
        See `Stepping.to`.
    """
    log = StepLog(Stepping(stepper, controller, restart), restart)
    for time, leg in log.levels(times, ctx):
        metrics = {
            "steps": float(len(leg.taken)),
            "rejected": float(len(leg.rejected)),
            "evaluations": leg.cost + float(restart is None and time == times[0]),
        }
        yield State(time, stepper.show(), metrics, log.restart)
