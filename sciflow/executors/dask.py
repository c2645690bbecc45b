"""The ``dask`` executor: short members on workers that come and go, by Dask and dask-jobqueue."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from sciflow.context import Event
from sciflow.errors import Cancelled, Invalid, Missing
from sciflow.executor import Executor, Job, JobState, Resources
from sciflow.jobs import EXIT, EventLog, EventReader, JobSpec, replace_json

STOP = "stop"
"""A file of this name in a run directory ends the job at its next progress report."""
PATIENCE = 60.0
"""Seconds that a cancelled job may take to end."""


def run_job(path: str) -> str:
    """Run one job in a Dask worker; returns why it failed, empty if it did not."""
    import logging

    from sciflow.context import Context
    from sciflow.worker import execute

    file = Path(path)
    spec = JobSpec.read(file)
    emit = EventLog(file.parent)
    cancelled, over = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            if (file.parent / STOP).exists():
                cancelled.set()

    threading.Thread(target=watch, daemon=True).start()
    log = logging.getLogger("sciflow.job")
    ctx = Context(spec.seed, Path(spec.output).parent / "scratch", log=log, emit=emit, cancelled=cancelled)
    emit({"event": "start", "host": os.uname().nodename, "ranks": 1})
    reason = ""
    try:
        execute(spec, ctx)
    # A job is foreign code; its error is handed to whoever waits for it.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    finally:
        over.set()
    replace_json(
        file.parent / EXIT, {"nonce": spec.nonce, "code": int(bool(reason)), "reason": reason, "rank": 0}
    )
    return reason


class DaskJob(Job):
    """A job that Dask runs on one of its workers.

    Parameters
    ----------
    future : distributed.Future
        Of `run_job`.
    directory : Path
        Its run directory.
    """

    def __init__(self, future: Any, directory: Path) -> None:
        self.id = str(future.key)
        self.directory = directory
        self._future = future
        self._reader = EventReader(directory)
        self._cancelled = False

    def state(self) -> JobState:
        """See `Job.state`."""
        if self._future.status == "pending":
            return JobState.CANCELLED if self._cancelled else JobState.RUNNING
        if self._cancelled or self._future.cancelled():
            return JobState.CANCELLED
        return JobState.FAILED if self._problem() else JobState.DONE

    def _problem(self) -> str:
        if self._future.status == "error":
            error = self._future.exception()
            return f"{type(error).__name__}: {error}"
        return str(self._future.result())

    def wait(self, timeout: float | None = None) -> JobState:
        """See `Job.wait`."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self.state().ended and (until is None or time.monotonic() < until):
            time.sleep(0.05)
        return self.state()

    def cancel(self) -> None:
        """Take it from the queue, or stop it at its next progress report."""
        if self.state().ended:
            return
        (self.directory / STOP).touch()
        until = time.monotonic() + PATIENCE
        # A task that no worker has begun is taken back; one that runs is waited for.
        if not (self.directory / "status.jsonl").exists():
            self._future.cancel()
        else:
            while self._future.status == "pending" and time.monotonic() < until:
                time.sleep(0.05)
        self._cancelled = True

    def events(self) -> list[Event]:
        """See `Job.events`."""
        return self._reader.new()

    def reason(self) -> str:
        """See `Job.reason`."""
        state = self.state()
        if state == JobState.CANCELLED:
            return f"{Cancelled.__name__}: the run was cancelled"
        return self._problem() if state == JobState.FAILED else ""


@dataclass(frozen=True)
class Dask(Executor):
    """Runs jobs of one rank on Dask workers: no process is started for each, and their number adapts.

    For ensembles of short members. Without `scheduler` a cluster is started and ended with this
    process: of processes on this machine (which listens on loopback), or of Slurm jobs, each a worker
    (between nodes everything is encrypted, and both sides have a certificate made for this run).

    Attributes
    ----------
    scheduler : str
        Address of a Dask scheduler that runs already, as ``tls://host:8786``; empty starts one.
    workers : {"processes", "slurm"}
        What a cluster of our own is made of.
    minimum, maximum : int
        Number of workers; between them it follows the work.
    prologue : str
        Shell lines of the site before a Slurm worker.

    Raises
    ------
    Invalid
        If `minimum` or `maximum` has a value that it cannot have.
    """

    name: ClassVar[str] = "dask"
    requires: ClassVar[tuple[str, ...]] = ("distributed",)
    scheduler: str = ""
    workers: Literal["processes", "slurm"] = "processes"
    minimum: int = 0
    maximum: int = 4
    prologue: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum or self.maximum < 1:
            raise Invalid(
                f"0 <= minimum <= maximum and at least one worker, got {self.minimum} and {self.maximum}"
            )

    def submit(self, spec: JobSpec, directory: Path, resources: Resources) -> Job:
        """See `Executor.submit`.

        Raises
        ------
        Invalid
            If the job wants several ranks.
        """
        if resources.ranks > 1:
            raise Invalid(
                f"the executor 'dask' runs jobs of one rank, not of {resources.ranks}; take 'mpi' or 'slurm'"
            )
        job = spec.write(directory)
        client = _client(self, resources)
        return DaskJob(client.submit(run_job, str(job), key=f"sciflow-{spec.nonce}", pure=False), directory)

    def width(self, resources: Resources) -> int:
        """As many as there can be workers."""
        return resources.parallel or self.maximum


@cache
def _client(executor: Dask, resources: Resources) -> Any:
    """The client of this process for one executor; its cluster ends with the process."""
    import distributed

    if executor.scheduler:
        client = distributed.Client(executor.scheduler, set_as_default=False)
    else:
        cluster = (
            _processes(executor, resources) if executor.workers == "processes" else _jobs(executor, resources)
        )
        cluster.adapt(minimum=executor.minimum, maximum=executor.maximum, interval="500ms")
        client = distributed.Client(cluster, set_as_default=False)
        atexit.register(cluster.close)
    atexit.register(client.close)
    return client


def _processes(executor: Dask, resources: Resources) -> Any:
    import distributed

    return distributed.LocalCluster(
        n_workers=executor.minimum,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        memory_limit=f"{resources.memory}GiB" if resources.memory else "auto",
    )


def _jobs(executor: Dask, resources: Resources) -> Any:
    import signal
    from unittest.mock import patch

    try:
        # Its import replaces the handlers of Ctrl-C and SIGTERM, and fails outside of the main thread.
        with patch.object(signal, "signal"):
            from dask_jobqueue import SLURMCluster
    except ImportError:
        raise Missing("Dask workers as Slurm jobs need dask-jobqueue: pip install 'sciflow[dask]'") from None
    from distributed.security import Security

    from sciflow.server.engine import home

    certificates = home() / "dask"
    certificates.mkdir(parents=True, exist_ok=True, mode=0o700)
    r = resources
    hours, minutes = divmod(round(r.minutes or 60), 60)
    return SLURMCluster(
        queue=r.partition or None,
        account=r.account or None,
        cores=max(1, r.threads),
        processes=1,
        memory=f"{r.memory or 2}GiB",
        walltime=f"{hours:02d}:{minutes:02d}:00",
        job_script_prologue=[*executor.prologue.splitlines(), "umask 077"],
        job_extra_directives=[*r.extra, *([f"--qos={r.qos}"] if r.qos else [])],
        python=sys.executable,
        security=Security.temporary(),
        shared_temp_directory=str(certificates),
        log_directory=str(certificates),
        scheduler_options={"dashboard": False},
        # The work of a lost worker is done again by another one.
        worker_extra_args=["--no-dashboard"],
    )
