"""PID: digital filters of the last three errors and the last two ratios."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from sciflow.errors import Invalid
from sciflow.step_controller import StepResult
from sciflow_control.controllers.error_control import ErrorControl, Past

Filter = Literal[
    "elementary",
    "pi34",
    "pi42",
    "pid",
    "h0_211",
    "h211b",
    "h211pi",
    "h0_312",
    "h312b",
    "h312pid",
    "h0_321",
    "h321",
]
FILTERS: dict[str, tuple[float, float, float, float, float]] = {
    "elementary": (1, 0, 0, 0, 0),
    "pi34": (7 / 10, -4 / 10, 0, 0, 0),
    "pi42": (3 / 5, -1 / 5, 0, 0, 0),
    "pid": (0.58, -0.21, 0.1, 0, 0),
    "h0_211": (1 / 2, 1 / 2, 0, 1 / 2, 0),
    "h211b": (1 / 4, 1 / 4, 0, 1 / 4, 0),
    "h211pi": (1 / 6, 1 / 6, 0, 0, 0),
    "h0_312": (1 / 4, 1 / 2, 1 / 4, 3 / 4, 1 / 4),
    "h312b": (1 / 8, 2 / 8, 1 / 8, 3 / 8, 1 / 8),
    "h312pid": (1 / 18, 1 / 9, 1 / 18, 0, 0),
    "h0_321": (5 / 4, 1 / 2, -3 / 4, -1 / 4, -3 / 4),
    "h321": (1 / 3, 1 / 18, -5 / 18, -5 / 6, -1 / 6),
}
"""The coefficients of each filter: three of errors, two of ratios."""


@dataclass(frozen=True)
class PID(ErrorControl):
    r"""Control by a digital filter, which smooths the sequence of values more than `PI` does.

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
    filter : str
        One of `FILTERS`.
    betas : tuple of float or None
        In its place, five coefficients as below.
    limiter : {"arctan", "clip"}
        How the bounds of the ratio are kept: by a smooth function around 1, and then by clipping; or by
        clipping alone.

    Raises
    ------
    Invalid
        If `coefficients` has a value that it cannot have.

    Notes
    -----
    .. math:: \frac{v_{n+1}}{v_n} = \left(\frac{s^k}{e_n}\right)^{\beta_1/k}
              \left(\frac{s^k}{e_{n-1}}\right)^{\beta_2/k} \left(\frac{s^k}{e_{n-2}}\right)^{\beta_3/k}
              \left(\frac{v_n}{v_{n-1}}\right)^{-\alpha_2} \left(\frac{v_{n-1}}{v_{n-2}}\right)^{-\alpha_3}

    with the error :math:`e` in units of the tolerance, :math:`k` = ``knob.order``, and with
    :math:`1 + \arctan(r - 1)` in place of the ratio :math:`r`. It settles at :math:`e = s^k`. H211 and H312
    suppress what changes in the error from each step to the next, once and twice; H321 follows smooth errors
    closely. ``h0_`` answers at once; H211b and H312b, with b = 4 and 8, more slowly, for rough errors. Until
    there are as many steps as a filter needs, those that are missing are as the oldest. Cost: five logarithms
    per step.

    References
    ----------
    G. Soderlind, *Digital filters in adaptive time-stepping*, ACM TOMS 29 (2003) 1-26, tables I and II;
    G. Soderlind, L. Wang, *Adaptive time-stepping and computational stability*, J. Comput. Appl. Math. 185
    (2006) 225-243, for the limiter.
    """

    name: ClassVar[str] = "pid"
    filter: Filter = "pid"
    betas: tuple[float, float, float, float, float] | None = None
    limiter: Literal["arctan", "clip"] = "arctan"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _stable(self.coefficients):
            raise Invalid(
                f"{self.name}: the coefficients {self.coefficients} are unstable where the error goes "
                f"with the order that the knob tells; the filters with names are {', '.join(FILTERS)}"
            )

    @property
    def coefficients(self) -> tuple[float, float, float, float, float]:
        """Of the errors (3) and of the ratios (2)."""
        return self.betas or FILTERS[self.filter]

    def factor(self, error: float, result: StepResult, past: Past) -> float:
        """See `ErrorControl.factor`."""
        order = result.knob.order
        if not past:
            return self.elementary(error, order)
        steps = [(error, result.value), *past]
        steps += [steps[-1]] * (3 - len(steps))
        b1, b2, b3, a2, a3 = self.coefficients
        aim = self.safety**order
        value = 0.0
        for beta, (e, _) in zip((b1, b2, b3), steps, strict=True):
            value += beta / order * math.log(aim / e)
        value -= a2 * math.log(steps[0][1] / steps[1][1]) + a3 * math.log(steps[1][1] / steps[2][1])
        ratio = math.exp(min(max(value, -100.0), 100.0))
        return 1 + math.atan(ratio - 1) if self.limiter == "arctan" else ratio


def _stable(coefficients: tuple[float, float, float, float, float]) -> bool:
    """Whether the roots of the closed loop are inside the unit circle, by Jury's conditions for a cubic.

    The loop is (z - 1)(z^2 + a2 z + a3) + b1 z^2 + b2 z + b3.
    """
    b1, b2, b3, a2, a3 = coefficients
    p, q, r = a2 - 1 + b1, a3 - a2 + b2, b3 - a3
    return abs(r) < 1 and abs(p + r) < 1 + q and abs(q - p * r) < 1 - r * r
