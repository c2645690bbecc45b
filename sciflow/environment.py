"""What a process runs in: chosen variables, command line, distributions, MPI, usage; never a secret."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

HIDDEN = "(hidden)"
"""Stands where something that looks like a secret stood."""

VARIABLES = (
    "*_NUM_THREADS",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "MKL_CBWR",
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "*_DETERMINISTIC*",
    "PYTHONHASHSEED",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_CLUSTER_NAME",
    "SLURM_CPUS_PER_TASK",
    "SLURM_JOB_ID",
    "SLURM_JOB_NUM_NODES",
    "SLURM_JOB_PARTITION",
    "SLURM_NTASKS",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "SCIFLOW_*",
)
"""Environment variables that are recorded; every other one is left out."""

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_WORDS = (
    "(?:token|key|secret|password|passwd|passphrase|pwd|credential|signature|cookie|bearer"
    "|auth(?!or)|authoriz|authent)"
)
_SECRET = re.compile(_WORDS, re.IGNORECASE)
_NAMED = re.compile(
    rf"""([\w.-]*{_WORDS}[\w.-]*["']?\s*[:=]\s*)"""
    r"""(?:(?:bearer|basic)\s+\S+|"[^"]*"|'[^']*'|[^\s"',;&}\]]+)""",
    re.IGNORECASE,
)
_LOGIN = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^\s/@:]*:\S*|[^\s/]*)@", re.IGNORECASE)
# Shapes in which GitHub, GitLab, OpenAI, Hugging Face, Prefect, Slack, AWS and JWT issue their tokens.
_SHAPES = re.compile(
    r"\b(?:gh[opsur]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|sk-[\w-]{20,}|hf_\w{20,}|pn[ub]_\w{20,}"
    r"|xox[abpr]-[\w-]{10,}|AKIA[0-9A-Z]{16}|eyJ[\w-]+\.[\w-]+\.[\w-]+)"
)


def secret(name: str) -> bool:
    """Whether a variable, option or parameter of this name may hold a secret.

    Notes
    -----
    It errs on the safe side: ``key_size`` counts as one.
    """
    return _SECRET.search(name) is not None


def redact(text: str) -> str:
    """A text without logins in URLs, values of secret-looking names and well-known token shapes.

    Parameters
    ----------
    text : str
        An error message, a command-line argument, the value of a variable.
    """
    text = _LOGIN.sub(rf"\g<1>{HIDDEN}@", text)
    return _SHAPES.sub(HIDDEN, _NAMED.sub(rf"\g<1>{HIDDEN}", text))


def redact_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line without secrets and without the directory of its program.

    Parameters
    ----------
    arguments : sequence of str
        Like ``sys.argv``.

    Notes
    -----
    The value of ``--name=value``, ``name=value`` or ``--name value`` is hidden where `secret` says
    so of the name, and `redact` is applied to everything else. A secret that stands alone, without
    a name, is only recognised by its shape.
    """
    shown, hide = [], False
    for argument in arguments[1:]:
        name, equals, _ = argument.partition("=")
        if hide and not argument.startswith("--"):
            shown.append(HIDDEN)
            hide = False
            continue
        named = re.fullmatch(r"[\w.-]+", name) is not None and secret(name)
        hide = named and not equals and argument.startswith("-")
        shown.append(f"{name}={HIDDEN}" if named and equals else redact(argument))
    return [*(Path(a).name for a in arguments[:1]), *shown]


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The recorded part of an environment.

    Parameters
    ----------
    environment : mapping of str to str
        Like ``os.environ``.

    Returns
    -------
    dict
        Those named in `VARIABLES` whose names are not secret, values through `redact`.
    """
    chosen = (n for n in sorted(environment) if any(fnmatchcase(n, p) for p in VARIABLES))
    return {name: redact(environment[name]) for name in chosen if not secret(name)}


@cache
def distributions_digest() -> str:
    """SHA-256 over the sorted lines ``name==version`` of every installed distribution.

    Notes
    -----
    Names are normalised (lower case, ``-``), each line ends in a newline; of several
    distributions of one name the first on ``sys.path`` counts, as it does for an import.
    """
    found: dict[str, str] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    lines = sorted(f"{name}=={version}\n" for name, version in found.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@cache
def diff_digest() -> str:
    """SHA-256 of what tracked files differ by from the commit; empty where they do not, or unknown.

    Notes
    -----
    Only the digest leaves this function. Settings of the user that change how git shows a diff
    are overruled, so that equal changes give equal digests. Files that git does not track are not
    part of it.
    """
    style = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--no-relative")
    form = ("--binary", "--full-index", "-U3", "--diff-algorithm=myers", "--src-prefix=a/", "--dst-prefix=b/")
    command = ["git", "diff", *style, *form, "HEAD", "--"]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return ""
    limit = threading.Timer(20.0, process.kill)
    limit.start()
    total, size = hashlib.sha256(), 0
    with process:
        assert process.stdout is not None
        while piece := process.stdout.read(1 << 20):
            total.update(piece)
            size += len(piece)
    limit.cancel()
    return total.hexdigest() if process.returncode == 0 and size else ""


def usage() -> dict[str, dict[str, float]]:
    """CPU time and peak memory of this process and of its children that have ended.

    Returns
    -------
    dict
        ``process`` and ``children``, each with ``cpu_seconds`` (s, user and system, since the
        process began) and ``peak_rss_bytes`` (of the largest process among them).
    """
    unit = 1 if sys.platform == "darwin" else 1024
    found = {}
    for name, who in (("process", resource.RUSAGE_SELF), ("children", resource.RUSAGE_CHILDREN)):
        used = resource.getrusage(who)
        seconds = round(used.ru_utime + used.ru_stime, 3)
        found[name] = {"cpu_seconds": seconds, "peak_rss_bytes": used.ru_maxrss * unit}
    return found


def forget_peak() -> None:
    """Begin to measure this process's peak memory anew, where the system can (Linux)."""
    # https://www.kernel.org/doc/html/latest/filesystems/proc.html: 5 resets the high water mark.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def mpi() -> dict[str, Any]:
    """Size and library of the MPI world, as far as this process knows; MPI is never started for it."""
    library = sys.modules.get("mpi4py.MPI")
    if library is not None and library.Is_initialized() and not library.Is_finalized():
        version = library.Get_library_version().split("\x00")[0].splitlines()[0].strip()
        return {"size": library.COMM_WORLD.Get_size(), "library": version}
    sizes = [os.environ[name] for name in _SIZES if os.environ.get(name, "").isdigit()]
    return {"size": int(sizes[0])} if sizes else {}


def torch_flags() -> dict[str, Any]:
    """Threads and determinism flags of torch where it is loaded; it is never loaded for it."""
    torch = sys.modules.get("torch")
    # Another thread may be in the middle of importing it.
    if torch is None or not hasattr(torch, "are_deterministic_algorithms_enabled"):
        return {}
    cudnn = getattr(getattr(torch, "backends", None), "cudnn", None)
    flags = {n: getattr(cudnn, n) for n in ("deterministic", "benchmark") if hasattr(cudnn, n)}
    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        **{f"cudnn_{name}": bool(value) for name, value in flags.items()},
    }


def record() -> dict[str, Any]:
    """The environment of this process, plain JSON; what is unknown is left out.

    Returns
    -------
    dict
        ``variables``, ``argv``, ``distributions`` (see `distributions_digest`), ``diff`` (see
        `diff_digest`), ``cores`` (that this process may use), ``mpi``, ``torch`` and ``usage``.
    """
    found = {
        "variables": variables(os.environ),
        "argv": redact_arguments(sys.argv),
        "distributions": distributions_digest(),
        "diff": diff_digest(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "mpi": mpi(),
        "torch": torch_flags(),
        "usage": usage(),
    }
    return {name: value for name, value in found.items() if value}
