"""The ``local`` executor: a thread of this process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sciflow.context import Context, Event
from sciflow.errors import Cancelled
from sciflow.executor import Executor, Job, JobState, Resources
from sciflow.jobs import EventLog, EventReader, JobSpec

_ALONE = threading.Lock()
"""Held by the one job whose libraries know one thread (MPI, PETSc, dolfinx)."""


class ThreadJob(Job):
    """A job in a thread of this process; one at a time where it needs MPI.

    Parameters
    ----------
    spec : JobSpec
        What to run.
    directory : Path
        Its run directory.
    resources : Resources
        Only recorded in the context; a thread has what the process has.
    """

    def __init__(self, spec: JobSpec, directory: Path, resources: Resources) -> None:
        self.id = f"thread-{spec.nonce[:8]}"
        self.directory = directory
        self.error: BaseException | None = None
        self._cancelled = threading.Event()
        self._reader = EventReader(directory)
        spec.write(directory)
        emit: Callable[[Event], None] = EventLog(directory)
        log = logging.getLogger("sciflow.job")
        scratch = Path(spec.output).parent / "scratch"
        ctx = Context(spec.seed, scratch, log=log, emit=emit, resources=resources, cancelled=self._cancelled)
        self._thread = threading.Thread(target=self._run, args=(spec, ctx), name=self.id, daemon=True)
        self._thread.start()

    def _run(self, spec: JobSpec, ctx: Context) -> None:
        from sciflow.worker import execute

        try:
            with _ALONE if _speaks_mpi(spec) else nullcontext():
                ctx.check()
                execute(spec, ctx)
        # A job is foreign code; its error is handed to whoever waits for it.
        except BaseException as error:
            self.error = error

    def state(self) -> JobState:
        """See `Job.state`."""
        if self._thread.is_alive():
            return JobState.RUNNING
        if isinstance(self.error, Cancelled):
            return JobState.CANCELLED
        return JobState.FAILED if self.error else JobState.DONE

    def wait(self, timeout: float | None = None) -> JobState:
        """See `Job.wait`."""
        self._thread.join(timeout)
        return self.state()

    def cancel(self) -> None:
        """Ask the job to stop at its next progress report and wait for that."""
        self._cancelled.set()
        self._thread.join()

    def events(self) -> list[Event]:
        """See `Job.events`."""
        return self._reader.new()

    def reason(self) -> str:
        """See `Job.reason`."""
        if self.state() not in (JobState.FAILED, JobState.CANCELLED):
            return ""
        return f"{type(self.error).__name__}: {self.error}"


def _speaks_mpi(spec: JobSpec) -> bool:
    """Whether a job's component, or one inside it, needs MPI."""
    from sciflow.provenance import components_in
    from sciflow.registry import registry

    kind = "stage" if spec.task in ("stage", "work") else "problem"
    component = registry().build(spec.component, kind=kind)
    return any("mpi4py" in part.requires for part in components_in(component))


@dataclass(frozen=True)
class Local(Executor):
    """Runs jobs in threads of this process: one rank, nothing to start.

    For problems without MPI, small ensembles and debugging. Jobs that need MPI wait for each other:
    dolfinx and PETSc know one thread.
    """

    name: ClassVar[str] = "local"
    shares: ClassVar[bool] = True

    def submit(self, spec: JobSpec, directory: Path, resources: Resources) -> Job:
        """See `Executor.submit`."""
        return ThreadJob(spec, directory, resources)


def cores() -> int:
    """Cores that this process may use (its affinity, not the machine's count)."""
    return len(os.sched_getaffinity(0))
