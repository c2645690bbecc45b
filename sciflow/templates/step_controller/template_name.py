"""The elementary control of the error of a step, as a step controller for sciflow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sciflow import Component, Invalid, Knob, StepController, StepResult, StepState, Verdict, hookimpl

sciflow_api = "1.0"


@dataclass(frozen=True)
class TemplateName(StepController):
    """The step whose error would be just below the tolerance, if errors went on as the last one.

    Attributes
    ----------
    tolerance : float
        Largest error that a step may have, relative to the size of the solution.
    safety : float
        What is aimed at is so large a part of the step whose error would be the tolerance.
    growth : float
        A step is at most so many times as long as the last one.

    Raises
    ------
    Invalid
        If a number is out of its bounds.

    References
    ----------
    E. Hairer, S. P. Norsett, G. Wanner, "Solving Ordinary Differential Equations I", 2nd ed., equation
    II.4.13.
    """

    name: ClassVar[str] = "template_name"
    tolerance: float = 1e-3
    safety: float = 0.9
    growth: float = 5.0

    def __post_init__(self) -> None:
        if not (self.tolerance > 0 and 0 < self.safety < 1 and self.growth > 1):
            raise Invalid(
                "tolerance is positive, safety from 0 to 1 and growth above 1, "
                f"got {self.tolerance}, {self.safety} and {self.growth}"
            )

    def init(self, knob: Knob, features: tuple[str, ...] = ()) -> Mapping[str, Any]:
        """See `StepController.init`: the middle of what the solver takes, on a log scale."""
        return {"value": math.sqrt(knob.low * knob.high)}

    def choose(self, memory: Mapping[str, Any], state: StepState) -> tuple[float, Mapping[str, Any]]:
        """See `StepController.choose`."""
        return memory["value"], memory

    def judge(self, memory: Mapping[str, Any], result: StepResult) -> tuple[Verdict, Mapping[str, Any]]:
        """See `StepController.judge`."""
        knob = result.knob
        if not result.converged or math.isnan(result.error):
            return Verdict(retry=result.value / self.growth), memory
        wanted = self.safety * (self.tolerance / max(result.error, 1e-30)) ** (1 / knob.order)
        value = result.value * min(max(wanted, 1 / self.growth), self.growth)
        if result.error > self.tolerance:
            return Verdict(retry=value), memory
        return Verdict(), {"value": min(max(value, knob.low), knob.high)}


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Components of this package."""
    return [TemplateName]
