"""Thompson sampling on the logarithm of the cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sciflow.controller import Features
from sciflow_control.bandits.tuner import SCALE, Bandit, Decision, Sums
from sciflow_control.space import Relaxation, Space


@dataclass(frozen=True)
class Thompson(Bandit):
    """Plays the arm whose log cost, drawn from what is believed of it, is the smallest.

    Attributes
    ----------
    space : Space
        What it chooses from.
    """

    name: ClassVar[str] = "thompson"
    requires: ClassVar[tuple[str, ...]] = ()
    space: Space = Relaxation()

    def empty(self) -> Sums:
        """Pulls, sum and sum of squares of the log cost of every arm."""
        import numpy as np

        return {k: np.zeros(len(self.arms), dtype=np.int64) for k in ("pulls", "sum", "squares")}

    def choose(self, sums: Sums, features: Features, seed: int, index: int) -> tuple[int, float]:
        """See `Bandit.choose`."""
        import numpy as np

        from sciflow_control.bandits.draws import normals

        pulls = sums["pulls"]
        if not pulls.all():
            return int(np.argmin(pulls)), 1.0
        mean = sums["sum"] / (pulls * SCALE)
        variance = np.maximum(sums["squares"] / (pulls * SCALE) - mean**2, 1e-4)
        drawn = mean + np.sqrt(variance / pulls) * normals(seed, index, len(pulls))
        return int(np.argmin(drawn)), 1.0

    def learn(self, sums: Sums, decision: Decision, cost: float, status: str) -> Mapping[str, Any]:
        """See `Bandit.learn`."""
        y = math.log(max(cost, 1e-12))
        if status != "ok":
            y += 1.0
        after = {k: v.copy() for k, v in sums.items()}
        after["pulls"][decision.arm] += 1
        after["sum"][decision.arm] += round(y * SCALE)
        after["squares"][decision.arm] += round(y * y * SCALE)
        return after

    def best(self, state: dict[str, Any], features: Features) -> int:
        """See `Tuner.best`."""
        import numpy as np

        pulls = state["sums"]["pulls"]
        mean = np.where(pulls > 0, state["sums"]["sum"] / np.maximum(pulls, 1), np.inf)
        return int(np.argmin(mean))
