"""StopAt: times that another controller's steps must meet, with short steps after them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from sciflow.component import check_parts
from sciflow.errors import Invalid
from sciflow.step_controller import Knob, Memory, StepController, StepResult, StepState, Verdict
from sciflow_control.controllers.fixed_step import check_within
from sciflow_control.controllers.maximum_step import check_times

NEAR = 1e-9
"""Two times that differ by less than this part of the larger are the same."""


@dataclass(frozen=True)
class StopAt(StepController):
    """Meets times exactly: a source that is switched, a load that jumps.

    Attributes
    ----------
    controller : StepController
        Chooses and judges.
    times : tuple of float
        Increasing, in the solver's unit of time; those that come before the start are passed over.
    after : float or None
        Largest value right after each of the times; None: as if nothing had happened there.
    growth : float
        By this factor that bound grows with each step, up to what the controller wants.

    Raises
    ------
    Invalid
        If `after` or `growth` has a value that it cannot have.

    Notes
    -----
    The step that meets a time, and those bounded after it, are to the controller steps that were shortened.
    An interval of an integrator whose parameter is steered ends at the times too.
    """

    name: ClassVar[str] = "stop_at"
    controller: StepController
    times: tuple[float, ...]
    after: float | None = None
    growth: float = 2.0

    def __post_init__(self) -> None:
        check_parts(self)
        check_times(self.name, self.times)
        if self.after is not None and not 0 < self.after < math.inf:
            raise Invalid(f"{self.name}: the value after a time must be positive, got {self.after}")
        if not 1 < self.growth < math.inf:
            raise Invalid(f"{self.name}: growth must be above 1, got {self.growth}")

    @classmethod
    def example(cls) -> Self:
        """PI, and a switch at one half."""
        from sciflow_control.controllers.pi import PI

        return cls(PI(1e-4), (0.5,), after=1e-3)

    def init(self, knob: Knob, features: tuple[str, ...] = ()) -> Memory:
        """See `StepController.init`; ``cap`` is the bound after a time, ``passed`` how many were.

        Raises
        ------
        Invalid
            If the solver does not take the value `after`, or the controller cannot set the knob.
        """
        if self.after is not None:
            check_within(self.name, "after", self.after, knob)
        return {"controller": self.controller.init(knob, features), "cap": None, "passed": None}

    def next_stop(self, time: float, until: float) -> float:
        """See `StepController.next_stop`; a time that is met anyway but for rounding is not met twice."""
        ahead = (t for t in self.times if t > time and not near(t, time))
        stop = next(ahead, until)
        stop = until if stop > until or near(stop, until) else stop
        return self.controller.next_stop(time, stop)

    def choose(self, memory: Memory, state: StepState) -> tuple[float, Memory]:
        """See `StepController.choose`."""
        passed = sum(t <= state.time or near(t, state.time) for t in self.times)
        cap = memory["cap"]
        if memory["passed"] is not None and passed > memory["passed"]:
            cap = self.after
        value, inner = self.controller.choose(memory["controller"], state)
        if cap is not None and cap >= value:
            cap = None
        after = {"controller": inner, "cap": cap, "passed": passed}
        return (value if cap is None else cap), after

    def judge(self, memory: Memory, result: StepResult) -> tuple[Verdict, Memory]:
        """See `StepController.judge`."""
        verdict, inner = self.controller.judge(memory["controller"], result)
        cap = memory["cap"]
        if cap is not None and verdict.accepted:
            cap *= self.growth
        return verdict, {**memory, "controller": inner, "cap": cap}


def near(one: float, other: float) -> bool:
    """Whether two times are the same but for rounding.

    Parameters
    ----------
    one, other : float
        In the same unit.
    """
    return abs(one - other) <= NEAR * max(abs(one), abs(other))
