"""Member: one simulation being written, level by level, by one process or by all ranks of a job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sciflow.artifact import attempt
from sciflow.artifact.attempt import PARTS, Restart
from sciflow.artifact.checksum import combine, crc32c
from sciflow.artifact.disk import Disk, explain_os_error, remove_folder, write_at
from sciflow.artifact.journal import Journal
from sciflow.artifact.layout import Layout
from sciflow.artifact.part import Part
from sciflow.artifact.share import Share, Shares
from sciflow.context import Comm, SerialComm, exchange
from sciflow.errors import Diverged, Failed, Invalid

if TYPE_CHECKING:
    import numpy as np

CONFLICTS = "meta/conflicts"
DATA = "data.zarr"
KEPT = "members committed before are kept"


class Member:
    """One member on its way into an artifact; from `Writer.member`.

    Used as a context manager: what was appended is kept on an error (so that a later attempt can
    go on) unless `drop` was called.

    Parameters
    ----------
    root : Path
        The artifact being written.
    member : int
        Its index.
    layouts : mapping of str to Layout
        Of every member-wise field.
    disk : Disk
        Durability.
    journal : Journal or None
        Where it is committed; of rank 0.
    comm : Comm
        The ranks that write it together; every method is collective.

    Attributes
    ----------
    resume_from : int
        Time levels that an earlier attempt left, and that need not be appended again.
    restart : Restart or None
        What the solver noted then; None where `resume_from` is 0.
    """

    def __init__(
        self,
        root: Path,
        member: int,
        layouts: Mapping[str, Layout],
        disk: Disk,
        journal: Journal | None,
        comm: Comm | None = None,
    ) -> None:
        self._root, self.member, self._layouts = root, member, layouts
        self._disk, self._journal = disk, journal
        self._comm: Comm = comm or SerialComm()
        self._first = self._comm.rank == 0
        self._shares = Shares(self._comm, root / DATA, disk)
        self.restart: Restart | None = None
        self.resume_from = 0
        self._folder = root / PARTS
        self._parts: dict[str, Part] = {}
        self._late: Exception | None = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- beginning ---------------------------------------------------------------------------

    def _open(self) -> None:
        mine: dict[int, Restart] = {}
        # Rank 0 makes the files; the others open them for the shares that they write themselves.
        self._together(self._begin)
        self._folder = self._root / PARTS / exchange(self._comm, self._folder.name)[0]
        self._together(self._look, mine)
        self.resume_from = max(self._shares.common_levels(sorted(mine)), default=0)
        self.restart = mine[self.resume_from] if self.resume_from else None
        note = self.restart.note if self.restart else {}
        self.level = self.resume_from
        self.metrics: dict[str, float] = dict(note.get("metrics", {}))
        self._shares.expected = note.get("numberings", {})
        self._together(self._rewind, note.get("running", {}))

    def _begin(self) -> None:
        if self._first:
            self._folder = attempt.begin(self._root / PARTS, self.member, self._disk)
            self._make_parts()

    def _make_parts(self) -> None:
        for name, layout in self._layouts.items():
            self._parts[name] = Part(layout, self._folder / name)

    def _look(self, mine: dict[int, Restart]) -> None:
        """The restart points that this rank could go on from."""
        if not self._first:
            self._make_parts()
        mine.update({r.level: r for r in Restart.read(self._folder, self._comm.rank) if self._holds(r)})

    def _rewind(self, running: Mapping[str, int]) -> None:
        for name, part in self._parts.items():
            part.levels = self._levels_of(part)
            if self._first:
                part.rewind(part.levels, running.get(name, 0))

    def _together(self, action: Callable[..., object], *arguments: Any) -> None:
        """Do what may fail on one rank only, and raise it on all of them; collective."""
        self._shares.agree(self._late or self._problem(action, *arguments), [], [])

    def _problem(self, action: Callable[..., object], *arguments: Any) -> Exception | None:
        """What goes wrong on this rank, for the ranks to agree on."""
        try:
            action(*arguments)
        except (Invalid, Diverged, Failed) as error:
            return error
        except OSError as error:
            return explain_os_error(error, self._root / DATA, KEPT)
        return None

    def _levels_of(self, part: Part, level: int | None = None) -> int:
        """How many time levels a field has when the member has `level` (as it has now)."""
        level = self.level if level is None else level
        return level if part.layout.timed else min(level, 1)

    def _holds(self, restart: Restart) -> bool:
        """Whether everything is there that a restart point follows; the files are rank 0's matter."""
        if restart.note.get("ranks") != self._comm.size:
            return False
        running = restart.note.get("running", {})
        return not self._first or all(
            part.holds(self._levels_of(part, restart.level), running.get(name, 0))
            for name, part in self._parts.items()
        )

    # -- appending ---------------------------------------------------------------------------

    def append(
        self,
        values: Mapping[str, np.ndarray | Share | None],
        *,
        restart: Callable[[], Mapping[str, np.ndarray]] | None = None,
        metrics: Mapping[str, float] | None = None,
        sync: bool = False,
    ) -> None:
        """Append one time level; memory is bounded by it.

        Parameters
        ----------
        values : mapping of str to ndarray or Share
            In the shape of one level. Arrays are taken from rank 0, shares from every rank. A
            field without time comes with the first level.
        restart : callable or None
            Gives what this rank needs to go on after this level.
        metrics : mapping of str to float
            Added to those of the member.
        sync : bool
            Make this level survive a power cut too, not only a kill; costs a write to the disk.

        Raises
        ------
        Invalid
            On every rank: a field is unknown, comes at the wrong level or in the wrong shape.
        Diverged
            On every rank: a value is not finite.
        Failed
            On every rank: the file system refused.
        """
        sums: list[int] = []
        shared = [n for n, v in values.items() if isinstance(v, Share)]
        saved = restart() if restart is not None and self._disk.durability != "none" else None
        for key, number in (metrics or {}).items():
            self.metrics[key] = self.metrics.get(key, 0.0) + float(number)
        # On with the other fields after a failure: with the first level the ranks exchange counts.
        problems = [self._problem(self._write_share, name, values[name], sums) for name in shared]
        problems.append(self._problem(self._write_own, values, shared, saved))
        problem = self._late or next((p for p in problems if p is not None), None)
        everyone = self._shares.agree(problem, sums, shared)
        self._late = self._problem(self._conclude, zip(shared, everyone, strict=True), saved)
        self.level += 1
        if sync:
            self._together(self._sync, values)
        # With several ranks a failure of one of them is told when they next agree.
        elif self._late is not None and self._comm.size == 1:
            raise self._late

    def _write_own(self, values: Mapping[str, Any], shared: Sequence[str], saved: Any) -> None:
        if self._first:
            self._write_arrays({n: v for n, v in values.items() if n not in shared})
        elif saved is not None:
            # Before the ranks agree: when rank 0 goes on, no rank is a restart point behind.
            self._note_restart(saved)

    def _conclude(self, shares: Iterable[tuple[str, list[tuple[int, int]]]], saved: Any) -> None:
        for name, pieces in shares:
            self._seal_share(name, pieces)
        if self._first and saved is not None:
            self._note_restart(saved)

    def _write_arrays(self, values: Mapping[str, Any]) -> None:
        ready = {n: self._checked(n, v) for n, v in values.items() if v is not None}
        for name, data in ready.items():
            self._parts[name].add(data)

    def _checked(self, name: str, value: Any) -> np.ndarray:
        """The array as it is stored: dtype, order; refused before a byte is written."""
        import numpy as np

        part = self._part(name)
        array = np.asarray(value, dtype=part.layout.dtype, order="C")
        if array.shape != part.layout.sample_shape:
            raise Invalid(
                f"member {self.member}, field {name!r}: shape {array.shape}, "
                f"the ensemble has {part.layout.sample_shape}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Diverged(f"field {name!r} is not finite at time level {self.level}")
        return array

    def _part(self, name: str) -> Part:
        part = self._parts.get(name)
        if part is None:
            raise Invalid(f"member {self.member}: the ensemble has no field {name!r}")
        if not part.layout.timed and self.level > 0:
            raise Invalid(f"field {name!r} has no time axis but came with state {self.level}")
        if self.level >= part.layout.levels:
            raise Invalid(f"member {self.member}: more than {part.layout.levels} states")
        return part

    def _write_share(self, name: str, value: Any, sums: list[int]) -> None:
        import numpy as np

        part = self._part(name)
        data = np.ascontiguousarray(value.values, dtype=part.layout.dtype)
        start = self._shares.start(name, value, part.layout)
        if not np.isfinite(data).all():
            raise Diverged(f"field {name!r} is not finite at time level {self.level}")
        write_at(part.handle, [data], part.layout.place(self.level) + start * data.itemsize)
        sums.append(int(crc32c(data)))

    def _seal_share(self, name: str, pieces: list[tuple[int, int]]) -> None:
        part, crc = self._parts[name], 0
        for piece, count in pieces:
            crc = combine(crc, piece, count * part.layout.dtype.itemsize)
        if self._first:
            part.seal(crc)
        else:
            part.levels += 1

    def _sync(self, names: Iterable[str]) -> None:
        for name in names:
            self._disk.sync_data(self._parts[name].handle)

    def _note_restart(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Note what this rank needs to go on after the level that is being appended."""
        note = {
            "ranks": self._comm.size,
            "metrics": self.metrics,
            "numberings": self._shares.numberings(),
            "running": {name: part.running for name, part in self._parts.items()},
        }
        Restart(self.level + 1, note, arrays).write(self._folder, self._comm.rank)

    def fill(self, values: Mapping[str, np.ndarray]) -> None:
        """Write whole fields at once, each of shape ``(time, ...)``; serial.

        Raises
        ------
        Invalid
            If a field is missing or unknown or has another shape than the ensemble.
        """
        import numpy as np

        for name in self._layouts.keys() | values.keys():
            if name not in values or name not in self._layouts:
                raise Invalid(f"member {self.member}: fields {sorted(values)} for {sorted(self._layouts)}")
            layout = self._layouts[name]
            array = np.ascontiguousarray(values[name], dtype=layout.dtype)
            if array.shape != layout.shape:
                raise Invalid(
                    f"member {self.member}, field {name!r}: shape {array.shape}, "
                    f"the ensemble has {layout.shape}"
                )
            self._parts[name].fill(array)
        self.level = max((p.layout.levels for p in self._parts.values()), default=0)

    # -- ending ------------------------------------------------------------------------------

    def commit(self, record: Mapping[str, Any]) -> bool:
        """Make the member a lasting part of the artifact; when this returns it is acknowledged.

        Parameters
        ----------
        record : mapping
            Plain JSON, kept in the journal.

        Returns
        -------
        bool
            False if another process had committed this member with other content. The first one
            stays; this one is kept aside and recorded.

        Raises
        ------
        Invalid
            If a field did not come with every level.
        Failed
            If the file system refused; what was appended is kept.
        """
        won: list[bool] = []
        # A rank that could not make its share last keeps the others from publishing.
        self._together(self._sync, self._parts if self._comm.size > 1 else ())
        self._together(lambda: won.append(self._publish(record)) if self._first else None)
        outcome = exchange(self._comm, "lost" if won == [False] else "")[0]
        self.close()
        if self._first:
            remove_folder(self._folder)
            attempt.clear(self._root / PARTS, self.member)
        return not outcome

    def _publish(self, record: Mapping[str, Any]) -> bool:
        """File, its name, its directory, the journal: in the order that loses nothing."""
        for part in self._parts.values():
            wanted = self.level if part.layout.timed else 1
            if part.levels != wanted:
                raise Invalid(f"field {part.layout.name!r} came {part.levels} times, not {wanted}")
            part.finish()
            self._disk.sync(part.handle)
        files = {}
        for name, part in sorted(self._parts.items()):
            final = self._root / DATA / name / part.layout.key(self.member)
            if not self._disk.publish(part.path, final) and not part.same(final):
                return self._lose(record, name)
            files[f"{name}/{final.name}"] = part.summary()
        for name in self._parts:
            self._disk.sync_path(self._root / DATA / name)
        assert self._journal is not None, "rank 0 has the journal"
        numberings = self._shares.numberings()
        more = {"numberings": numberings} if numberings else {}
        self._journal.append({**record, "member": self.member, "levels": self.level, "files": files, **more})
        return True

    def _lose(self, record: Mapping[str, Any], name: str) -> bool:
        """Keep a member aside that came second with other content."""
        assert self._journal is not None, "rank 0 has the journal"
        aside = self._root / CONFLICTS / self._folder.name
        self._disk.make_folder(aside.parent)
        self._disk.rename(self._folder, aside)
        self._journal.append({**record, "conflict": self.member, "field": name, "kept": aside.name})
        return False

    def drop(self) -> None:
        """Forget what was appended; for a member that failed."""
        self.close()
        self._comm.barrier()
        if self._first:
            remove_folder(self._folder)

    def close(self) -> None:
        """Close the files; what was appended stays for the next attempt."""
        for part in self._parts.values():
            part.close()
        if self._first:
            attempt.end(self._folder)
