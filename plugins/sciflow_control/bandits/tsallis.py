"""Tsallis-INF: decisions that are good for random costs and for costs that an adversary chooses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, Literal

from sciflow.component import check_choices
from sciflow.controller import Features
from sciflow_control.bandits.tuner import Bandit, Decision, State, Sums
from sciflow_control.space import Relaxation, Space

if TYPE_CHECKING:
    import numpy as np


@cache
def _numerics() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Imported when it is needed; asked for in every decision."""
    from sciflow_control.bandits import draws, estimates, simplex

    return draws, estimates, simplex


@dataclass(frozen=True)
class Tsallis(Bandit):
    """Draws arms with probabilities that fall with the square of their estimated total cost.

    Attributes
    ----------
    space : Space
        What it chooses from.
    estimator : {"rv", "iw"}
        Importance weighting with (reduced variance) or without a baseline.
    log : bool
        Learn from logarithms of costs: where they have heavy tails or differ by orders of magnitude.

    Notes
    -----
    After n outcomes, with t = n + 1, p_i = 4 / (rate (L_i - x))^2, where x makes their sum one
    (`sciflow_control.bandits.simplex.probabilities`) and rate = 2/sqrt(t) (iw) or 4/sqrt(t) (rv).
    The loss of an outcome is (cost - m) / s, where m is the smallest cost so far and s the mean cost less m,
    both at the time of the decision: no scale is needed beforehand. Its estimate for every arm is

        iw: 1[i was played] loss / p_i
        rv: 1[i was played] (loss - B_i) / p_i + B_i,   B_i = 1[p_i >= 16/t],

    both unbiased. Which arms had a baseline is noted in the decision as features ``shifted_0`` (arms 0 to
    31, one bit each), ``shifted_1`` and so on; in a log without them, nothing had.

    All sums are exact (`sciflow_control.bandits.exact`), so that late outcomes and merged states give the
    same bits. Outcomes that are lower bounds count as twice (with `log`: one more than) the larger of the
    mean bound and the arm's own mean cost (censored) or the mean cost of the worst arm (failed).

    Regret against the best fixed arm, for losses in [0, 1], T rounds and d arms: at most 4 sqrt(d T) + 1 (iw)
    with any costs, and of order log T with random ones.

    References
    ----------
    J. Zimmert, Y. Seldin, "Tsallis-INF: An optimal algorithm for stochastic and adversarial bandits", JMLR 22
    (2021), algorithm 1, theorem 1. M. Khodak, E. Chow, M.-F. Balcan, A. Talwalkar, "Learning to relax", ICLR
    2024 (for relaxation parameters).
    """

    name: ClassVar[str] = "tsallis"
    space: Space = Relaxation()
    estimator: Literal["rv", "iw"] = "rv"
    log: bool = False

    def __post_init__(self) -> None:
        check_choices(self)

    def empty(self) -> Sums:
        """See `sciflow_control.bandits.estimates.empty`."""
        _, estimates, _ = _numerics()
        sums: Sums = estimates.empty(len(self.arms))
        return sums

    def combine(self, first: Sums, second: Sums) -> Sums:
        """See `Additive.combine`; the smaller one of the smallest costs."""
        _, estimates, _ = _numerics()
        sums: Sums = estimates.combined(first, second)
        return sums

    def probabilities(self, sums: Sums) -> np.ndarray:
        """That every arm would be drawn with now, shape (arm,)."""
        _, estimates, simplex = _numerics()
        rate = (4 if self.estimator == "rv" else 2) / math.sqrt(sum(sums["outcomes"]) + 1)
        found: np.ndarray = simplex.probabilities(estimates.estimates(sums, self.log), rate)
        return found

    def decide(self, sums: Sums, features: Features, seed: int, index: int) -> Decision:
        """See `Additive.decide`."""
        draws, estimates, _ = _numerics()
        p = self.probabilities(sums)
        below = p.cumsum()
        arm = int(below.searchsorted(draws.uniform(seed, index) * below[-1], side="right"))
        arm = min(arm, len(p) - 1)
        known = dict(features)
        if self.estimator == "rv":
            known |= estimates.packed(p >= 16 / (sum(sums["outcomes"]) + 1))
        return Decision(arm, float(p[arm]), known)

    def choose(self, sums: Sums, features: Features, seed: int, index: int) -> tuple[int, float]:
        """See `Additive.choose`."""
        made = self.decide(sums, features, seed, index)
        return made.arm, made.probability

    def learn(self, sums: Sums, decision: Decision, cost: float, status: str) -> Sums:
        """See `Additive.learn`."""
        _, estimates, _ = _numerics()
        price = estimates.loss(cost, self.log)
        after: Sums = estimates.noted(
            sums, decision.arm, decision.probability, price, status, decision.features
        )
        return after

    def best(self, state: State, features: Features) -> int:
        """See `Tuner.best`; the arm with the smallest estimate."""
        _, estimates, _ = _numerics()
        return int(estimates.estimates(state["sums"], self.log).argmin())
