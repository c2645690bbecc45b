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
from sciflow_control.tuned.arms import GIVEN, choice
from sciflow_control.tuned.costs import Price
from sciflow_control.tuned.history import History
from sciflow_control.tuned.limits import Case, Reference

STATUSES = ("ok", "failed", "censored")
BOUND = 2
"""The status of a cost that is a lower bound."""
MOVED = 0.02
"""Of a feature's range, by which it may move while a decision is held."""
WORDS = ("cost", "work", "iterations", "seconds", "fell_back", "setup", "solves")


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
    logged : dict
        `features`, and what the tuner noted with them.
    case : dict
        Digits and mass of the last of the systems, and what the given solver took of it; NaN if it did not.
    """

    token: int
    arm: int
    values: dict[str, Any]
    probability: float
    features: dict[str, float]
    known: int
    left: int = 0
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WORDS, 0.0))
    logged: dict[str, float] = field(default_factory=dict)
    case: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Inherited:
    """What the logs of other members come to.

    Attributes
    ----------
    state : object
        Of the tuner.
    known : int
        Outcomes in it.
    reference : Reference
        What the given solver costs.
    arms : frozenset of int
        Those that were set up.
    """

    state: Any
    known: int
    reference: Reference
    arms: frozenset[int]


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
        self.inherited = False
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
            arm, probability, logged = -1, 1.0, dict(features)
            if hasattr(self.tuner, "decision"):
                decision = self.tuner.decision(after, proposal.token)
                arm, probability = int(decision.arm), float(decision.probability)
                logged |= decision.features
        except Exception as error:  # a tuner is foreign code, and no simulation ends because of one
            self.warn("choose", error)
            return None
        self._before, self.state = self.state, after
        values = dict(proposal.values)
        self.held = Held(proposal.token, arm, values, probability, dict(features), self.known, logged=logged)
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

    def unchosen(self, row: Mapping[str, float], case: Case, safe: float) -> None:
        """A solve with the given solver that no tuner decided on: a row with the arm -1."""
        about = {"safe": safe, "digits": case.digits, "mass": case.mass, "bound": 0.0, "known": self.known}
        self.history.add({"arm": -1, "probability": 1.0, "status": 0, **row, **about}, case.features)

    def outcome(
        self, status: str, row: Mapping[str, float], hold: int, case: Case, safe: float, bound: bool
    ) -> None:
        """Of a solve under the decision that is held.

        Parameters
        ----------
        status : str
            One of `STATUSES`.
        row : mapping of str to float
            `WORDS`, of this solve.
        hold : int
            Solves that the decision shall be held for.
        case : Case
            The system.
        safe : float
            What the given solver took of it; NaN if it did not solve it.
        bound : bool
            Whether the cost is a lower bound: the arm was not tried.
        """
        held = self.held
        assert held is not None
        for word in WORDS:
            held.spent[word] = (max if word == "setup" else float.__add__)(held.spent[word], float(row[word]))
        last = held.case.get("safe", math.nan)
        safe = safe if safe >= 0 else last
        held.case = {"safe": safe, "digits": case.digits, "mass": case.mass, "bound": float(bound)}
        held.left = (held.left or hold) - 1
        if held.left < 1 or status != "ok":
            self.flush(status)

    def flush(self, status: str = "ok") -> None:
        """Tell the tuner what the held decision cost, the mean over its solves.

        That of an arm that failed is what was paid, the given solver's part included; so it is as good a
        cost as any. Only that of an arm that was not tried is a bound.
        """
        held, self.held = self.held, None
        if held is None or not held.spent["solves"]:
            return
        cost = held.spent["cost"] / held.spent["solves"]
        told = STATUSES[BOUND if held.case.get("bound") else 0]
        try:
            self.state = self.tuner.observe(self.state, held.token, cost, told)
        except Exception as error:  # as above; what it cannot learn from is not left open
            self.warn("learn", error)
            self.state = self._before if self._before is not None else self.state
            return
        self.known += 1
        mean = {"arm": held.arm, "probability": held.probability, "cost": cost}
        row = {**mean, "status": STATUSES.index(status), **{w: held.spent[w] for w in WORDS[1:]}}
        self.history.add({**row, **held.case, "known": held.known}, held.logged)

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
        self.reference.learn(log)
        chosen = told(log)
        try:
            self.state = self.tuner.absorb(self.state, chosen)  # type: ignore[attr-defined]
        except Exception as error:  # foreign code, foreign numbers
            self.warn("learn from others", error)
            return
        self.known += len(chosen["arm"])

    def inherit(self, experience: Experience) -> None:
        """Begin with what the finished members of an ensemble have learned; costs what is new of it.

        Members are taken to share the pattern of their operators: what it takes to analyse it is counted
        where a solver is first used in the ensemble, not once more in every member.
        """
        if not hasattr(self.tuner, "absorb"):
            return
        tuner: Any = self.tuner

        def start() -> Inherited:
            return Inherited(tuner.init(np.random.default_rng(0)), 0, Reference(tuner.ranges), frozenset())

        def step(value: Inherited, log: Mapping[str, np.ndarray]) -> Inherited:
            if not len(log.get("arm", ())):
                return value
            reference, chosen = value.reference.copied(), told(log)
            reference.learn(log)
            arms = value.arms | set(chosen["arm"][chosen["setup"] > 0].tolist())
            try:
                state = tuner.absorb(value.state, chosen)
                return Inherited(state, value.known + len(chosen["arm"]), reference, arms)
            except Exception as error:  # as in `learn`
                self.warn("learn from others", error)
                return Inherited(value.state, value.known, reference, arms)

        found = experience.fold(canonical(tuner.to_json()), start, step)
        self.reference, self.known = found.reference.copied(), found.known
        self.inherited = not self.reference.due()
        if self.inherited:
            keys = [choice(tuner.arms[arm]).key for arm in sorted(found.arms)]
            self._set_up = {key: [-1, self._shape] for key in (GIVEN, *keys)}
        try:
            self.state = tuner.merge([self.state, found.state])
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


def decided(log: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows of a log that a tuner decided on."""
    if "arm" not in log:
        return dict(log)
    chosen = np.asarray(log["arm"]) >= 0
    return {name: np.asarray(values)[chosen] for name, values in log.items()}


def told(log: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`decided`, with the statuses that the tuner was told."""
    found = decided(log)
    if "bound" in found:
        found["status"] = np.where(found["bound"] > 0, BOUND, 0)
    return found


def positive(cost: float) -> float:
    """A cost that every tuner can take the logarithm of."""
    return max(cost, 1e-12) if math.isfinite(cost) else 1e12
