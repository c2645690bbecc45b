"""The ``mpi`` executor: a process of its own, under ``mpirun`` when it has several ranks."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from sciflow.context import Event
from sciflow.errors import Missing
from sciflow.executor import Cause, Executor, Job, JobState, Resources
from sciflow.executors.local import cores
from sciflow.jobs import LOG, EventReader, JobSpec, tail


class ProcessJob(Job):
    """A worker process, or the ``mpirun`` above several.

    Parameters
    ----------
    command : list of str
        What to start; the path of the job file is appended.
    spec : JobSpec
        What it runs.
    directory : Path
        Its run directory.
    environment : dict of str to str
        Complete environment.
    minutes : float
        Time limit, 0 for none.
    """

    def __init__(
        self, command: list[str], spec: JobSpec, directory: Path, environment: dict[str, str], minutes: float
    ) -> None:
        job = spec.write(directory)
        self.directory = directory
        self._nonce = spec.nonce
        self._reader = EventReader(directory)
        self._cancelled = False
        self._end = time.monotonic() + 60 * minutes if minutes else float("inf")
        with (directory / LOG).open("ab") as log:
            # Standard input stays open as long as this process lives: the worker ends when it closes.
            self._process = subprocess.Popen(
                [*command, str(job)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self.id = str(self._process.pid)

    def state(self) -> JobState:
        """See `Job.state`."""
        if self._process.poll() is None:
            if time.monotonic() < self._end:
                return JobState.RUNNING
            self._stop()
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._cancelled:
            return JobState.CANCELLED
        return JobState.DONE if self._process.returncode == 0 else JobState.FAILED

    def wait(self, timeout: float | None = None) -> JobState:
        """See `Job.wait`."""
        until = min(self._end, float("inf") if timeout is None else time.monotonic() + timeout)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(None if until == float("inf") else max(0.0, until - time.monotonic()))
        return self.state()

    def _stop(self) -> None:
        for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, None)):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(patience)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
            break

    def cancel(self) -> None:
        """See `Job.cancel`."""
        if self._process.poll() is None:
            self._cancelled = True
            self._stop()
        self.state()

    def events(self) -> list[Event]:
        """See `Job.events`."""
        return self._reader.new()

    def cause(self) -> Cause | None:
        """See `Job.cause`."""
        if self.state() == JobState.FAILED and time.monotonic() >= self._end:
            return Cause.TIME_LIMIT
        return super().cause()

    def reason(self) -> str:
        """See `Job.reason`."""
        from sciflow.worker import read_exit

        code = self._process.poll()
        if code in (None, 0):
            return ""
        if time.monotonic() >= self._end:
            return "the time limit was reached"
        record = read_exit(self.directory, self._nonce)
        if record and record["reason"]:
            return f"{record['reason']} (rank {record['rank']})"
        return ended(code) + _last_words(self.directory / LOG)


def ended(code: int) -> str:
    """What a return code says; ``mpirun`` passes a rank's signal on as 128 + number."""
    number = -code if code < 0 else code - 128
    try:
        return f"ended by {signal.Signals(number).name}" if number > 0 else f"ended with code {code}"
    except ValueError:
        return f"ended with code {code}"


def _last_words(log: Path) -> str:
    words = [line for line in tail(log, 15).splitlines() if line.strip(" -*")]
    return f"; its log ends: {' | '.join(words[-3:])}" if words else ""


INHERITED = (
    "PMIX_",
    "PMI_",
    "PRTE_",
    "ORTE_",
    "OMPI_COMM_",
    "OMPI_UNIVERSE_",
    "OMPI_MCA_ess",
    "OMPI_MCA_orte_",
    "TORCHELASTIC_",
    "GROUP_RANK",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""Variables by which a process of MPI or torchrun knows its job. A launcher that inherits those of another
job, or of a process that started MPI by itself, ends in silence; a child of torchrun's would wait."""


@cache
def launcher(name: str) -> tuple[str, bool]:
    """Path of the MPI launcher and whether it is Open MPI's.

    Raises
    ------
    Missing
        If there is none.
    """
    path = shutil.which(name)
    if path is None:
        raise Missing(
            f"{name!r} is not on the PATH, so several MPI ranks cannot be started here. "
            "Install an MPI (Debian: apt-get install openmpi-bin) or ask for ranks=1."
        )
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    return path, "open mpi" in said.lower() or "open-rte" in said.lower()


def environment(threads: int, ranks: int) -> dict[str, str]:
    """This process's environment with thread counts that fit the cores.

    Parameters
    ----------
    threads : int
        Threads of each rank; 0 divides the cores by the ranks.
    ranks : int
        Ranks on this machine.
    """
    count = str(threads or max(1, cores() // ranks))
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(INHERITED)}
    return {**clean, **dict.fromkeys(names, count), "OMPI_MCA_mpi_yield_when_idle": "1"}


@dataclass(frozen=True)
class Mpi(Executor):
    """Runs each job in a process of its own, under ``mpirun`` when it has several ranks.

    Attributes
    ----------
    launcher : str
        Name or path of the MPI launcher.
    """

    name: ClassVar[str] = "mpi"
    shares: ClassVar[bool] = True
    launcher: str = "mpirun"

    def command(self, ranks: int) -> list[str]:
        """The command line before the job file."""
        worker = [sys.executable, "-m", "sciflow.worker", "--leave-with-parent"]
        if ranks == 1:
            return worker
        path, open_mpi = launcher(self.launcher)
        options = ["-n", str(ranks)]
        if open_mpi:
            # Several jobs share this machine: binding would put them all on the first cores.
            options += ["--oversubscribe", "--bind-to", "none"]
            if os.geteuid() == 0:
                options.insert(0, "--allow-run-as-root")
        return [path, *options, *worker]

    def submit(self, spec: JobSpec, directory: Path, resources: Resources) -> Job:
        """See `Executor.submit`."""
        command = self.command(resources.ranks)
        env = environment(resources.threads, resources.ranks)
        return ProcessJob(command, spec, directory, env, resources.minutes)
