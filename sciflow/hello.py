"""The ``hello`` job: what a node of a site has, as the ranks of a job see it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.executors.local import cores
from sciflow.jobs import replace_json
from sciflow.provenance import version_of

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow.jobs import JobSpec

HELLO = "hello.json"
COMPARED = ("sciflow", "numpy", "zarr", "torch", "fenics-dolfinx", "petsc4py", "mpi4py")
"""Distributions of which both sides should have the same version."""


def here() -> dict[str, Any]:
    """What this process has: versions, code, cores, clock."""
    from sciflow.component import code_digest

    versions = {name: version_of(name) for name in COMPARED}
    return {
        "host": os.uname().nodename,
        "python": ".".join(map(str, sys.version_info[:3])),
        "versions": {name: version for name, version in versions.items() if version},
        "code": code_digest("sciflow"),
        "cores": cores(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "time": time.time(),
    }


def hello(spec: JobSpec, ctx: Context) -> None:
    """Say hello from all ranks; collective.

    Parameters
    ----------
    spec : JobSpec
        Its ``output`` is a directory that the other side has made, with a file ``marker`` in it.
    ctx : Context
        Communicator.
    """
    from sciflow.context import exchange
    from sciflow.probe import probe

    hosts = exchange(ctx.comm, os.uname().nodename)
    total = ctx.comm.size
    if ctx.comm.size > 1:
        import numpy as np

        mine, everyone = np.ones(1), np.zeros(1)
        mpi: Any = ctx.comm
        mpi.Allreduce(mine, everyone)
        total = int(everyone[0])
    if ctx.comm.rank == 0:
        folder = Path(spec.output)
        marker = folder / "marker"
        seen = marker.read_text() if marker.is_file() else ""
        found = probe(folder) if seen else []
        document = {
            **here(),
            "ranks": total,
            "hosts": hosts,
            "marker": seen,
            "files": [[r.name, r.state, r.text, r.advice] for r in found],
        }
        replace_json(folder / HELLO, document)


def read(folder: Path) -> dict[str, Any]:
    """What the job wrote."""
    document: dict[str, Any] = json.loads((folder / HELLO).read_bytes())
    return document
