"""Attempts at a member: whose unfinished files may be continued, and from which time level."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.artifact.checksum import crc32c, crc32c_extend, little
from sciflow.artifact.disk import Disk, remove_folder, write_at
from sciflow.artifact.layout import Layout

if TYPE_CHECKING:
    import numpy as np

PARTS = "meta/parts"
PATIENCE = 1.0
"""Seconds that a process gets to be gone before its member is begun anew beside it."""
_ours: set[Path] = set()
_guard = threading.Lock()


def _started(pid: int) -> str:
    """When a process of this machine started, in clock ticks since boot; empty if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    numbers = text.rpartition(")")[2].split()
    # One that has ended and whose parent has not asked yet is a zombie: it writes no more.
    return "" if numbers[0] in "ZX" else numbers[19]


@lru_cache(maxsize=1)
def _own(pid: int) -> str:
    """`_started` of this process."""
    return _started(pid)


def _name(member: int) -> str:
    pid = os.getpid()
    return f"{member}.{pid}.{_own(pid)}.{os.urandom(4).hex()}.{platform.node()}"


def may_continue(folder: Path) -> bool:
    """Whether the process that made an attempt is known to be gone (or is this one, and done with it)."""
    _, pid, started, _, host = folder.name.split(".", 4)
    if host != platform.node():
        return False
    if int(pid) == os.getpid() and started == _started(os.getpid()):
        return folder not in _ours
    return _started(int(pid)) != started or not started


def _soon(folder: Path) -> bool:
    """`may_continue`, with patience for another process of this machine that is just being ended."""
    _, pid, _, _, host = folder.name.split(".", 4)
    until = time.monotonic() + PATIENCE
    while not may_continue(folder):
        if host != platform.node() or int(pid) == os.getpid() or time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def attempts(parts: Path, member: int | None = None) -> list[Path]:
    """Directories of all attempts, of one member or of all."""
    # Not glob: it compiles a pattern for each member, which takes longer than the directory.
    start = "" if member is None else f"{member}."
    with contextlib.suppress(FileNotFoundError):
        names = os.listdir(parts)  # noqa: PTH208 - a third of the time of iterdir
        return [parts / n for n in sorted(names) if n.startswith(start) and n.count(".") >= 4]
    return []


def begin(parts: Path, member: int, disk: Disk) -> Path:
    """Make a directory for an attempt at a member, with what an earlier one left.

    Files of a process that is gone are taken over by renaming their directory, which only one
    taker can do. Those of a process on another machine are copied, as it may still be writing.
    """
    folder = parts / _name(member)
    with _guard:
        _ours.add(folder)
    best = max(attempts(parts, member), key=_progress, default=None)
    if best is not None:
        if _soon(best):
            with contextlib.suppress(FileNotFoundError):
                os.rename(best, folder)  # noqa: PTH104
                return folder
        elif best.name.split(".", 4)[4] != platform.node():
            with contextlib.suppress(OSError):
                shutil.copytree(best, folder)
                return folder
    # Its name need not survive a power cut: what is committed gets a name of its own.
    disk.make_folder(parts)
    os.mkdir(folder)  # noqa: PTH102
    return folder


def end(folder: Path) -> None:
    """Forget an attempt that this process does not go on with; its files stay."""
    with _guard:
        _ours.discard(folder)


def clear(parts: Path, member: int) -> None:
    """Delete what attempts at a committed member left, but not those of running processes."""
    for folder in attempts(parts, member):
        if may_continue(folder):
            remove_folder(folder)


def _progress(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(f.stat().st_size for f in folder.iterdir())
    return -1


def examine(handle: int, layout: Layout) -> list[int]:
    """Checksums of the complete and undamaged chunks at the start of a part; memory of one chunk."""
    sums: list[int] = []
    for chunk in range(layout.chunks):
        data = os.pread(handle, layout.record, chunk * layout.record)
        crc = crc32c(data[: layout.chunk_bytes])
        if len(data) < layout.record or little(crc) != data[layout.chunk_bytes :]:
            break
        sums.append(crc)
    return sums


@dataclass(frozen=True)
class Restart:
    """What a solver needs to go on, as it was after some time level.

    Attributes
    ----------
    level : int
        Time levels that were written before.
    note : mapping
        Plain JSON: metrics so far, ranks, numberings, and (of rank 0) the checksum of each field's
        incomplete chunk, which is not in the file before the chunk is complete.
    arrays : mapping of str to ndarray
        This rank's, from ``State.restart``.
    """

    level: int
    note: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    def write(self, folder: Path, rank: int) -> None:
        """Write it over the one before the last; a torn one is noticed by its checksum."""
        import numpy as np

        arrays = {n: np.asarray(a, order="C") for n, a in self.arrays.items()}
        head = {
            "level": self.level,
            "note": dict(self.note),
            "arrays": [[n, a.dtype.str, list(a.shape)] for n, a in arrays.items()],
        }
        pieces: list[Any] = [json.dumps(head, allow_nan=False).encode() + b"\n"]
        pieces += [a.reshape(-1).view(np.uint8) for a in arrays.values()]
        size, crc = sum(len(p) for p in pieces), 0
        for piece in pieces:
            crc = crc32c_extend(crc, piece)
        path = folder / f"restart.{rank}.{self.level % 2}"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            write_at(handle, [size.to_bytes(8, "little"), *pieces, little(crc)], 0)
        finally:
            os.close(handle)

    @classmethod
    def read(cls, folder: Path, rank: int) -> Iterator[Restart]:
        """The undamaged ones of this rank, at most two."""
        for slot in (0, 1):
            with contextlib.suppress(OSError, ValueError, KeyError):
                yield cls._parse((folder / f"restart.{rank}.{slot}").read_bytes())

    @classmethod
    def _parse(cls, data: bytes) -> Restart:
        import numpy as np

        end_ = 8 + int.from_bytes(data[:8], "little")
        body = data[8:end_]
        if little(crc32c(body)) != data[end_ : end_ + 4]:
            raise ValueError("torn")
        line, _, raw = body.partition(b"\n")
        head = json.loads(line)
        arrays, at = {}, 0
        for name, dtype, shape in head["arrays"]:
            if np.dtype(dtype).hasobject:
                raise ValueError("objects are not restart points")
            count = int(np.prod(shape, dtype=np.int64))
            arrays[name] = np.frombuffer(raw, dtype, count, at).reshape(shape).copy()
            at += count * np.dtype(dtype).itemsize
        return cls(head["level"], head["note"], arrays)
