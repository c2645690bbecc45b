"""Held: one decision for several solves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.controller import Features, Proposal
from sciflow.errors import Invalid, NotFound
from sciflow_control.bandits.tuner import (
    OPEN,
    STATUSES,
    Decision,
    State,
    Tuner,
    check_features,
    checked,
    rows,
)
from sciflow_control.space import Values

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Held(Tuner):
    """Keeps each decision of another tuner for some solves, which count as one outcome: the mean cost.

    Attributes
    ----------
    inner : Tuner
        What decides.
    every : int
        Solves with one decision.

    Raises
    ------
    Invalid
        If `every` has a value that it cannot have.

    Notes
    -----
    The features of the first of the solves are those of the decision. A solve that fails, or is given up,
    ends the holding at once: its outcome goes to the inner tuner with the mean of the costs so far, the
    next solve has a new decision, and outcomes of the same decision that come later are not counted. For
    solves so cheap that a decision would be felt, and for costs that are noisy from one to the next.

    In a log the solves of one decision are those with the same ``feature_held`` in consecutive rows; rows
    without it count each by itself.
    """

    name: ClassVar[str] = "held"
    inner: Tuner
    every: int = 10

    def __post_init__(self) -> None:
        if self.every < 1:
            raise Invalid(f"{self.name}: a decision is for one solve at least, got every={self.every}")

    @classmethod
    def example(cls) -> Self:
        """Three solves with one decision."""
        from sciflow_control.bandits.thompson import Thompson

        return cls(Thompson(), 3)

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """See `Controller.ranges`."""
        return self.inner.ranges

    @property
    def arms(self) -> tuple[Values, ...]:
        """See `Tuner.arms`."""
        return self.inner.arms

    def init(self, rng: np.random.Generator) -> State:
        """See `Controller.init`.

        ``blocks`` holds the decisions whose outcomes are not complete, by the tokens that the inner tuner
        gave them, ``last`` the latest token; ``open`` the tokens without an outcome and the block of each.
        """
        return {"inner": self.inner.init(rng), "count": 0, "last": -1, "blocks": {}, "open": {}}

    def propose(self, state: State, features: Features) -> tuple[Proposal, State]:
        """See `Controller.propose`.

        Raises
        ------
        Invalid
            If a feature of `ranges` is missing, not a number or outside its range.
        """
        check_features(self, features)
        inner, blocks, last = state["inner"], dict(state["blocks"]), state["last"]
        block = blocks.get(str(last))
        if block is None or block["made"] == self.every:
            proposal, inner = self.inner.propose(inner, features)
            made = self.inner.decision(inner, proposal.token)
            last = proposal.token
            block = {
                "made": 0,
                "costs": [],
                "arm": made.arm,
                "probability": made.probability,
                "features": dict(made.features),
            }
        token = state["count"]
        blocks[str(last)] = {**block, "made": block["made"] + 1}
        waiting = {**state["open"], str(token): last}
        if len(waiting) > OPEN:
            state = self.expire({**state, "blocks": blocks, "open": waiting}, token + 1 - OPEN)
            waiting, blocks = state["open"], dict(state["blocks"])
        after = {"inner": inner, "count": token + 1, "last": last, "blocks": blocks, "open": waiting}
        return Proposal(self.arms[block["arm"]], token), after

    def decision(self, state: State, token: int) -> Decision:
        """See `Tuner.decision`; the number of the decision is among the features, as ``held``."""
        number = self._block(state, token)
        block = state["blocks"].get(str(number))
        if block is None:
            raise NotFound(f"{self.name}: the decision of token {token} has ended with a failed solve")
        return Decision(block["arm"], block["probability"], {**block["features"], "held": float(number)})

    def observe(self, state: State, token: int, cost: float, status: str) -> State:
        """See `Controller.observe`.

        Raises
        ------
        NotFound
            If the token was never proposed or already observed.
        Invalid
            If the cost is missing, negative or not finite.
        """
        number = self._block(state, token)
        value = checked(cost, self.name)
        waiting = {k: v for k, v in state["open"].items() if k != str(token)}
        after = {**state, "open": waiting}
        block = state["blocks"].get(str(number))
        if block is None:
            return after
        costs, blocks = [*block["costs"], value], dict(state["blocks"])
        after["blocks"] = blocks
        over = block["made"] == self.every and number not in waiting.values()
        if status == "ok" and not over:
            blocks[str(number)] = {**block, "costs": costs}
            return after
        del blocks[str(number)]
        return {**after, "inner": self.inner.observe(state["inner"], number, _mean(costs), status)}

    def absorb(self, state: State, log: Mapping[str, np.ndarray]) -> State:
        """See `Tuner.absorb`.

        Raises
        ------
        Invalid
            If a column is missing or of another length, or a value in it cannot be; with the row.
        """
        import numpy as np

        rows(log, len(self.arms), self.name)
        if "feature_held" not in log:
            return {**state, "inner": self.inner.absorb(state["inner"], log)}
        kept, costs = [], []
        for first, last in self._runs(log):
            kept.append(last)
            costs.append(_mean(log["cost"][first : last + 1].tolist()))
        chosen = np.array(kept, dtype=int)
        short = {k: v[chosen] for k, v in log.items() if k != "feature_held"}
        return {**state, "inner": self.inner.absorb(state["inner"], {**short, "cost": np.array(costs)})}

    def merge(self, states: Sequence[State]) -> State:
        """See `Tuner.merge`.

        Raises
        ------
        Invalid
            If there are none, or they are those of different tuners.
        """
        if not states:
            raise Invalid(f"{self.name}: no states to merge")
        return {**states[0], "inner": self.inner.merge([s.get("inner", {}) for s in states])}

    def best(self, state: State, features: Features) -> int:
        """See `Tuner.best`."""
        return self.inner.best(state["inner"], features)

    def expire(self, state: State, before: int) -> State:
        """See `Tuner.expire`; decisions of which no solve is open are forgotten, with their costs."""
        waiting = {k: v for k, v in state["open"].items() if int(k) >= before}
        needed = {*waiting.values(), state["last"]}
        blocks = {k: v for k, v in state["blocks"].items() if int(k) in needed}
        inner = self.inner.expire(state["inner"], min(needed))
        return {**state, "inner": inner, "blocks": blocks, "open": waiting}

    def _block(self, state: State, token: int) -> int:
        """The number of the decision that a token belongs to."""
        number: int | None = state["open"].get(str(token))
        if number is None:
            made = f"{state['count']} were made, {', '.join(list(state['open'])[:8]) or 'none'} wait"
            raise NotFound(f"{self.name}: no proposal with token {token} waits for its outcome; {made}")
        return number

    def _runs(self, log: Mapping[str, np.ndarray]) -> Iterator[tuple[int, int]]:
        """First and last rows of the outcomes that count as one."""
        held, arm, status = (log[c].tolist() for c in ("feature_held", "arm", "status"))
        first, ended = 0, False
        for i in range(len(held)):
            same = i > first and held[i] == held[i - 1] and arm[i] == arm[i - 1]
            if i > first and (not same or i - first == self.every):
                if not ended:
                    yield first, i - 1
                first, ended = i, ended and same
            if not ended and STATUSES[int(status[i])] != "ok":
                yield first, i
                ended = True
        if held and not ended:
            yield first, len(held) - 1


def _mean(costs: Sequence[float]) -> float:
    """Whatever the order, and however large they are."""
    try:
        return math.fsum(costs) / len(costs)
    except OverflowError:
        return math.fsum(cost / len(costs) for cost in costs)
