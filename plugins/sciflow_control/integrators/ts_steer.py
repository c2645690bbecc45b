"""A step controller in an existing program of petsc4py, set before its ``ts.solve(u)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sciflow.errors import Diverged, Invalid
from sciflow.step_controller import StepController, StepState
from sciflow.stepping import Leg, Stepping
from sciflow_control.integrators import petsc_schemes as petsc
from sciflow_control.integrators.ts_stepper import TSStepper

_GOES_ON, _AT_THE_END = 0, 1  # TS_CONVERGED_ITERATING, TS_CONVERGED_TIME


class Steered:
    """The steps of a TS while it is solved under a controller.

    Parameters
    ----------
    controller : StepController
        Judges the attempts.
    make : callable
        Gives the stepper of a TS.
    patience : int
        Attempts at one step.
    after : tuple or None
        Function, arguments and named arguments that PETSc was told to call after each step.

    Attributes
    ----------
    leg : Leg
        Steps taken and rejected so far.
    stepping : Stepping or None
        The controller with what it remembers, from the first step on.
    """

    def __init__(
        self, controller: StepController, make: Callable[[Any], TSStepper], patience: int, after: Any
    ) -> None:
        self.leg = Leg()
        self.stepping: Stepping | None = None
        self._controller, self._make, self._patience, self._after = controller, make, patience, after
        self._attempts = 0
        self._until = 0.0

    def pre_step(self, ts: Any) -> None:
        """PETSc calls it before a step that is no second attempt, or after a solve that failed."""
        if self._attempts:
            return
        if self.stepping is None:
            self.stepping = Stepping(self._make(ts), self._controller)
        stepping, stepper = self.stepping, self.stepping.stepper
        self._until = stepping.stop(ts.getMaxTime())
        state = StepState(stepper.time, self._until, stepper.knob, stepper.observe())
        value, stepping.memory = self._controller.choose(stepping.memory, state)
        self._begin(value)

    def post_step(self, ts: Any) -> None:
        """PETSc calls it after each attempt; one that is taken back goes on with another length.

        Raises
        ------
        Diverged
            If a step failed as often as it may.
        """
        stepping = self.stepping
        assert stepping is not None
        stepper = stepping.stepper
        assert isinstance(stepper, TSStepper)
        untouched = ts.getSolution().stateGet()
        result = stepper.outcome()
        source = str(stepping.memory.get("source", ""))
        verdict, stepping.memory = self._controller.judge(stepping.memory, result)
        if verdict.retry is not None or not result.converged:
            stepper.reject()
            self.leg.rejected.append(result)
            self.leg.rejected_by.append(source)
            if verdict.retry is None or self._attempts >= self._patience:
                self._release(ts)
                raise Diverged(
                    f"the step of {result.length:.3g} {result.knob.unit} at time {result.time:.6g} failed "
                    f"after {self._attempts} attempts; loosen the tolerance, or see whether the solution "
                    "blows up there"
                )
            stepper.restarted()
            ts.setConvergedReason(_GOES_ON)
            self._begin(verdict.retry)
            return
        stepper.accept()
        self.leg.taken.append(result)
        self._attempts = 0
        if self._after is not None:
            function, arguments, named = self._after
            function(ts, *arguments, **named)
        if ts.getSolution().stateGet() != untouched:
            stepper.restarted()
        if stepper.time >= ts.getMaxTime():
            ts.setConvergedReason(_AT_THE_END)
            self._release(ts)

    def _release(self, ts: Any) -> None:
        """Leave the TS: it would keep what keeps it."""
        ts.setPreStep(None)
        if self._after is None:
            ts.setPostStep(None)
        else:
            function, arguments, named = self._after
            ts.setPostStep(function, arguments, named)

    def _begin(self, value: float) -> None:
        assert self.stepping is not None
        stepper = self.stepping.stepper
        assert isinstance(stepper, TSStepper)
        self._attempts += 1
        stepper.begin(self.stepping.fitted(value, self._until), self._until)


def steer(
    ts: Any,
    controller: StepController,
    bounds: tuple[float, float],
    estimate: str = "auto",
    *,
    scale: float = 1.0,
    unit: str = "s",
    patience: int = 40,
) -> Steered:
    """Let a controller choose the steps of a TS and judge them, in the ``ts.solve(u)`` that follows.

    Parameters
    ----------
    ts : petsc4py.PETSc.TS
        With its type and options set. It ends at its maximal time exactly, and is left to itself again. A
        function set as post-step is called after each step that stands; a pre-step and PETSc's own adaptor
        no more.
    controller : StepController
        Chooses and judges.
    bounds, estimate, scale, unit
        See `TSStepper`.
    patience : int
        So many attempts at one step are made.

    Returns
    -------
    Steered
        With the steps, while it is solved and afterwards.

    Raises
    ------
    Invalid
        See `TSStepper`, and for a TS with a time span.
    Missing
        See `TSStepper`; the controller's own complaints, and `Diverged` where a step cannot be taken,
        come from ``ts.solve``.

    Notes
    -----
    What a TS remembers of earlier steps is lost where a state is changed in its callbacks: bdf begins anew
    with its first order after each rejection, and an explicit method evaluates one slope more.
    `TSStepper` has neither. Monitors are called once more for a step that was taken back.
    """
    petsc.scheme(ts)
    span = getattr(ts, "getTimeSpan", None) or getattr(ts, "getEvaluationTimes", None)
    if span is not None and len(span()):
        raise Invalid(
            "a TS with stored times would also store states that are taken back; step to each of them with "
            "Stepping(TSStepper(ts, u, bounds), controller).to(time)"
        )

    def make(ts: Any) -> TSStepper:
        return TSStepper(ts, ts.getSolution(), bounds, estimate, scale=scale, unit=unit)

    petsc.fix_steps(ts)
    steered = Steered(controller, make, patience, ts.getPostStep())
    ts.setPreStep(steered.pre_step)
    ts.setPostStep(steered.post_step)
    return steered
