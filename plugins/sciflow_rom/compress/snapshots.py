"""Snapshots: a field of an ensemble as a matrix of columns, read in blocks of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from sciflow.context import Comm, SerialComm
from sciflow.errors import Invalid, nearest

if TYPE_CHECKING:
    from sciflow.artifact import Artifact

BLOCK = 64 << 20
"""Bytes of a block of rows."""


class SnapshotMatrix(ABC):
    """A matrix ``S`` (row, column) whose rows are spread over ranks and are read when they are asked for.

    A column holds `stacked` time levels one below the other, each of `positions` values; row
    ``level * positions + position``. Each rank owns a contiguous range of rows.

    Attributes
    ----------
    stacked : int
        Time levels in a column.
    positions : int
        Values in a level.
    members, levels : ndarray of int64, shape (column,)
        Where each column comes from; level -1 for a column of all levels.
    comm : Comm
        Ranks that share the rows.
    identity : str
        Equal for equal values; empty where that is not known.
    floor : float
        Rounding of the values as they are stored, relative.
    """

    identity: str = ""
    floor: float = 0.0
    stacked: int
    positions: int
    members: np.ndarray
    levels: np.ndarray
    comm: Comm

    @property
    def rows(self) -> int:
        """Rows of all ranks together."""
        return self.stacked * self.positions

    @property
    def columns(self) -> int:
        """Number of columns."""
        return len(self.members)

    def range_of(self, rank: int) -> slice:
        """The rows of a rank."""
        return slice(self.rows * rank // self.comm.size, self.rows * (rank + 1) // self.comm.size)

    @property
    def mine(self) -> slice:
        """The rows of this rank."""
        return self.range_of(self.comm.rank)

    def blocks(self, height: int) -> list[slice]:
        """This rank's rows in blocks of at most `height`; equally many blocks on every rank, some empty."""
        most = -(-self.rows // self.comm.size)
        count = max(1, -(-most // height))
        first, size = self.mine.start, self.mine.stop - self.mine.start
        ends = [first + size * k // count for k in range(count + 1)]
        return [slice(a, b) for a, b in pairwise(ends)]

    def height(self, block: int = BLOCK) -> int:
        """Rows of which a block of so many bytes consists, at least one."""
        return max(1, block // (8 * self.columns))

    def pieces(self, rows: slice) -> Iterator[tuple[int, slice]]:
        """A range of rows as ranges of positions, level by level."""
        at = rows.start
        while at < rows.stop:
            level, first = divmod(at, self.positions)
            last = min(self.positions, first + rows.stop - at)
            yield level, slice(first, last)
            at += last - first

    def runs(self, rows: slice) -> Iterator[tuple[int, int, slice]]:
        """The same with whole levels together.

        Yields
        ------
        level, count : int
            The first one, and how many.
        where : slice
            Positions in each; all of them if there are several levels.
        """
        first, last = -(-rows.start // self.positions), rows.stop // self.positions
        if last - first < 2:
            yield from ((level, 1, where) for level, where in self.pieces(rows))
            return
        yield from ((n, 1, w) for n, w in self.pieces(slice(rows.start, first * self.positions)))
        yield first, last - first, slice(0, self.positions)
        yield from ((n, 1, w) for n, w in self.pieces(slice(last * self.positions, rows.stop)))

    @abstractmethod
    def at(self, level: int, where: slice | np.ndarray, out: np.ndarray) -> None:
        """Read some positions of one of the stacked levels, whichever rank owns them.

        Parameters
        ----------
        level : int
            Below `stacked`.
        where : slice or ndarray of int, shape (n,)
            Positions.
        out : ndarray of float64, shape (column, n)
            Filled.
        """

    def whole(self, first: int, count: int, out: np.ndarray) -> None:
        """Read some of the stacked levels whole.

        Parameters
        ----------
        first, count : int
            Which ones.
        out : ndarray of float64, shape (column, count * position)
            Filled.
        """
        for level in range(count):
            at = slice(level * self.positions, (level + 1) * self.positions)
            self.at(first + level, slice(0, self.positions), out[:, at])

    def read(self, rows: slice, out: np.ndarray | None = None) -> np.ndarray:
        """A block of rows.

        Parameters
        ----------
        rows : slice
            With start and stop.
        out : ndarray of float64, shape (column, row) or None
            Memory to use.

        Returns
        -------
        ndarray of float64, shape (row, column)
            In Fortran order: columns are contiguous.
        """
        count = rows.stop - rows.start
        values = np.empty((self.columns, count)) if out is None else out
        done = 0
        for level, levels, where in self.runs(rows):
            part = values[:, done : done + levels * (where.stop - where.start)]
            if levels > 1:
                self.whole(level, levels, part)
            else:
                self.at(level, where, part)
            done += part.shape[1]
        return values.T

    def look(self, rows: slice, out: np.ndarray) -> np.ndarray:
        """See `read`, but what is given may be the matrix itself and must not be changed."""
        return self.read(rows, out)

    def refuse(self, rows: slice) -> None:
        """Read a block again and refuse what is not finite.

        Parameters
        ----------
        rows : slice
            A few, among which something is wrong.

        Raises
        ------
        Invalid
            Naming the members.
        """
        good = np.isfinite(self.read(rows)).all(axis=0)
        if not good.all():
            members = sorted({int(m) for m in self.members[~good]})
            raise Invalid(
                f"members {members[:10]} have values that are not finite; leave them out or mend them"
            )


class Held(SnapshotMatrix):
    """A matrix in memory.

    Parameters
    ----------
    values : ndarray, shape (row, column)
        All rows, on every rank; only this rank's are touched.
    comm : Comm or None
        Ranks that share them.
    stacked : int
        Time levels in a column.
    """

    def __init__(self, values: np.ndarray, comm: Comm | None = None, stacked: int = 1) -> None:
        self.comm = comm or SerialComm()
        self.stacked, self.positions = stacked, len(values) // stacked
        self.members = np.arange(values.shape[1])
        self.levels = np.full(values.shape[1], -1)
        self._values = values

    def at(self, level: int, where: slice | np.ndarray, out: np.ndarray) -> None:
        """See `SnapshotMatrix.at`."""
        first = level * self.positions
        out[...] = self._values[first : first + self.positions][where].T

    def look(self, rows: slice, out: np.ndarray) -> np.ndarray:
        """See `SnapshotMatrix.look`."""
        return self._values[rows]


class Snapshots(SnapshotMatrix):
    """A field of an ensemble on disk; nothing is kept in memory.

    Parameters
    ----------
    ensemble : Artifact
        With the field, stored member by member.
    field : str
        Its name.
    members : ndarray of int, shape (member,)
        Which members.
    columns : {"member", "level"}
        ``member``: one column for each, all its time levels one below the other. ``level``: one
        column for each time level of each member, those of a member one after the other.
    comm : Comm or None
        Ranks that share the rows.

    Raises
    ------
    NotFound
        If there is no such field.
    Invalid
        If it is not stored member by member, or its members choose their own steps.

    Notes
    -----
    Values are mapped from the files and converted to float64 as they are copied. Each chunk (a time
    level of a member, or several small ones) is checked against its checksum when the rank that is in
    charge of it first reads a part of it. Ranks that share a chunk divide the members among them, so
    each chunk is checked once; the checking rank reads the whole of it. Levels that a rank reads whole it
    checks itself. Rows beside a range that are read for a product are not checked again.
    """

    def __init__(
        self,
        ensemble: Artifact,
        field: str,
        members: np.ndarray,
        columns: Literal["member", "level"] = "member",
        comm: Comm | None = None,
    ) -> None:
        self.comm = comm or SerialComm()
        self._gather = ensemble.gather(field)
        layout = self._gather.layout
        if "step" in layout.field.axes:
            raise Invalid(
                f"{ensemble.path}: members have their own numbers of steps in {field!r} and cannot be "
                "columns of one matrix; store it at common times"
            )
        if columns not in ("member", "level"):
            raise Invalid(f"columns {columns!r}. {nearest(columns, ('member', 'level'))}")
        chosen = np.asarray(members, dtype=np.int64)
        self.field, self.ensemble = layout.field, ensemble
        self.shape = layout.sample_shape
        self.identity = f"{ensemble.digest} {field} {columns}"
        self.floor = float(np.finfo(layout.dtype).eps) / 2 if layout.dtype.itemsize < 8 else 0.0
        self.positions = layout.sample_bytes // layout.dtype.itemsize
        self._each = columns == "level" and layout.timed
        self.stacked = 1 if self._each else layout.levels
        levels = np.arange(layout.levels) if self._each else np.array([-1])
        self.members = np.repeat(chosen, len(levels))
        self.levels = np.tile(levels, len(chosen)).astype(np.int64)
        self._first, self._sharing = self._ranks_of_chunks()

    def _ranks_of_chunks(self) -> tuple[np.ndarray, np.ndarray]:
        """First rank and number of ranks that own rows of each stacked level's chunk."""
        together = 1 if self._each else self._gather.layout.together
        starts = np.array([self.range_of(r).start for r in range(self.comm.size)])
        chunk = np.arange(self.stacked) // together * together * self.positions
        first = np.searchsorted(starts, chunk, side="right") - 1
        last = np.searchsorted(starts, chunk + together * self.positions - 1, side="right") - 1
        return first, last - first + 1

    def at(self, level: int, where: slice | np.ndarray, out: np.ndarray) -> None:
        """See `SnapshotMatrix.at`."""
        first, sharing, rank = int(self._first[level]), int(self._sharing[level]), self.comm.rank
        few = self.rows < self.comm.size
        for column, (member, own) in enumerate(zip(self.members.tolist(), self.levels.tolist(), strict=True)):
            check = few or first + column % sharing == rank
            self._gather.part(member, max(own, level), where, out[column], check=check)

    def whole(self, first: int, count: int, out: np.ndarray) -> None:
        """See `SnapshotMatrix.whole`; here only columns of all levels have several."""
        for column, member in enumerate(self.members):
            window = self._gather.read(member[None], np.array([first]), count)
            out[column] = window.reshape(-1)
