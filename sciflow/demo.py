"""``make demo``: the main job with whatever this machine has."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from sciflow.cli import main


def flow_file() -> str:
    """The dolfinx flow where dolfinx and MPI are there, else the embedded default, saying so."""
    import shutil

    absent = [name for name in ("dolfinx", "petsc4py", "mpi4py") if find_spec(name) is None]
    if shutil.which("mpirun") is None:
        absent.append("mpirun")
    if not absent:
        return "flows/heat_fno.py"
    sys.stderr.write(f"{', '.join(absent)} not found: running the embedded default, Burgers' equation\n")
    return "flows/burgers_fno.py"


if __name__ == "__main__":
    sys.exit(main(["run", flow_file(), *sys.argv[1:]]))
