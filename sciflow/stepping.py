"""Stepping: one solution under a step controller, and what it needs to go on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sciflow.errors import Diverged, Invalid
from sciflow.step_controller import Memory, StepController, Stepper, StepResult, StepState, shortened

if TYPE_CHECKING:
    import numpy as np

PREFIX = "stepping_"
"""Of the arrays of a `Stepping` among those that a problem goes on from."""
MEMORY = f"{PREFIX}memory"


@dataclass
class Leg:
    """What was done between two times that had to be met.

    Attributes
    ----------
    taken, rejected : list of StepResult
        Steps that stand and those taken back, in order.
    rejected_by : list of str
        Of those taken back, what the controller's memory held as ``source`` when they were tried.
    """

    taken: list[StepResult] = field(default_factory=list)
    rejected: list[StepResult] = field(default_factory=list)
    rejected_by: list[str] = field(default_factory=list)

    @property
    def cost(self) -> float:
        """Work of all attempts."""
        return sum(r.cost for r in self.taken) + sum(r.cost for r in self.rejected)


class Stepping:
    """One solution under a controller.

    Parameters
    ----------
    stepper : Stepper
        At its start, or where it was resumed.
    controller : StepController
        Chooses and judges.
    restart : mapping of str to ndarray or None
        With what `saved` gave, among other arrays.
    patience : int
        So many attempts at one step are made.

    Raises
    ------
    Invalid
        If the controller cannot set the knob or needs other features, or `restart` holds nothing of a
        controller, or of another one; or if the stepper stands at no time.
    """

    def __init__(
        self,
        stepper: Stepper,
        controller: StepController,
        restart: Mapping[str, np.ndarray] | None = None,
        patience: int = 40,
    ) -> None:
        if not isinstance(controller, StepController):
            raise Invalid(f"steps are chosen by a step controller, for example PI(1e-3), got {controller!r}")
        if not math.isfinite(stepper.time):
            raise Invalid(f"{type(stepper).__name__} stands at time {stepper.time}")
        self.stepper, self.controller, self._patience = stepper, controller, patience
        self.memory = controller.init(stepper.knob, stepper.features)
        if restart is not None:
            self.memory = _memory(restart, controller)

    def to(self, until: float) -> Leg:
        """Step up to a time, which is met exactly.

        Raises
        ------
        Diverged
            If a step falls below what the solver takes, cannot be taken within the patience, or failed
            and was not taken back.
        Invalid
            If the controller chooses something that is no positive number, wants to meet a time that is not
            ahead, or the stepper does not go on; or if `until` is not finite.
        """
        if not math.isfinite(until):
            raise Invalid(f"steps are taken up to a finite time, got {until}")
        leg = Leg()
        while self.stepper.time < until:
            self.step(until, leg)
        return leg

    def step(self, until: float, leg: Leg) -> None:
        """Take one step towards a time, with as many attempts as it needs; noted in `leg`.

        Raises
        ------
        Diverged, Invalid
            See `to`.
        """
        stepper, knob = self.stepper, self.stepper.knob
        until = self.stop(until)
        state = StepState(stepper.time, until, knob, stepper.observe())
        value, self.memory = self.controller.choose(self.memory, state)
        result: StepResult | None = None
        for _ in range(self._patience):
            used = self.fitted(value, until, result)
            result = stepper.attempt(used, until)
            source = str(self.memory.get("source", ""))
            verdict, self.memory = self.controller.judge(self.memory, result)
            if verdict.retry is None:
                if not result.converged:
                    stepper.reject()
                    raise Diverged(
                        f"{self._where(result)} failed, and {self.controller.name} retries no step"
                    )
                stepper.accept()
                leg.taken.append(result)
                if not state.time < stepper.time <= until:
                    raise Invalid(
                        f"{type(stepper).__name__} stands at time {stepper.time!r} after the accepted step "
                        f"from {state.time!r} towards {until!r}: accept() takes time to the end of the step"
                    )
                return
            stepper.reject()
            leg.rejected.append(result)
            leg.rejected_by.append(source)
            value = verdict.retry
        assert result is not None
        raise Diverged(
            f"{self._where(result)} was rejected as {self._patience} before it, the last error "
            f"{result.error:.3g}; loosen the tolerance, or see whether the solution blows up there"
        )

    def saved(self) -> dict[str, np.ndarray]:
        """The controller and what it remembers, under a name that begins with `PREFIX`."""
        import numpy as np

        whole = {"controller": self.controller.to_json(), "memory": self.memory}
        text = json.dumps(whole, sort_keys=True)
        return {MEMORY: np.frombuffer(text.encode(), dtype=np.uint8).copy()}

    def stop(self, until: float) -> float:
        """The time that the next step must meet at the latest.

        Parameters
        ----------
        until : float
            Met anyway; the controller may want an earlier one.

        Raises
        ------
        Invalid
            If the controller wants to meet a time that is not ahead, or lies beyond `until`.
        """
        time = self.stepper.time
        stop = self.controller.next_stop(time, until)
        if not time < stop <= until:
            raise Invalid(
                f"{self.controller.name} wants to meet the time {stop!r}: it must be later than {time!r}, "
                f"where the solution stands, and not beyond {until!r}"
            )
        return stop

    def fitted(self, value: float, until: float, last: StepResult | None = None) -> float:
        """The value within the knob's bounds, and short enough to meet `until`.

        Parameters
        ----------
        value, until : float
            See `Stepper.attempt`.
        last : StepResult or None
            The attempt at the same step that was taken back before, for the message.

        Raises
        ------
        Diverged, Invalid
            See `to`.
        """
        knob = self.stepper.knob
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
            raise Invalid(
                f"{self.controller.name} chose {knob.name} = {value} at time {self.stepper.time:.6g}"
            )
        rest = until - self.stepper.time
        if value < knob.low and not (knob.is_length and rest <= value):
            raise Diverged(self._too_small(value, last))
        value = min(value, knob.high)
        return float(shortened(value, rest) if knob.is_length else value)

    def _too_small(self, value: float, last: StepResult | None) -> str:
        knob, before, advice = self.stepper.knob, "", "loosen the tolerance, "
        if last is not None and last.converged:
            before = f" after an error of {last.error:.3g} with {last.value:.3g}"
        elif last is not None:
            before, advice = f" after the step failed with {last.value:.3g}", ""
        time = f"{self.stepper.time:.6g}"
        return (
            f"{self.controller.name} wants {knob.name} = {value:.3g} at time {time}{before}, "
            f"the solver takes no less than {knob.low:.3g}; {advice}lower that bound, or see whether the "
            "solution blows up there"
        )

    def _where(self, result: StepResult) -> str:
        knob = result.knob
        return f"the step with {knob.name} = {result.value:.3g}{knob.suffix} at time {result.time:.6g}"


def _memory(restart: Mapping[str, np.ndarray], controller: StepController) -> Memory:
    if MEMORY not in restart:
        raise Invalid(
            f"what is to be gone on from was solved without a step controller, here it is {controller.name}; "
            "begin anew, or go on without one"
        )
    try:
        saved = json.loads(bytes(restart[MEMORY]).decode())
        memory: Memory = saved["memory"]
        before = saved["controller"]
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid(f"{MEMORY} is damaged ({error}); begin anew, or go on from another state") from None
    if before != json.loads(json.dumps(controller.to_json())):
        raise Invalid(
            f"what is to be gone on from was steered by {json.dumps(before)}, here it is "
            f"{json.dumps(controller.to_json())}; take that one, or begin anew"
        )
    return memory


def unsteered(restart: Mapping[str, np.ndarray]) -> None:
    """Refuse to go on without a controller from where there was one.

    Parameters
    ----------
    restart : mapping of str to ndarray
        What a problem goes on from.

    Raises
    ------
    Invalid
        If it holds what a controller remembers.
    """
    if MEMORY in restart:
        raise Invalid(
            "what is to be gone on from was solved under a step controller, here there is none; set stepping "
            "as it was, or begin anew"
        )
