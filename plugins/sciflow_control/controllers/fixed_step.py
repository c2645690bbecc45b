"""FixedStep: one value for all steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from sciflow.errors import Invalid
from sciflow.step_controller import ACCEPT, Knob, Memory, StepController, StepResult, StepState, Verdict


@dataclass(frozen=True)
class FixedStep(StepController):
    """Takes every step with the same value and takes none back: the baseline.

    A step that fails ends the run. Shorter steps are taken only to meet a time.

    Attributes
    ----------
    value : float
        Of the knob, in its unit.

    Raises
    ------
    Invalid
        If `value` has a value that it cannot have.
    """

    name: ClassVar[str] = "fixed_step"
    value: float

    def __post_init__(self) -> None:
        if not 0 < self.value < math.inf:
            raise Invalid(f"{self.name}: the value must be a positive number, got {self.value}")

    @classmethod
    def example(cls) -> Self:
        """A hundredth."""
        return cls(0.01)

    def init(self, knob: Knob, features: tuple[str, ...] = ()) -> Memory:
        """See `StepController.init`.

        Raises
        ------
        Invalid
            If the solver does not take the value.
        """
        check_within(self.name, "value", self.value, knob)
        return {}

    def choose(self, memory: Memory, state: StepState) -> tuple[float, Memory]:
        """See `StepController.choose`."""
        return self.value, memory

    def judge(self, memory: Memory, result: StepResult) -> tuple[Verdict, Memory]:
        """See `StepController.judge`; every step stands."""
        return ACCEPT, memory


def first_value(who: str, first: float | None, knob: Knob) -> float:
    """The value to begin with: `first`, or the geometric mean of the knob's bounds.

    Parameters
    ----------
    who : str
        Named in the message.
    first : float or None
        As configured.
    knob : Knob
        What is set.

    Raises
    ------
    Invalid
        If the solver does not take the first value.
    """
    if first is None:
        return math.sqrt(knob.low) * math.sqrt(knob.high)
    check_within(who, "first", first, knob)
    return first


def check_within(who: str, what: str, value: float, knob: Knob) -> None:
    """Refuse a value that a solver does not take.

    Parameters
    ----------
    who, what : str
        Named in the message.
    value : float
        See `knob`.
    knob : Knob
        What would be set.

    Raises
    ------
    Invalid
        With the bounds.
    """
    if not knob.low <= value <= knob.high:
        raise Invalid(
            f"{who}: {what} = {value:g}, and the solver takes {knob.name} from {knob.low:g} to "
            f"{knob.high:g}{knob.suffix}"
        )
