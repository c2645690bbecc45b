"""Run by ``mpirun -n 2`` with a directory for files and one with Debian's parallel h5py.

A vector series written in shares, beside what h5py writes in parallel.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from mpi4py import MPI

from sciflow.artifact.gather import Gather
from sciflow.artifact.share import Share
from sciflow.schema import Field, Schema
from sciflow.store import Store, Writer

DOFS, LEVELS, REPEATS = 1_000_003, 8, 11
FIELD = Field(("member", "time", "dof"), "1", "float64")
COMM = MPI.COMM_WORLD
CUTS = [0, 550_001, DOFS]
"""Where the ranks' shares begin and end."""


def main(root: Path, peers: Path) -> None:
    """Print the median seconds of each way as JSON."""
    begin, end = CUTS[COMM.rank : COMM.rank + 2]
    mine = np.random.default_rng(0).random((LEVELS, DOFS))[:, begin:end].copy()
    with contextlib.ExitStack() as stack:
        if COMM.rank == 0:
            out = stack.enter_context(Store(root, "rename").writer(Schema("ensemble"), "0" * 64))
            out.create("u", FIELD, (1 + REPEATS, LEVELS, DOFS), member=True)
        path = COMM.bcast(str(out.path) if COMM.rank == 0 else "")
        if COMM.rank:
            out = Writer.attach(Path(path))

        def here(number: int) -> Path:
            with out.member(number, COMM) as one:
                for level in mine:
                    one.append({"u": Share(level)})
                one.commit({"status": 1})
            file = out.path / "data.zarr" / "u" / f"c.{number}.0.0"
            if number == 0 and not np.array_equal(values_of(file.parent)[:, begin:end], mine):
                raise ValueError("the values are not those that were written")
            return file

        write = peer(root, peers, mine)
        seconds = in_turn(
            {
                "here": here,
                "h5py, collective": lambda number: write(number, True),
                "h5py, independent": lambda number: write(number, False),
            }
        )
    if COMM.rank == 0:
        print(json.dumps(seconds))


def peer(root: Path, peers: Path, mine: np.ndarray) -> Callable[[int, bool], Path]:
    """The same series by h5py on all ranks, level by level into one contiguous dataset."""
    # Debian's module has a name of its own below h5py; an h5py of this environment must not hide it.
    package: Any = ModuleType("h5py")
    package.__path__ = [str(peers / "h5py")]
    sys.modules["h5py"] = package
    from h5py import _debian_h5py_mpi as h5py

    begin, end = CUTS[COMM.rank : COMM.rank + 2]

    def write(number: int, collective: bool) -> Path:
        path = root / f"{number}.{collective}.h5"
        with h5py.File(path, "w", driver="mpio", comm=COMM) as file:
            data = file.create_dataset("u", (LEVELS, DOFS), "f8")
            for level in range(LEVELS):
                with data.collective if collective else contextlib.nullcontext():
                    data[level, begin:end] = mine[level]
        return path

    return write


def values_of(folder: Path) -> np.ndarray:
    """What was stored for member 0, checksums compared."""
    COMM.barrier()
    start = np.zeros(1, dtype=np.int64)
    return Gather(folder, verify="always").read(start, start, LEVELS)[0]


def in_turn(runs: dict[str, Callable[[int], Path]]) -> dict[str, float]:
    """Median seconds from when all ranks begin until all are done; files go, so that memory is even."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(1 + REPEATS):
        for name, call in runs.items():
            COMM.barrier()
            begin = MPI.Wtime()
            file = call(number)
            COMM.barrier()
            if number:
                times[name].append(MPI.Wtime() - begin)
            if COMM.rank == 0:
                file.unlink()
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
