"""One pass over a data file: its SHA-256, and whether its own checksums hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sciflow.artifact.checksum import crc32c

if TYPE_CHECKING:
    from sciflow.artifact.layout import Layout

BLOCK = 8 << 20
"""Bytes read at once."""


@dataclass
class Scan:
    """What was found in a file.

    Attributes
    ----------
    size : int
        Bytes.
    sha256 : str
        Of all of them; empty where it was not asked for.
    problems : list of tuple of str
        Code (``crc``, ``index``, ``truncated``) and sentence for each thing that is wrong.
    chunks : int
        Undamaged chunks of a shard.
    """

    size: int
    sha256: str = ""
    problems: list[tuple[str, str]] = field(default_factory=list)
    chunks: int = 0


def scan(file: Path, layout: Layout | None = None, *, sha256: bool = True) -> Scan:
    """Read a file once, in blocks.

    Parameters
    ----------
    file : Path
        Any file.
    layout : Layout or None
        Of the field, if the file is a member's shard: its chunks and index are checked too.
    sha256 : bool
        Also hash it.
    """
    digest = hashlib.sha256() if sha256 else None
    handle = os.open(file, os.O_RDONLY)
    try:
        found = Scan(os.fstat(handle).st_size)
        chunks = 0 if layout is None else _chunks(found, layout)
        step = BLOCK if layout is None else max(1, BLOCK // layout.record) * layout.record
        body = 0 if layout is None else chunks * layout.record
        for offset in _offsets(body, found.size, step):
            end = body if offset < body else found.size
            data = os.pread(handle, min(step, end - offset), offset)
            if digest is not None:
                digest.update(data)
            if layout is not None and offset < body:
                _check_records(data, offset // layout.record, layout, found)
            elif layout is not None and data != layout.index(chunks):
                found.problems.append(("index", "the index of the shard is damaged"))
    finally:
        os.close(handle)
    if digest is not None:
        found.sha256 = digest.hexdigest()
    return found


def _offsets(body: int, size: int, step: int) -> Iterator[int]:
    yield from range(0, body, step)
    yield from range(body, size, step if body == 0 else size)


def _chunks(found: Scan, layout: Layout) -> int:
    """How many chunks a shard of this size holds."""
    chunks, rest = divmod(found.size - layout.size(0), layout.record)
    if rest or not 0 <= chunks <= layout.chunks:
        found.problems.append(
            (
                "truncated",
                f"{found.size} bytes are no shard of {layout.chunks} chunks of {layout.record} bytes",
            )
        )
        return max(0, min(found.size // layout.record, layout.chunks))
    return int(chunks)


def _check_records(data: bytes, first: int, layout: Layout, found: Scan) -> None:
    import numpy as np

    size, whole = layout.chunk_bytes, len(data) // layout.record
    # A view of each chunk: a slice of bytes would be copied before it is summed.
    rows = np.frombuffer(data, np.uint8, whole * layout.record).reshape(whole, layout.record)
    noted = np.ascontiguousarray(rows[:, size:]).view("<u4")[:, 0].tolist()
    for number, (row, crc) in enumerate(zip(rows, noted, strict=True), first):
        if crc32c(row[:size]) == crc:
            found.chunks += 1
        else:
            levels = f"time level {number * layout.together}" if layout.timed else "the field"
            found.problems.append(("crc", f"the checksum of {levels} does not match"))
