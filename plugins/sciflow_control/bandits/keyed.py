"""Keyed: one tuner for every value of some features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from hashlib import sha256
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.controller import Features, Proposal
from sciflow.errors import Invalid, NotFound, nearest
from sciflow_control.bandits.tuner import OPEN, Decision, State, Tuner, check_features, rows
from sciflow_control.space import Values

if TYPE_CHECKING:
    import numpy as np

WIDEST = 2.0**53
"""Largest value of a feature that is a key."""


@dataclass(frozen=True)
class Keyed(Tuner):
    """Learns by itself for every combination of values of some features: field, level, number of ranks.

    Attributes
    ----------
    inner : Tuner
        What learns for one of them.
    by : tuple of str
        The features; any two different values are different keys, so they should be whole numbers or few.

    Raises
    ------
    Invalid
        If `by` has a value that it cannot have.

    Notes
    -----
    A key begins when it is first met; its random numbers follow from the seed and the key, not from what
    else was met before. States merge key by key.
    """

    name: ClassVar[str] = "keyed"
    inner: Tuner
    by: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.by or len(set(self.by)) != len(self.by):
            raise Invalid(f"{self.name}: by must name features, each once, got {self.by}")
        if any(mark in name for name in self.by for mark in ",="):
            raise Invalid(
                f"{self.name}: names of features must be without commas and equals signs, got {self.by}"
            )
        both = [n for n in self.by if n in self.inner.ranges]
        if both:
            raise Invalid(
                f"{self.name}: {both[0]!r} is a feature of {self.inner.name}, it cannot be a key too"
            )

    @classmethod
    def example(cls) -> Self:
        """By the number of ranks."""
        from sciflow_control.bandits.thompson import Thompson

        return cls(Thompson(), ("ranks",))

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Those of the inner tuner, and the keys with any number."""
        return {**self.inner.ranges, **dict.fromkeys(self.by, (-WIDEST, WIDEST))}

    @property
    def arms(self) -> tuple[Values, ...]:
        """See `Tuner.arms`."""
        return self.inner.arms

    def key(self, features: Features) -> str:
        """The key of some features, as ``ranks=2``.

        Raises
        ------
        Invalid
            If one that it is made of is missing or no number.
        """
        for name in self.by:
            if name not in features:
                raise Invalid(f"{self.name}: it needs the feature {name!r}. {nearest(name, features)}")
            if not -WIDEST <= features[name] <= WIDEST:
                raise Invalid(f"{self.name}: the feature {name!r} must be a number, got {features[name]}")
        return ",".join(f"{name}={features[name] + 0.0:.17g}" for name in self.by)

    def init(self, rng: np.random.Generator) -> State:
        """See `Controller.init`."""
        return {"seed": int(rng.integers(2**63)), "count": 0, "open": {}, "states": {}}

    def propose(self, state: State, features: Features) -> tuple[Proposal, State]:
        """See `Controller.propose`.

        Raises
        ------
        Invalid
            If a feature of `ranges` is missing, not a number or outside its range.
        """
        check_features(self, features)
        key = self.key(features)
        made, inner = self.inner.propose(self._state(state, key), features)
        token = state["count"]
        waiting = {**state["open"], str(token): [key, made.token]}
        if len(waiting) > OPEN:
            del waiting[min(waiting, key=int)]
        states = {**state["states"], key: inner}
        return Proposal(made.values, token), {**state, "count": token + 1, "open": waiting, "states": states}

    def decision(self, state: State, token: int) -> Decision:
        """See `Tuner.decision`; the values of the key are among the features."""
        key, number = self._waiting(state, token)
        made = self.inner.decision(state["states"][key], number)
        return Decision(made.arm, made.probability, {**made.features, **_values(key)})

    def observe(self, state: State, token: int, cost: float, status: str) -> State:
        """See `Controller.observe`.

        Raises
        ------
        NotFound
            If the token was never proposed or already observed.
        Invalid
            If the cost is missing, negative or not finite.
        """
        key, number = self._waiting(state, token)
        inner = self.inner.observe(state["states"][key], number, cost, status)
        waiting = {k: v for k, v in state["open"].items() if k != str(token)}
        return {**state, "open": waiting, "states": {**state["states"], key: inner}}

    def absorb(self, state: State, log: Mapping[str, np.ndarray]) -> State:
        """See `Tuner.absorb`.

        Raises
        ------
        Invalid
            If a column is missing or of another length, or a value in it cannot be; with the row.
        """
        import numpy as np

        found = [self.key(d.features) for d, _, _ in rows(log, len(self.arms), self.name)]
        states = dict(state["states"])
        for key in dict.fromkeys(found):
            chosen = np.array([k == key for k in found])
            part = {name: column[chosen] for name, column in log.items()}
            states[key] = self.inner.absorb(self._state(state, key), part)
        return {**state, "states": states}

    def merge(self, states: Sequence[State]) -> State:
        """See `Tuner.merge`.

        Raises
        ------
        Invalid
            If there are none, or they are those of different tuners.
        """
        if not states:
            raise Invalid(f"{self.name}: no states to merge")
        if not all("states" in state for state in states):
            raise Invalid(f"{self.name}: states of different tuners cannot be merged")
        return reduce(self._merged, states)

    def best(self, state: State, features: Features) -> int:
        """See `Tuner.best`."""
        check_features(self, features)
        return self.inner.best(self._state(state, self.key(features)), features)

    def expire(self, state: State, before: int) -> State:
        """See `Tuner.expire`."""
        waiting = {k: v for k, v in state["open"].items() if int(k) >= before}
        states = dict(state["states"])
        for token, (key, number) in state["open"].items():
            if token not in waiting:
                states[key] = self.inner.expire(states[key], number + 1)
        return {**state, "open": waiting, "states": states}

    def _merged(self, first: State, second: State) -> State:
        states = dict(first["states"])
        for key, known in second["states"].items():
            # The random numbers of a key are those of the first state, whether it has met the key or not.
            states[key] = self.inner.merge([self._state(first, key), known])
        return {**first, "states": states}

    def _state(self, state: State, key: str) -> State:
        """The state of a key, a new one where it was not met."""
        import numpy as np

        if key in state["states"]:
            met: State = state["states"][key]
            return met
        digest = int.from_bytes(sha256(key.encode()).digest()[:8], "big")
        new: State = self.inner.init(np.random.default_rng([state["seed"], digest]))
        return new

    def _waiting(self, state: State, token: int) -> tuple[str, int]:
        entry = state["open"].get(str(token))
        if entry is None:
            made = f"{state['count']} were made, {', '.join(list(state['open'])[:8]) or 'none'} wait"
            raise NotFound(f"{self.name}: no proposal with token {token} waits for its outcome; {made}")
        return entry[0], entry[1]


def _values(key: str) -> dict[str, float]:
    """The features that a key was made of."""
    pairs = (part.rpartition("=") for part in key.split(","))
    return {name: float(value) for name, _, value in pairs}
