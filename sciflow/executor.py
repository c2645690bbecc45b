"""Executor: runs a job file somewhere; Job: its handle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sciflow.component import Component
from sciflow.errors import Invalid

if TYPE_CHECKING:
    from sciflow.context import Event
    from sciflow.jobs import JobSpec


@dataclass(frozen=True)
class Resources:
    """What a job asks for; never part of an artifact's identity.

    Attributes
    ----------
    ranks : int
        MPI ranks of one job.
    threads : int
        Threads of each rank; 0 divides the cores this process may use by the ranks.
    parallel : int
        Jobs of one ensemble at the same time; 0 fills the cores.
    minutes : float
        Time limit of one job, minutes; 0 for none.
    """

    ranks: int = 1
    threads: int = 0
    parallel: int = 0
    minutes: float = 0.0

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise Invalid(f"ranks must be at least 1, got {self.ranks}")
        if min(self.threads, self.parallel, self.minutes) < 0:
            raise Invalid("threads, parallel and minutes cannot be negative")


class JobState(StrEnum):
    """Where a job stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Job(ABC):
    """A job that was submitted.

    Attributes
    ----------
    id : str
        The executor's own name for it (a process id, a Slurm job id).
    directory : Path
        Its run directory.
    """

    id: str
    directory: Path

    @abstractmethod
    def state(self) -> JobState:
        """Where it stands now."""

    @abstractmethod
    def wait(self, timeout: float | None = None) -> JobState:
        """Wait until it ends, or for `timeout` seconds."""

    @abstractmethod
    def cancel(self) -> None:
        """End it; returns when nothing of it runs any more."""

    @abstractmethod
    def events(self) -> list[Event]:
        """What it reported since the last call."""

    @abstractmethod
    def reason(self) -> str:
        """Why it failed, in one line; empty while it runs or when it ended well."""

    def log(self, lines: int = 40) -> str:
        """The last lines of its log."""
        from sciflow.jobs import LOG, tail

        return tail(self.directory / LOG, lines)


class Executor(Component):
    """Where jobs run."""

    kind: ClassVar[str] = "executor"

    @abstractmethod
    def submit(self, spec: JobSpec, directory: Path, resources: Resources) -> Job:
        """Start a job.

        Parameters
        ----------
        spec : JobSpec
            What to run.
        directory : Path
            Its run directory; created.
        resources : Resources
            What it needs.

        Raises
        ------
        Missing
            If what the executor starts jobs with is not there.
        """
