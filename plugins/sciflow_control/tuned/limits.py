"""Limits: what the safe arm costs, and with it how much an arm may spend."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

LOGGED = {"safe", "work", "digits", "mass"}
"""Columns of a log that say what the given solver took (NaN: it did not solve), and of what system."""
KEPT = 16
"""Systems that are remembered; of two near ones the later."""
NEAREST = 3
ALIKE = 0.01
"""Distance of systems that cannot be told apart, so that all of them count."""
SHARE = 0.02
"""Of all work, that may go into solves with the safe arm to know what it costs now."""
MARGIN = 0.8
"""Of what is left below the limit, that an arm may spend; the rest is for what is not known exactly."""


@dataclass(frozen=True)
class Case:
    """A system, as far as it is known before it is solved.

    Attributes
    ----------
    features : mapping of str to float
        What the tuner knows.
    digits : float
        Decimal logarithm of the first residual over its target.
    mass : float
        What `sciflow_control.tuned.operator` says: near 0 for a diffusion operator, near 1 for a mass matrix.
    """

    features: Mapping[str, float]
    digits: float
    mass: float


class Reference:
    """What the given solver cost without its set-up, in products with the operator, and where.

    Parameters
    ----------
    ranges : mapping of str to (float, float)
        Of the features, for distances between them; of the others, what was seen.
    """

    def __init__(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        self._ranges = dict(ranges)
        self._records: list[tuple[Case, float]] = []
        self._since = 0.0
        self._spans: dict[str, float] = {}

    def note(self, case: Case, work: float) -> None:
        """The given solver took so much from the start."""
        if len(self._records) == KEPT:
            self._records.remove(min(self._records, key=self._distances(case)))
        self._records.append((case, work))
        self._since = 0.0
        self._measure()

    def spend(self, work: float) -> None:
        """A solve without it took so much."""
        self._since += work

    def learn(self, log: Mapping[str, np.ndarray]) -> None:
        """What the rows of somebody's log say of it, in their order."""
        if not log.keys() >= LOGGED:
            return
        named = [n for n in log if n.startswith("feature_")]
        for i, safe in enumerate(log["safe"].tolist()):
            if not safe >= 0:
                self.spend(float(log["work"][i]))
                continue
            features = {n.removeprefix("feature_"): float(log[n][i]) for n in named}
            known = {n: v for n, v in features.items() if math.isfinite(v)}
            self.note(Case(known, float(log["digits"][i]), float(log["mass"][i])), safe)

    def copied(self) -> Reference:
        """Another one that knows as much."""
        other = Reference(self._ranges)
        other._records, other._since, other._spans = list(self._records), self._since, dict(self._spans)
        return other

    def due(self) -> bool:
        """Whether the given solver should take the next system, because too little is known of it."""
        return not self._records or SHARE * self._since > self._records[-1][1]

    def least(self, case: Case) -> float:
        """What it will cost at least, from the nearest known systems and all that are like this one.

        Notes
        -----
        A system with fewer digits to gain costs less in proportion, and one with more mass at worst
        like the square root of it: the condition number of diffusion with reaction falls like the mass
        grows, and a Krylov method takes its root. No system is taken to cost more than it did.
        """
        away = [*map(self._distances(case), self._records)]
        reach = max(sorted(away)[:NEAREST][-1], ALIKE)
        near = (record for apart, record in zip(away, self._records, strict=True) if apart <= reach)
        return min(work * _easier(case, known) for known, work in near)

    def _distances(self, case: Case) -> Callable[[tuple[Case, float]], float]:
        """The distance of a record from a case, as far as they differ."""
        features, mass, spans, log = case.features, case.mass, self._spans, math.log10

        def distance(record: tuple[Case, float]) -> float:
            known = record[0]
            total = log(mass / known.mass) ** 2
            if known.features == features:
                return total
            for name, value in features.items():
                theirs = known.features.get(name, value)
                if theirs != value:
                    total += ((value - theirs) / spans[name]) ** 2 if spans[name] > 0 else 1.0
            return total

        return distance

    def _measure(self) -> None:
        """The range of every feature."""
        for name in {n for case, _ in self._records for n in case.features}:
            low, high = self._ranges.get(name, (0.0, 0.0))
            if not high > low:
                seen = [c.features[name] for c, _ in self._records if name in c.features]
                low, high = min(seen), max(seen)
            self._spans[name] = high - low

    def to_json(self) -> dict[str, Any]:
        """All that it knows."""
        return {"records": [[asdict(c), w] for c, w in self._records], "since": self._since}

    def load(self, document: Mapping[str, Any]) -> None:
        """Go on from `to_json`."""
        self._records = [(Case(**c), float(w)) for c, w in document["records"]]
        self._since = float(document["since"])
        self._measure()


def _easier(case: Case, known: Case) -> float:
    """By which factor a case may cost less than a known one."""
    return min(1.0, case.digits / known.digits) * math.sqrt(min(1.0, known.mass / case.mass))


def budget(limit: float, safe: float, setup: float, pending: float) -> float:
    """What an arm may spend so that it and the safe arm after it stay below a limit.

    Parameters
    ----------
    limit : float
        Multiple of what the program would spend without us.
    safe : float
        Of the given solver's iterations.
    setup : float
        Of the set-up that the program would need now.
    pending : float
        Of the set-up that the given solver would need here, because others solved before.

    Notes
    -----
    ``budget + pending + safe <= limit (setup + safe)``, with a margin.
    """
    return max(0.0, MARGIN * ((limit - 1.0) * (setup + safe) - (pending - setup)))
