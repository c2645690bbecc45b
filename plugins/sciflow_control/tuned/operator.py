"""Operator: notices whether the operator of a solver is still the same, by its values."""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

import numpy as np

from sciflow_control.tuned.library import pattern_count, values

VALUES, PATTERN = 1, 2
"""What changed."""


class Operator:
    """The operators of a KSP, looked at before every solve.

    PETSc counts the changes of a matrix and sets up again after each, also where the same values
    were assembled once more. Here a changed count leads to a comparison with a copy of the values.

    Attributes
    ----------
    epoch : int
        Counts the different operators.
    shape : int
        Counts the different patterns.

    Notes
    -----
    Memory: one copy of the values. Time: one pass over them where the count changed (a tenth of a
    product with the operator, measured), and one reduction of one number; nothing otherwise.
    Matrices that do not store values by rows are compared by their count.
    """

    def __init__(self) -> None:
        self.epoch, self.shape = 0, 0
        self._mats: tuple[Any, ...] = ()
        self._counts: tuple[int, ...] = ()
        self._copies: list[np.ndarray] | None = None
        self._pattern: tuple[int, ...] = ()
        self._patterns: tuple[int, ...] = ()

    def look(self, ksp: Any) -> None:
        """Compare with what was seen last; collective.

        Parameters
        ----------
        ksp : petsc4py.PETSc.KSP
            With operators.
        """
        mats = tuple(ksp.getOperators())
        counts = tuple(m.stateGet() for m in mats)
        same = len(self._mats) == len(mats) and all(
            a.handle == b.handle for a, b in zip(mats, self._mats, strict=True)
        )
        if same and counts == self._counts:
            return
        one = mats[:1] if mats[0].handle == mats[1].handle else mats
        parts = [values(m) for m in one]
        now = None if any(p is None for p in parts) else [v for p in parts for v in p or ()]
        patterns = tuple(pattern_count(m) for m in one)
        known = same and patterns == self._patterns and min(patterns) >= 0
        pattern = self._pattern if known else _pattern(one)
        changed = PATTERN if pattern != self._pattern else self._compared(now)
        changed = _largest(ksp.getComm(), changed)
        self._mats, self._counts, self._pattern, self._patterns = mats, counts, pattern, patterns
        if changed:
            self.epoch += 1
            self.shape += changed == PATTERN
            self._keep(now)

    def _compared(self, now: list[np.ndarray] | None) -> int:
        old = self._copies
        if now is None or old is None or _lengths(now) != _lengths(old):
            return VALUES
        return 0 if all(np.array_equal(a, b) for a, b in zip(now, old, strict=True)) else VALUES

    def _keep(self, now: list[np.ndarray] | None) -> None:
        old = self._copies
        if now is None or old is None or _lengths(now) != _lengths(old):
            self._copies = None if now is None else [v.copy() for v in now]
            return
        for a, b in zip(now, old, strict=True):
            b[:] = a

    def digest(self) -> str:
        """Of this rank's values and pattern, to know the operator again after a restart."""
        total = hashlib.sha256(repr(self._pattern).encode())
        for part in self._copies or ():
            total.update(part.tobytes())
        return total.hexdigest()


def _lengths(parts: list[np.ndarray] | None) -> list[int] | None:
    return None if parts is None else [len(p) for p in parts]


def _pattern(mats: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes and a checksum of this rank's pattern; sizes alone where there are no rows to see."""
    found: list[int] = []
    for mat in mats:
        found += [int(s) for pair in mat.getSizes() for s in pair]
        if mat.getType() in ("seqaij", "mpiaij"):
            for index in mat.getRowIJ()[:2] if mat.getType() == "seqaij" else mat.getValuesCSR()[:2]:
                found.append(zlib.crc32(np.ascontiguousarray(index).data))
    return tuple(found)


def _largest(comm: Any, number: int) -> int:
    """Over all ranks; collective."""
    if comm.getSize() == 1:
        return number
    mine, everyone = np.array([number], dtype=np.int64), np.empty(comm.getSize(), dtype=np.int64)
    comm.tompi4py().Allgather(mine, everyone)
    return int(everyone.max())
