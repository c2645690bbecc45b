"""The ``steps`` executor: inside a Slurm allocation, each job is a step of it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sciflow.errors import Missing
from sciflow.executor import Executor, Job, Resources
from sciflow.executors.mpi import ProcessJob, environment
from sciflow.jobs import JobSpec


@dataclass(frozen=True)
class Steps(Executor):
    """Starts each job with ``srun`` inside the allocation that this process runs in.

    Several steps share the allocation: each gets processors of its own and waits for them.

    Attributes
    ----------
    mpi : str
        For ``srun --mpi``; empty finds one in ``srun --mpi=list``.
    """

    name: ClassVar[str] = "steps"
    mpi: str = ""

    def command(self, resources: Resources) -> list[str]:
        """The command line before the job file.

        Raises
        ------
        Missing
            If srun cannot start the ranks of this MPI.
        """
        from sciflow.executors.slurm import protocol

        mpi = self.mpi or (protocol() if resources.ranks > 1 else "none")
        if not mpi:
            raise Missing(
                "srun cannot start the ranks of this MPI (`srun --mpi=list` shows what it knows): use the "
                "executor 'mpi' inside the allocation, or name the protocol in the site file"
            )
        r = resources
        optional = (
            (r.nodes, f"--nodes={r.nodes}"),
            (r.threads, f"--cpus-per-task={r.threads}"),
            (r.gpus, f"--gpus={r.gpus}"),
            (r.memory, f"--mem={round(1024 * r.memory)}M"),
        )
        return [
            "srun", "--exact", "--kill-on-bad-exit=1", "--cpu-bind=none", f"--mpi={mpi}",
            f"--ntasks={r.ranks}",
            *(option for wish, option in optional if wish),
            sys.executable, "-m", "sciflow.worker", "--leave-with-parent", "--ranks", str(r.ranks),
        ]  # fmt: skip

    def submit(self, spec: JobSpec, directory: Path, resources: Resources) -> Job:
        """See `Executor.submit`."""
        if "SLURM_JOB_ID" not in os.environ:
            raise Missing(
                "the executor 'steps' works inside a Slurm allocation, and this is none: start the flow with "
                "`sbatch hpc/flow.sbatch`, or take another site"
            )
        env = environment(resources.threads or 1, resources.ranks)
        return ProcessJob(self.command(resources), spec, directory, env, resources.minutes)

    def width(self, resources: Resources) -> int:
        """As many as the processors of the allocation hold."""
        return resources.parallel or max(1, processors() // (resources.ranks * max(1, resources.threads)))


def processors() -> int:
    """Processors of the allocation, over all of its nodes: ``2(x3),4`` is ten."""
    total = 0
    for part in os.environ.get("SLURM_JOB_CPUS_PER_NODE", "1").split(","):
        count, _, times = part.partition("(x")
        total += int(count) * int(times.rstrip(")") or 1)
    return total
