"""Context: what a running stage, problem or surrogate may use of the world around it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sciflow.errors import Cancelled, Failed
from sciflow.experience import Experience

if TYPE_CHECKING:
    import numpy as np

    from sciflow.executor import Executor, Resources

Event = dict[str, Any]
"""One thing that happened, as plain JSON: ``{"event": "progress" | "metric" | "log" | ..., ...}``."""


class Comm(Protocol):
    """The part of an mpi4py communicator that code written against `Context` may rely on.

    Under ``mpirun`` it is a real ``mpi4py.MPI.Comm``; otherwise `SerialComm`. A plugin that needs
    the real thing for a library takes ``MPI.COMM_SELF`` when ``size == 1``.
    """

    rank: int
    size: int

    def barrier(self) -> None:
        """Wait for all ranks."""


class SerialComm:
    """A communicator of one rank that needs no MPI."""

    rank = 0
    size = 1

    def barrier(self) -> None:
        """Return at once."""


def summed(values: np.ndarray, comm: Comm) -> np.ndarray:
    """The sum over the ranks, the same bits on every rank; collective.

    Parameters
    ----------
    values : ndarray
        Of one shape and dtype on all ranks.
    comm : Comm
        With several ranks an mpi4py communicator.
    """
    if comm.size == 1:
        return values
    import numpy as np

    mine, everyone = np.ascontiguousarray(values), np.empty_like(values)
    mpi: Any = comm
    mpi.Allreduce(mine, everyone)
    return everyone


TEXT = 1000
"""Bytes of a text that the ranks exchange; longer ones are cut."""


def exchange(comm: Comm, text: str) -> list[str]:
    """Every rank's text, on every rank; collective, as plain buffers."""
    if comm.size == 1:
        return [text]
    import numpy as np

    mine = np.zeros(TEXT, dtype=np.uint8)
    data = np.frombuffer(text.encode()[:TEXT], dtype=np.uint8)
    mine[: len(data)] = data
    everyone = np.zeros((comm.size, TEXT), dtype=np.uint8)
    mpi: Any = comm
    mpi.Allgather(mine, everyone)
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in everyone]


def _discard(event: Event) -> None:
    """Drop an event nobody listens to."""


@dataclass
class Context:
    """What a running component may use; made by the worker or by the flow, never by a plugin.

    Attributes
    ----------
    seed : int
        Seed of this job. `rng` derives generators from it.
    scratch : Path
        A directory of this job's own; it survives a kill and is found again by the next attempt.
    comm : Comm
        Communicator over the ranks of this job.
    log : logging.Logger
        Messages here reach the run directory and the Prefect UI.
    emit : callable
        Takes an `Event`. Use `progress` and `metric` instead of calling it directly.
    executor : Executor or None
        Where a stage may start jobs of its own (the members of an ensemble).
    resources : Resources or None
        What the flow asked for this stage.
    cancelled : threading.Event
        Set when `check` is to raise.
    stopping : threading.Event
        Set when the scheduler asked this process to end soon.
    experience : Experience
        What the members of this ensemble learned about solving; keeps nothing outside of an ensemble.
    """

    seed: int = 0
    scratch: Path = Path()
    comm: Comm = field(default_factory=SerialComm)
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("sciflow"))
    emit: Callable[[Event], None] = _discard
    executor: Executor | None = None
    resources: Resources | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    stopping: threading.Event = field(default_factory=threading.Event)
    experience: Experience = field(default_factory=Experience)

    def rng(self, *key: int) -> np.random.Generator:
        """A generator that depends on the seed and `key` alone.

        Parameters
        ----------
        *key : int
            For example the member, so that members do not depend on the order they run in.
        """
        import numpy as np

        return np.random.default_rng([self.seed, *key])

    def progress(self, done: int, total: int, what: str, figures: Mapping[str, str] | None = None) -> None:
        """Say how far the stage is; also the place where a cancelled stage stops.

        Parameters
        ----------
        done, total : int
            So many of so many.
        what : str
            Of what, in a few words.
        figures : mapping of str to str or None
            What else is worth watching, as name and number with its unit; the Prefect UI shows a table.

        Raises
        ------
        Cancelled
            If the run was cancelled.
        """
        self.check()
        more = {"figures": dict(figures)} if figures else {}
        self.emit({"event": "progress", "done": done, "total": total, "what": what, **more})

    def metric(self, step: int, **values: float) -> None:
        """Record named numbers of one step, for curves."""
        self.check()
        self.emit({"event": "metric", "step": step, "values": {k: float(v) for k, v in values.items()}})

    def check(self) -> None:
        """Raise `Cancelled` if the run was cancelled.

        Raises
        ------
        Cancelled
            If the run was cancelled.
        """
        if self.cancelled.is_set():
            raise Cancelled("the run was cancelled")

    def check_together(self) -> None:
        """`check`, but of all ranks: if one was told to stop, all raise; collective.

        A parallel stage that takes long calls it where its ranks meet anyway. A scheduler tells each
        rank by itself that the time is over, and one that left alone would leave the others waiting.
        """
        if self.comm.size > 1:
            import numpy as np

            mine, everyone = np.array([self.stopping.is_set()], dtype=np.uint8), np.zeros(1, dtype=np.uint8)
            mpi: Any = self.comm
            mpi.Allreduce(mine, everyone)
            if everyone[0]:
                self.stopping.set()
                self.cancelled.set()
        self.check()

    def all_ok(self, error: BaseException | None) -> None:
        """Let all ranks agree on a failure before any of them raises; collective.

        Parameters
        ----------
        error : exception or None
            This rank's failure.

        Raises
        ------
        Exception
            This rank's own error, or `Failed` naming the ranks that had one.
        """
        text = "" if error is None else f"{type(error).__name__}: {error}"
        reasons = exchange(self.comm, text)
        if error is not None:
            raise error
        failed = [(rank, reason) for rank, reason in enumerate(reasons) if reason]
        if failed:
            raise Failed("; ".join(f"rank {rank}: {reason}" for rank, reason in failed))
