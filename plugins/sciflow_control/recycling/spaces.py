"""Recycle spaces on disk: a zarr group for each that was written, for the members that come after."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.component import canonical
from sciflow_control.recycling.blocks import Reduction

FOLDER = "recycled"
KEPT = 4
"""Spaces of one kind that stay; older ones are removed by those who write newer ones."""


def layout(matrix: Any, **settings: str | int) -> dict[str, Any]:
    """What two operators must share so that one can use the other's space; collective.

    Parameters
    ----------
    matrix : petsc4py.PETSc.Mat
        Operator.
    **settings : str or int
        Of the method: its name, sizes, preconditioner.

    Returns
    -------
    dict
        Plain JSON: global rows, where the rows of every rank begin, block size, the settings.
    """
    ranges = [int(r) for r in matrix.getOwnershipRanges()]
    return {
        "rows": int(matrix.getSize()[0]),
        "ranges": ranges,
        "block": int(matrix.getBlockSize()),
        **settings,
    }


class Spaces:
    """The spaces of one kind in a folder that the jobs of an ensemble share.

    Parameters
    ----------
    folder : Path
        Made when something is written.
    kind : mapping
        From `layout`; its digest names the subfolder.
    comm : petsc4py.PETSc.Comm
        Ranks that share the operator; every method is collective.
    log : logging.Logger
        Where is told what was ignored and why.

    Notes
    -----
    A group holds the kind as attributes and for rank r the group ``rank_<r>`` with its rows of ``space``
    (row, vector) and whatever else the method knows. It is written beside and takes its name by one
    rename, so that a reader finds it whole or not at all.
    """

    def __init__(self, folder: Path, kind: Mapping[str, Any], comm: Any, log: logging.Logger) -> None:
        self.kind = dict(kind)
        self._top, self._log = folder / FOLDER, log
        self.folder = self._top / hashlib.sha256(canonical(self.kind)).hexdigest()[:16]
        self._ranks, self._rank = Reduction(comm), int(comm.getRank())

    def newest(self) -> dict[str, np.ndarray] | None:
        """This rank's arrays of the newest space that can be used; None where there is none."""
        self._tell_others()
        names = sorted(p.name for p in self.folder.glob("*.zarr")) if self._rank == 0 else []
        while True:
            name = self._agree(names.pop() if names else "")
            if not name:
                return None
            found = self._read(self.folder / name)
            missing = self._ranks.sum(np.array([float(found is None)]))[0]
            if not missing:
                return found
            self._log.warning("the recycle space %s cannot be read and is ignored", self.folder / name)

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add a space; what the disk refuses is told and not kept.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            This rank's; those with two axes have its rows along the first one. One is ``space``.
        """
        import zarr

        name = self._agree(f"{time.time_ns():020d}-{os.getpid()}" if self._rank == 0 else "")
        part = self.folder / f"{name}.partial"

        def begin() -> None:
            if self._rank == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                zarr.open_group(part, mode="w", attributes={"kind": self.kind})

        def fill() -> None:
            group = zarr.open_group(part / f"rank_{self._rank}", mode="w")
            for key, values in arrays.items():
                names = ("row", "vector")[: values.ndim]
                group.create_array(key, data=np.ascontiguousarray(values), dimension_names=names)

        def publish() -> None:
            if self._rank == 0:
                part.rename(self.folder / f"{name}.zarr")
                self._prune()

        if not all(self._together(step) for step in (begin, fill, publish)) and self._rank == 0:
            shutil.rmtree(part, ignore_errors=True)

    def _together(self, step: Callable[[], None]) -> bool:
        """Whether a step worked on every rank; collective."""
        failure = ""
        try:
            step()
        except OSError as error:
            failure = str(error)
            self._log.warning("the recycle space was not kept: %s", failure)
        return bool(self._ranks.sum(np.array([float(bool(failure))]))[0] == 0)

    def _prune(self) -> None:
        names = sorted(p.name for p in self.folder.glob("*.zarr"))
        # What is older and still unfinished belongs to a job that was killed; one that is only slow is told.
        parts = sorted(p.name for p in self.folder.glob("*.partial"))
        oldest = names[-KEPT] if len(names) >= KEPT else ""
        for old in [*names, *parts]:
            if old < oldest:
                shutil.rmtree(self.folder / old, ignore_errors=True)

    def _read(self, path: Path) -> dict[str, np.ndarray] | None:
        import zarr

        first, last = self.kind["ranges"][self._rank : self._rank + 2]
        # What lies there may be damaged in any way; a space is never worth a failure.
        try:
            group = zarr.open_group(path / f"rank_{self._rank}", mode="r", use_consolidated=False)
            found = {key: np.asarray(array[...]) for key, array in group.arrays()}
        except Exception:
            return None
        fits = all(v.ndim < 2 or len(v) == last - first for v in found.values())
        return (
            found if fits and "space" in found and all(np.isfinite(v).all() for v in found.values()) else None
        )

    def _agree(self, name: str) -> str:
        """Rank 0's text on every rank."""
        data = np.zeros(64)
        encoded = np.frombuffer(name.encode(), dtype=np.uint8)
        data[: len(encoded)] = encoded
        return bytes(self._ranks.sum(data).astype(np.uint8)).rstrip(b"\0").decode()

    def _tell_others(self) -> None:
        if self._rank or not self._top.is_dir():
            return
        others = [p for p in self._top.iterdir() if p.name != self.folder.name and p.is_dir()]
        if others and not self.folder.is_dir():
            self._log.info(
                "%d recycle space(s) of another size, partition, method or preconditioner are ignored",
                len(others),
            )
