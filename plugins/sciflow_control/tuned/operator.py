"""Operator: notices whether the operator of a solver is still the same, by its values."""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

import numpy as np

from sciflow_control.tuned.library import pattern_count, values

VALUES, PATTERN = 1, 2
"""What changed."""
PROBE = 16
"""Values that are compared before all of them are."""


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
    mass : float
        Mean of ``|sum_j a_ij| / |a_ii|`` over the rows with more than a diagonal, in [1e-6, 1]: small for
        diffusion alone, 1 for a diagonal matrix, whatever the scale of each row. 1 where the
        values cannot be seen.

    Notes
    -----
    Memory: one copy of the values. Time: one pass over them where the count changed (a tenth of a
    product with the operator, measured), and one reduction of two numbers; nothing otherwise.
    Matrices that do not store values by rows are compared by their count.
    """

    def __init__(self) -> None:
        self.epoch, self.shape, self.mass = 0, 0, 1.0
        self._mats: tuple[Any, ...] = ()
        self._counts: tuple[int, ...] = ()
        self._copies: list[np.ndarray] | None = None
        self._pattern: tuple[int, ...] = ()
        self._patterns: tuple[int, ...] = ()
        self._diagonal: Any = None
        self._sums: Any = None

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
        changed = max(int(c) for (c,) in _everywhere(ksp.getComm(), (changed,)))
        self._mats, self._counts, self._pattern, self._patterns = mats, counts, pattern, patterns
        if changed:
            self.epoch += 1
            self.shape += changed == PATTERN
            self._keep(now)
            self.mass = self._mass(mats[0], parts[0], changed)

    def _compared(self, now: list[np.ndarray] | None) -> int:
        old = self._copies
        if now is None or old is None or _lengths(now) != _lengths(old):
            return VALUES
        return 0 if all(_equal(a, b) for a, b in zip(now, old, strict=True)) else VALUES

    def _keep(self, now: list[np.ndarray] | None) -> None:
        old = self._copies
        if now is None or old is None or _lengths(now) != _lengths(old):
            self._copies = None if now is None else [v.copy() for v in now]
            return
        for a, b in zip(now, old, strict=True):
            b[:] = a

    def _mass(self, mat: Any, parts: list[np.ndarray] | None, changed: int) -> float:
        """See `mass`; collective."""
        if parts is None:
            return 1.0
        if self._diagonal is None or changed == PATTERN:
            self._diagonal, self._sums = mat.createVecs()
        mat.getDiagonal(self._diagonal)
        mat.getRowSum(self._sums)
        diagonal, sums = self._diagonal.getArray(), self._sums.getArray()
        # A row of the diagonal alone is a boundary condition, whatever its scale.
        inner = (sums != diagonal) & (diagonal != 0)
        shares = np.abs(sums[inner] / diagonal[inner])
        mine = (float(np.minimum(shares, 1.0).sum()), float(shares.size))
        total, rows = (sum(column) for column in zip(*_everywhere(mat.getComm(), mine), strict=True))
        return float(min(max(total / rows, 1e-6), 1.0)) if rows and total < np.inf else 1.0

    def digest(self) -> str:
        """Of this rank's pattern and values, a space between them, to know both again after a restart."""
        total = hashlib.sha256()
        for part in self._copies or ():
            total.update(part.tobytes())
        return f"{hashlib.sha256(repr(self._pattern).encode()).hexdigest()} {total.hexdigest()}"


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one length are; most that differ do so at once."""
    return bool((a[:PROBE] == b[:PROBE]).all()) and bool((a == b).all())


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


def _everywhere(comm: Any, numbers: tuple[float, ...]) -> list[tuple[float, ...]]:
    """Those of every rank, on every rank; collective."""
    if comm.getSize() == 1:
        return [numbers]
    everyone = np.empty((comm.getSize(), len(numbers)))
    comm.tompi4py().Allgather(np.array(numbers, dtype=np.float64), everyone)
    return [tuple(row) for row in everyone]
