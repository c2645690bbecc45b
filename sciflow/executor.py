"""Executor: runs a job file somewhere; Job: its handle."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.component import Component
from sciflow.errors import Ended, Failed, Invalid

if TYPE_CHECKING:
    from sciflow.context import Event
    from sciflow.jobs import JobSpec


_WORD = re.compile(r"[\w.,:+@*/&|()\[\]=-]*")
"""What partitions, accounts and constraints are made of; nothing a shell would act on survives it."""


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
        Jobs of one ensemble at the same time; 0 fills the cores, or takes what the executor says.
    minutes : float
        Time limit of one job, minutes; 0 for none, or for that of the partition.
    nodes : int
        Nodes of one job; 0 leaves it to the scheduler.
    gpus : int
        GPUs of one job.
    memory : float
        Memory of one job on each node, GiB; 0 for what the site gives.
    partition, account, qos, constraint : str
        As the scheduler names them; empty for its defaults.
    extra : tuple of str
        Further options of ``sbatch``, one each: ``("--exclusive", "--mail-type=END")``.

    Raises
    ------
    Invalid
        If a setting has a value that it cannot have, alone or beside the others.
    """

    ranks: int = 1
    threads: int = 0
    parallel: int = 0
    minutes: float = 0.0
    nodes: int = 0
    gpus: int = 0
    memory: float = 0.0
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    extra: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise Invalid(f"ranks must be at least 1, got {self.ranks}")
        for name in ("threads", "parallel", "minutes", "nodes", "gpus", "memory"):
            if getattr(self, name) < 0:
                raise Invalid(f"{name} cannot be negative, got {getattr(self, name)}")
        for name in ("partition", "account", "qos", "constraint"):
            if not _WORD.fullmatch(getattr(self, name)):
                raise Invalid(f"{name} {getattr(self, name)!r} holds characters that no scheduler uses")
        # From JSON it comes as a list.
        object.__setattr__(self, "extra", tuple(self.extra))
        for option in self.extra:
            if not option.startswith("-") or any(ord(c) < 32 for c in option):
                raise Invalid(f"extra: {option!r} is not an option; write one like '--exclusive'")


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class Cause(StrEnum):
    """Why a job did not end well."""

    FAILED = "failed"
    CANCELLED = "cancelled"
    TIME_LIMIT = "time limit"
    PREEMPTED = "preempted"
    NODE_FAILURE = "node failure"
    OUT_OF_MEMORY = "out of memory"
    LOST = "lost"

    @property
    def passing(self) -> bool:
        """Whether the same job, started again, would go on from where it was."""
        return self in (Cause.TIME_LIMIT, Cause.PREEMPTED, Cause.NODE_FAILURE, Cause.LOST)


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

    @classmethod
    def cancel_many(cls, jobs: Sequence[Self]) -> None:
        """End several jobs of this kind."""
        for job in jobs:
            job.cancel()

    @abstractmethod
    def events(self) -> list[Event]:
        """What it reported since the last call."""

    @abstractmethod
    def reason(self) -> str:
        """Why it failed, in one line; empty while it runs or when it ended well."""

    def cause(self) -> Cause | None:
        """Why it failed, as far as the executor knows; None while it runs or when it ended well."""
        state = self.state()
        if state == JobState.CANCELLED:
            return Cause.CANCELLED
        return Cause.FAILED if state == JobState.FAILED else None

    def waits_for(self) -> str:
        """Why it waits in a queue, for people; empty while it does not."""
        return ""

    def settle(self) -> None:  # noqa: B027 - most jobs do not outlive their driver
        """Note that its end was dealt with: no later process finds it as unfinished business."""

    def log(self, lines: int = 40) -> str:
        """The last lines of its log."""
        from sciflow.jobs import LOG, tail

        return tail(self.directory / LOG, lines)


class Executor(Component):
    """Where jobs run.

    Attributes
    ----------
    queues : bool
        Jobs wait in a queue and outlive the process that submitted them: all jobs of an ensemble are
        submitted at once, and a later process finds them again.
    shares : bool
        Jobs run on the cores of this machine, and nobody else counts who takes them.
    """

    kind: ClassVar[str] = "executor"
    queues: ClassVar[bool] = False
    shares: ClassVar[bool] = False

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
        Failed
            If the scheduler does not take the job; with what it said.
        """

    def submit_all(
        self, specs: Sequence[JobSpec], directory: Path, resources: Resources, width: int
    ) -> list[Job]:
        """Start several jobs of one kind.

        Parameters
        ----------
        specs : sequence of JobSpec
            What to run.
        directory : Path
            Holds their run directories, numbered from 0.
        resources : Resources
            What each of them needs.
        width : int
            So many of them at the same time, where the executor queues.
        """
        return [self.submit(spec, directory / str(i), resources) for i, spec in enumerate(specs)]

    def attach(self, directory: Path) -> list[Job]:
        """The jobs that an earlier process submitted with this run directory, whose end nobody saw."""
        return []

    def width(self, resources: Resources) -> int:
        """How many jobs of an ensemble to run at the same time."""
        from sciflow.executors.local import cores

        return resources.parallel or max(1, cores() // resources.ranks)


def cancel_all(jobs: Sequence[Job]) -> None:
    """End several jobs, those of one kind together."""
    for kind in {type(job) for job in jobs}:
        kind.cancel_many([job for job in jobs if type(job) is kind])


def ended(job: Job, what: str = "", where: str = "") -> Failed:
    """The error for a job that did not end well, with the end of its log."""
    cause, log = job.cause() or Cause.FAILED, job.log(20)
    text = ": ".join(filter(None, [what, job.reason()]))
    return Ended(f"{text} {where or f'(run directory {job.directory})'}", cause, log)


def unfinished(folder: Path) -> list[Job]:
    """Jobs that earlier processes submitted below a folder and whose end nobody saw.

    Each is found again by the executor that submitted it, whatever the present run uses.
    """
    import json

    from sciflow.jobs import SUBMITTED
    from sciflow.registry import registry

    jobs: list[Job] = []
    for note in sorted([*folder.glob(f"*/{SUBMITTED}"), *folder.glob(f"*/*/{SUBMITTED}")]):
        try:
            document = json.loads(note.read_bytes())["executor"]
        except (OSError, ValueError, KeyError):  # torn by a kill before anything was submitted
            continue
        executor = registry().build(document, kind="executor")
        assert isinstance(executor, Executor)
        jobs += executor.attach(note.parent)
    return jobs
