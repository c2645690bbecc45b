"""One pass over the snapshots: beside the speed of dgemm, on two ranks, and beside pyMOR's POD."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from benchmarks.figure import Figure, NotRun

MPIRUN = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n"]


def measured(name: str, *, threads: int = 1, ranks: int = 0) -> dict[str, float]:
    """The numbers of a function of `rom_compress_work`, in a process of its own."""
    env = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    start = [*MPIRUN, str(ranks)] if ranks else []
    command = [*start, sys.executable, "-m", "benchmarks.rom_compress_work", name]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotRun((done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def bench_gram() -> Iterator[Figure]:
    """POD of 200 000 x 128 in memory, 40 modes, one thread: two passes and everything between."""
    found = measured("gram")
    note = f"{1e3 * found['pod']:.0f} ms; dgemm {found['speed']:.0f} Gflop/s"
    yield Figure("gram_of_dgemm", found["share"], 50, "%", ">=", note)


def bench_ranks() -> Iterator[Figure]:
    """One pass over 200 000 x 128 on one rank and on two, a thread each."""
    if shutil.which("mpirun") is None or find_spec("mpi4py") is None:
        raise NotRun("mpirun or mpi4py is missing: apt-get install openmpi-bin python3-mpi4py")
    if len(os.sched_getaffinity(0)) < 2:
        raise NotRun("there is one core")
    one, two = (measured("ranks", ranks=n) for n in (1, 2))
    for method in ("gram", "tsqr"):
        note = f"{1e3 * one[method]:.0f} ms and {1e3 * two[method]:.0f} ms"
        yield Figure(f"{method}_2_ranks", one[method] / two[method], 1.7, note=note)


def bench_pymor() -> Iterator[Figure]:
    """Modes of 200 000 x 200, two threads, beside pyMOR's ``pod``: its accurate method, and its default."""
    if find_spec("pymor") is None:
        raise NotRun("pymor is missing: pip install pymor")
    found = measured("pymor", threads=2)
    for ours, theirs, target in (("tsqr", "qr_svd", 10), ("gram", "method_of_snapshots", 1)):
        times = found[f"plain_{ours}"], found[f"plain_{theirs}"]
        note = f"{times[0]:.2f} s and {times[1]:.2f} s, 40 modes, two threads"
        yield Figure(f"{ours}_over_pymor_{theirs}", times[1] / times[0], target, note=note)
    note = f"of 40 modes; pyMOR's {found['orthogonality_plain_qr_svd']:.1e} with qr_svd"
    yield Figure("tsqr_orthogonality", found["orthogonality_plain_tsqr"], 1e-13, "", "<=", note)
    times = found["deep_tsqr"], found["deep_qr_svd"]
    note = (
        f"{times[0]:.2f} s and {times[1]:.2f} s; 100 000 x 128, 60 modes, singular values to 1e-24; error "
        f"over optimum {found['excess_tsqr']:.4g} and {found['excess_qr_svd']:.4g}, "
        f"of pyMOR's default {found['excess_method_of_snapshots']:.3g}"
    )
    yield Figure("deep_tsqr_over_pymor_qr_svd", times[1] / times[0], 2, note=note)


def bench_pymor_ranks() -> Iterator[Figure]:
    """Beside pyMOR on two ranks."""
    raise NotRun(
        "pyMOR spreads vectors over ranks only through a solver's bindings and an event loop of its own, in "
        "which the other ranks wait for orders; no such vectors are set up here"
    )
    yield


def bench_spectrum() -> Iterator[Figure]:
    """Projection error over the optimum: 50 000 x 128, 60 modes, singular values from 1 to 1e-24."""
    found = measured("spectrum")
    note = f"inner products: {found['gram']:.3g}"
    yield Figure("deep_spectrum", found["tsqr"], 1.05, "x", "<=", note)


def bench_stored() -> Iterator[Figure]:
    """One pass over an ensemble on disk (in the page cache) and over the same values in memory."""
    found = measured("stored")
    for method, target in (("gram", 1.5), ("tsqr", 1.15)):
        memory, disk, checked = (found[f"{method}_{n}"] for n in ("memory", "stored", "checked"))
        note = f"{1e3 * disk:.0f} ms and {1e3 * memory:.0f} ms; {1e3 * checked:.0f} ms with checksums"
        yield Figure(f"{method}_stored", disk / memory, target, "x", "<=", note)


def bench_memory() -> Iterator[Figure]:
    """Memory of one pass over 1000 snapshots of 40 000 values, mapped files apart."""
    for name, share in measured("memory").items():
        note = "of two blocks and three matrices of 1000 x 1000, as the system counts it"
        yield Figure(f"memory_{name}", share, 1.0, "x", "<=", note)
