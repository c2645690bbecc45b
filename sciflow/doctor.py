"""What of dolfinx, PETSc, MPI, Slurm, GPU and Prefect this machine has, each really tried."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from sciflow.executors.local import cores
from sciflow.executors.mpi import environment

LIMIT = 60
"""Seconds that one probe may take."""


@dataclass(frozen=True)
class Check:
    """One line of the doctor's findings.

    Attributes
    ----------
    name : str
        What was looked at.
    state : {"ok", "absent", "bad"}
        ``absent`` is no fault: what needs it says so.
    found : str
        Version or finding.
    advice : str
        What to do, empty where there is nothing to do.
    """

    name: str
    state: Literal["ok", "absent", "bad"]
    found: str
    advice: str = ""


def checks() -> Iterator[Check]:
    """All checks, each computed when it is asked for."""
    probes: tuple[Callable[[], Check], ...] = (
        _python, _cores, _numpy, _dolfinx, _petsc, _mpi, _torch, _prefect, _slurm, _plugins,
    )  # fmt: skip
    for probe in probes:
        yield probe()


def _ask(code: str, *, launch: tuple[str, ...] = ()) -> tuple[bool, str]:
    """Run Python code in a process of its own, so that a broken library cannot take this one down."""
    env = environment(1, 2) if launch else None
    try:
        done = subprocess.run(
            [*launch, sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            env=env,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, f"{type(error).__name__}: {error}"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"ended with code {done.returncode}"


def _module(name: str, code: str, advice: str) -> Check:
    from importlib.util import find_spec

    if find_spec(name) is None:
        return Check(name, "absent", "not installed", advice)
    good, said = _ask(code)
    return Check(
        name, "ok" if good else "bad", said, "" if good else f"{name} is installed but does not import"
    )


def _python() -> Check:
    return Check("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")


def _cores() -> Check:
    threads = os.environ.get("OMP_NUM_THREADS")
    text = f"{cores()} of {os.cpu_count()} usable, OMP_NUM_THREADS {threads or 'not set'}"
    crowded = threads is not None and threads.isdigit() and int(threads) > cores()
    advice = (
        "more threads than cores make everything slower; sciflow sets the count for its jobs"
        if crowded
        else ""
    )
    return Check("cores", "bad" if crowded else "ok", text, advice)


def _numpy() -> Check:
    code = (
        "import numpy, scipy, json, re\n"
        "import scipy.linalg\n"
        "maps = open('/proc/self/maps').read()\n"
        "libs = sorted({m for m in re.findall(r'/([^/\\n]*(?:blas|mkl)[^/\\n]*\\.so[^/\\n]*)', maps)})\n"
        "print(json.dumps([numpy.__version__, scipy.__version__, libs]))"
    )
    good, said = _ask(code)
    if not good:
        return Check("numpy", "bad", said, "numpy and scipy must import; Debian's scipy needs numpy<2")
    numpy, scipy, libraries = json.loads(said)
    slow = [
        x for x in libraries if x.startswith("libblas.so") and not any("openblas" in y for y in libraries)
    ]
    advice = (
        "scipy and PETSc use the slow reference BLAS: apt-get install libopenblas0-pthread" if slow else ""
    )
    found = f"{numpy}, scipy {scipy}, BLAS in use: {', '.join(libraries) or 'none'}"
    return Check("numpy, BLAS", "bad" if slow else "ok", found, advice)


def _dolfinx() -> Check:
    advice = "Debian: apt-get install python3-dolfinx; conda: fenics-dolfinx. Without it use sciflow_spectral"
    return _module("dolfinx", "import dolfinx; print(dolfinx.__version__)", advice)


def _petsc() -> Check:
    code = (
        "from petsc4py import PETSc; import numpy\n"
        "print('.'.join(map(str, PETSc.Sys.getVersion())), numpy.dtype(PETSc.ScalarType).name)"
    )
    return _module("petsc4py", code, "Debian: apt-get install python3-petsc4py")


def _mpi() -> Check:
    from sciflow.errors import Missing
    from sciflow.executors.mpi import Mpi, launcher

    try:
        path, open_mpi = launcher("mpirun")
    except Missing as error:
        return Check("mpi", "absent", "no mpirun", str(error))
    command = Mpi().command(2)
    launch = tuple(command[: command.index(sys.executable)])
    code = (
        "from mpi4py import MPI\nc = MPI.COMM_WORLD\nranks = c.allreduce(1)\n"
        "print('' if c.rank else f'{ranks} ranks say hello, {MPI.get_vendor()}')"
    )
    good, said = _ask_lines(code, launch)
    right = good and "2 ranks" in said
    advice = (
        "" if right else f"{path} does not start two mpi4py ranks that see each other: are both of one MPI?"
    )
    return Check("mpi", "ok" if right else "bad", said + ("" if open_mpi else " (not Open MPI)"), advice)


def _ask_lines(code: str, launch: tuple[str, ...]) -> tuple[bool, str]:
    good, said = _ask(code + "\n", launch=launch)
    if good and not said:
        good, said = _ask(code.replace("print(''", "print('2 ranks'"), launch=launch)
    return good, said


def _torch() -> Check:
    code = (
        "import torch\n"
        "gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else 'no GPU'\n"
        "print(torch.__version__, gpu, f'{torch.get_num_threads()} threads', sep=', ')"
    )
    return _module("torch", code, "pip install 'sciflow[operators]'")


def _prefect() -> Check:
    from sciflow.provenance import version_of
    from sciflow.server.engine import configured, server

    number = version_of("prefect")
    if not number:
        return Check("prefect", "bad", "not installed", "pip install 'prefect>=3.8.8,<3.9'")
    running = server()
    where = (
        "your own server"
        if configured()
        else (running["url"] if running else "no server running, one is started")
    )
    fastapi = version_of("fastapi")
    late = tuple(int(x) for x in fastapi.split(".")[:2]) >= (0, 151) if fastapi else False
    advice = f"fastapi {fastapi} stops the server from starting: pip install 'fastapi<0.151'" if late else ""
    return Check("prefect", "bad" if late else "ok", f"{number}, {where}", advice)


def _slurm() -> Check:
    path = shutil.which("sbatch")
    if path is None:
        return Check("slurm", "absent", "no sbatch on the PATH")
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("slurm", "bad", str(error))
    return Check("slurm", "ok" if done.returncode == 0 else "bad", done.stdout.strip() or done.stderr.strip())


def _plugins() -> Check:
    from sciflow.registry import registry

    found = registry()
    broken = [f"{p.name} of {p.label}: {p.error}" for p in found.plugins if p.error]
    text = f"{len(found.components())} components from {len(found.plugins)} plugins"
    return Check("plugins", "bad" if broken else "ok", text, "; ".join(broken))
