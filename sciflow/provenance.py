"""Where an artifact comes from: configuration, inputs, versions, commit, host, times."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from sciflow import environment
from sciflow.component import Component, code_digest, digest_of, plain

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.executor import Resources
    from sciflow.stage import Stage

_PACKAGES = {
    "dolfinx": "fenics-dolfinx",
    "mpi4py": "mpi4py",
    "numpy": "numpy",
    "petsc4py": "petsc4py",
    "prefect": "prefect",
    "scipy": "scipy",
    "torch": "torch",
    "xarray": "xarray",
    "zarr": "zarr",
}


@cache
def version_of(distribution: str) -> str:
    """Version of an installed distribution, empty if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


@cache
def git_commit() -> str:
    """Commit of the working directory, with ``-dirty`` where files differ; empty outside of git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match=NeVeRmAtCh"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def components_in(value: Any) -> list[Component]:
    """A component and all components nested in its fields."""
    import dataclasses

    if isinstance(value, Component):
        nested = [components_in(getattr(value, f.name)) for f in dataclasses.fields(value)]  # type: ignore[arg-type]
        return [value, *(c for part in nested for c in part)]
    if isinstance(value, Mapping):
        return [c for v in value.values() for c in components_in(v)]
    if isinstance(value, list | tuple):
        return [c for v in value for c in components_in(v)]
    return []


@cache
def code_of(cls: type[Component]) -> str:
    """Digest of the code behind a component: its whole package, or the stages for one of the core.

    The rest of the core (command line, report, executors) does not change results; formats that
    do have version numbers of their own.
    """
    package = cls.__module__.partition(".")[0]
    return code_digest("sciflow.stages" if package == "sciflow" else package)


def recipe_of(stage: Stage, inputs: Mapping[str, Artifact]) -> str:
    """The identity of a stage's result before it is computed.

    Parameters
    ----------
    stage : Stage
        With its configuration.
    inputs : mapping of str to Artifact
        By name.

    Returns
    -------
    str
        SHA-256 over the configuration, the code of every package involved and the digests of the
        inputs. Executor and resources are not part of it.
    """
    involved = {type(c) for c in components_in(stage)}
    return digest_of(
        {
            "stage": stage.identity(),
            "code": sorted([cls.kind, cls.name, cls.revision, code_of(cls)] for cls in involved),
            "inputs": {name: artifact.digest for name, artifact in sorted(inputs.items())},
        }
    )


def plugins_of(stage: Stage) -> list[dict[str, str]]:
    """Who provides a stage and the components in it, the stage first.

    Returns
    -------
    list of dict
        ``kind``, ``component``, ``module`` and ``code`` (digest of the code behind it); of one that
        an entry point provides also ``distribution``, ``version`` and ``entry_point``.
    """
    from sciflow.registry import registry

    found = []
    for cls in dict.fromkeys(type(c) for c in components_in(stage)):
        row = {"kind": cls.kind, "component": cls.name, "module": cls.__module__, "code": code_of(cls)}
        plugin = registry().origin(cls)
        if plugin.version:
            row["distribution"], row["version"] = plugin.distribution, plugin.version
            row["entry_point"] = f"{plugin.name} = {plugin.module}"
        found.append(row)
    return found


def collect(
    stage: Stage, inputs: Mapping[str, Artifact], resources: Resources, start: float, end: float
) -> dict[str, Any]:
    """The provenance of one run of a stage, plain JSON.

    Parameters
    ----------
    stage : Stage
        What ran.
    inputs : mapping of str to Artifact
        What it read.
    resources : Resources
        What it ran with.
    start, end : float
        Seconds since the epoch.

    Notes
    -----
    User name, host name and the paths of the inputs are part of it on purpose, and the
    configuration of the stage as it is: a secret does not belong there. What the process ran in is
    under ``environment`` (see `sciflow.environment.record`), where variables are chosen by a list
    and secrets are hidden; CPU time and memory are those of the whole process until now.
    """
    versions = {"python": platform.python_version(), "sciflow": version_of("sciflow")}
    for module, distribution in _PACKAGES.items():
        loaded = sys.modules.get(module)
        number = getattr(loaded, "__version__", "") or version_of(distribution)
        if number:
            versions[module] = str(number)
    return {
        "stage": stage.to_json(),
        "inputs": {n: {"path": str(a.path), "digest": a.digest} for n, a in inputs.items()},
        "versions": versions,
        "commit": git_commit(),
        "seed": getattr(stage, "seed", 0),
        "host": platform.node(),
        "platform": platform.platform(),
        "user": user(),
        "resources": plain(resources),
        "start": start,
        "end": end,
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "plugins": plugins_of(stage),
        "environment": environment.record(),
    }


def user() -> str:
    """Login name, else the number of the account."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
