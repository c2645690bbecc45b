"""Policies that do not learn, to compare with; they keep the sums that a report shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sciflow.controller import Features
from sciflow.errors import Invalid
from sciflow_control.bandits.tuner import Bandit, Decision, State, Sums
from sciflow_control.space import Relaxation, Space


def _counts(bandit: Bandit) -> Sums:
    import numpy as np

    return {"pulls": np.zeros(len(bandit.arms), dtype=np.int64)}


def _counted(sums: Sums, arm: int) -> Sums:
    pulls = sums["pulls"].copy()
    pulls[arm] += 1
    return {"pulls": pulls}


@dataclass(frozen=True)
class Fixed(Bandit):
    """Always the same arm.

    Attributes
    ----------
    space : Space
        What the arm is of.
    arm : int
        Index into the arms.

    Raises
    ------
    Invalid
        If `arm` or `space` has a value that it cannot have.
    """

    name: ClassVar[str] = "fixed"
    space: Space = Relaxation()
    arm: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.arm < len(self.space.arms):
            raise Invalid(f"fixed: no arm {self.arm}, {self.space.name} has 0 to {len(self.space.arms) - 1}")

    def empty(self) -> Sums:
        """How often each arm was played."""
        return _counts(self)

    def choose(self, sums: Sums, features: Features, seed: int, index: int) -> tuple[int, float]:
        """The arm."""
        return self.arm, 1.0

    def learn(self, sums: Sums, decision: Decision, cost: float, status: str) -> Sums:
        """See `Additive.learn`."""
        return _counted(sums, decision.arm)

    def best(self, state: State, features: Features) -> int:
        """The arm."""
        return self.arm


@dataclass(frozen=True)
class Random(Bandit):
    """Every arm with the same probability.

    Attributes
    ----------
    space : Space
        What it draws from.
    """

    name: ClassVar[str] = "random"
    space: Space = Relaxation()

    def empty(self) -> Sums:
        """How often each arm was played."""
        return _counts(self)

    def choose(self, sums: Sums, features: Features, seed: int, index: int) -> tuple[int, float]:
        """See `Additive.choose`."""
        from sciflow_control.bandits.draws import uniform

        count = len(self.arms)
        return int(uniform(seed, index) * count), 1 / count

    def learn(self, sums: Sums, decision: Decision, cost: float, status: str) -> Sums:
        """See `Additive.learn`."""
        return _counted(sums, decision.arm)

    def best(self, state: State, features: Features) -> int:
        """The first arm; it holds none for the best."""
        return 0
