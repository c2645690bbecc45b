"""The ``slurm`` executor: every job is a batch job, the jobs of an ensemble are one array."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

from sciflow.errors import Failed, Invalid
from sciflow.executor import Executor, Job, Resources
from sciflow.jobs import LOG, SUBMITTED, JobSpec, replace_json
from sciflow.slurm import commands
from sciflow.slurm.commands import Rejected, Unreachable
from sciflow.slurm.job import SETTLED, SlurmJob
from sciflow.slurm.queue import shared
from sciflow.slurm.script import batch, inherited

OUT, SCRIPT = "sbatch.out", "job.sh"
PATIENCE = 900.0
"""Seconds that a controller may be away before a submission is given up."""


@dataclass(frozen=True)
class Slurm(Executor):
    """Submits each job with ``sbatch``, and the jobs of an ensemble as one array.

    Jobs report through files, so compute nodes need no network to this process, and go on when it is
    killed: the next one finds them again and submits nothing twice.

    Attributes
    ----------
    launcher : {"auto", "srun", "mpirun"}
        What starts the ranks of an MPI job; ``auto`` takes ``srun`` where it knows the MPI's protocol.
    mpi : str
        For ``srun --mpi``; empty finds one in ``srun --mpi=list``.
    parallel : int
        Elements of an array at the same time, where the resources say nothing.
    array_limit : int
        Largest array (``MaxArraySize`` of the cluster).
    submits_per_minute : int
        More submissions wait.
    poll : float
        Shortest time between two looks at the queue, s.
    warning : int
        A job is told so many seconds before its time limit, and keeps what it has.
    continuations : int
        How often a job may go on after its time limit, a preemption or a lost node.
    accounting : bool
        Ask ``sacct`` about jobs that the controller has forgotten; where there is none, nothing is lost.
    prologue : str
        Shell lines of the site before the job: ``module load ...``, ``source .../activate``.
    python : str
        Interpreter on the nodes; empty for the one of this process.
    inherit : tuple of str
        Variables of this environment that jobs get beyond the usual ones.

    Raises
    ------
    Invalid
        If `parallel`, `array_limit`, `submits_per_minute`, `poll`, `warning` or `continuations` has a
        value that it cannot have.
    """

    name: ClassVar[str] = "slurm"
    queues: ClassVar[bool] = True
    launcher: Literal["auto", "srun", "mpirun"] = "auto"
    mpi: str = ""
    parallel: int = 32
    array_limit: int = 1000
    submits_per_minute: int = 10
    poll: float = 10.0
    warning: int = 120
    continuations: int = 20
    accounting: bool = True
    prologue: str = ""
    python: str = ""
    inherit: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if min(self.parallel, self.array_limit, self.submits_per_minute) < 1:
            raise Invalid("parallel, array_limit and submits_per_minute must be at least 1")
        if min(self.poll, self.warning, self.continuations) < 0:
            raise Invalid("poll, warning and continuations cannot be negative")

    def launch(self, ranks: int) -> list[str]:
        """The command before the job file."""
        worker = [self.python or sys.executable, "-m", "sciflow.worker"]
        if ranks == 1:
            return worker
        worker += ["--ranks", str(ranks)]
        kind = self.launcher
        if kind == "auto":
            kind = "srun" if self.mpi or protocol() else "mpirun"
        if kind == "srun":
            mpi = self.mpi or protocol()
            return [
                "srun",
                "--kill-on-bad-exit=1",
                *([f"--mpi={mpi}"] if mpi else []),
                "-n",
                str(ranks),
                *worker,
            ]
        from sciflow.executors.mpi import launcher

        _, open_mpi = launcher("mpirun")
        options = ["--bind-to", "none"] if open_mpi else []
        if open_mpi and os.geteuid() == 0:
            options.append("--allow-run-as-root")
        return ["mpirun", "-n", str(ranks), *options, *worker]

    def options(self, resources: Resources, name: str, log: str) -> list[str]:
        """Options of ``sbatch``; each is one argument, none passes through a shell."""
        r = resources
        seconds = round(60 * r.minutes)
        lead = min(self.warning, seconds // 2)
        optional = (
            (r.nodes, f"--nodes={r.nodes}"),
            (r.threads, f"--cpus-per-task={r.threads}"),
            (r.gpus, f"--gpus={r.gpus}"),
            (r.memory, f"--mem={max(1, round(1024 * r.memory))}M"),
            (r.minutes, f"--time={-(-seconds // 60)}"),
            (r.minutes and lead, f"--signal=B:USR1@{lead}"),
            (r.partition, f"--partition={r.partition}"),
            (r.account, f"--account={r.account}"),
            (r.qos, f"--qos={r.qos}"),
            (r.constraint, f"--constraint={r.constraint}"),
        )
        return [
            f"--job-name={name}", f"--ntasks={r.ranks}", f"--output={log}",
            "--open-mode=append", "--requeue", "--export=ALL", "--kill-on-invalid-dep=yes",
            *(option for wish, option in optional if wish), *r.extra,
        ]  # fmt: skip

    def submit(self, spec: JobSpec, directory: Path, resources: Resources) -> Job:
        """See `Executor.submit`."""
        spec.write(directory)
        (job,) = self._submit([spec], [directory], directory, resources, array=False, width=1)
        return job

    def submit_all(
        self, specs: Sequence[JobSpec], directory: Path, resources: Resources, width: int
    ) -> list[Job]:
        """See `Executor.submit_all`: one array, or several where it is longer than the cluster takes."""
        if len(specs) == 1:
            return [self.submit(specs[0], directory, resources)]
        jobs: list[Job] = []
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for start in range(0, len(specs), self.array_limit):
            part = specs[start : start + self.array_limit]
            base = directory / f"array-{start}" if len(specs) > self.array_limit else directory
            folders = [base / str(i) for i in range(len(part))]
            for spec, folder in zip(part, folders, strict=True):
                spec.write(folder)
            jobs += self._submit(part, folders, base, resources, array=True, width=width)
        return jobs

    def _submit(
        self, specs: Sequence[JobSpec], folders: Sequence[Path], base: Path, resources: Resources,
        *, array: bool, width: int,
    ) -> list[Job]:  # fmt: skip
        name = f"sciflow-{specs[0].task}-{specs[0].nonce[:16]}"
        launch = self.launch(resources.ranks)
        text = batch(
            launch, base, array=array, prologue=self.prologue, threads=resources.threads,
            continuations=self.continuations,
        )  # fmt: skip
        script = base / SCRIPT
        script.write_text(text)
        script.chmod(0o600)
        # A percent sign in the name of a directory is not one of Slurm's patterns.
        log = str(base).replace("%", "%%") + ("/%a/" if array else "/") + LOG
        options = self.options(resources, name, log)
        if array:
            options.append(f"--array=0-{len(specs) - 1}%{width}")
        nonces = [spec.nonce for spec in specs]
        note = {
            "executor": self.to_json(),
            "name": name,
            "nonces": nonces,
            "array": array,
            "options": options,
        }
        # On record before it happens: whoever finds this note asks the queue for the name.
        replace_json(base / SUBMITTED, note)
        environment = inherited(os.environ, self.inherit)

        def once() -> str:
            self._in_turn()
            return commands.submit(script, options, environment, base / OUT)

        try:
            job = insist(once, lambda: _only(commands.named(name)))
        except Rejected as error:
            # Nothing is in the queue that a later process could look for.
            (base / SUBMITTED).unlink(missing_ok=True)
            known = commands.partitions() if "partition" in str(error).lower() else []
            raise Rejected(f"{error}. Partitions here: {', '.join(known)}") if known else error from None
        return self._jobs(job, name, folders, nonces, array=array)

    def _jobs(
        self, job: str, name: str, folders: Sequence[Path], nonces: Sequence[str], *, array: bool
    ) -> list[Job]:
        queue = shared(self.poll)
        return [
            SlurmJob(f"{job}_{i}" if array else job, folder, nonce, name, queue, accounting=self.accounting)
            for i, (folder, nonce) in enumerate(zip(folders, nonces, strict=True))
        ]

    def attach(self, directory: Path) -> list[Job]:
        """See `Executor.attach`."""
        try:
            note = json.loads((directory / SUBMITTED).read_bytes())
        except (OSError, ValueError):
            return []
        array, nonces = note["array"], note["nonces"]
        job = commands.submitted(directory / OUT)
        if job is None:
            # Killed around sbatch: it may have been heard all the same.
            job = insist(lambda: _only(commands.named(note["name"])), None)
        if not job:
            return []
        folders = [directory / str(i) for i in range(len(nonces))] if array else [directory]
        jobs = self._jobs(job, note["name"], folders, nonces, array=array)
        return [one for one in jobs if not (one.directory / SETTLED).exists()]

    def width(self, resources: Resources) -> int:
        """See `Executor.width`."""
        return resources.parallel or self.parallel

    def _in_turn(self) -> None:
        """Wait until one more submission is within the rate; counted over all processes of this user."""
        folder = Path(os.environ.get("SCIFLOW_HOME", "~/.sciflow")).expanduser()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (folder / "submissions").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            now = time.time()
            times = [t for t in map(_number, file.read().split()) if now - 60 < t <= now]
            if len(times) >= self.submits_per_minute:
                time.sleep(max(0.0, times[-self.submits_per_minute] + 60 - now))
            file.seek(0)
            file.truncate()
            file.write("".join(f"{t}\n" for t in [*times, time.time()]))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _only(jobs: list[str]) -> str:
    if len(jobs) > 1:
        raise Failed(f"the queue holds several jobs of one name: {', '.join(jobs)}")
    return jobs[0] if jobs else ""


def insist(action: Callable[[], str], found: Callable[[], str] | None) -> str:
    """Do something that a controller may be too busy for, again and again.

    Parameters
    ----------
    action : callable
        Returns a job id.
    found : callable or None
        Says whether an attempt that seemed to fail was heard after all; with its job id.

    Raises
    ------
    Failed
        If the controller stays away, or refuses.
    """
    until = time.monotonic() + PATIENCE
    pause, failed = 1.0, False
    while True:
        try:
            # After an attempt that timed out the controller may know the job.
            known = found() if failed and found is not None else ""
            return known or action()
        except Unreachable:
            failed = True
            if time.monotonic() > until:
                raise
            time.sleep(pause)
            pause = min(30.0, 2 * pause)


@cache
def protocols() -> tuple[str, ...]:
    """What ``srun --mpi=list`` offers; empty where it does not answer."""
    try:
        done = subprocess.run(["srun", "--mpi=list"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    # Its words differ between releases; the names do not.
    return tuple(dict.fromkeys(re.findall(r"\b(?:pmix\w*|pmi2|cray_\w+)\b", done.stdout + done.stderr)))


@cache
def protocol() -> str:
    """The protocol by which ``srun`` can start the ranks of the installed MPI; empty if there is none."""
    from sciflow.errors import Missing
    from sciflow.executors.mpi import launcher

    offered = protocols()
    try:
        _, open_mpi = launcher("mpirun")
    except Missing:
        open_mpi = True
    order = ("pmix",) if open_mpi else ("pmi2", "cray_shasta", "pmix")
    for wish in order:
        for one in offered:
            if one == wish or (wish == "pmix" and one.startswith("pmix")):
                return wish if wish in offered else one
    return ""
