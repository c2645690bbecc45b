"""What `bench_rom_compress` measures in processes of its own, with their threads or ranks set: prints JSON.

``python -m benchmarks.rom_compress_work NAME``; NAME is a function below, under ``mpirun`` for some.
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figure import medians
from sciflow.artifact import Artifact
from sciflow.schema import Field, Schema
from sciflow.store import Store
from sciflow.worker import communicator
from sciflow_rom.compress.factor import factorise
from sciflow_rom.compress.lifting import lift
from sciflow_rom.compress.metrics import grid
from sciflow_rom.compress.snapshots import BLOCK, Held, SnapshotMatrix, Snapshots

ROWS, MODES = 200_000, 40


def decaying(rows: int, columns: int, last: float = 1e-10) -> np.ndarray:
    """Snapshots with singular values from about 1 to `last`, columns contiguous."""
    rng = np.random.default_rng(0)
    right = np.linalg.qr(rng.standard_normal((columns, columns)))[0]
    spectrum = np.logspace(0, np.log10(last), columns)[:, None] * right
    return np.asfortranarray(rng.standard_normal((rows, columns)) @ spectrum)


def deep(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Snapshots with singular values from 1 to 1e-24, and these."""
    rng = np.random.default_rng(1)
    sigma = np.logspace(0, -24, columns)
    left, right = (np.linalg.qr(rng.standard_normal((n, columns)))[0] for n in (rows, columns))
    return np.asfortranarray((left * sigma) @ right.T), sigma


def pod(snapshots: SnapshotMatrix, method: Any, modes: int = MODES) -> np.ndarray:
    """Modes from one pass and one lift, shape (row, mode)."""
    triangle = factorise(snapshots, method=method).triangle
    values, vectors = np.linalg.eigh(triangle @ triangle.T) if method == "gram" else (None, None)
    if values is None:
        _, sigma, right = np.linalg.svd(triangle)
        weights = right[:modes].T / sigma[:modes]
    else:
        sigma = np.sqrt(values[::-1][:modes])
        weights = triangle.T @ vectors[:, ::-1][:, :modes] / sigma**2
    out = np.empty((snapshots.rows, modes), order="F")
    for _ in lift(snapshots, weights, out=out):
        pass
    return out


def orthogonality(modes: np.ndarray) -> float:
    """The largest error of the inner products of modes."""
    return float(np.abs(modes.T @ modes - np.eye(modes.shape[1])).max())


def excess(values: np.ndarray, modes: np.ndarray, sigma: np.ndarray) -> float:
    """Projection error on the span of some modes, over the smallest that is possible."""
    basis = np.linalg.qr(modes)[0]
    return float(
        np.linalg.norm(values - basis @ (basis.T @ values)) / np.linalg.norm(sigma[modes.shape[1] :])
    )


def gram() -> dict[str, float]:
    """The Gram path beside what its products cost at the speed of dgemm."""
    columns = 128
    snapshots = Held(decaying(ROWS, columns))
    square = np.random.default_rng(0).standard_normal((1500, 1500))
    seconds = medians({"pod": lambda: pod(snapshots, "gram"), "dgemm": lambda: square @ square}, 9)
    speed = 2 * 1500**3 / seconds["dgemm"]
    ideal = (columns**2 * ROWS + 2 * columns * MODES * ROWS) / speed
    return {"share": 100 * ideal / seconds["pod"], "speed": speed / 1e9, **seconds}


def ranks() -> dict[str, float]:
    """Seconds of the one pass on this number of ranks, the slowest one's; 200 000 x 128."""
    comm: Any = communicator()
    columns = 128
    values = np.empty((ROWS, columns), order="F")
    snapshots = Held(values, comm)
    mine = snapshots.mine
    values[mine] = np.random.default_rng(comm.rank).standard_normal((mine.stop - mine.start, columns))
    found = {}
    for method in ("gram", "tsqr"):
        times = []
        for _ in range(9):
            comm.barrier()
            begin = time.perf_counter()
            factorise(snapshots, method=method)
            comm.barrier()
            times.append(time.perf_counter() - begin)
        found[method] = float(np.median(times[2:]))
    return found


def pymor() -> dict[str, float]:
    """Our modes beside those of two methods of pyMOR's `pod`, serially."""
    from pymor.algorithms.pod import pod as theirs
    from pymor.core.logger import set_log_levels
    from pymor.vectorarrays.numpy import NumpyVectorSpace

    set_log_levels({"pymor": "ERROR"})
    found: dict[str, float] = {}
    cases = {"plain": (decaying(ROWS, 200), np.zeros(0), MODES), "deep": (*deep(ROWS // 2, 128), 60)}
    for name, (values, sigma, modes) in cases.items():
        kept: dict[str, np.ndarray] = {}
        runs = {}
        for method in ("gram", "tsqr"):

            def ours(m: str = method, v: np.ndarray = values, r: int = modes, k: Any = kept) -> None:
                k[m] = pod(Held(v), m, r)

            runs[method] = ours
        array = NumpyVectorSpace(len(values)).make_array(values)
        for method in ("method_of_snapshots", "qr_svd"):

            def peer(m: str = method, a: Any = array, r: int = modes, k: Any = kept) -> None:
                k[m] = theirs(a, modes=r, rtol=0.0, method=m)[0].to_numpy()

            runs[method] = peer
        seconds = medians(runs, 2, warm=1)
        for who, made in kept.items():
            found[f"{name}_{who}"] = seconds[who]
            found[f"orthogonality_{name}_{who}"] = orthogonality(made)
            if name == "deep":
                found[f"excess_{who}"] = excess(values, made, sigma)
    return found


def spectrum() -> dict[str, float]:
    """Projection error over the optimum where singular values fall to 1e-24."""
    values, sigma = deep(ROWS // 4, 128)
    return {m: excess(values, pod(Held(values), m, 60), sigma) for m in ("gram", "tsqr")}


def stored() -> dict[str, float]:
    """One pass over a stored ensemble beside one over the same values in memory."""
    columns = 128
    values = decaying(ROWS, columns)
    with tempfile.TemporaryDirectory(prefix="sciflow-bench-") as root:
        data = _ensemble(Path(root), values)
        members = np.arange(columns)
        held = Held(values)
        found = {}
        for method in ("gram", "tsqr"):
            warm = Snapshots(data, "u", members)
            runs = {
                "memory": lambda method=method: factorise(held, method=method),
                "stored": lambda method=method, warm=warm: factorise(warm, method=method),
                "checked": lambda method=method: factorise(Snapshots(data, "u", members), method=method),
            }
            found |= {f"{method}_{name}": value for name, value in medians(runs, 5).items()}
    return found


def memory() -> dict[str, float]:
    """Memory of one pass over 1000 stored snapshots, of two blocks and three matrices."""
    columns, side = 1000, 200
    lines = [(np.linspace(0, 1, side), False)] * 2
    values = decaying(side * side, columns)
    small = Held(values[: 4 * columns])
    found = {}
    with tempfile.TemporaryDirectory(prefix="sciflow-bench-") as root:
        data = _ensemble(Path(root), values)
        del values
        for method, product in itertools.product(("gram", "tsqr"), (grid(lines), grid(lines, gradient=True))):
            # The library's own buffers are there before.
            factorise(small, method=method)
            snapshots = Snapshots(data, "u", np.arange(columns))
            peak = taken(functools.partial(factorise, snapshots, product, method=method))
            name = f"{method}_{'l2' if product.given is None else 'h1'}"
            found[name] = peak / (2 * BLOCK + 3 * 8 * columns**2)
    return found


def taken(call: Any) -> int:
    """Bytes of memory of its own (no mapped files) that a call takes at most, as the system counts it."""

    def now() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    before, seen, ended = now(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.001):
            seen.append(now())

    thread = threading.Thread(target=watch)
    thread.start()
    call()
    ended.set()
    thread.join()
    return max(seen) - before


def _ensemble(root: Path, values: np.ndarray) -> Artifact:
    with Store(root, "none").writer(Schema("ensemble"), "0" * 64) as out:
        out.create("u", Field(("member", "dof"), "1", "float64"), values.T.shape, member=True)
        for member, column in enumerate(values.T):
            out.write_member(member, {"u": column}, {"status": 1})
        return out.publish({})


if __name__ == "__main__":
    numbers = globals()[sys.argv[1]]()
    if communicator().rank == 0:
        print(json.dumps(numbers))
