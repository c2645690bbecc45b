"""Job files: what a run directory holds, and how a job reports without a network."""

from __future__ import annotations

import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sciflow.context import Event
from sciflow.errors import Invalid, NotFound

JOB_FORMAT = 1
"""Version of ``job.json``; a worker refuses any other."""

TASKS = ("stage", "work", "members", "constants", "hello")
JOB, STATUS, EXIT, LOG = "job.json", "status.jsonl", "exit.json", "log.txt"
SUBMITTED = "submitted.json"
"""Left by an executor whose jobs outlive their driver; names the executor, for whoever comes after."""


def host() -> str:
    """This machine's name, reduced to characters that are safe in a file name."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in platform.node()) or "host"


@dataclass(frozen=True)
class JobSpec:
    """Everything a worker needs, as plain JSON.

    Attributes
    ----------
    task : str
        ``stage`` runs a stage, ``work`` does a part of one that orchestrates (`Stage.work`), ``members``
        solves members of an ensemble, ``constants`` writes what all members share, ``hello`` looks at
        the node.
    component : mapping
        The stage or problem, as `Component.to_json` gives it.
    output : str
        Directory of the artifact being written.
    inputs : mapping of str to mapping
        ``{"path": ..., "digest": ...}`` for each input artifact.
    payload : mapping
        For ``members``: ``members`` (indices) and ``parameters`` (one row each). For ``work``: what
        the stage wants to know.
    seed : int
        Of the stage.
    nonce : str
        Of this attempt, so that an exit file left by an earlier one is not mistaken for it.
    """

    task: Literal["stage", "work", "members", "constants", "hello"]
    component: Mapping[str, Any]
    output: str
    inputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    payload: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    nonce: str = field(default_factory=lambda: uuid.uuid4().hex)

    def write(self, directory: Path) -> Path:
        """Write ``job.json`` into a run directory and return its path."""
        directory.parent.mkdir(parents=True, exist_ok=True)
        # Parameters and logs are nobody else's business.
        directory.mkdir(mode=0o700, exist_ok=True)
        path = directory / JOB
        replace_json(path, {"format": JOB_FORMAT, **asdict(self)})
        return path

    @classmethod
    def read(cls, path: Path) -> JobSpec:
        """Read a job file.

        Raises
        ------
        NotFound
            If there is none.
        Invalid
            If it is damaged or was written by another version of sciflow.
        """
        if not path.is_file():
            raise NotFound(f"{path}: no such job file")
        try:
            document = json.loads(path.read_bytes())
            version = document.pop("format")
        except (ValueError, KeyError, AttributeError) as error:
            raise Invalid(f"{path} is not a job file: {error!r}") from None
        if version != JOB_FORMAT:
            raise Invalid(
                f"{path} has job format {version!r}, this sciflow runs format {JOB_FORMAT}: "
                "submit the stage again with one version of sciflow on both sides"
            )
        try:
            spec = cls(**document)
        except TypeError as error:
            raise Invalid(f"{path} is not a job file of format {version}: {error}") from None
        if spec.task not in TASKS:
            raise Invalid(f"{path}: task {spec.task!r} is not one of {', '.join(TASKS)}")
        return spec


def replace_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON so that a reader sees the old text or the new one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    temporary.write_text(json.dumps(document, indent=1, sort_keys=True, allow_nan=False))
    temporary.replace(path)


class EventLog:
    """Append-only ``status.jsonl``; one line an event, numbered.

    Parameters
    ----------
    directory : Path
        The run directory.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / STATUS
        self._lock = threading.Lock()
        self._number = 0

    def __call__(self, event: Event) -> None:
        """Append one event."""
        with self._lock:
            line = json.dumps({"n": self._number, "time": time.time(), **event}, allow_nan=True)
            with self._path.open("a") as file:
                file.write(line + "\n")
            self._number += 1


class EventReader:
    """Follows the ``status.jsonl`` of a job from another process.

    Parameters
    ----------
    directory : Path
        The run directory.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / STATUS
        self._offset = 0

    def new(self) -> list[Event]:
        """Whole lines that were added since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole, newline, _ = data.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [json.loads(line) for line in whole.splitlines() if line]


class EventHandler(logging.Handler):
    """Sends log records to an event sink.

    Parameters
    ----------
    emit_event : callable
        Takes the event.
    """

    def __init__(self, emit_event: Any) -> None:
        super().__init__()
        self._emit_event = emit_event

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one record on."""
        self._emit_event({"event": "log", "level": record.levelname, "message": record.getMessage()})


def tail(path: Path, lines: int = 40) -> str:
    """The last lines of a text file, empty where there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
