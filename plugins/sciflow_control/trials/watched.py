"""One watched run of a trial: what was chosen when, and where the bodies were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sciflow.artifact import Artifact

FAR = 1.5
"""In distances of the outermost body from the centre at the start."""


@dataclass(frozen=True)
class Watched:
    """The steps of one run.

    Attributes
    ----------
    seed : int
        Of the run.
    time, length, value, error : ndarray, shape (step,)
        Of the steps that stand.
    fallback : ndarray of bool, shape (step,)
        Whether a guard's fallback had the word.
    back_time, back_value : ndarray, shape (attempt,)
        Of the attempts that were taken back.
    places : ndarray, shape (step + 1, body, axis), or None
        Of the bodies at the start and after each step.
    """

    seed: int
    time: np.ndarray
    length: np.ndarray
    value: np.ndarray
    error: np.ndarray
    fallback: np.ndarray
    back_time: np.ndarray
    back_value: np.ndarray
    places: np.ndarray | None = None

    @property
    def ends(self) -> np.ndarray:
        """When the steps ended, shape (step,)."""
        found: np.ndarray = self.time + self.length
        return found

    @property
    def closest(self) -> np.ndarray:
        """Distance of the closest pair of bodies at the start and after each step, shape (step + 1,)."""
        found: np.ndarray = self._distances().min(axis=1)
        return found

    @property
    def together(self) -> int:
        """So many rows until a body is thrown out for good: no further from the centre than `FAR` radii.

        At least 2; all of them where nobody leaves.
        """
        assert self.places is not None
        away = np.linalg.norm(self.places - self.places.mean(axis=1, keepdims=True), axis=2).max(axis=1)
        near = np.flatnonzero(away <= FAR * away[0])
        return max(2, int(near[-1]) + 1)

    def pair(self, row: int) -> tuple[int, int]:
        """Which two bodies were closest then."""
        assert self.places is not None
        first, second = np.triu_indices(self.places.shape[1], 1)
        which = int(self._distances()[row].argmin())
        return int(first[which]), int(second[which])

    def _distances(self) -> np.ndarray:
        """Of all pairs, shape (step + 1, pair)."""
        assert self.places is not None
        first, second = np.triu_indices(self.places.shape[1], 1)
        found: np.ndarray = np.linalg.norm(self.places[:, first] - self.places[:, second], axis=2)
        return found


def eventful(runs: Sequence[Watched]) -> Watched | None:
    """The run whose bodies stayed together for the most steps; the first one where none has positions."""
    if not runs:
        return None
    return max(runs, key=lambda run: run.together if run.places is not None else 0)


def watched(trial: Artifact) -> list[Watched]:
    """The watched runs of a trial, those without a single step left out."""
    seeds, record = trial.read("record_seed"), trial.read("record")
    places = trial.read("record_bodies") if "record_bodies" in trial.schema.fields else None
    column = {name: record[:, i] for i, name in enumerate(trial.attributes["columns"])}
    found = []
    for seed in dict.fromkeys(seeds.tolist()):
        here = seeds == seed
        stands, step = here & (column["accepted"] == 1), column["length"] > 0
        if not (stands & step).any():
            continue
        taken, back = stands & step, here & ~stands
        found.append(
            Watched(
                seed,
                time=column["time"][taken],
                length=column["length"][taken],
                value=column["value"][taken],
                error=column["error"][taken],
                fallback=column["fallback"][taken] == 1,
                back_time=column["time"][back],
                back_value=column["value"][back],
                places=places[stands] if places is not None else None,
            )
        )
    return found
