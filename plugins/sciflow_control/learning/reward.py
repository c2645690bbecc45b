"""What a step is worth to the one who learns to choose it."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow.component import Component
from sciflow.errors import Invalid

if TYPE_CHECKING:
    from sciflow.step_controller import StepResult

FLOOR = 1e-16
"""Errors below are round-off."""
MOST = 20.0
"""More orders of magnitude above the target are not told apart."""


class Reward(Component):
    """The worth of a step, from what came of it; the same for equal results, no clock in it.

    Attributes
    ----------
    penalty : float
        Taken off where an episode ends too early: the solver failed, or the drift passed its limit. Where
        all rewards are negative it must outweigh the steps that are saved by ending, or ending is learned.
    """

    kind: ClassVar[str] = "reward"
    penalty: float

    @abstractmethod
    def of(self, result: StepResult, drift: float, number: int, before: float | None) -> float:
        """Reward of one step.

        Parameters
        ----------
        result : StepResult
            Of the attempt, which stands if it converged.
        drift : float
            See `Stepper.drift`, after the step; NaN where nothing is known.
        number : int
            Of the step in its episode, from 1.
        before : float or None
            What was chosen for the step before; None for the first.

        Returns
        -------
        float
            Finite, also where the solver failed; without the penalty.
        """


@dataclass(frozen=True)
class WorkReward(Reward):
    """Little work, and an error of each step below a target.

    Attributes
    ----------
    target : float
        Error of a step that costs nothing, see `StepResult.error`.
    work : float
        What a tenth of the work is worth, where an error of ten times the target costs 1.
    shared : float
        0: the target is the same for all steps. 1: it grows with the work of the step, so that hard steps
        may have the larger part of the error; `target` is then the error for `usual` units of work.
    usual : float
        Work of an ordinary step, in the solver's unit.
    change : float
        What it costs, in units of the reward, to choose ten times or a tenth of the value before. A method
        that is symmetric in time keeps a modified energy while its parameter stays the same: there each
        change is an error that shows only later.
    penalty : float
        Taken off where an episode ends too early, see `Reward`.

    Notes
    -----
    r = -work log10(c) - max(0, log10(e / target) - shared log10(c / usual)) - change |log10(x / x_before)|,
    with c the work for the time that the knob is held (where the knob is the step's length: for a time of
    its upper bound), e the error of the step and x the knob's value.

    The error of an episode is about the sum of e over its steps. Let e ~ x^p and c ~ x^-q for the knob's
    value x; the least total work for a given sum of errors has p e / (q c) equal in all steps: e
    proportional to c, that is ``shared=1``.
    """

    name: ClassVar[str] = "work"
    target: float = 1e-8
    work: float = 0.5
    shared: float = 0.0
    usual: float = 1.0
    change: float = 0.0
    penalty: float = 50.0

    def __post_init__(self) -> None:
        for name in ("target", "usual"):
            if not 0 < getattr(self, name) < math.inf:
                raise Invalid(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("work", "shared", "change", "penalty"):
            if not 0 <= getattr(self, name) < math.inf:
                raise Invalid(f"{name} must not be negative, got {getattr(self, name)}")

    def of(self, result: StepResult, drift: float, number: int, before: float | None) -> float:
        """See `Reward.of`."""
        if not result.converged:
            return 0.0
        knob = result.knob
        cost = max(result.cost, FLOOR) * (knob.held or knob.high) / result.length
        worth = -self.work * math.log10(cost)
        error = result.error
        if error > FLOOR:
            excess = math.log10(error / self.target) - self.shared * math.log10(cost / self.usual)
            worth -= min(max(0.0, excess), MOST)
        if self.change and before is not None:
            worth -= self.change * abs(math.log10(result.value / before))
        return worth


@dataclass(frozen=True)
class PaperReward(Reward):
    """The reward with which time steps of three bodies were first learned.

    Attributes
    ----------
    error : float
        W0, weight of the energy error since the start.
    change : float
        W1, weight of the change of its logarithm in the step.
    value : float
        W2, weight of the value that was chosen.
    accurate : float
        Error at which the first term is zero.
    penalty : float
        Taken off where an episode ends too early; published: nothing.

    Raises
    ------
    Invalid
        If `accurate`, `error`, `change`, `value` or `penalty` has a value that it cannot have.

    Notes
    -----
    r_i = -W0 log10(d_i / accurate) / (i |log10 d_i|^3) - W1 (log10 d_i - log10 d_(i-1)) + W2 / |log10 x|,
    d the drift, x the value, i the number of the step; 0 for the first. W1 is 0 in the paper, and the term
    takes the error of the step for the change of the drift here. Where the solver fails, d = 0.1.

    References
    ----------
    V. Saz Ulibarrena, S. Portegies Zwart, Reinforcement learning for adaptive time-stepping in the chaotic
    gravitational three-body problem, Commun. Nonlinear Sci. Numer. Simul. 2025, arXiv:2502.12809.
    """

    name: ClassVar[str] = "paper"
    error: float = 3000.0
    change: float = 0.0
    value: float = 4.0
    accurate: float = 1e-10
    penalty: float = 0.0

    def __post_init__(self) -> None:
        for name in ("error", "change", "value", "penalty"):
            if not 0 <= getattr(self, name) < math.inf:
                raise Invalid(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.accurate < 1:
            raise Invalid(f"accurate is an error between 0 and 1, got {self.accurate}")

    def of(self, result: StepResult, drift: float, number: int, before: float | None) -> float:
        """See `Reward.of`."""
        if number == 1 and result.converged:
            return 0.0
        # From 0.1 on an episode ends; at 1 the formula has a pole.
        now = min(max(drift, FLOOR), 0.1) if result.converged and math.isfinite(drift) else 0.1
        digits = math.log10(now)
        worth = -self.error * math.log10(now / self.accurate) / abs(digits) ** 3 / number
        if self.change and result.error > 0:
            worth -= self.change * (digits - math.log10(max(now - result.error, FLOOR)))
        return worth + self.value / max(abs(math.log10(result.value)), 1e-3)
