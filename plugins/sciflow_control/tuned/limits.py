"""Limits: what the safe arm costs, and with it how much an arm may spend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEPT = 64
NEAREST = 3
SHARE = 0.02
"""Of all work, that may go into solves with the safe arm to know what it costs now."""
MARGIN = 0.9
"""Of what is left below the limit, that an arm may spend; the rest is for what is not known exactly."""


class Reference:
    """What the given solver cost without its set-up, in products with the operator, and where.

    Parameters
    ----------
    ranges : mapping of str to (float, float)
        Of the features, for distances between them; of the others, what was seen.
    """

    def __init__(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        self._ranges = dict(ranges)
        self._records: list[tuple[dict[str, float], float]] = []
        self._since = 0.0

    def note(self, features: Mapping[str, float], work: float) -> None:
        """The given solver took so much from the start."""
        self._records.append((dict(features), work))
        del self._records[:-KEPT]
        self._since = 0.0

    def spend(self, work: float) -> None:
        """A solve without it took so much."""
        self._since += work

    def due(self) -> bool:
        """Whether the given solver should take the next system, because too little is known of it."""
        return not self._records or SHARE * self._since > self._records[-1][1]

    def least(self, features: Mapping[str, float]) -> float:
        """The least that it cost on the nearest known systems, the later one of two as near."""
        newest = reversed(self._records)
        order = sorted(newest, key=lambda record: self._distance(features, record[0]))
        return min(work for _, work in order[:NEAREST])

    def _distance(self, a: Mapping[str, float], b: Mapping[str, float]) -> float:
        total = 0.0
        for name in a.keys() & b.keys():
            low, high = self._ranges.get(name, (0.0, 0.0))
            if not high > low:
                seen = [f[name] for f, _ in self._records if name in f]
                low, high = min(seen), max(seen)
            total += ((a[name] - b[name]) / (high - low)) ** 2 if high > low else float(a[name] != b[name])
        return total

    def to_json(self) -> dict[str, Any]:
        """All that it knows."""
        return {"records": [[f, w] for f, w in self._records], "since": self._since}

    def load(self, document: Mapping[str, Any]) -> None:
        """Go on from `to_json`."""
        self._records = [(dict(f), float(w)) for f, w in document["records"]]
        self._since = float(document["since"])


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
