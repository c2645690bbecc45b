"""Gather: random time levels of a member-wise field, at nearly the speed of a memory map."""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from struct import Struct
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Literal

from sciflow.artifact.checksum import crc32c
from sciflow.artifact.layout import Layout
from sciflow.errors import Invalid, NotFound

if TYPE_CHECKING:
    import numpy as np

Verify = Literal["off", "first", "always"]
"""Whether checksums are compared: never, when a chunk is read for the first time, or always."""

MAPPED = 8192
"""Files kept mapped at once; Linux allows a process 65530 mappings."""

SLOW = 30_000
"""Nanoseconds beyond one per byte after which a window cannot have been in the page cache."""

_check_at = Struct("<I").unpack_from


class _Shards(dict[int, memoryview]):
    """The chunks of the members' shards, mapped when they are first asked for."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._layout, self._path = layout, folder
        # By handle, so that publication (a rename) does not pull the directory away from a reader.
        try:
            self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except NotADirectoryError:
            raise Invalid(f"{folder} is a symbolic link, not a directory; it is not followed") from None

    def __missing__(self, member: int) -> memoryview:
        layout = self._layout
        if len(self) >= MAPPED:
            self.clear()
        key = layout.key(member)
        try:
            handle = os.open(key, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._folder)
        except FileNotFoundError:
            raise NotFound(
                f"{self._path}: member {member} is not there (failed, or not yet computed)"
            ) from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Invalid(
                    f"{self._path / key} is a symbolic link, not a file; it is not followed"
                ) from None
            raise
        try:
            size = os.fstat(handle).st_size
            chunks, rest = divmod(size - layout.size(0), layout.record)
            if rest or not 0 <= chunks <= layout.chunks:
                raise Invalid(f"{self._path / key} has {size} bytes and is no whole shard: it was truncated")
            whole = mmap.mmap(handle, size, prot=mmap.PROT_READ)
        finally:
            os.close(handle)
        self[member] = memoryview(whole)[: chunks * layout.record]
        return self[member]

    def __del__(self) -> None:
        if hasattr(self, "_folder"):
            os.close(self._folder)


class Gather:
    """Reads time levels of one field of an ensemble in any order.

    It holds no locks and no threads: a process may fork or be sent to another one at any time.

    Parameters
    ----------
    folder : Path
        ``<artifact>/data.zarr/<field>``.
    verify : {"off", "first", "always"}
        When checksums are compared.
    inverse : mapping of int to ndarray
        For members whose values are stored in a solver's order: where each canonical position is.

    Notes
    -----
    Each sample costs one copy out of the page cache and, where it is verified, one pass of CRC-32C
    over the copy while it is in the processor's cache. Nothing is looked up: chunks have one size,
    so offsets are computed.
    """

    def __init__(
        self, folder: Path, *, verify: Verify = "first", inverse: Mapping[int, np.ndarray] | None = None
    ) -> None:
        self.folder = folder
        self.layout = Layout.read(folder)
        self.verify: Verify = verify
        self._inverse = dict(inverse or {})
        self._shards = _Shards(folder, self.layout)
        self._seen: dict[int, bytearray] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs to open the same files again."""
        return {"folder": self.folder, "verify": self.verify, "inverse": self._inverse}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["folder"], verify=state["verify"], inverse=state["inverse"])  # type: ignore[misc]

    def read(
        self, members: np.ndarray, levels: np.ndarray, count: int = 1, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Gather windows of consecutive time levels.

        Parameters
        ----------
        members, levels : ndarray of int, shape (n,)
            Member and first time level of each.
        count : int
            Levels in a window.
        out : ndarray, shape (n, count, ...), or None
            Where to put the values, C-contiguous.

        Returns
        -------
        ndarray, shape (n, count, ...)

        Raises
        ------
        NotFound
            If a member is not there.
        Invalid
            If a level does not exist, a file is truncated or a checksum does not match.
        """
        import numpy as np

        layout = self.layout
        members, levels = np.asarray(members), np.asarray(levels)
        if len(levels) and ((levels < 0) | (levels > layout.levels - count)).any():
            raise Invalid(
                f"{self.folder}: there are {layout.levels} time levels, asked for {_ends(levels, count)}"
            )
        shape = (len(members), count, *layout.sample_shape)
        if out is None:
            out = np.empty(shape, layout.dtype)
        raw = out.reshape(-1).view(np.uint8)
        try:
            if count == 1 and layout.together == 1:
                self._single(members, levels, raw)
            else:
                self._windows(members, levels, count, raw)
        except ValueError as error:
            if isinstance(error, Invalid):
                raise
            raise Invalid(f"{self.folder}: a member has fewer levels than asked for ({error})") from None
        if self._inverse:
            self._reorder(members, out.reshape(shape))
        return out.reshape(shape)

    def _single(self, members: np.ndarray, levels: np.ndarray, raw: np.ndarray) -> None:
        size, shards, target, at = self.layout.sample_bytes, self._shards, memoryview(raw.data), 0
        places = zip(members.tolist(), (levels * self.layout.record).tolist(), strict=True)
        slow, last = SLOW + size, perf_counter_ns()
        if self.verify == "off":
            for member, offset in places:
                target[at : at + size] = shards[member][offset : offset + size]
                at += size
                now = perf_counter_ns()
                if now - last > slow:
                    slow = self._ask_ahead(members, levels, 1, at // size)
                last = now
            return
        for member, offset in places:
            shard, end = shards[member], offset + size
            target[at : at + size] = shard[offset:end]
            if self._due(member, offset) and crc32c(raw[at : at + size]) != _check_at(shard, end)[0]:
                raise self._damage(member, offset)
            at += size
            now = perf_counter_ns()
            if now - last > slow:
                slow = self._ask_ahead(members, levels, 1, at // size)
            last = now

    def _windows(self, members: np.ndarray, levels: np.ndarray, count: int, raw: np.ndarray) -> None:
        layout, at = self.layout, 0
        size, together = layout.sample_bytes, layout.together
        target = memoryview(raw.data)
        slow, last = SLOW + count * size, perf_counter_ns()
        for number, (member, first) in enumerate(zip(members.tolist(), levels.tolist(), strict=True), 1):
            shard, level, end = self._shards[member], first, first + count
            while level < end:
                chunk, inside = divmod(level, together)
                take = min(together - inside, end - level)
                start = chunk * layout.record
                if self.verify != "off" and self._due(member, start):
                    self._check(member, shard, start)
                offset, length = start + inside * size, take * size
                target[at : at + length] = shard[offset : offset + length]
                at, level = at + length, level + take
            now = perf_counter_ns()
            if now - last > slow:
                slow = self._ask_ahead(members, levels, count, number)
            last = now

    def _ask_ahead(self, members: np.ndarray, levels: np.ndarray, count: int, done: int) -> int:
        """Prefetch what is left of a batch in which a window had to be waited for, once.

        A page that a memory map finds missing is read before the next one is asked for; the disk
        is faster when it knows of all of them.
        """
        self.prefetch(members[done:], levels[done:], count)
        return sys.maxsize

    def _due(self, member: int, offset: int) -> bool:
        """Whether a chunk is to be checked now."""
        if self.verify == "always":
            return True
        seen = self._seen.get(member)
        if seen is None:
            seen = self._seen[member] = bytearray(self.layout.chunks)
        chunk = offset // self.layout.record
        if seen[chunk]:
            return False
        seen[chunk] = 1
        return True

    def _check(self, member: int, shard: memoryview, start: int) -> None:
        import numpy as np

        end = start + self.layout.chunk_bytes
        if crc32c(np.frombuffer(shard[start:end], np.uint8)) != _check_at(shard, end)[0]:
            raise self._damage(member, start)

    def _damage(self, member: int, offset: int) -> Invalid:
        level = offset // self.layout.record * self.layout.together
        self._seen.pop(member, None)
        return Invalid(
            f"{self.folder / self.layout.key(member)}: the checksum of time level {level} does not match; "
            "the file was damaged after it was written (sciflow store verify says more)"
        )

    def _reorder(self, members: np.ndarray, values: np.ndarray) -> None:
        for row, member in enumerate(members.tolist()):
            order = self._inverse.get(member)
            if order is not None:
                values[row] = values[row][..., order]

    def part(
        self, member: int, level: int, where: slice | np.ndarray, out: np.ndarray, *, check: bool = True
    ) -> None:
        """Copy some values of one time level of one member, without reading the others.

        Parameters
        ----------
        member, level : int
            Which one.
        where : slice or ndarray of int, shape (n,)
            Canonical positions in the flattened level.
        out : ndarray, shape (n,)
            Where to put the values; of any floating type.
        check : bool
            Compare the checksum of the chunk they lie in, as `verify` says. That reads the whole
            chunk: where many share a level among them, one of them checks.

        Raises
        ------
        NotFound
            If the member is not there.
        Invalid
            If the level does not exist or the checksum does not match.
        """
        import numpy as np

        layout, shard = self.layout, self._shards[member]
        start = layout.place(level)
        if not 0 <= level < layout.levels or start + layout.sample_bytes > len(shard):
            raise Invalid(f"{self.folder}: member {member} has no time level {level}")
        chunk = level // layout.together * layout.record
        if check and self.verify != "off" and self._due(member, chunk):
            self._check(member, shard, chunk)
        count = layout.sample_bytes // layout.dtype.itemsize
        values = np.frombuffer(shard, layout.dtype, count, start)
        order = self._inverse.get(member)
        if order is not None:
            wanted = np.arange(*where.indices(count)) if isinstance(where, slice) else where
            where = wanted // len(order) * len(order) + order[wanted % len(order)]
        out[...] = values[where]

    def whole(self, members: np.ndarray) -> np.ndarray:
        """All time levels of some members; what is not there is NaN (or zero for integers).

        Returns
        -------
        ndarray, shape (member, ...)
        """
        import numpy as np

        layout = self.layout
        fill = np.nan if layout.dtype.kind == "f" else 0
        out = np.full((len(members), *layout.shape), fill, layout.dtype)
        rows = out.reshape(len(members), layout.levels, layout.sample_bytes // layout.dtype.itemsize)
        for row, member in enumerate(members.tolist()):
            try:
                levels = len(self._shards[member]) // layout.record * layout.together
            except NotFound:
                continue
            if levels:
                one = self.read(np.array([member]), np.array([0]), levels)
                rows[row, :levels] = one.reshape(levels, rows.shape[2])
        return out

    def prefetch(self, members: np.ndarray, levels: np.ndarray, count: int = 1) -> None:
        """Ask the system to begin reading windows that will be wanted soon; returns at once; see `read`."""
        layout, page = self.layout, mmap.PAGESIZE
        for member, level in zip(members.tolist(), levels.tolist(), strict=True):
            shard = self._shards[member]
            mapped: Any = shard.obj
            start = layout.place(level) // page * page
            end = min(layout.place(level + count - 1) + layout.sample_bytes + 4, len(shard))
            if start < end:
                mapped.madvise(mmap.MADV_WILLNEED, start, end - start)


def _ends(levels: np.ndarray, count: int) -> str:
    return f"{int(levels.min())} to {int(levels.max()) + count - 1}"
