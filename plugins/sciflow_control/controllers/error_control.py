"""What controllers by an error estimate share: acceptance, cuts, bounds and what a short step tells."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from sciflow.component import check_choices
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
from sciflow_control.controllers.fixed_step import first_value

Past = Sequence[tuple[float, float]]
"""Errors in units of the tolerance, and values, of steps that stood, the last one first."""
KEPT = 2
"""Steps that are remembered."""
TINY = 1e-12
"""An error smaller than this part of the tolerance, or larger than its inverse, is taken as this."""
SHORT = 1 - 1e-9
"""A step below this part of what was wanted was shortened."""


@dataclass(frozen=True)
class ErrorControl(StepController):
    r"""Steers the error of each step to a tolerance; the formula is the subclass's.

    Attributes
    ----------
    tolerance : float
        Largest error that a step may have, relative to the size of the solution.
    first : float or None
        The first value; None: the geometric mean of the knob's bounds.
    safety : float
        What is aimed at is so large a part of the value whose error would be the tolerance.
    factor_min, factor_max : float
        Bounds of the ratio of a value to the one before.
    factor_first : float
        In place of `factor_max` after the first step, and its inverse in place of `factor_min` before it.
    least_growth : float
        Values do not grow by less than this factor, so that an implicit solver keeps its factorisation.
    cut : float
        The ratio after a step that failed.
    lowest : {"fail", "accept"}
        What happens to an error above the tolerance at the knob's lower bound: the run ends, or the step
        stands.

    Raises
    ------
    Invalid
        If a setting has a value that it cannot have, alone or beside the others.

    Notes
    -----
    With the error :math:`e` in units of the tolerance a step stands if :math:`e \le 1`. Else it is taken
    back and tried with :math:`v\,\min(1, \max(f_{min}, s\,e^{-1/k}))`, :math:`k` = ``knob.order``; no
    growth follows right after. A step that was shortened to meet a time never makes the next one shorter
    than what was wanted before, and is not remembered among the errors.
    """

    tolerance: float
    first: float | None = None
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 5.0
    factor_first: float = 100.0
    least_growth: float = 1.0
    cut: float = 0.25
    lowest: Literal["fail", "accept"] = "fail"

    def __post_init__(self) -> None:
        check_choices(self)
        name = self.name
        if not 0 < self.tolerance < math.inf:
            raise Invalid(f"{name}: the tolerance must be positive, got {self.tolerance}")
        if self.first is not None and not 0 < self.first < math.inf:
            raise Invalid(f"{name}: the first value must be positive, got {self.first}")
        if not 0 < self.safety <= 1 or not 0 < self.cut < 1:
            raise Invalid(f"{name}: safety in (0, 1] and cut in (0, 1), got {self.safety} and {self.cut}")
        if not 0 < self.factor_min < 1 < self.factor_max < math.inf:
            raise Invalid(
                f"{name}: 0 < factor_min < 1 < factor_max, got {self.factor_min}, {self.factor_max}"
            )
        if not 1 < self.factor_first < math.inf or not 1 <= self.least_growth < self.factor_max:
            raise Invalid(
                f"{name}: factor_first above 1 and least_growth from 1 to below factor_max, got "
                f"{self.factor_first}, {self.least_growth}"
            )

    @classmethod
    def example(cls) -> Self:
        """Four digits in each step."""
        return cls(1e-4)

    def init(self, knob: Knob, features: tuple[str, ...] = ()) -> Memory:
        """See `StepController.init`.

        ``wanted`` is the next value, ``past`` what `Past` holds, ``cut`` whether the last attempts were
        taken back.

        Raises
        ------
        Invalid
            If the solver does not take the first value.
        """
        wanted = first_value(self.name, self.first, knob)
        return {"wanted": wanted, "past": [], "cut": False, "failed": []}

    def choose(self, memory: Memory, state: StepState) -> tuple[float, Memory]:
        """See `StepController.choose`."""
        return memory["wanted"], memory

    def judge(self, memory: Memory, result: StepResult) -> tuple[Verdict, Memory]:
        """See `StepController.judge`.

        Raises
        ------
        Invalid
            If the solver does not estimate the error of its steps.
        """
        if not result.converged:
            return self._back(memory, result, self.cut, [])
        if math.isnan(result.error):
            raise Invalid(
                f"{self.name} needs an estimate of the error of each step, and the solver gives none for "
                f"{result.knob.name}; take fixed_step or iteration_count, or a solver with an estimate"
            )
        error = min(max(result.error / self.tolerance, TINY), 1 / TINY)
        bottom = self.lowest == "accept" and result.value <= result.knob.low * (1 + 1e-9)
        if error <= 1 or bottom:
            return ACCEPT, self._forward(memory, result, error)
        factor = self.shrink(error, result, memory["failed"])
        least = self.factor_min if memory["past"] else 1 / self.factor_first
        factor = min(max(factor, least), 1 - 1e-3)
        return self._back(memory, result, factor, [[error, result.value], *memory["failed"]][:1])

    @abstractmethod
    def factor(self, error: float, result: StepResult, past: Past) -> float:
        """The ratio of the next value to this one after a step that stands, before the bounds.

        Parameters
        ----------
        error : float
            Of this step, in units of the tolerance.
        result : StepResult
            This step.
        past : Past
            Steps before, up to `KEPT`.
        """

    def shrink(self, error: float, result: StepResult, failed: Past) -> float:
        """The ratio after a step that is taken back, before the bounds.

        Parameters
        ----------
        error : float
            Of this attempt, in units of the tolerance.
        result : StepResult
            This attempt.
        failed : Past
            The attempt at the same step before it, if there was one.
        """
        return self.elementary(error, result.knob.order)

    def elementary(self, error: float, order: float) -> float:
        """The ratio that leads to the aim at once if the error goes with the power `order` of the value.

        Parameters
        ----------
        error : float
            In units of the tolerance.
        order : float
            See `Knob`.
        """
        return float(self.safety * error ** (-1 / order))

    def _forward(self, memory: Memory, result: StepResult, error: float) -> Memory:
        """What is remembered after a step that stands."""
        knob, past, before = result.knob, memory["past"], memory["wanted"]
        most = 1.0 if memory["cut"] else self.factor_max if past else self.factor_first
        factor = self.factor(error, result, [(e, v) for e, v in past])
        factor = min(max(factor, self.factor_min), most)
        if 1 < factor < self.least_growth:
            factor = 1.0
        wanted = min(max(result.value * factor, knob.low), knob.high)
        after = {"wanted": wanted, "past": past, "cut": False, "failed": []}
        if knob.held is not None and result.length < knob.held * SHORT:
            return {**after, "wanted": before}
        if result.value < before * SHORT:
            return {**after, "wanted": max(before, wanted)}
        return {**after, "past": [[error, result.value], *past][:KEPT]}

    def _back(
        self, memory: Memory, result: StepResult, factor: float, failed: list[list[float]]
    ) -> tuple[Verdict, Memory]:
        retry = lowered(result, factor)
        return reject(retry), {**memory, "wanted": retry, "cut": True, "failed": failed}
