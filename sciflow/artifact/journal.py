"""Journal: the record of committed members, one append-only file for each writing process."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciflow.artifact.checksum import crc32c
from sciflow.artifact.disk import Disk, remove_folder, write_at

FOLDER = "journal"
COMPACT = "journal.log"


def line_of(record: Mapping[str, Any]) -> bytes:
    """One record as a line: CRC-32C in hexadecimal, a space, JSON."""
    text = json.dumps(record, sort_keys=True, allow_nan=False).encode()
    return b"%08x %s\n" % (crc32c(text), text)


def parse(line: bytes) -> dict[str, Any] | None:
    """The record in a line without its line feed, or None if it is torn or damaged."""
    check, _, text = line.partition(b" ")
    if not text or b"%08x" % crc32c(text) != check:
        return None
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


@dataclass(frozen=True)
class Torn:
    """Bytes in a journal that are no record.

    Attributes
    ----------
    file : Path
        The journal.
    line : int
        From 1.
    tail : bool
        They are the end of the file: what a kill in the middle of a write leaves.
    """

    file: Path
    line: int
    tail: bool


def read(meta: Path) -> Iterator[dict[str, Any] | Torn]:
    """Everything in the journals of an artifact, file by file in the order of their names."""
    for file in [*meta.glob(COMPACT), *sorted((meta / FOLDER).glob("*.log"))]:
        lines = file.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            last = number == len(lines)
            if last and not line:
                break
            # A line without its line feed was torn, even where its text is whole.
            record = None if last else parse(line)
            yield Torn(file, number, number >= len(lines) - 1) if record is None else record


class Journal:
    """This process's journal in an artifact that is being written.

    Parameters
    ----------
    folder : Path
        The directory of journals.
    disk : Disk
        Whether records survive a power cut.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder, self._disk = folder, disk
        self._handle: int | None = None
        self._end = 0
        self._pid = 0

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record; when this returns it is as safe as `Disk` says."""
        if self._handle is None or self._pid != os.getpid():
            self._open()
        assert self._handle is not None
        self._end = write_at(self._handle, [line_of(record)], self._end)
        self._disk.sync(self._handle)

    def _open(self) -> None:
        self._disk.make_folder(self._folder)
        self._pid = os.getpid()
        name = f"{platform.node()}-{self._pid}-{os.urandom(4).hex()}.log"
        self._handle = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._end = 0
        self._disk.sync_path(self._folder)

    def close(self) -> None:
        """Close the file; a later record opens another one."""
        if self._handle is not None and self._pid == os.getpid():
            os.close(self._handle)
        self._handle = None

    def __del__(self) -> None:
        self.close()


def compact(meta: Path, disk: Disk) -> None:
    """Put all records into one file; what is no record is left out."""
    records = [r for r in read(meta) if not isinstance(r, Torn)]
    if not records:
        return
    disk.replace(meta / COMPACT, b"".join(line_of(r) for r in records))
    remove_folder(meta / FOLDER)
