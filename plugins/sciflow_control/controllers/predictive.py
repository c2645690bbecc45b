"""Predictive: the next value from how the error changes, for stiff problems."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from sciflow.errors import Invalid
from sciflow.step_controller import StepResult
from sciflow_control.controllers.error_control import ErrorControl, Past

FLOOR = 1e-2
"""An error before the last that is smaller, in units of the tolerance, is taken as this."""
LEAST_ORDER = 0.1
"""Of the order that two failed attempts tell."""


@dataclass(frozen=True)
class Predictive(ErrorControl):
    r"""Gustafsson's predictive control, for implicit methods, whose error follows a trend from step to step.

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
    most_iterations : int
        Of Newton's method: the aim is lowered as their number comes near it; 0: they are not looked at.

    Raises
    ------
    Invalid
        If `most_iterations` has a value that it cannot have.

    Notes
    -----
    .. math:: v_{n+1} = v_n \min\left\{ s\,e_n^{-1/k},\;
              s\,e_n^{-1/k}\,\frac{v_n}{v_{n-1}} \left(\frac{e_{n-1}}{e_n}\right)^{1/k} \right\}

    with the error :math:`e` in units of the tolerance, :math:`k` = ``knob.order``, and :math:`n - 1` the last
    step that stood, whatever was taken back in between. :math:`e/v^k` is taken to change as much in the next
    step as in the last; growth that only this trend would give is not followed. Of two attempts at one
    step that are taken back in a row the order is estimated, :math:`\hat k = \log(e'/e)/\log(v'/v)` within
    0.1 and k, and used for the third. With :math:`m` = `most_iterations` and :math:`i` iterations
    :math:`s` is :math:`s\,(1 + 2m)/(i + 2m)`. Cost: two powers per step.

    References
    ----------
    K. Gustafsson, *Control-theoretic techniques for stepsize selection in implicit Runge-Kutta methods*,
    ACM TOMS 20 (1994) 496-517. E. Hairer, G. Wanner, *Solving Ordinary Differential Equations II*, 2nd ed.,
    section IV.8, equations (8.21) and (8.25).
    """

    name: ClassVar[str] = "predictive"
    most_iterations: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most_iterations < 0:
            raise Invalid(
                f"{self.name}: most_iterations is a number of iterations or 0, got {self.most_iterations}"
            )

    def factor(self, error: float, result: StepResult, past: Past) -> float:
        """See `ErrorControl.factor`."""
        order, most = result.knob.order, self.most_iterations
        plain = self.elementary(error, order)
        if most:
            plain *= (1 + 2 * most) / (max(result.iterations, 1) + 2 * most)
        if not past:
            return plain
        before, value = past[0]
        trend = result.value / value * (max(before, FLOOR) / error) ** (1 / order)
        return float(plain * min(trend, 1.0))

    def shrink(self, error: float, result: StepResult, failed: Past) -> float:
        """See `ErrorControl.shrink`."""
        order = result.knob.order
        if failed:
            before, value = failed[0]
            if value > result.value and before > error:
                order = min(
                    max(math.log(before / error) / math.log(value / result.value), LEAST_ORDER), order
                )
            elif value > result.value:
                order = LEAST_ORDER
        return self.elementary(error, order)
