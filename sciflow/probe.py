"""Probe: what the file system below a directory can do of what storage relies on."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sciflow.errors import NotFound

SMALL_FILES = 500
BLOCK = 64 << 20
SHARED = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "fuse", "cifs", "9p")


@dataclass(frozen=True)
class Result:
    """Outcome of one attempt.

    Attributes
    ----------
    name : str
        What was tried.
    state : str
        ``ok``, ``slow``, ``absent`` (sciflow does without) or ``bad`` (it cannot).
    text : str
        What was found.
    advice : str
        What that means.
    """

    name: str
    state: str
    text: str
    advice: str = ""


def probe(path: Path) -> list[Result]:
    """Try everything in a temporary directory below `path`, which is removed afterwards.

    Raises
    ------
    NotFound
        If `path` is no directory.
    """
    if not path.is_dir():
        raise NotFound(f"{path} is no directory")
    results = [_kind(path), _room(path)]
    try:
        place = Path(tempfile.mkdtemp(prefix=".sciflow-probe-", dir=path))
    except OSError as error:
        return [
            *results,
            Result("write", "bad", error.strerror or str(error), "choose a directory you may write to"),
        ]
    try:
        for name, attempt in ATTEMPTS.items():
            try:
                results.append(attempt(name, place))
            except OSError as error:
                results.append(Result(name, "bad", f"{error.strerror or error}", NEEDED.get(name, "")))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return results


def file_system(path: Path) -> str:
    """Type of the file system that holds `path`, as the kernel names it; empty if it does not say."""
    best, kind = "", ""
    try:
        lines = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        _, place, fs, *_ = line.split()
        place = place.replace("\\040", " ")
        inside = path.resolve() == Path(place) or Path(place) in path.resolve().parents
        if inside and len(place) >= len(best):
            best, kind = place, fs
    return kind


def _kind(path: Path) -> Result:
    kind = file_system(path) or "unknown"
    if kind == "tmpfs":
        return Result(
            "file system", "ok", kind, "lives in memory: nothing survives a restart, take durability none"
        )
    if kind.startswith(SHARED):
        return Result(
            "file system", "ok", kind, "shared between machines: fsync costs a round trip to the server"
        )
    return Result("file system", "ok", kind)


def _room(path: Path) -> Result:
    disk = os.statvfs(path)
    free, inodes = disk.f_bavail * disk.f_frsize, disk.f_favail
    text = f"{free / 1e9:.1f} GB free, {inodes if disk.f_files else 'unlimited'} inodes"
    return Result(
        "room", "ok" if free > 1e9 else "slow", text, "" if free > 1e9 else "less than 1 GB is left"
    )


def room_for(path: Path, members: int, fields: int, size: int) -> Result:
    """Whether an ensemble fits: `members` times `fields` files of `size` bytes each."""
    disk = os.statvfs(path)
    free, files = disk.f_bavail * disk.f_frsize, members * fields
    need = files * size
    text = f"{files} files, {need / 1e9:.2f} GB; free are {disk.f_favail} inodes, {free / 1e9:.2f} GB"
    if need > free or (disk.f_files > 0 and disk.f_favail < files):
        return Result(
            "ensemble", "bad", text, "it does not fit: fewer members, another disk, or ask for quota"
        )
    return Result("ensemble", "ok", text)


def _rename(name: str, place: Path) -> Result:
    (place / "a").write_text("new")
    (place / "b").write_text("old")
    (place / "a").replace(place / "b")
    good = (place / "b").read_text() == "new" and not (place / "a").exists()
    return Result(
        name, "ok" if good else "bad", "replaces a file" if good else "does not replace", NEEDED[name]
    )


def _link(name: str, place: Path) -> Result:
    (place / "l1").write_text("1")
    (place / "l2").write_text("2")
    try:
        os.link(place / "l1", place / "l3")
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            return Result(name, "absent", "no hard links", "names are taken with O_EXCL instead")
        raise
    try:
        os.link(place / "l2", place / "l3")
    except FileExistsError:
        return Result(name, "ok", "the first one wins")
    return Result(name, "bad", "a second link replaced the first", "two writers of one member could mix")


def _exclusive(name: str, place: Path) -> Result:
    wins = 0
    for _ in range(2):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(place / "x", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            wins += 1
    return Result(
        name, "ok" if wins == 1 else "bad", f"{wins} of 2 made the file", "" if wins == 1 else NEEDED[name]
    )


def _timed(action: Callable[[], None], count: int = 8) -> float:
    """Median time, ms."""
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        action()
        times.append((time.perf_counter() - begin) * 1e3)
    return sorted(times)[count // 2]


def _fsync(name: str, place: Path) -> Result:
    handle = os.open(place / "s", os.O_CREAT | os.O_WRONLY, 0o644)
    folder = os.open(place, os.O_RDONLY)
    number = iter(range(1000))

    def file() -> None:
        os.write(handle, bytes(4096))
        os.fsync(handle)

    def directory() -> None:
        (place / f"d{next(number)}").touch()
        os.fsync(folder)

    try:
        one, other = _timed(file), _timed(directory)
    finally:
        os.close(handle)
        os.close(folder)
    slow = max(one, other) > 50
    advice = "members are committed with 3 of these; SCIFLOW_DURABILITY=rename survives kills, not power cuts"
    return Result(
        name, "slow" if slow else "ok", f"file {one:.2f} ms, directory {other:.2f} ms", advice if slow else ""
    )


def _sparse(name: str, place: Path) -> Result:
    handle = os.open(place / "w", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        os.pwrite(handle, b"end", 10_000)
        os.pwrite(handle, b"begin", 0)
        good = os.pread(handle, 3, 10_000) == b"end" and os.pread(handle, 4, 5000) == bytes(4)
    finally:
        os.close(handle)
    return Result(name, "ok" if good else "bad", "any place" if good else "loses data", NEEDED[name])


def _map(name: str, place: Path) -> Result:
    (place / "m").write_bytes(b"x" * 8192)
    with (place / "m").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        good = mapped[5000] == ord("x")
    return Result(name, "ok" if good else "bad", "reads" if good else "reads something else", NEEDED[name])


def _lock(name: str, place: Path) -> Result:
    handle = os.open(place / "k", os.O_CREAT | os.O_RDWR, 0o644)
    other = os.open(place / "k", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Result(name, "ok", "excludes")
        return Result(name, "bad", "does not exclude", "run one flow at a time in this store")
    except OSError as error:
        return Result(name, "bad", str(error.strerror), "mount with -o flock, or run one flow at a time")
    finally:
        os.close(handle)
        os.close(other)


def _names(name: str, place: Path) -> Result:
    (place / "c.17.0.0.0").write_text("")
    good = (place / "c.17.0.0.0").name in os.listdir(place)  # noqa: PTH208
    return Result(name, "ok" if good else "bad", "c.17.0.0.0" if good else "changed", NEEDED[name])


def _clock(name: str, place: Path) -> Result:
    file = place / "t"
    file.touch()
    os.utime(file, ns=(1_000_000_001, 1_000_000_001))
    rest = file.stat().st_mtime_ns - 1_000_000_000
    text = "1 ns" if rest == 1 else "coarser than 1 ns"
    return Result(name, "ok", text, "" if rest == 1 else "an edit within that time is only found by verify")


def _many(name: str, place: Path) -> Result:
    folder = place / "many"
    folder.mkdir()
    before = os.statvfs(place)
    begin = time.perf_counter()
    for number in range(SMALL_FILES):
        (folder / f"c.{number}").write_bytes(b"x" * 100)
    made = (time.perf_counter() - begin) / SMALL_FILES * 1e3
    after = os.statvfs(place)
    used = max(0, before.f_bavail - after.f_bavail) * after.f_frsize / SMALL_FILES
    slow = made > 20
    advice = "many small members cost more here than few large ones: store more time levels in each"
    return Result(
        name, "slow" if slow else "ok", f"{made:.2f} ms and {used:.0f} bytes each", advice if slow else ""
    )


def _speed(name: str, place: Path) -> Result:
    data = os.urandom(1 << 20)
    handle = os.open(place / "big", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        begin = time.perf_counter()
        for _ in range(BLOCK >> 20):
            os.write(handle, data)
        os.fsync(handle)
        rate = BLOCK / (time.perf_counter() - begin) / 1e6
    finally:
        os.close(handle)
    return Result(name, "ok" if rate > 50 else "slow", f"{rate:.0f} MB/s with fsync")


ATTEMPTS: dict[str, Callable[[str, Path], Result]] = {
    "rename": _rename,
    "hard link": _link,
    "O_EXCL": _exclusive,
    "fsync": _fsync,
    "pwrite": _sparse,
    "mmap": _map,
    "flock": _lock,
    "names": _names,
    "times": _clock,
    "small files": _many,
    "writing": _speed,
}
NEEDED = {
    "rename": "artifacts are published by a rename",
    "O_EXCL": "writers of one member are told apart by it",
    "pwrite": "ranks write their own ranges of one file",
    "mmap": "batches are read through it",
    "names": "files of members have dots in their names",
    "fsync": "use SCIFLOW_DURABILITY=rename",
}


def bad(results: list[Result]) -> Iterator[Result]:
    """Those without which sciflow cannot work here."""
    yield from (r for r in results if r.state == "bad")
