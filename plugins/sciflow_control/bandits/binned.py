"""Binned: a bandit of its own for every bin of a feature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from sciflow.controller import Features
from sciflow.errors import Invalid
from sciflow_control.bandits.contextual import check_range
from sciflow_control.bandits.tuner import Additive, Decision, State, Sums, check_features
from sciflow_control.space import Values


@dataclass(frozen=True)
class Binned(Additive):
    """Cuts the range of a feature into bins and learns in each by itself.

    Attributes
    ----------
    inner : Additive
        What learns in a bin.
    feature : str
        What the bins are of.
    low, high : float
        Its range.
    bins : int
        How many, of equal width.
    log : bool
        Of equal width on a logarithmic scale.

    Raises
    ------
    Invalid
        If `bins` has a value that it cannot have.
    """

    name: ClassVar[str] = "binned"
    inner: Additive
    feature: str
    low: float
    high: float
    bins: int = 5
    log: bool = False

    def __post_init__(self) -> None:
        check_range(self.name, self.feature, self.low, self.high, positive=self.log)
        if self.bins < 1:
            raise Invalid(f"binned: at least one bin is needed, got {self.bins}")

    @classmethod
    def example(cls) -> Binned:
        """Relaxation parameters by the shift of the operator."""
        from sciflow_control.bandits.thompson import Thompson

        return cls(Thompson(), "shift", -0.15, 0.45)

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """The feature, and those of the inner bandit."""
        return {**self.inner.ranges, self.feature: (self.low, self.high)}

    @property
    def arms(self) -> tuple[Values, ...]:
        """See `Tuner.arms`."""
        return self.inner.arms

    def empty(self) -> Sums:
        """Those of every bin."""
        return {str(b): self.inner.empty() for b in range(self.bins)}

    def bin(self, features: Features) -> str:
        """The name of the bin that a value is in; both ends of the range belong to it."""
        value, low, high = features[self.feature], self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return str(min(max(int((value - low) / (high - low) * self.bins), 0), self.bins - 1))

    def combine(self, first: Sums, second: Sums) -> Sums:
        """See `Additive.combine`."""
        return {b: self.inner.combine(first[b], second[b]) for b in first}

    def decide(self, sums: Sums, features: Features, seed: int, index: int) -> Decision:
        """See `Additive.decide`."""
        return self.inner.decide(sums[self.bin(features)], features, seed, index)

    def choose(self, sums: Sums, features: Features, seed: int, index: int) -> tuple[int, float]:
        """See `Additive.choose`."""
        return self.inner.choose(sums[self.bin(features)], features, seed, index)

    def learn(self, sums: Sums, decision: Decision, cost: float, status: str) -> Sums:
        """See `Additive.learn`.

        Raises
        ------
        Invalid
            If the feature of the bins is not among those of the decision.
        """
        check_features(self, decision.features)
        b = self.bin(decision.features)
        return {**sums, b: self.inner.learn(sums[b], decision, cost, status)}

    def best(self, state: State, features: Features) -> int:
        """See `Tuner.best`."""
        check_features(self, features)
        return self.inner.best({**state, "sums": state["sums"][self.bin(features)]}, features)
