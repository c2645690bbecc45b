"""What a trainer and its solvers go by: which points, what they are for, what holds for everybody."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

TRAIN, VALID, TEST = 0, 1, 2
"""What a member is for."""
PURPOSES = ("train", "valid", "test")


class Sink(Protocol):
    """Where training samples go: a reservoir's buffer."""

    def room(self) -> bool:
        """Whether `put` would take a sample now."""

    def put(self, arrays: Mapping[str, np.ndarray], member: int, sample: int) -> None:
        """Take a sample."""


class Plan:
    """Which points the members have, and what each of them is for.

    Parameters
    ----------
    points : ndarray, shape (member, parameter)
        In the problem's units; changed where a point is steered.
    purposes : ndarray of int, shape (member,)
        `TRAIN`, `VALID` or `TEST`.
    choose : callable or None
        Gives the point of a training member at the moment when it is begun, instead of its row.
    """

    def __init__(
        self, points: np.ndarray, purposes: np.ndarray, choose: Callable[[int], np.ndarray] | None = None
    ) -> None:
        self.points, self.purposes = points, purposes
        self._choose = choose
        self.chosen = np.zeros(len(points), dtype=bool)

    def of(self, purpose: int) -> list[int]:
        """Members with a purpose, in order."""
        return [int(m) for m in np.flatnonzero(self.purposes == purpose)]

    def point(self, member: int) -> Any:
        """Where a member is computed, shape (parameter,); asked again it is the same."""
        if self._choose is not None and self.purposes[member] == TRAIN and not self.chosen[member]:
            self.points[member] = self._choose(member)
        self.chosen[member] = True
        return self.points[member]


@dataclass(frozen=True)
class Terms:
    """What holds for every solver of a run.

    Attributes
    ----------
    token : str
        Without it nobody is let in.
    session : str
        Of this trainer; another one when it was started again.
    endpoints : sequence of str
        One for each trainer rank.
    credits : int
        Messages of a connection that may be under way.
    heartbeat : float
        Seconds between two signs of life; a solver that gives five in a row too few is lost.
    patience : float
        Seconds within which a new time level must come.
    seed : int
        Of the ensemble.
    gone : Path or None
        A folder in which the names of groups appear whose jobs have ended.
    minimum : float
        Smallest fraction of the members that must succeed.
    """

    token: str
    session: str
    endpoints: Sequence[str] = ()
    credits: int = 8
    heartbeat: float = 5.0
    patience: float = 600.0
    seed: int = 0
    gone: Path | None = None
    minimum: float = 0.0


@dataclass
class Tally:
    """What came in so far.

    Attributes
    ----------
    messages, nbytes : int
        Parts of levels, and their bytes.
    samples : int
        Training samples that went into the buffer.
    refused : int
        Connections and messages that were refused.
    solver_seconds, blocked_seconds : float
        Of all solver ranks that are through with a member: in all, and of it waiting for the trainer.
    """

    messages: int = 0
    nbytes: int = 0
    samples: int = 0
    refused: int = 0
    solver_seconds: float = 0.0
    blocked_seconds: float = 0.0
