"""The batch script of a job, and the environment that it inherits."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from sciflow.environment import secret
from sciflow.errors import Invalid
from sciflow.worker import AGAIN

INHERITED = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH",
    "VIRTUAL_ENV", "SLURM_CONF", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MODULEPATH", "MODULESHOME",
    "MODULES_CMD", "LOADEDMODULES", "_LMFILES_", "MANPATH", "PKG_CONFIG_PATH", "CPATH", "LIBRARY_PATH",
)  # fmt: skip
"""Variables that a job inherits; whatever else stays behind."""
INHERITED_PREFIXES = (
    "LC_", "CONDA_", "LMOD_", "PETSC_", "SLEPC_", "OMPI_MCA_", "UCX_", "FI_", "I_MPI_", "SCIFLOW_",
    # They decide the last bits of every sum.
    "OMP_", "OPENBLAS_", "MKL_", "KMP_", "BLIS_", "NVPL_", "TORCH_", "CUBLAS_",
)  # fmt: skip


def inherited(environment: Mapping[str, str], more: Sequence[str] = ()) -> dict[str, str]:
    """The part of an environment that a job gets: nothing secret, nothing of a surrounding job.

    Parameters
    ----------
    environment : mapping
        Of the process that submits.
    more : sequence of str
        Further names.
    """
    from sciflow.executors.mpi import INHERITED as OF_MPI

    return {
        name: value
        for name, value in environment.items()
        if (name in INHERITED or name.startswith(INHERITED_PREFIXES) or name in more)
        and not secret(name)
        and not name.startswith(OF_MPI)
    }


def batch(
    launch: Sequence[str], directory: Path, *, array: bool, prologue: str, threads: int, continuations: int
) -> str:
    """A script that runs one worker, tells it of the coming end, and notes how it ended.

    Parameters
    ----------
    launch : sequence of str
        Command before the path of the job file.
    directory : Path
        Run directory; of an array the one that holds those of its elements.
    array : bool
        Whether it is the script of an array.
    prologue : str
        Lines of the site: modules, variables.
    threads : int
        Of each rank; 0 for the CPUs that Slurm gives.
    continuations : int
        How often the job may be requeued at its time limit.

    Raises
    ------
    Invalid
        If the directory's name holds a line break, which no scheduler takes.
    """
    if "\n" in str(directory):
        raise Invalid(f"the run directory {str(directory)!r} holds a line break")
    job = shlex.quote(str(directory)) + ('/"$SLURM_ARRAY_TASK_ID"' if array else "")
    count = str(threads) if threads else '"${SLURM_CPUS_PER_TASK:-1}"'
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return f"""#!/bin/bash
# Written by sciflow. What runs stands in job.json; its parameters are nowhere in this script.
umask 077
job={job}
cd -- {shlex.quote(str(Path.cwd()))} 2>/dev/null || cd "$HOME"
{prologue.strip()}
export {" ".join(f"{name}={count}" for name in names)}
export SLURM_EXPORT_ENV=ALL SLURM_CPU_BIND=none OMPI_MCA_mpi_yield_when_idle=1
stopping=
stop() {{ stopping=$1; kill -USR1 "$child" 2>/dev/null; }}
trap 'stop limit' USR1
trap 'stop term' TERM
{shlex.join(launch)} "$job/job.json" &
child=$!
while :; do
    wait "$child"; code=$?
    kill -0 "$child" 2>/dev/null || break
done
printf '%s %s %s\n' "$SLURM_JOB_ID" "${{SLURM_RESTART_COUNT:-0}}" "$code" > "$job/ended.partial"
mv "$job/ended.partial" "$job/ended"
restarts=${{SLURM_RESTART_COUNT:-0}}
if [ "$code" = {AGAIN} ] && [ "$stopping" = limit ] && [ "$restarts" -lt {continuations} ]; then
    scontrol requeue "$SLURM_JOB_ID" && sleep 30
fi
exit "$code"
"""
