"""Tuner: a controller that chooses among the arms of a space and learns from what they cost."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any

from sciflow.controller import Controller, Features, Proposal
from sciflow.errors import Invalid, NotFound, nearest
from sciflow_control.space import Space, Values

if TYPE_CHECKING:
    import numpy as np

State = dict[str, Any]
Sums = Mapping[str, Any]
"""Sufficient statistics: arrays of int64 in fixed point, or mappings of such; they add, so states merge."""

STATUSES = ("ok", "failed", "censored")
"""A cost is what the solve took, or (failed, censored) what was spent on it before it was given up."""
SCALE = 2**24
"""One over the unit of the fixed point: sums of integers do not depend on their order."""
OPEN = 1024
"""Proposals without an outcome that a state keeps; the oldest are forgotten first."""


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
        What was known, and what the tuner itself noted of this decision.
    """

    arm: int
    probability: float = 1.0
    features: Features = field(default_factory=dict)


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
            ``feature_<name>`` for every feature; other columns are not looked at.

        Raises
        ------
        Invalid
            If a column is missing or shorter, or an arm, probability, cost or status cannot be.
        """

    @abstractmethod
    def merge(self, states: Sequence[State]) -> State:
        """One state that knows what all of them learned; associative, and commutative but for the draws.

        The random numbers and what is open are those of the first of them alone. States must not have
        learned from each other.
        """

    @abstractmethod
    def best(self, state: State, features: Features) -> int:
        """The arm that it holds for the best, nothing tried out."""

    def expire(self, state: State, before: int) -> State:
        """The state without the open proposals whose token is below `before`; nothing is learned of them.

        For outcomes that never come back, because a job was killed. By default the state as it is.
        """
        return state


class Additive(Tuner):
    """A tuner whose knowledge is a set of sums.

    Notes
    -----
    A subclass says how knowledge begins (`empty`), decides (`choose` or `decide`) and grows (`learn`), and
    how two pieces of it become one (`combine`, if they do not just add). As sums of integers depend on no
    order, late outcomes, logs and merged states give the same bits as outcomes in turn.
    """

    @abstractmethod
    def empty(self) -> Sums:
        """The sums before anything was seen."""

    @abstractmethod
    def choose(self, sums: Sums, features: Features, seed: int, index: int) -> tuple[int, float]:
        """An arm and its probability, from the sums and the random numbers of (seed, index)."""

    @abstractmethod
    def learn(self, sums: Sums, decision: Decision, cost: float, status: str) -> Sums:
        """The sums after an outcome; the given ones stay as they are."""

    def tally(self, sums: Sums, decision: Decision, cost: float, status: str) -> Sums:
        """`learn` for sums that are combined before they are decided on: may leave what follows from them."""
        return self.learn(sums, decision, cost, status)

    def decide(self, sums: Sums, features: Features, seed: int, index: int) -> Decision:
        """A decision, with what `learn` will need of it; by default what `choose` says."""
        arm, probability = self.choose(sums, features, seed, index)
        return Decision(arm, probability, dict(features))

    def combine(self, first: Sums, second: Sums) -> Sums:
        """What two sums know together; associative and commutative to the bit."""
        return added(first, second)

    def init(self, rng: np.random.Generator) -> State:
        """See `Controller.init`."""
        return {"seed": int(rng.integers(2**63)), "count": 0, "open": {}, "sums": self.empty()}

    def propose(self, state: State, features: Features) -> tuple[Proposal, State]:
        """See `Controller.propose`.

        Raises
        ------
        Invalid
            If a feature of `ranges` is missing, not a number or outside its range.
        """
        check_features(self, features)
        token = state["count"]
        made = self.decide(state["sums"], features, state["seed"], token)
        waiting = dict(state["open"])
        waiting[str(token)] = {"arm": made.arm, "probability": made.probability, "features": made.features}
        if len(waiting) > OPEN:
            del waiting[min(waiting, key=int)]
        return Proposal(self.arms[made.arm], token), {**state, "count": token + 1, "open": waiting}

    def decision(self, state: State, token: int) -> Decision:
        """See `Tuner.decision`."""
        entry = state["open"].get(str(token))
        if entry is None:
            made = f"{state['count']} were made, {', '.join(list(state['open'])[:8]) or 'none'} wait"
            raise NotFound(f"{self.name}: no proposal with token {token} waits for its outcome; {made}")
        return Decision(entry["arm"], entry["probability"], entry["features"])

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
        waiting = dict(state["open"])
        del waiting[str(token)]
        return {**state, "open": waiting, "sums": sums}

    def expire(self, state: State, before: int) -> State:
        """See `Tuner.expire`."""
        return {**state, "open": {k: v for k, v in state["open"].items() if int(k) >= before}}

    def absorb(self, state: State, log: Mapping[str, np.ndarray]) -> State:
        """See `Tuner.absorb`."""
        sums = state["sums"]
        for decision, cost, status in rows(log, len(self.arms), self.name):
            sums = self.learn(sums, decision, cost, status)
        return {**state, "sums": sums}

    def merge(self, states: Sequence[State]) -> State:
        """See `Tuner.merge`.

        Raises
        ------
        Invalid
            If there are none, or they are those of different tuners or spaces, as far as shapes show it.
        """
        if not states:
            raise Invalid(f"{self.name}: no states to merge")
        for state in states:
            if not _alike(states[0].get("sums"), state.get("sums")):
                raise Invalid(f"{self.name}: states of different tuners or spaces cannot be merged")
        return {**states[0], "sums": reduce(self.combine, [s["sums"] for s in states])}


@dataclass(frozen=True)
class Bandit(Additive):
    """A tuner with a space of its own, whose knowledge is a set of sums.

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


def added(first: Sums, second: Sums) -> dict[str, Any]:
    """Two sums as one: arrays add, mappings go by their keys."""
    return {k: added(v, second[k]) if isinstance(v, Mapping) else v + second[k] for k, v in first.items()}


def _alike(first: Any, second: Any) -> bool:
    """Whether two sums can be of one tuner: the same names, and arrays of integers of the same shapes."""
    if isinstance(first, Mapping):
        same = isinstance(second, Mapping) and first.keys() == second.keys()
        return same and all(_alike(v, second[k]) for k, v in first.items())
    if getattr(first, "dtype", None) == "int64":
        return bool(first.shape == getattr(second, "shape", None))
    return first is not None


def checked(cost: float | None, name: str) -> float:
    """A cost that can be learned from.

    Raises
    ------
    Invalid
        If it is missing, no number, negative or not finite.
    """
    try:
        value = math.nan if cost is None else float(cost)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value < math.inf:
        raise Invalid(f"{name}: a cost must be finite and not negative, got {cost!r}")
    return value


def check_features(tuner: Controller, features: Features) -> None:
    """Refuse what a tuner cannot decide on.

    Raises
    ------
    Invalid
        If a feature of its `ranges` is missing, not a number or outside its range.
    """
    for name, (low, high) in tuner.ranges.items():
        if name not in features:
            raise Invalid(f"{tuner.name}: it needs the feature {name!r}. {nearest(name, features)}")
        try:
            inside = low <= features[name] <= high
        except TypeError:
            inside = False
        if not inside:
            raise Invalid(
                f"{tuner.name}: the feature {name!r} must lie between {low:g} and {high:g}, "
                f"got {features[name]}; widen the range of the tuner"
            )


def rows(log: Mapping[str, np.ndarray], arms: int, name: str) -> list[tuple[Decision, float, str]]:
    """A log as decisions with their outcomes, checked.

    Parameters
    ----------
    log : mapping of str to ndarray, shape (n,)
        See `Tuner.absorb`.
    arms : int
        How many the tuner has.
    name : str
        Of the tuner, for messages.

    Raises
    ------
    Invalid
        If a column is missing or of another length, or a value in it cannot be; with the row.
    """
    needed = ("arm", "probability", "cost", "status")
    missing = [c for c in needed if c not in log]
    if missing:
        raise Invalid(
            f"{name}: the log has no column {', '.join(missing)}; it has {', '.join(log) or 'none'}"
        )
    columns = [c for c in log if c in needed or c.startswith("feature_")]
    values = {c: log[c].tolist() for c in columns}
    lengths = {c: len(v) for c, v in values.items()}
    if len(set(lengths.values())) != 1:
        raise Invalid(f"{name}: the columns of a log must have one length, they have {lengths}")
    features = {c: c.removeprefix("feature_") for c in columns if c not in needed}
    found: list[tuple[Decision, float, str]] = []
    for i, (arm, p, cost, status) in enumerate(zip(*(values[c] for c in needed), strict=True)):
        if not 0 <= arm < arms or arm != int(arm):
            raise Invalid(f"{name}: row {i} of the log has the arm {arm}; there are {arms}: another space?")
        if not 0 < p <= 1:
            raise Invalid(f"{name}: row {i} of the log has the probability {p}, it must be in (0, 1]")
        if status not in range(len(STATUSES)):
            raise Invalid(f"{name}: row {i} of the log has the status {status}, known are 0 to 2: {STATUSES}")
        known = {feature: values[c][i] for c, feature in features.items()}
        found.append((Decision(int(arm), p, known), checked(cost, f"{name}: row {i}"), STATUSES[int(status)]))
    return found
