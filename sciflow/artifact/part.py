"""Part: one field of a member on its way, an open file and the checksums of what is in it."""

from __future__ import annotations

import filecmp
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sciflow.artifact import attempt
from sciflow.artifact.checksum import combine, crc32c, crc32c_extend, little
from sciflow.artifact.disk import write_at
from sciflow.artifact.layout import Layout

if TYPE_CHECKING:
    import numpy as np


class Part:
    """One field of a member on its way.

    Parameters
    ----------
    layout : Layout
        Of the field.
    path : Path
        The file; made if it is not there.

    Attributes
    ----------
    sums : list of int
        Checksums of the complete chunks.
    running : int
        Of the chunk that is incomplete.
    levels : int
        Time levels that are in it.
    """

    def __init__(self, layout: Layout, path: Path) -> None:
        self.layout, self.path = layout, path
        self.handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self.sums: list[int] = []
        self.running = 0
        self.levels = 0

    def holds(self, levels: int, running: int) -> bool:
        """Whether an earlier attempt left so many undamaged time levels.

        `running` is the checksum of those in an incomplete chunk.
        """
        if not self.sums:
            self.sums = attempt.examine(self.handle, self.layout)
        chunks, inside = divmod(levels, self.layout.together)
        if len(self.sums) < chunks:
            return False
        size = inside * self.layout.sample_bytes
        data = os.pread(self.handle, size, chunks * self.layout.record)
        return len(data) == size and (not inside or crc32c(data) == running)

    def rewind(self, levels: int, running: int) -> None:
        """Cut back to `levels` time levels."""
        self._cut(self.layout.place(levels))
        self.running, self.levels = running, levels
        self.sums = self.sums[: levels // self.layout.together]

    def _cut(self, size: int) -> None:
        """Make the file end at `size`, with no call where it does.

        ext4 takes the truncation of an empty file for the beginning of a replacement: it would
        write the file to the disk when it is closed, and have the job wait for that.
        """
        if os.fstat(self.handle).st_size != size:
            os.ftruncate(self.handle, size)

    def add(self, data: np.ndarray) -> None:
        """Append a time level, in the field's shape; in one call the checksum of a chunk that is complete."""
        place, flat = self.layout.place(self.levels), data.reshape(-1)
        fresh = self.levels % self.layout.together == 0
        self.count(crc32c(data) if fresh else crc32c_extend(self.running, data))
        write_at(self.handle, [flat, *self.completing()], place)

    def seal(self, crc: int) -> None:
        """Take in a level that the ranks have written; `crc` is that of the level."""
        place = self.layout.place(self.levels) + self.layout.sample_bytes
        fresh = self.levels % self.layout.together == 0
        self.count(crc if fresh else combine(self.running, crc, self.layout.sample_bytes))
        write_at(self.handle, self.completing(), place)

    def completing(self) -> list[bytes]:
        """The checksum of a chunk that has just become complete, else nothing."""
        return [little(self.running)] if self.levels % self.layout.together == 0 else []

    def count(self, crc: int) -> None:
        """Note a time level that ends a chunk's checksum at `crc`."""
        self.running = crc
        self.levels += 1
        if self.levels % self.layout.together == 0:
            self.sums.append(crc)

    def fill(self, values: np.ndarray) -> None:
        """Write all time levels at once, shape (time, ...)."""
        rows = values.reshape(self.layout.chunks, -1)
        self.sums = [crc32c(row) for row in rows]
        buffers = [b for row, crc in zip(rows, self.sums, strict=True) for b in (row, little(crc))]
        write_at(self.handle, buffers, 0)
        self.levels = self.layout.levels

    def finish(self) -> None:
        """Pad a chunk that was left incomplete, and write the index."""
        import numpy as np

        layout = self.layout
        missing = -self.levels % layout.together
        if missing:
            fill = np.nan if layout.dtype.kind == "f" else 0
            pad = np.full((missing, *layout.sample_shape), fill, layout.dtype)
            crc = crc32c_extend(self.running, pad)
            write_at(self.handle, [pad.reshape(-1), little(crc)], layout.place(self.levels))
            self.sums.append(crc)
        write_at(self.handle, [layout.index(len(self.sums))], len(self.sums) * layout.record)
        self._cut(layout.size(len(self.sums)))

    def summary(self) -> list[int]:
        """Size of the finished file, and a checksum over those of its chunks."""
        import numpy as np

        return [self.layout.size(len(self.sums)), int(crc32c(np.array(self.sums, dtype="<u4")))]

    def same(self, final: Path) -> bool:
        """Whether a file that is there already has the content of this one."""
        return filecmp.cmp(final, self.path, shallow=False)

    def close(self) -> None:
        """Close the file."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1
