"""The hooks a plugin may implement; a plugin is a module named by an entry point of group ``sciflow``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.component import Component
    from sciflow.context import Comm
    from sciflow.surrogate import Arrays

API = (1, 0)
"""Version of the hooks here and of the abstractions that components subclass, major and minor.

A module that an entry point names states what it was written for, ``sciflow_api = "1.0"``. Another major
version, or a newer minor one than this, is refused; what each promises is told in
``docs/adr/0023-what-a-version-promises.md``.
"""

hookspec = pluggy.HookspecMarker("sciflow")
hookimpl = pluggy.HookimplMarker("sciflow")


@hookspec
def sciflow_components() -> list[type[Component]]:  # type: ignore[empty-body]
    """Components this plugin offers.

    Called once, when the registry is first asked for something. Return the classes; importing the
    module that defines them must not import torch, dolfinx, petsc4py, mpi4py or prefect.
    """


@hookspec
def sciflow_flows() -> list[Path]:  # type: ignore[empty-body]
    """Files that hold flows this plugin offers.

    Called by ``sciflow serve``, which shows them in the Prefect UI, and by ``sciflow run NAME``. Return
    paths inside the installed package; the files are not run before somebody asks for a flow.
    """


@hookspec
def sciflow_report(artifact: Artifact) -> list[tuple[str, str]] | None:
    """Sections that this plugin adds to the report of a run.

    Called once for every artifact of the run, after the run. Return pairs of a title and an HTML
    fragment (pictures as data URIs, nothing loaded from elsewhere), or None.
    """


@hookspec(firstresult=True)
def sciflow_communicator(environ: Mapping[str, str]) -> Comm | None:
    """A communicator over processes that were started together, but not by MPI.

    Called by the worker when it starts, unless an MPI launcher started it or it is to run on one rank.
    Look at the environment first and import nothing heavy before it names other processes. Return None
    where the process is alone; the first plugin that returns something is heard.
    """


@hookspec(firstresult=True)
def sciflow_export(
    artifact: Artifact, path: Path, points: Sequence[int] | None, known: Arrays | None
) -> list[tuple[str, str]] | None:
    """Write a fitted model in a format that programs without sciflow read.

    Called by ``sciflow export`` with the model's artifact and a path whose suffix is the format. A file
    that is there the user wants to be replaced: do so once the new one is whole. ``points`` is the grid
    that the user asks for (None: that of the training samples), ``known`` holds a few training inputs
    where they are at hand. Compare what was written with the model and raise `sciflow.errors.Failed` where
    it answers otherwise; leave nothing new behind then. Return pairs of what was compared and how it came
    out, or None if this plugin does not write such a model in such a format.
    """
