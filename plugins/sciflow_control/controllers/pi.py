"""PI: the next value from the last two errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sciflow.errors import Invalid
from sciflow.step_controller import StepResult
from sciflow_control.controllers.error_control import ErrorControl, Past

FLOOR = 1e-4
"""An error before the last that is smaller, in units of the tolerance, is taken as this."""


@dataclass(frozen=True)
class PI(ErrorControl):
    r"""Proportional-integral control of the error of a step.

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
    k_i, k_p : float
        Integral and proportional gain; (1, 0) is the elementary controller, (0.3, 0.4) is PI.3.4.

    Raises
    ------
    Invalid
        If `k_i` or `k_p` has a value that it cannot have.

    Notes
    -----
    .. math:: v_{n+1} = v_n \left(\frac{s^k}{e_n}\right)^{k_I/k}
              \left(\frac{e_{n-1}}{e_n}\right)^{k_P/k}

    with the error :math:`e` in units of the tolerance and :math:`k` = ``knob.order``. It settles at
    :math:`e = s^k` and is stable where the error goes as :math:`v^k` if both roots of
    :math:`z^2 - (1 - k_I - k_P) z - k_P` are inside the unit circle: :math:`k_P < 1` and
    :math:`k_I + 2 k_P < 2` for positive gains. The first step, which has no error before it, is followed
    by the elementary controller, as is every one taken back. Cost: two powers per step.

    References
    ----------
    K. Gustafsson, *Control theoretic techniques for stepsize selection in explicit Runge-Kutta methods*,
    ACM TOMS 17 (1991) 533-554. E. Hairer, S. P. Norsett, G. Wanner, *Solving Ordinary Differential
    Equations I*, 2nd ed., section II.4. G. Soderlind, *Automatic control and adaptive time-stepping*,
    Numerical Algorithms 31 (2002) 281-310.
    """

    name: ClassVar[str] = "pi"
    k_i: float = 0.3
    k_p: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.k_i > 0 and self.k_p >= 0 and self.k_p < 1 and self.k_i + 2 * self.k_p < 2):
            raise Invalid(
                f"{self.name}: unstable with k_i={self.k_i}, k_p={self.k_p}; 0 < k_i, 0 <= k_p < 1 and "
                "k_i + 2 k_p < 2"
            )

    def factor(self, error: float, result: StepResult, past: Past) -> float:
        """See `ErrorControl.factor`."""
        order = result.knob.order
        if not past:
            return self.elementary(error, order)
        before = max(past[0][0], FLOOR)
        gained = self.safety**self.k_i * error ** (-self.k_i / order)
        return float(gained * (before / error) ** (self.k_p / order))
