"""IterationCount: longer steps where Newton's method is quick, shorter ones where it is not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from sciflow.errors import Invalid
from sciflow.step_controller import (
    ACCEPT,
    Knob,
    Memory,
    StepController,
    StepResult,
    StepState,
    Verdict,
    lowered,
    reject,
)
from sciflow_control.controllers.error_control import SHORT
from sciflow_control.controllers.fixed_step import first_value


@dataclass(frozen=True)
class IterationCount(StepController):
    """Keeps the number of Newton iterations of a step near an optimum; it knows nothing of the error.

    Attributes
    ----------
    optimal : int
        Iterations that are wanted.
    window : int or None
        Values change only where the iterations differ by more than this from the optimum; None: a fifth of
        the optimum, rounded up.
    growth, cutback : float
        Ratio of a value to the one before where there were fewer, and more.
    failure : float
        Ratio after a step that failed, which is taken back; no growth follows right after.
    first : float or None
        The first value; None: the geometric mean of the knob's bounds.

    Raises
    ------
    Invalid
        If `optimal`, `growth`, `cutback`, `failure` or `first` has a value that it cannot have.

    Notes
    -----
    A step shortened to meet a time does not make the next one shorter than what was wanted before. For a
    linear problem every step takes one iteration, and the values grow to the knob's bound: steer such
    a problem by its error.

    References
    ----------
    G. Giudicelli et al., *3.0 - MOOSE: Enabling massively parallel multiphysics simulations*, SoftwareX 26
    (2024) 101690: its IterationAdaptiveDT.
    """

    name: ClassVar[str] = "iteration_count"
    optimal: int = 6
    window: int | None = None
    growth: float = 2.0
    cutback: float = 0.5
    failure: float = 0.5
    first: float | None = None

    def __post_init__(self) -> None:
        if self.optimal < 1 or not 0 <= self._window < self.optimal:
            raise Invalid(
                f"{self.name}: optimal is at least 1 and window from 0 to below it, got {self.optimal} and "
                f"{self.window}"
            )
        if not 1 < self.growth < math.inf or not 0 < self.cutback < 1 or not 0 < self.failure < 1:
            raise Invalid(
                f"{self.name}: growth above 1, cutback and failure in (0, 1), got {self.growth}, "
                f"{self.cutback} and {self.failure}"
            )
        if self.first is not None and not 0 < self.first < math.inf:
            raise Invalid(f"{self.name}: the first value must be positive, got {self.first}")

    @property
    def _window(self) -> int:
        return min(math.ceil(self.optimal / 5), self.optimal - 1) if self.window is None else self.window

    def init(self, knob: Knob, features: tuple[str, ...] = ()) -> Memory:
        """See `StepController.init`.

        Raises
        ------
        Invalid
            If the solver does not take the first value, or its steps are explicit.
        """
        if not knob.iterates:
            raise Invalid(
                f"{self.name} counts Newton's iterations, and the steps that {knob.name} sets are explicit: "
                "there are none; take pi, which goes by the error"
            )
        return {"wanted": first_value(self.name, self.first, knob), "cut": False}

    def choose(self, memory: Memory, state: StepState) -> tuple[float, Memory]:
        """See `StepController.choose`."""
        return memory["wanted"], memory

    def judge(self, memory: Memory, result: StepResult) -> tuple[Verdict, Memory]:
        """See `StepController.judge`."""
        knob, before, value = result.knob, memory["wanted"], result.value
        if not result.converged:
            retry = lowered(result, self.failure)
            return reject(retry), {"wanted": retry, "cut": True}
        factor = 1.0
        if result.iterations > self.optimal + self._window:
            factor = self.cutback
        elif result.iterations < self.optimal - self._window and not memory["cut"]:
            factor = self.growth
        wanted = min(max(value * factor, knob.low), knob.high)
        if value < before * SHORT:
            wanted = max(wanted, before)
        return ACCEPT, {"wanted": wanted, "cut": False}
