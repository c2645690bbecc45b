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


def layout(matrix: Any, method: str, preconditioner: str) -> dict[str, Any]:
    """What two operators must share so that one can use the other's space; collective.

    Parameters
    ----------
    matrix : petsc4py.PETSc.Mat
        Operator.
    method, preconditioner : str
        As in `RecyclingKSP`.

    Returns
    -------
    dict
        Plain JSON: global rows, rows of every rank, block size, method, preconditioner.
    """
    ranges = [int(r) for r in matrix.getOwnershipRanges()]
    return {
        "rows": int(matrix.getSize()[0]),
        "ranges": ranges,
        "block": int(matrix.getBlockSize()),
        "method": method,
        "preconditioner": preconditioner,
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
    A group holds ``rank_<r>``, the rows of rank r of the space (row, vector), and the kind as attributes.
    It is written beside and takes its name by one rename, so that a reader finds it whole or not at all.
    """

    def __init__(self, folder: Path, kind: Mapping[str, Any], comm: Any, log: logging.Logger) -> None:
        self.kind = dict(kind)
        self._top, self._log = folder / FOLDER, log
        self.folder = self._top / hashlib.sha256(canonical(self.kind)).hexdigest()[:16]
        self._ranks, self._rank = Reduction(comm), int(comm.getRank())

    def newest(self) -> np.ndarray | None:
        """This rank's rows of the newest space that can be used, shape (local row, vector); None: none."""
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

    def write(self, space: np.ndarray) -> None:
        """Add a space; what the disk refuses is told and not kept.

        Parameters
        ----------
        space : ndarray, shape (local row, vector)
            This rank's rows.
        """
        import zarr

        name = self._agree(f"{time.time_ns():020d}-{os.getpid()}" if self._rank == 0 else "")
        part = self.folder / f"{name}.partial"

        def begin() -> None:
            if self._rank == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                zarr.open_group(part, mode="w", attributes={"kind": self.kind})

        def fill() -> None:
            values, names = np.ascontiguousarray(space), ("row", "vector")
            zarr.open_group(part, mode="r+").create_array(
                f"rank_{self._rank}", data=values, dimension_names=names
            )

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
        for old in sorted(self.folder.glob("*.zarr"))[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def _read(self, path: Path) -> np.ndarray | None:
        import zarr

        first, last = self.kind["ranges"][self._rank : self._rank + 2]
        # What lies there may be damaged in any way; a space is never worth a failure.
        try:
            found = np.asarray(zarr.open_group(path, mode="r")[f"rank_{self._rank}"][...], dtype=np.float64)
        except Exception:
            return None
        fits = found.ndim == 2 and len(found) == last - first and bool(np.isfinite(found).all())
        return found if fits else None

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
