"""Experience: what the members of an ensemble learned about solving, kept for those that come after."""

from __future__ import annotations

import base64
import logging
import re
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from sciflow.errors import Invalid

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact.disk import Disk

T = TypeVar("T")
Columns: TypeAlias = "Mapping[str, np.ndarray]"

FOLDER = "experience"
_LOG = logging.getLogger("sciflow.experience")
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


@dataclass(frozen=True)
class _Entry:
    """Where a log lies: a whole line of a journal."""

    member: int
    key: str
    time: float
    file: Path
    start: int
    size: int


class _Reader:
    """The logs in a folder, of which every byte is read once while they come in.

    Every process that adds logs has a file of its own that only grows; a line that is not whole yet is
    looked at again. What is no log, or cannot be read, is passed over with a warning: an ensemble can do
    without what it says.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends: dict[Path, int] = {}
        self.entries: list[_Entry] = []
        self._recent: dict[_Entry, Columns] = {}
        self._bad: set[Path] = set()

    def refresh(self) -> None:
        """Take in what was added; the logs that came together in the order of their members."""
        found: dict[_Entry, Columns] = {}
        for file in sorted(self._folder.glob("*.log")):
            start = self._ends.get(file, 0)
            try:
                if file.stat().st_size > start:
                    found.update(self._appended(file, start))
            except OSError as error:
                self._pass_over(file, f"cannot be read: {error.strerror or error}")
        if found:
            self._recent = found
            self.entries += sorted(found, key=lambda e: (e.member, e.time, e.file.name, e.start))

    def _appended(self, file: Path, start: int) -> dict[_Entry, Columns]:
        from sciflow.artifact.journal import parse

        with file.open("rb") as handle:
            handle.seek(start)
            lines = handle.read().split(b"\n")[:-1]
        found = {}
        for line in lines:
            size = len(line) + 1
            try:
                record = parse(line) or {}
                member, key, when = int(record["member"]), str(record["key"]), float(record["time"])
                found[_Entry(member, key, when, file, start, size)] = _arrays(record["columns"])
            # Damaged, or of a version that writes something else.
            except (KeyError, TypeError, ValueError, AttributeError, Invalid):
                self._pass_over(file, f"has a line at byte {start} that is no log")
            start += size
        self._ends[file] = start
        return found

    def _pass_over(self, file: Path, reason: str) -> None:
        """Say so, once for each file."""
        if file not in self._bad:
            self._bad.add(file)
            _LOG.warning("%s %s; members do not learn from it", file, reason)

    def columns(self, entry: _Entry) -> Columns:
        """A log, from memory if it came in last."""
        known = self._recent.get(entry)
        if known is not None:
            return known
        from sciflow.artifact.journal import parse

        with entry.file.open("rb") as handle:
            handle.seek(entry.start)
            record = parse(handle.read(entry.size)[:-1])
        assert record is not None, "it was whole when it came in"
        return _arrays(record["columns"])


@dataclass
class _Folded:
    """What `Experience.fold` keeps: a value, and what went into it."""

    value: Any
    mark: int = 0
    members: set[int] = field(default_factory=set)


class _Memory:
    """What a process knows of the logs in a folder, whichever member it is solving."""

    def __init__(self, folder: Path, disk: Disk | None) -> None:
        from sciflow.artifact.disk import Disk
        from sciflow.artifact.journal import Journal

        self.folder = folder
        self.journal = Journal(folder, disk or Disk("none"))
        self.reader = _Reader(folder)
        self.folded: dict[Hashable, _Folded] = {}

    def entries(self) -> list[_Entry]:
        """All logs so far."""
        self.reader.refresh()
        return self.reader.entries

    def columns(self, entries: Iterable[_Entry]) -> dict[int, Columns]:
        """One log for each member."""
        return {e.member: self.reader.columns(e) for e in _last(entries)}

    def add(self, kept: _Folded, entries: list[_Entry], step: Callable[[T, Columns], T]) -> T:
        """Fold in what is new."""
        new, kept.mark = entries[kept.mark :], len(entries)
        for entry in _last(e for e in new if e.member not in kept.members):
            kept.value = step(kept.value, self.reader.columns(entry))
            kept.members.add(entry.member)
        value: T = kept.value
        return value


class Experience:
    """The logs of the members of one ensemble; used on rank 0 alone.

    A log is a table: columns of one length, a row for each decision. A member sees the logs of the
    members that were finished when it began, and adds its own. Without a folder nothing is kept.

    Parameters
    ----------
    folder : Path or None
        Shared by all jobs of the ensemble.
    member : int
        Whose log `note` writes; its earlier log, of a killed attempt, is not among the others.
    disk : Disk or None
        Whether logs survive a power cut; None: they do not.
    """

    def __init__(self, folder: Path | None = None, member: int = -1, disk: Disk | None = None) -> None:
        self._memory = _Memory(folder, disk) if folder is not None else None
        self.member, self._noted = member, ""

    def of(self, member: int) -> Experience:
        """The same for another member, without reading again what this process has read."""
        other = Experience(None, member)
        other._memory = self._memory
        return other

    def others(self) -> dict[int, Columns]:
        """The logs of the other members by their indices, in order; all are read: see `fold`."""
        if self._memory is None:
            return {}
        return self._memory.columns(e for e in self._memory.entries() if e.member != self.member)

    def logs(self, records: Mapping[int, Mapping[str, Any]]) -> dict[int, Columns]:
        """One log for each committed member that has one, in the order of their indices.

        Parameters
        ----------
        records : mapping of int to mapping
            Of the ensemble's journal; ``experience`` in one names the log of the attempt that was
            committed. Without it the log that was noted last is taken.
        """
        if self._memory is None:
            return {}
        entries = [e for e in self._memory.entries() if e.member in records]
        here = {(e.member, e.key) for e in entries}
        keys = {m: r.get("experience", "") for m, r in records.items()}
        named = {m for m, key in keys.items() if (m, key) in here}
        return self._memory.columns(e for e in entries if e.member not in named or e.key == keys[e.member])

    def fold(self, key: Hashable, start: Callable[[], T], step: Callable[[T, Columns], T]) -> T:
        """What the logs of the other members come to; what this process has folded is kept.

        Parameters
        ----------
        key : hashable
            Says what is folded; equal keys mean equal functions.
        start : callable
            Gives the value before any log.
        step : callable
            Gives the value after one more log; must not change the value that it is given.

        Returns
        -------
        object
            To be left as it is: the next member goes on from it.

        Notes
        -----
        One log of each member. Logs that come in together are taken in the order of their members, so
        that members that are solved one after the other learn the same after a kill. Costs what is new.
        """
        memory = self._memory
        if memory is None:
            return start()
        entries = memory.entries()
        kept = memory.folded.get(key)
        if kept is None:
            kept = memory.folded[key] = _Folded(start())
        if self.member in kept.members or any(e.member == self.member for e in entries[kept.mark :]):
            # It was tried before: this once from the beginning, without that.
            return memory.add(_Folded(start()), [e for e in entries if e.member != self.member], step)
        return memory.add(kept, entries, step)

    def note(self, columns: Columns) -> None:
        """Keep the log of this member; called once, before its last state is given away.

        Parameters
        ----------
        columns : mapping of str to ndarray, shape (row,)
            Numbers; ``seconds`` for a time in s. They become fields ``decision_<name>`` of the ensemble.

        Raises
        ------
        Invalid
            If the columns differ in length, or one is not a row of numbers, or has no name for a field.
        Failed
            If the file system refused: the member is not whole, and goes on in a later run.
        """
        import os

        from sciflow.artifact.disk import explain_os_error

        table = _table(columns)
        if self._memory is None or not table:
            return
        key = os.urandom(8).hex()
        written = {n: [v.dtype.str, base64.b64encode(v.tobytes()).decode()] for n, v in table.items()}
        record = {"member": self.member, "key": key, "time": time.time(), "columns": written}
        try:
            self._memory.journal.append(record)
        except OSError as error:
            raise explain_os_error(
                error, self._memory.folder, "members that are committed are kept"
            ) from error
        self._noted = key

    def mention(self) -> dict[str, str]:
        """What the record of the member says of its log; nothing where `note` kept none."""
        return {"experience": self._noted} if self._noted else {}


def _last(entries: Iterable[_Entry]) -> list[_Entry]:
    """Of each member the log that was noted last, in the order of the members."""
    found: dict[int, _Entry] = {}
    for entry in entries:
        known = found.get(entry.member)
        if known is None or (entry.time, entry.start) >= (known.time, known.start):
            found[entry.member] = entry
    return [found[m] for m in sorted(found)]


def _table(columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Columns of one length, each `_checked`."""
    table = {name: _checked(name, values) for name, values in columns.items()}
    if len({len(v) for v in table.values()}) > 1:
        raise Invalid(f"columns of { ({n: len(v) for n, v in table.items()}) } rows are no table")
    return table


def _checked(name: str, values: Any) -> np.ndarray:
    """A column as int64 or float64, little-endian."""
    import numpy as np

    array = np.asarray(values)
    if not _NAME.match(name) or name == "member":
        raise Invalid(f"a column of a log cannot be called {name!r}: [a-z][a-z0-9_]*, and not member")
    if array.ndim != 1 or array.dtype.kind not in "iufb":
        raise Invalid(f"column {name!r} of a log must be a row of numbers, got {array.dtype} {array.shape}")
    return np.ascontiguousarray(array, dtype="<f8" if array.dtype.kind == "f" else "<i8")


def _arrays(columns: Mapping[str, list[str]]) -> Columns:
    """What `Experience.note` was given.

    Raises
    ------
    Invalid, ValueError, TypeError, AttributeError
        If that is no table, or none at all.
    """
    import numpy as np

    if not columns:
        raise Invalid("a log without a column")
    return _table(
        {n: np.frombuffer(base64.b64decode(data), dtype=kind) for n, (kind, data) in columns.items()}
    )
