"""Thompson sampling on the logarithm of the cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

from sciflow.controller import Features
from sciflow_control.bandits.tuner import Bandit, Decision, State, Sums
from sciflow_control.space import Relaxation, Space

if TYPE_CHECKING:
    import numpy as np


@cache
def _numerics() -> tuple[ModuleType, ModuleType]:
    """Imported when it is needed; asked for in every decision."""
    from sciflow_control.bandits import beliefs, draws

    return beliefs, draws


@dataclass(frozen=True)
class Thompson(Bandit):
    """Plays the arm whose mean cost, drawn from what is believed of it, is the smallest.

    Attributes
    ----------
    space : Space
        What it chooses from.

    Notes
    -----
    With n log costs of an arm, their mean m and sum of squares about it S, the variance is believed to be
    v = (2 v0 + S) / (2 + n), v0 = 0.1, and the logarithm of the mean cost to be m + v/2 (as of a log-normal
    cost), give or take sqrt(v/n). To each such mean a normal number times its deviation is added, and the arm
    with the smallest sum is played. The unit of the cost does not matter.

    At the start the middle arm of each family (`Space.families`) is tried. An arm that was never tried is
    believed to cost what its neighbours do, with a deviation that grows with the square root of the distance:
    between bad arms it is tried late, or never.

    Outcomes that failed or were censored are lower bounds, see `sciflow_control.bandits.beliefs.with_losses`.
    """

    name: ClassVar[str] = "thompson"
    space: Space = Relaxation()

    def empty(self) -> Sums:
        """Table of sums, and what is believed; this follows from the table, and every decision needs it."""
        beliefs, _ = _numerics()
        return self._known(beliefs.empty(len(self.arms)))

    def combine(self, first: Sums, second: Sums) -> Sums:
        """See `Additive.combine`."""
        return self._known(first["table"] + second["table"])

    def choose(self, sums: Sums, features: Features, seed: int, index: int) -> tuple[int, float]:
        """See `Additive.choose`."""
        beliefs, draws = _numerics()
        mean, deviation, _ = view = sums["view"]
        arm = int((mean + deviation * draws.normals(seed, index, mean.size)).argmin())
        # The smallest of numbers among which there are NaN is NaN: a family of which nothing is known.
        if mean[arm] != mean[arm]:
            new = beliefs.strangers(view, self.space.families)
            arm = new[(seed + index) % len(new)]
        return arm, 1.0

    def learn(self, sums: Sums, decision: Decision, cost: float, status: str) -> Sums:
        """See `Additive.learn`."""
        beliefs, _ = _numerics()
        arm, lost = decision.arm, sums["lost"]
        table = beliefs.note(sums["table"], arm, cost, status)
        if status != "ok" and arm not in lost:
            lost = sorted([*lost, arm])
        view = beliefs.refreshed(sums["view"], table, arm, lost, self.space.families)
        return {"table": table, "view": view, "lost": lost}

    def best(self, state: State, features: Features) -> int:
        """See `Tuner.best`; without any outcome the first arm."""
        import numpy as np

        mean = state["sums"]["view"][0]
        return int(np.where(np.isnan(mean), np.inf, mean).argmin())

    def _known(self, table: np.ndarray) -> Sums:
        beliefs, _ = _numerics()
        lost = beliefs.lost(table)
        return {"table": table, "view": beliefs.view(table, lost, self.space.families), "lost": lost}
