"""What each round of an enrichment leaves on disk for the next one, or for a later process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.artifact.disk import Disk
from sciflow.stages.train import tensors
from sciflow_rom.adapt.incremental import Weighted
from sciflow_rom.adapt.regions import Region, weighted_arrays, weighted_of


@dataclass(frozen=True)
class Round:
    """A model as a round left it.

    Attributes
    ----------
    number : int
        0 before the first full-order solution.
    versions : tuple of int
        For each region the round that changed it last.
    modes, points : tuple of int
        Of each region.
    pairs : tuple of (float or None, float or None)
        For each solution of this round: indicator and true error of the reduced answer that it
        replaced; None where there was no answer.
    gaps : tuple of float
        For each solution of this round: its relative error of projection on the best region before.
    """

    number: int
    versions: tuple[int, ...]
    modes: tuple[int, ...]
    points: tuple[int, ...]
    pairs: tuple[tuple[float | None, float | None], ...] = ()
    gaps: tuple[float, ...] = ()


class Rounds:
    """The files of the rounds.

    Parameters
    ----------
    folder : Path
        Where they are; survives a kill.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, number: int) -> Round | None:
        """A finished round, or None."""
        file = self.folder / f"round-{number:06d}.json"
        if not file.is_file():
            return None
        document: dict[str, Any] = json.loads(file.read_bytes())
        for name in ("versions", "modes", "points", "gaps"):
            document[name] = tuple(document[name])
        document["pairs"] = tuple((a, b) for a, b in document["pairs"])
        return Round(**document)

    def put(self, finished: Round) -> None:
        """Note that a round is finished; everything else of it is written before."""
        data = json.dumps(asdict(finished), allow_nan=False).encode()
        Disk().replace(self.folder / f"round-{finished.number:06d}.json", data)

    def region(self, cluster: int, version: int) -> Region:
        """A region as it was made in a round."""
        return Region.of(self._read(f"region-{cluster:05d}-{version:06d}"))

    def put_region(self, cluster: int, version: int, region: Region) -> None:
        """Keep a region, whole or not at all."""
        self._write(f"region-{cluster:05d}-{version:06d}", region.arrays())

    def test(self, number: int) -> Weighted:
        """The test modes of the indicator after a round."""
        return weighted_of(self._read(f"test-{number:06d}"), "test")

    def put_test(self, number: int, basis: Weighted) -> None:
        """Keep the test modes."""
        self._write(f"test-{number:06d}", weighted_arrays("test", basis))

    def ranker(self, number: int) -> dict[str, np.ndarray]:
        """The state of the ranker after a round."""
        return self._read(f"ranker-{number:06d}")

    def put_ranker(self, number: int, state: Mapping[str, np.ndarray]) -> None:
        """Keep the state of the ranker."""
        self._write(f"ranker-{number:06d}", state)

    def drop(self, finished: Round) -> None:
        """Remove what later rounds have replaced; that of the last but one stays."""
        used = {f"region-{k:05d}-{v:06d}" for k, v in enumerate(finished.versions)}
        for file in self.folder.glob("*.safetensors"):
            number = int(file.stem.rsplit("-", 1)[1])
            if number < finished.number - 1 and file.stem not in used:
                file.unlink()

    def _read(self, name: str) -> dict[str, np.ndarray]:
        from safetensors.numpy import load_file

        return load_file(self.folder / f"{name}.safetensors")

    def _write(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        Disk().replace(self.folder / f"{name}.safetensors", tensors(arrays))
