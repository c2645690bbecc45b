"""MaximumStep: a bound of another controller's steps that depends on time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, Self

from sciflow.component import check_choices, check_parts
from sciflow.errors import Invalid
from sciflow.step_controller import Knob, Memory, StepController, StepResult, StepState, Verdict


@dataclass(frozen=True)
class MaximumStep(StepController):
    r"""Caps the values of another controller by a function of time, at every time that a step passes.

    Attributes
    ----------
    controller : StepController
        Chooses and judges.
    times : tuple of float
        Increasing, in the solver's unit of time.
    values : tuple of float
        Largest value at each of the times; before the first and after the last as there.
    between : {"linear", "constant"}
        How the largest value goes from one time to the next: along a line, or by a jump at the next time.

    Raises
    ------
    Invalid
        If `times` or `values` has a value that it cannot have.

    Notes
    -----
    The step's length :math:`h` is the largest with :math:`h \le c(s)` at all :math:`s \in [t, t + h]`:
    before a jump downwards steps end at the jump, and do not run into it. A capped step is to the controller
    one that was shortened. Cost: that of the times within a step.
    """

    name: ClassVar[str] = "maximum_step"
    controller: StepController
    times: tuple[float, ...]
    values: tuple[float, ...]
    between: Literal["linear", "constant"] = "linear"

    def __post_init__(self) -> None:
        check_choices(self)
        check_parts(self)
        if not self.times or len(self.times) != len(self.values):
            raise Invalid(
                f"{self.name}: as many values as times, and at least one, got {len(self.values)} and "
                f"{len(self.times)}"
            )
        check_times(self.name, self.times)
        if not all(0 < v < math.inf for v in self.values):
            raise Invalid(f"{self.name}: the values must be positive numbers, got {self.values}")

    @classmethod
    def example(cls) -> Self:
        """PI with longer steps later."""
        from sciflow_control.controllers.pi import PI

        return cls(PI(1e-4), (0.0, 1.0), (0.01, 0.5))

    def init(self, knob: Knob, features: tuple[str, ...] = ()) -> Memory:
        """See `StepController.init`.

        Raises
        ------
        Invalid
            If the solver takes nothing so small as the least of the values, or the controller cannot set
            the knob.
        """
        if min(self.values) < knob.low:
            raise Invalid(
                f"{self.name}: at most {min(self.values):g}, and the solver takes no {knob.name} below "
                f"{knob.low:g}{knob.suffix}"
            )
        return self.controller.init(knob, features)

    def next_stop(self, time: float, until: float) -> float:
        """See `StepController.next_stop`."""
        return self.controller.next_stop(time, until)

    def choose(self, memory: Memory, state: StepState) -> tuple[float, Memory]:
        """See `StepController.choose`."""
        value, after = self.controller.choose(memory, state)
        knob = state.knob
        if knob.is_length:
            return min(value, self._length(state.time)), after
        assert knob.held is not None
        return min(value, self._least(state.time, min(state.time + knob.held, state.until))), after

    def judge(self, memory: Memory, result: StepResult) -> tuple[Verdict, Memory]:
        """See `StepController.judge`."""
        return self.controller.judge(memory, result)

    def at(self, time: float) -> float:
        """The largest value at a time."""
        last = max((i for i, t in enumerate(self.times) if t <= time), default=0)
        if self.between == "constant" or last + 1 == len(self.times) or time <= self.times[0]:
            return self.values[last]
        (a, b), (low, high) = self.times[last : last + 2], self.values[last : last + 2]
        return low + (high - low) * (time - a) / (b - a)

    def _length(self, time: float) -> float:
        """The longest step from a time that nowhere exceeds the largest value."""
        begin, before = time, self.at(time)
        most = before
        for end, value in zip(self.times, self.values, strict=True):
            if end <= time:
                continue
            if self.between == "constant" or value >= before:
                if end - time >= most:
                    return most
                if self.between == "constant" and value < end - time:
                    return end - time
            elif value < end - time:
                # Where the length meets the line that falls from (begin, before) to (end, value).
                slope = (value - before) / (end - begin)
                return min(most, (before - slope * (begin - time)) / (1 - slope))
            most = min(most, value)
            begin, before = end, value
        return most

    def _least(self, begin: float, end: float) -> float:
        """The smallest of the largest values from one time to another."""
        inside = [v for t, v in zip(self.times, self.values, strict=True) if begin < t < end]
        ends = [self.at(begin)] + ([self.at(end)] if self.between == "linear" else [])
        return min([*inside, *ends])


def check_times(who: str, times: tuple[float, ...]) -> None:
    """Refuse times that do not increase or are not finite.

    Parameters
    ----------
    who : str
        Named in the message.
    times : tuple of float
        In any unit.

    Raises
    ------
    Invalid
        With the times.
    """
    if not all(math.isfinite(t) for t in times) or any(b <= a for a, b in pairwise(times)):
        raise Invalid(f"{who}: the times must be finite and increase, got {times}")
