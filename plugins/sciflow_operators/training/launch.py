"""Who started this process beside which others: the environments of mpirun, srun and torchrun."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sciflow.errors import Invalid

CHOICE = "SCIFLOW_COLLECTIVES"
"""Environment variable: ``auto``, ``torch`` (always gloo or NCCL) or ``mpi`` (always through the host)."""
PORTS = 20_000, 30_000
"""Where the meeting point of a Slurm step listens, by its number; below what systems give away."""


@dataclass(frozen=True)
class Launch:
    """Place of a process among those it was started with.

    Attributes
    ----------
    launcher : str
        ``mpirun``, ``srun`` or ``torchrun``.
    rank, size : int
        Among all processes.
    local_rank, local_size : int
        Among those on this machine.
    address : str
        Where rank 0 can be reached, empty where the launcher does not say.
    port : int
        Where they may meet there; 0 where the launcher does not say.
    """

    launcher: str
    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str = ""
    port: int = 0

    @property
    def one_machine(self) -> bool:
        """Whether all processes are on this machine."""
        return self.local_size == self.size


_WORDS = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
_MPI = (
    tuple(f"OMPI_COMM_WORLD_{word}" for word in _WORDS),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    tuple(f"MV2_COMM_WORLD_{word}" for word in _WORDS),
)
"""Rank, size, local rank, local size as Open MPI, MPICH (also Intel MPI) and MVAPICH name them."""


def launched(environ: Mapping[str, str]) -> Launch | None:
    """Who started this process, or None where it is alone.

    Parameters
    ----------
    environ : mapping of str to str
        Such as ``os.environ``.

    Raises
    ------
    Invalid
        If a launcher's variables are there and make no sense.

    Notes
    -----
    In the order torchrun, mpirun, srun: torchrun may itself be started by srun, and mpirun uses srun to
    start its daemons. A batch script has ``SLURM_PROCID`` and ``SLURM_NTASKS`` too; only a step that srun
    started has the number of the step's tasks.
    """
    if all(name in environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
        size = _number(environ, "WORLD_SIZE")
        found = Launch(
            "torchrun",
            _number(environ, "RANK"),
            size,
            _number(environ, "LOCAL_RANK", _number(environ, "RANK")),
            _number(environ, "LOCAL_WORLD_SIZE", size),
            environ["MASTER_ADDR"],
            _number(environ, "MASTER_PORT"),
        )
    else:
        found = _mpirun(environ) or _srun(environ) or Launch("", 0, 1, 0, 1)
    if not (0 <= found.rank < found.size and 0 <= found.local_rank < found.local_size <= found.size):
        raise Invalid(f"the environment of {found.launcher} names ranks that cannot be: {found}")
    return found if found.size > 1 else None


def ours(environ: Mapping[str, str]) -> Launch | None:
    """Who started this process, where its ranks are to meet over torch's collectives and not over MPI.

    Those of torchrun do; those of srun only where ``SCIFLOW_COLLECTIVES=torch`` asks for it, since
    solvers need MPI.
    """
    launch = launched(environ)
    if launch is None or launch.launcher == "mpirun":
        return None
    return launch if launch.launcher == "torchrun" or environ.get(CHOICE) == "torch" else None


def _mpirun(environ: Mapping[str, str]) -> Launch | None:
    address, port = environ.get("MASTER_ADDR", ""), _number(environ, "MASTER_PORT", 0)
    for rank, size, local, here in _MPI:
        if rank in environ and size in environ:
            found = [_number(environ, n) for n in (rank, size)]
            local_rank = _number(environ, local, found[0])
            local_size = _number(environ, here, found[1])
            return Launch("mpirun", found[0], found[1], local_rank, local_size, address, port)
    return None


def _srun(environ: Mapping[str, str]) -> Launch | None:
    if not all(name in environ for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")):
        return None
    tasks = tasks_of(environ.get("SLURM_STEP_TASKS_PER_NODE", environ["SLURM_STEP_NUM_TASKS"]))
    step = 1000 * _number(environ, "SLURM_JOB_ID", 0) + _number(environ, "SLURM_STEP_ID", 0)
    nodes = environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_JOB_NODELIST", ""))
    return Launch(
        "srun",
        _number(environ, "SLURM_PROCID"),
        _number(environ, "SLURM_STEP_NUM_TASKS"),
        _number(environ, "SLURM_LOCALID"),
        tasks[min(_number(environ, "SLURM_NODEID", 0), len(tasks) - 1)],
        environ.get("MASTER_ADDR", first_host(nodes)),
        _number(environ, "MASTER_PORT", PORTS[0] + step % (PORTS[1] - PORTS[0])),
    )


def _number(environ: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    text = environ.get(name)
    if text is None and otherwise is not None:
        return otherwise
    if text is None or not text.strip().isdecimal():
        raise Invalid(f"the environment variable {name} should be a number, it is {text!r}")
    return int(text)


def first_host(nodes: str) -> str:
    """The first name of a Slurm node list, as ``gpu[003-007,012],login`` has ``gpu003``."""
    match = re.match(r"([^\[,]*)(?:\[(\d+)[^\]]*\]([^\[,]*))?", nodes)
    return "".join(part or "" for part in match.groups()) if match else ""


def tasks_of(text: str) -> list[int]:
    """Tasks of each node from Slurm's ``2(x3),1``.

    Raises
    ------
    Invalid
        If it is written otherwise.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            raise Invalid(f"Slurm's numbers of tasks should read as 2(x3),1, they are {text!r}")
        found += [int(match[1])] * int(match[2] or 1)
    return found
