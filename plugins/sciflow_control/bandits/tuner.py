"""Tuner: a controller that chooses among the arms of a space and learns from what they cost."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sciflow.controller import Controller, Features, Proposal
from sciflow.errors import Invalid, NotFound
from sciflow_control.space import Space, Values

if TYPE_CHECKING:
    import numpy as np

State = dict[str, Any]
Sums = Mapping[str, Any]
"""Sufficient statistics: arrays of int64 in fixed point. They add, so that states merge."""

STATUSES = ("ok", "failed", "censored")
"""A cost is what the solve took, or (failed, censored) what was spent on it before it was given up."""
SCALE = 2**24
"""One over the unit of the fixed point: sums of integers do not depend on their order."""


@dataclass(frozen=True)
class Decision:
    """What a tuner decided under a token.

    Attributes
    ----------
    arm : int
        Index into the arms.
    probability : float
        That it was drawn with; 1 where it was not drawn.
    features : mapping of str to float
        What was known.
    """

    arm: int
    probability: float
    features: Features


class Tuner(Controller):
    """A controller over a finite space whose states can be merged and replayed."""

    @property
    @abstractmethod
    def arms(self) -> tuple[Values, ...]:
        """The settings that it chooses from."""

    @abstractmethod
    def decision(self, state: State, token: int) -> Decision:
        """What was decided under a token that has no outcome yet.

        Raises
        ------
        NotFound
            If the token was never proposed or already observed.
        """

    @abstractmethod
    def absorb(self, state: State, log: Mapping[str, np.ndarray]) -> State:
        """The state after having learned from outcomes that somebody else observed.

        Parameters
        ----------
        state : dict
            From `init`, `propose`, `observe` or `absorb`.
        log : mapping of str to ndarray, shape (n,)
            Columns ``arm``, ``probability``, ``cost``, ``status`` (index into `STATUSES`) and
            ``feature_<name>`` for every feature.
        """

    @abstractmethod
    def merge(self, states: Sequence[State]) -> State:
        """One state that knows what all of them learned; associative, and commutative but for the draws.

        What is open stays open in the first of them alone. States must not have learned from each other.
        """

    @abstractmethod
    def best(self, state: State, features: Features) -> int:
        """The arm that it holds for the best, nothing tried out."""


@dataclass(frozen=True)
class Bandit(Tuner):
    """A tuner whose knowledge is a set of sums.

    Attributes
    ----------
    space : Space
        What it chooses from.
    """

    space: Space

    @property
    def arms(self) -> tuple[Values, ...]:
        """See `Tuner.arms`."""
        return self.space.arms

    @abstractmethod
    def empty(self) -> Sums:
        """The sums before anything was seen."""

    @abstractmethod
    def choose(self, sums: Sums, features: Features, seed: int, index: int) -> tuple[int, float]:
        """An arm and its probability, from the sums and the random numbers of (seed, index)."""

    @abstractmethod
    def learn(self, sums: Sums, decision: Decision, cost: float, status: str) -> Sums:
        """The sums after an outcome; the given ones stay as they are."""

    def init(self, rng: np.random.Generator) -> State:
        """See `Controller.init`."""
        return {"seed": int(rng.integers(2**63)), "count": 0, "open": {}, "sums": self.empty()}

    def propose(self, state: State, features: Features) -> tuple[Proposal, State]:
        """See `Controller.propose`."""
        token = state["count"]
        arm, probability = self.choose(state["sums"], features, state["seed"], token)
        entry = {"arm": arm, "probability": probability, "features": dict(features)}
        after = {**state, "count": token + 1, "open": {**state["open"], str(token): entry}}
        return Proposal(self.arms[arm], token), after

    def decision(self, state: State, token: int) -> Decision:
        """See `Tuner.decision`."""
        try:
            return Decision(**state["open"][str(token)])
        except KeyError:
            raise NotFound(f"{self.name}: no proposal with token {token} waits for its outcome") from None

    def observe(self, state: State, token: int, cost: float, status: str) -> State:
        """See `Controller.observe`.

        Raises
        ------
        NotFound
            If the token was never proposed or already observed.
        Invalid
            If the cost is missing, negative or not finite.
        """
        decision = self.decision(state, token)
        sums = self.learn(state["sums"], decision, checked(cost, self.name), status)
        return {**state, "open": {k: v for k, v in state["open"].items() if k != str(token)}, "sums": sums}

    def absorb(self, state: State, log: Mapping[str, np.ndarray]) -> State:
        """See `Tuner.absorb`."""
        sums = state["sums"]
        names = [n for n in log if n.startswith("feature_")]
        for i in range(len(log["arm"])):
            features = {n.removeprefix("feature_"): float(log[n][i]) for n in names}
            decision = Decision(int(log["arm"][i]), float(log["probability"][i]), features)
            sums = self.learn(sums, decision, float(log["cost"][i]), STATUSES[int(log["status"][i])])
        return {**state, "sums": sums}

    def merge(self, states: Sequence[State]) -> State:
        """See `Tuner.merge`."""
        first = states[0]
        return {**first, "sums": {k: sum(s["sums"][k] for s in states) for k in first["sums"]}}


def checked(cost: float | None, name: str) -> float:
    """A cost that can be learned from.

    Raises
    ------
    Invalid
        If it is missing, negative or not finite.
    """
    if cost is None or not math.isfinite(cost) or cost < 0:
        raise Invalid(f"{name}: a cost must be finite and not negative, got {cost}")
    return float(cost)
