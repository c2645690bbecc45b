"""The outbox of a run: what a Prefect server is to know of it, kept in a file until the server has it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciflow.context import Event
from sciflow.jobs import replace_json

OUTBOX, DELIVERED, LOCK = "outbox.jsonl", "outbox.delivered", "outbox.lock"
PAUSE = 0.1
"""Seconds within which the progress of one stage is one line: the newest."""
KEPT = 100_000
"""Lines that are kept in memory while the disk is full; older ones are lost."""


@dataclass(frozen=True)
class Line:
    """One line of an outbox.

    Attributes
    ----------
    event : mapping
        What happened, with its number ``n`` and its ``time``, seconds since the epoch.
    end : int
        Bytes from the begin of the file to the end of this line.
    """

    event: Event
    end: int


class Outbox:
    """Append-only ``outbox.jsonl`` in the directory of a run; one line an event.

    Lines are numbered from 0, and no two have the same time: the time of a log line is what a
    server is asked for when it is not known whether it has that line. Appending never raises: while
    the disk is full, lines wait in memory.

    Parameters
    ----------
    directory : Path
        Of the run. It is made when the first line is written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.begun = False
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque(maxlen=KEPT)
        self._held: dict[str, Mapping[str, Any]] = {}
        self._shown: dict[str, float] = {}
        self._file: int | None = None
        self._length = 0
        self._number = 0
        self._last = 0.0

    def begin(self, name: str, parameters: Mapping[str, Any], start: float, **more: Any) -> None:
        """Say which flow this is; the first line.

        Parameters
        ----------
        name : str
            Of the flow, as Prefect knows it.
        parameters : mapping
            Plain JSON.
        start : float
            When it began, seconds since the epoch.
        **more
            ``run_name``, ``tags``; ``flow_run_id`` where Prefect runs the flow itself.
        """
        run = f"sciflow-{uuid.uuid4().hex}"
        self.begun = True
        self.add(
            {"event": "flow", "run": run, "name": name, "parameters": parameters, "start": start, **more}
        )

    def add(self, event: Mapping[str, Any]) -> None:
        """Append one event."""
        task = event.get("task", "")
        with self._lock:
            held = self._held.pop(task, None)
            if event["event"] == "progress":
                now = time.monotonic()
                if event["done"] < event["total"] and now - self._shown.get(task, -PAUSE) < PAUSE:
                    self._held[task] = event
                    return
                self._shown[task] = now
            elif held is not None:
                self._append(held)
            self._append(event)
            with contextlib.suppress(OSError):
                self._write()

    def close(self) -> None:
        """Write what waits and give up the lock that says the run is alive."""
        with self._lock, contextlib.suppress(OSError):
            self._write()
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _append(self, event: Mapping[str, Any]) -> None:
        # Microseconds are what a server keeps of a time.
        self._last = max(round(time.time(), 6), round(self._last + 1e-6, 6))
        # A job numbers its events too.
        line = {**event, "n": self._number, "time": self._last}
        self._number += 1
        self._waiting.append(json.dumps(line, default=str).encode() + b"\n")

    @staticmethod
    def _hold(file: int) -> None:
        """Lock the file, so that `alive` can tell; somebody who just asks holds it for a moment."""
        for _ in range(50):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                return
            else:
                return

    def _write(self) -> None:
        if self._file is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._file = os.open(self.directory / OUTBOX, flags, 0o644)
            self._length = os.fstat(self._file).st_size
            self._hold(self._file)
        while self._waiting:
            line = self._waiting[0]
            if os.write(self._file, line) < len(line):
                # Half a line came onto a full disk; it is taken back, and comes again with the next event.
                os.ftruncate(self._file, self._length)
                return
            self._length += len(line)
            self._waiting.popleft()


def lines(directory: Path, offset: int = 0) -> Iterator[Line]:
    """Whole lines of an outbox from a byte offset on; a torn last line is left out."""
    with (directory / OUTBOX).open("rb") as file:
        file.seek(offset)
        for text in file:
            if not text.endswith(b"\n"):
                return
            offset += len(text)
            try:
                event = json.loads(text)
            except ValueError:
                continue
            yield Line(event, offset)


def alive(directory: Path) -> bool:
    """Whether the process that writes this outbox is still there; on file systems without locks, no."""
    with (directory / OUTBOX).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[bool]:
    """Whether this process alone may deliver a run while the block lasts."""
    with (directory / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


@dataclass(frozen=True)
class Progress:
    """How far a run has been delivered: ``outbox.delivered``.

    Attributes
    ----------
    offset : int
        Bytes that the server has.
    sending : bool
        Something was on its way when this was written, so that the server may have more.
    done : bool
        The run has ended and the server has all of it.
    """

    offset: int = 0
    sending: bool = False
    done: bool = False

    @classmethod
    def read(cls, directory: Path) -> Progress:
        """Of a run; nothing is delivered where there is no such file."""
        try:
            document = json.loads((directory / DELIVERED).read_text())
            return cls(int(document["offset"]), bool(document["sending"]), bool(document["done"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def write(self, directory: Path) -> None:
        """Replace the file; a reader sees the old one or the new one."""
        replace_json(
            directory / DELIVERED, {"offset": self.offset, "sending": self.sending, "done": self.done}
        )


def undelivered(root: Path) -> list[Path]:
    """Directories of the runs below a store whose outbox is not wholly delivered, oldest first."""
    found = [p.parent for p in (root / "runs").glob(f"*/{OUTBOX}")]
    return sorted((p for p in found if not Progress.read(p).done), key=lambda p: (p / OUTBOX).stat().st_ctime)
