"""A model of a power cut: the calls that were really made, and every disk that they may leave.

Data that were not synced survive as nothing, half, all, or zeros. Names that were not synced
(creations, links, renames, removals) survive as any subset, so also as any prefix.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
from pathlib import Path

CALLS = (
    "open",
    "pwritev",
    "ftruncate",
    "fsync",
    "fdatasync",
    "link",
    "rename",
    "replace",
    "mkdir",
    "unlink",
    "rmdir",
)


class Recorder:
    """Records what is asked of the file system below a directory while it is done.

    Operations are tuples: ``("add", directory, name, inode, kind)``, ``("del", directory, name)``,
    ``("ren", directory, name, directory, name, inode)``, ``("write", inode, offset, bytes)``,
    ``("trunc", inode, size)``, ``("sync", inode)``. Inodes are numbered anew, as the system gives
    their numbers out again.
    """

    def __init__(self, root: Path, *, forget=lambda kind, name: False) -> None:
        self.root, self.forget = root, forget
        self.operations: list[tuple] = []
        self.notes: list[tuple[int, object]] = []
        self._ids: dict[int, int] = {}
        self._next = itertools.count(1)
        self.real = {name: getattr(os, name) for name in CALLS}
        self.top = self._id(os.stat(root).st_ino)
        self.kinds = {self.top: "d"}
        self.called = {self.top: ""}

    def note(self, what) -> None:
        """Remember that something was promised at this point."""
        self.notes.append((len(self.operations), what))

    def _id(self, inode: int, new: bool = False) -> int:
        if new or inode not in self._ids:
            self._ids[inode] = next(self._next)
        return self._ids[inode]

    def _parent(self, path: str) -> int:
        return self._id(os.stat(os.path.dirname(path)).st_ino)

    def _inside(self, path) -> str:
        text = os.path.abspath(os.fspath(path))
        return text if text.startswith(str(self.root)) else ""

    def _add(self, path: str, inode: int, kind: str) -> None:
        self.kinds[inode] = kind
        self.called.setdefault(inode, os.path.basename(path))
        self.operations.append(("add", self._parent(path), os.path.basename(path), inode, kind))

    def __enter__(self):
        for name in CALLS:
            setattr(
                os,
                name,
                getattr(
                    self, f"_{'rename' if name == 'replace' else 'fsync' if name == 'fdatasync' else name}"
                ),
            )
        return self

    def __exit__(self, *_):
        for name, function in self.real.items():
            setattr(os, name, function)

    def _open(self, path, flags, mode=0o777, *, dir_fd=None):
        text = "" if dir_fd is not None else self._inside(path)
        existed = not text or os.path.lexists(text)
        handle = self.real["open"](path, flags, mode, dir_fd=dir_fd)
        if not existed:
            self._add(text, self._id(os.fstat(handle).st_ino, new=True), "f")
        elif text and flags & os.O_TRUNC:
            self.operations.append(("trunc", self._id(os.fstat(handle).st_ino), 0))
        return handle

    def _pwritev(self, handle, buffers, offset):
        done = self.real["pwritev"](handle, buffers, offset)
        data = b"".join(bytes(b) for b in buffers)[:done]
        self.operations.append(("write", self._id(os.fstat(handle).st_ino), offset, data))
        return done

    def _ftruncate(self, handle, size):
        self.real["ftruncate"](handle, size)
        self.operations.append(("trunc", self._id(os.fstat(handle).st_ino), size))

    def _fsync(self, handle):
        self.real["fsync"](handle)
        inode = self._id(os.fstat(handle).st_ino)
        if not self.forget(self.kinds[inode], self.called[inode]):
            self.operations.append(("sync", inode))

    def _link(self, old, new, **_):
        self.real["link"](old, new)
        self._add(self._inside(new), self._id(os.stat(new).st_ino), "f")

    def _rename(self, old, new, **_):
        inode = self._id(os.lstat(old).st_ino)
        self.real["rename"](old, new)
        old, new = self._inside(old), self._inside(new)
        names = os.path.basename(old), os.path.basename(new)
        self.operations.append(("ren", self._parent(old), names[0], self._parent(new), names[1], inode))

    def _mkdir(self, path, mode=0o777, *, dir_fd=None):
        self.real["mkdir"](path, mode)
        if text := self._inside(path):
            self._add(text, self._id(os.stat(text).st_ino, new=True), "d")

    def _unlink(self, path, *, dir_fd=None):
        self.real["unlink"](path, dir_fd=dir_fd)
        if dir_fd is None and (text := self._inside(path)):
            self.operations.append(("del", self._parent(text), os.path.basename(text)))

    def _rmdir(self, path, *, dir_fd=None):
        self.real["rmdir"](path, dir_fd=dir_fd)
        if dir_fd is None and (text := self._inside(path)):
            self.operations.append(("del", self._parent(text), os.path.basename(text)))


def apply(names, operation) -> None:
    """Change names (directory -> name -> inode) by one operation."""
    kind, *rest = operation
    if kind == "add":
        names.setdefault(rest[0], {})[rest[1]] = rest[2]
    elif kind == "del":
        names.setdefault(rest[0], {}).pop(rest[1], None)
    else:
        names.setdefault(rest[0], {}).pop(rest[1], None)
        names.setdefault(rest[2], {})[rest[3]] = rest[4]


def directories(operation) -> set[int]:
    """Directories that an operation on names concerns."""
    return {operation[1], operation[3]} if operation[0] == "ren" else {operation[1]}


class Replay:
    """Replays a record and gives, after every operation, all disks that a power cut may leave.

    What lies in `ignored` directories (unfinished attempts) survives as it is; it is looked at by
    other tests.
    """

    def __init__(self, record: Recorder, ignored=("parts",), most: int = 8) -> None:
        self.record, self.most = record, most
        self.names = {record.top: {}}
        self.pending: list[tuple] = []
        self.live: dict[int, bytearray] = {}
        self.durable: dict[int, bytes] = {}
        self.dirty: set[int] = set()
        self.ignored: set[int] = set()
        for operation in record.operations:
            folder = operation[0] == "add" and operation[4] == "d"
            if folder and (operation[2] in ignored or operation[1] in self.ignored):
                self.ignored.add(operation[3])

    def step(self, operation) -> None:
        kind, inode, *rest = operation
        if kind == "write":
            offset, data = rest
            content = self.live.setdefault(inode, bytearray())
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data
            self.dirty.add(inode)
        elif kind == "trunc":
            content = self.live.setdefault(inode, bytearray())
            content[rest[0] :] = bytes(max(0, rest[0] - len(content)))
            self.dirty.add(inode)
        elif kind == "sync" and self.record.kinds[inode] == "f":
            self.durable[inode] = bytes(self.live.get(inode, b""))
            self.dirty.discard(inode)
        elif kind == "sync":
            for one in [p for p in self.pending if inode in directories(p)]:
                apply(self.names, one)
                self.pending.remove(one)
        else:
            self.pending.append(operation)

    def disks(self):
        """Every (names, data) that may be found after a power cut now."""
        free = [p for p in self.pending if not directories(p) <= self.ignored]
        for chosen in self._subsets(len(free)):
            picked = {id(free[i]) for i in chosen}
            names = {d: dict(entries) for d, entries in self.names.items()}
            for one in self.pending:
                if id(one) in picked or directories(one) <= self.ignored:
                    apply(names, one)
            torn = sorted(self.dirty & self._reachable(names))
            for variants in itertools.product(*(self._variants(i) for i in torn)):
                yield names, dict(zip(torn, variants, strict=True))

    def _subsets(self, count: int):
        if count <= self.most:
            for size in range(count + 1):
                yield from itertools.combinations(range(count), size)
        else:
            yield from (tuple(range(size)) for size in range(count + 1))

    def _variants(self, inode: int) -> set[bytes]:
        now, old = bytes(self.live[inode]), self.durable.get(inode, b"")
        half = (min(len(old), len(now)) + len(now)) // 2
        zeros = old[: len(now)] + bytes(max(0, len(now) - len(old)))
        return {old, now[:half], now, zeros}

    def _reachable(self, names) -> set[int]:
        found, todo = set(), [self.record.top]
        while todo:
            for inode in names.get(todo.pop(), {}).values():
                if self.record.kinds[inode] == "f":
                    found.add(inode)
                elif inode not in self.ignored:
                    todo.append(inode)
        return found

    def tree(self, names, data):
        """Path and content (None for a directory) of everything on a disk."""
        todo = [(self.record.top, "")]
        while todo:
            directory, path = todo.pop()
            for name, inode in sorted(names.get(directory, {}).items()):
                where = f"{path}/{name}".lstrip("/")
                if self.record.kinds[inode] == "d":
                    yield where, None
                    todo.append((inode, where))
                else:
                    yield where, data.get(inode, bytes(self.live.get(inode, b"")))

    def fingerprint(self, names, data) -> bytes:
        """Equal for disks that differ in nothing but unfinished attempts."""
        digest = hashlib.sha256()
        for path, content in sorted(self.tree(names, data), key=lambda e: e[0]):
            if "/parts/" not in path and "/scratch" not in path:
                digest.update(path.encode() + b"\0" + (b"dir" if content is None else content) + b"\1")
        return digest.digest()


@contextlib.contextmanager
def disk(replay: Replay, names, data, place: Path):
    """A disk as a directory, for as long as it is looked at."""
    place.mkdir()
    try:
        for path, content in replay.tree(names, data):
            if content is None:
                (place / path).mkdir()
            else:
                (place / path).write_bytes(content)
        yield place
    finally:
        shutil.rmtree(place)
