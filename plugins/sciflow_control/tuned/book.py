"""Book: what rank 0 knows while a tuner chooses: its state, set-ups, costs of the safe arm, the log."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sciflow.component import canonical
from sciflow.controller import Controller
from sciflow.experience import Experience
from sciflow_control.tuned.costs import Price
from sciflow_control.tuned.history import History
from sciflow_control.tuned.limits import Reference

STATUSES = ("ok", "failed", "censored")
MOVED = 0.02
"""Of a feature's range, by which it may move while a decision is held."""
WORDS = ("cost", "iterations", "seconds", "fell_back", "setup", "solves")


@dataclass
class Held:
    """A decision and what came of it so far.

    Attributes
    ----------
    token : int
        Of the proposal.
    arm : int
        Index of the arm; -1 for a controller without arms.
    values : dict
        Its settings.
    probability : float
        That it was drawn with.
    features : dict
        What was known.
    known : int
        Outcomes that had been seen.
    left : int
        Solves that it is still held for; 0: not known yet.
    spent : dict
        Over the solves: sums of `WORDS`, of ``setup`` the largest.
    """

    token: int
    arm: int
    values: dict[str, Any]
    probability: float
    features: dict[str, float]
    known: int
    left: int = 0
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WORDS, 0.0))


class Book:
    """The memory of one sequence of systems; used on rank 0 alone, the same after a restart.

    Parameters
    ----------
    tuner : Controller
        Whose state is kept.
    seed : int
        Of its random numbers.
    """

    def __init__(self, tuner: Controller, seed: int) -> None:
        self.tuner = tuner
        self.state = tuner.init(np.random.default_rng(seed))
        self.history = History()
        self.reference = Reference(tuner.ranges)
        self.held: Held | None = None
        self.factors: dict[str, float] = {}
        self.known = 0
        self.spent, self.spent_on_pattern = 0.0, 0.0
        self._before: Any = None
        self._epoch, self._shape = 0, 0
        self._set_up: dict[str, list[int]] = {}
        self._warned: set[str] = set()

    def turn(self, changed: bool, pattern: bool) -> None:
        """A new operator, of a new pattern perhaps."""
        if changed:
            self._epoch += 1
            self._shape += pattern
            self.spent = 0.0
        if pattern:
            self.spent_on_pattern = 0.0

    def pay(self, work: float) -> None:
        """A solve took so much."""
        self.spent += work
        self.spent_on_pattern += work

    def setup(self, key: str, price: Price) -> tuple[int, float]:
        """Which set-up a solver needs (0 none, 1 numeric, 2 whole), and its work."""
        epoch, shape = self._set_up.get(key, (-1, -1))
        if epoch == self._epoch:
            return 0, 0.0
        return (1, price.numeric) if shape == self._shape else (2, price.setup)

    def credit(self, key: str, price: Price) -> float:
        """What of a set-up pays off if the operator, or its pattern, lasts as long again as it did."""
        which, setup = self.setup(key, price)
        if self.spent >= setup:
            return setup
        once = setup - price.numeric
        return once if which == 2 and self.spent_on_pattern >= once else 0.0

    def done(self, key: str) -> None:
        """A solver is set up for this operator."""
        self._set_up[key] = [self._epoch, self._shape]

    def decide(self, features: Mapping[str, float]) -> Held | None:
        """The decision that is held, or a new one; None if the tuner raises."""
        if self.held is not None and self._moved(features):
            self.flush()
        if self.held is not None:
            return self.held
        try:
            proposal, after = self.tuner.propose(self.state, features)
            arm, probability = -1, 1.0
            if hasattr(self.tuner, "decision"):
                decision = self.tuner.decision(after, proposal.token)
                arm, probability = int(decision.arm), float(decision.probability)
        except Exception as error:  # a tuner is foreign code, and no simulation ends because of one
            self.warn("choose", error)
            return None
        self._before, self.state = self.state, after
        values = dict(proposal.values)
        self.held = Held(proposal.token, arm, values, probability, dict(features), self.known)
        return self.held

    def _moved(self, features: Mapping[str, float]) -> bool:
        """Whether what is known has changed so much that a held decision is void."""
        assert self.held is not None
        before = self.held.features
        if before.keys() != features.keys():
            return True
        for name, value in features.items():
            low, high = self.tuner.ranges.get(name, (0.0, 0.0))
            scale = high - low if high > low else abs(before[name])
            if not abs(value - before[name]) <= MOVED * scale:
                return True
        return False

    def outcome(self, status: str, row: Mapping[str, float], hold: int) -> None:
        """Of a solve under the decision that is held.

        Parameters
        ----------
        status : str
            One of `STATUSES`.
        row : mapping of str to float
            `WORDS`, of this solve.
        hold : int
            Solves that the decision shall be held for.
        """
        held = self.held
        assert held is not None
        for word in WORDS:
            held.spent[word] = (max if word == "setup" else float.__add__)(held.spent[word], float(row[word]))
        held.left = (held.left or hold) - 1
        if held.left < 1 or status != "ok":
            self.flush(status)

    def flush(self, status: str = "ok") -> None:
        """Tell the tuner what the held decision cost, the mean over its solves."""
        held, self.held = self.held, None
        if held is None or not held.spent["solves"]:
            return
        cost = held.spent["cost"] / held.spent["solves"]
        try:
            self.state = self.tuner.observe(self.state, held.token, cost, status)
        except Exception as error:  # as above; what it cannot learn from is not left open
            self.warn("learn", error)
            self.state = self._before if self._before is not None else self.state
            return
        self.known += 1
        mean = {"arm": held.arm, "probability": held.probability, "cost": cost}
        row = {**mean, "status": STATUSES.index(status), **{w: held.spent[w] for w in WORDS[1:]}}
        self.history.add({**row, "known": held.known}, held.features)

    def warn(self, verb: str, error: Exception) -> None:
        """Once for each kind of failure."""
        if verb not in self._warned:
            self._warned.add(verb)
            text = f"{self.tuner.name} could not {verb}, the given solver takes over: {error}"
            warnings.warn(text, RuntimeWarning, stacklevel=5)

    def learn(self, log: Mapping[str, np.ndarray]) -> None:
        """Take in the log of somebody else."""
        if not len(log.get("arm", ())):
            return
        try:
            self.state = self.tuner.absorb(self.state, log)  # type: ignore[attr-defined]
        except Exception as error:  # foreign code, foreign numbers
            self.warn("learn from others", error)
            return
        self.known += len(log["arm"])

    def inherit(self, experience: Experience) -> None:
        """Begin with what the finished members of an ensemble have learned; costs what is new of it."""
        if not hasattr(self.tuner, "absorb"):
            return
        tuner: Any = self.tuner

        def step(value: tuple[Any, int], log: Mapping[str, np.ndarray]) -> tuple[Any, int]:
            if not len(log.get("arm", ())):
                return value
            try:
                return tuner.absorb(value[0], log), value[1] + len(log["arm"])
            except Exception as error:  # as in `learn`
                self.warn("learn from others", error)
                return value

        key = canonical(tuner.to_json())
        state, self.known = experience.fold(key, lambda: (tuner.init(np.random.default_rng(0)), 0), step)
        try:
            self.state = tuner.merge([self.state, state])
        except Exception as error:  # foreign code
            self.known = 0
            self.warn("learn from others", error)

    def to_json(self) -> dict[str, Any]:
        """All of it, with arrays where the tuner has them."""
        return {
            "state": self.state,
            "rows": self.history.rows,
            "reference": self.reference.to_json(),
            "held": None if self.held is None else asdict(self.held),
            "factors": self.factors,
            "known": self.known,
            "spent": [self.spent, self.spent_on_pattern],
            "turns": [self._epoch, self._shape],
            "set_up": self._set_up,
        }

    def load(self, document: Mapping[str, Any]) -> None:
        """Go on from `to_json`."""
        self.state = document["state"]
        self.history.rows = [dict(row) for row in document["rows"]]
        self.reference.load(document["reference"])
        self.held = None if document["held"] is None else Held(**document["held"])
        self.factors = dict(document["factors"])
        self.known = int(document["known"])
        self.spent, self.spent_on_pattern = document["spent"]
        self._epoch, self._shape = document["turns"]
        self._set_up = {k: list(v) for k, v in document["set_up"].items()}


def positive(cost: float) -> float:
    """A cost that every tuner can take the logarithm of."""
    return max(cost, 1e-12) if math.isfinite(cost) else 1e12
