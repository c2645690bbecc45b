"""State that grows while something learns: records in a journal, snapshots, rows of experience."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.artifact import journal
from sciflow.artifact.checksum import crc32c, little
from sciflow.artifact.disk import Disk, write_at
from sciflow.errors import Invalid

if TYPE_CHECKING:
    import numpy as np

HEADER = 4096
"""Bytes at the start of a file of rows that say what a row is."""


class StateLog:
    """The state of a tuner: its journal is the truth, snapshots make restoring quick.

    Restoring after a kill gives exactly the state after the last record that was appended. For one
    writer at a time.

    Parameters
    ----------
    folder : Path
        Its directory.
    disk : Disk or None
        Whether records survive a power cut; by default they do.
    """

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self.folder, self._disk = folder, disk or Disk()
        self._journal = journal.Journal(folder / journal.FOLDER, self._disk)
        self._count = max((r["n"] for r in self._records()), default=-1) + 1

    def _records(self) -> Iterator[dict[str, Any]]:
        for record in journal.read(self.folder):
            if not isinstance(record, journal.Torn):
                yield record

    def __len__(self) -> int:
        return self._count

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record, plain JSON (a pull and its cost, an episode)."""
        self._journal.append({"n": self._count, "record": dict(record)})
        self._count += 1

    def snapshot(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the state that all records so far have led to; older snapshots go."""
        import numpy as np
        from safetensors.numpy import save

        data = bytes(save({k: np.asarray(v, order="C") for k, v in sorted(arrays.items())}))
        name = f"snapshot-{self._count:012d}.safetensors"
        self._disk.replace(self.folder / name, data)
        self._journal.append({"n": self._count - 1, "snapshot": name, "crc": int(crc32c(data))})
        for old in sorted(self.folder.glob("snapshot-*.safetensors"))[:-2]:
            old.unlink()

    def restore(self) -> tuple[dict[str, np.ndarray] | None, list[dict[str, Any]]]:
        """The newest undamaged snapshot (or None), and the records that came after it, in order.

        Raises
        ------
        Invalid
            If a record is missing, or two processes wrote at the same time.
        """
        from safetensors.numpy import load

        records: dict[int, dict[str, Any]] = {}
        snapshots: list[tuple[int, str, int]] = []
        for entry in self._records():
            if "snapshot" in entry:
                snapshots.append((entry["n"] + 1, entry["snapshot"], entry["crc"]))
            elif entry["n"] in records:
                raise Invalid(f"{self.folder}: two processes wrote record {entry['n']}")
            else:
                records[entry["n"]] = entry["record"]
        first, state = 0, None
        for count, name, crc in sorted(snapshots, reverse=True):
            file = self.folder / name
            data = file.read_bytes() if file.is_file() else b""
            if data and crc32c(data) == crc:
                first, state = count, load(data)
                break
        wanted = range(first, max(records, default=first - 1) + 1)
        missing = [n for n in wanted if n not in records]
        if missing:
            raise Invalid(
                f"{self.folder}: record {missing[0]} of {len(wanted) + first} is damaged or missing"
            )
        return state, [records[n] for n in wanted]


class Rows:
    """An append-only file of equal rows, each with a checksum: a replay buffer, a table of metrics.

    Parameters
    ----------
    file : Path
        Where it is or will be.
    fields : mapping of str to tuple
        Shape and numpy dtype of each field of a row.
    disk : Disk or None
        Whether appended rows survive a power cut; by default they do.

    Raises
    ------
    Invalid
        If the file holds other rows, or a dtype is no number.
    """

    def __init__(
        self, file: Path, fields: Mapping[str, tuple[tuple[int, ...], str]], disk: Disk | None = None
    ) -> None:
        import numpy as np

        self._disk = disk or Disk()
        columns = [(n, np.dtype(dtype).newbyteorder("<"), shape) for n, (shape, dtype) in fields.items()]
        if any(c[1].kind not in "fiub" for c in columns):
            raise Invalid(f"{file}: rows hold numbers, not {[str(c[1]) for c in columns]}")
        self._values = np.dtype(columns)
        self.dtype = np.dtype([*columns, ("crc32c", "<u4")])
        header = json.dumps([[n, d.str, list(s)] for n, d, s in columns]).encode().ljust(HEADER - 1) + b"\n"
        if len(header) > HEADER:
            raise Invalid(f"{file}: too many fields in a row")
        if not file.exists():
            self._disk.replace(file, header)
        self._handle = os.open(file, os.O_RDWR)
        if os.pread(self._handle, HEADER, 0) != header:
            os.close(self._handle)
            raise Invalid(f"{file} holds rows of other fields than {list(fields)}")
        self._count = len(self.read())

    def __len__(self) -> int:
        return self._count

    def append(self, **values: np.ndarray) -> None:
        """Add rows; each value has shape ``(row, ...)``.

        Raises
        ------
        Invalid
            If a field is missing or unknown, or lengths or shapes differ.
        """
        import numpy as np

        if values.keys() != set(self._values.names or ()):
            raise Invalid(f"a row has the fields {self._values.names}, got {sorted(values)}")
        rows = np.zeros(len(next(iter(values.values()))), self.dtype)
        for name, value in values.items():
            if np.shape(value) != rows[name].shape:
                raise Invalid(f"field {name!r}: shape {np.shape(value)}, wanted {rows[name].shape}")
            rows[name] = value
        size = self._values.itemsize
        raw = rows.view(np.uint8).reshape(len(rows), -1)
        for row in raw:
            row[size:] = np.frombuffer(little(crc32c(row[:size])), np.uint8)
        write_at(self._handle, [raw.reshape(-1)], HEADER + self._count * self.dtype.itemsize)
        self._disk.sync(self._handle)
        self._count += len(rows)

    def read(self) -> np.ndarray:
        """All rows up to the first damaged one, as a structured array of shape ``(row,)``."""
        import numpy as np

        data = os.pread(self._handle, max(0, os.fstat(self._handle).st_size - HEADER), HEADER)
        raw = np.frombuffer(data, np.uint8)
        raw = raw[: len(raw) // self.dtype.itemsize * self.dtype.itemsize].reshape(-1, self.dtype.itemsize)
        size = self._values.itemsize
        for number, row in enumerate(raw):
            if little(crc32c(row[:size])) != row[size:].tobytes():
                raw = raw[:number]
                break
        return np.frombuffer(raw.tobytes(), self.dtype)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)
