"""Discounted: a tuner that forgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sciflow.controller import Features
from sciflow.errors import Invalid
from sciflow_control.bandits.tuner import Additive, Decision, State, Sums
from sciflow_control.space import Values


@dataclass(frozen=True)
class Discounted(Additive):
    """Decides on the latest outcomes alone, for costs that drift.

    Attributes
    ----------
    inner : Additive
        What learns. `Held` and `Keyed` go outside: ``Keyed(Discounted(Thompson()), by=("level",))``.
    window : int
        After so many outcomes a new block of sums begins. The decisions rest on the last complete block and
        the one that grows: on between `window` and twice as many outcomes.

    Raises
    ------
    Invalid
        If `window` has a value that it cannot have.

    Notes
    -----
    Sums are dropped as a whole and never scaled, so they stay exact. After a switch of the best arm the
    last outcome from before it is forgotten after at most 2 window more.

    Merged states know the last block of all and what grows of all: each is as recent as its owner's last
    outcome. As blocks add, merging stays associative. `absorb` takes the rows of a log for the next
    outcomes, in their order, so the log that is absorbed last counts most.

    A block holds window outcomes and no more, which is enough for a few arms or a few coefficients. A
    larger window learns better and follows later. Costs are two updates of the inner sums per outcome.
    """

    name: ClassVar[str] = "discounted"
    inner: Additive
    window: int = 25

    def __post_init__(self) -> None:
        given: object = self.inner
        if not isinstance(given, Additive):
            name = getattr(given, "name", given)
            raise Invalid(
                f"{self.name}: {name} has no sums to forget; put it outside: Keyed(Discounted(...), by=...)"
            )
        if self.window < 1:
            raise Invalid(f"{self.name}: a block holds an outcome at least, got window={self.window}")

    @classmethod
    def example(cls) -> Self:
        """A window of four outcomes."""
        from sciflow_control.bandits.thompson import Thompson

        return cls(Thompson(), 4)

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """See `Controller.ranges`."""
        return self.inner.ranges

    @property
    def arms(self) -> tuple[Values, ...]:
        """See `Tuner.arms`."""
        return self.inner.arms

    def empty(self) -> Sums:
        """The last complete block, the one that grows with the number of its outcomes, and both together."""
        none = self.inner.empty()
        return {"old": none, "new": none, "both": none, "grown": 0}

    def combine(self, first: Sums, second: Sums) -> Sums:
        """See `Additive.combine`."""
        old = self.inner.combine(first["old"], second["old"])
        new = self.inner.combine(first["new"], second["new"])
        grown = first["grown"] + second["grown"]
        return {"old": old, "new": new, "both": self.inner.combine(old, new), "grown": grown}

    def decide(self, sums: Sums, features: Features, seed: int, index: int) -> Decision:
        """See `Additive.decide`."""
        return self.inner.decide(sums["both"], features, seed, index)

    def choose(self, sums: Sums, features: Features, seed: int, index: int) -> tuple[int, float]:
        """See `Additive.choose`."""
        return self.inner.choose(sums["both"], features, seed, index)

    def learn(self, sums: Sums, decision: Decision, cost: float, status: str) -> Sums:
        """See `Additive.learn`."""
        new = self.inner.tally(sums["new"], decision, cost, status)
        if sums["grown"] + 1 >= self.window:
            none = self.inner.empty()
            old = self.inner.combine(new, none)
            return {"old": old, "new": none, "both": old, "grown": 0}
        both = self.inner.learn(sums["both"], decision, cost, status)
        return {"old": sums["old"], "new": new, "both": both, "grown": sums["grown"] + 1}

    def best(self, state: State, features: Features) -> int:
        """See `Tuner.best`."""
        return self.inner.best({**state, "sums": state["sums"]["both"]}, features)
