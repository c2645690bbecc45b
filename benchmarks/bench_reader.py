"""Reading training samples: beside a training step, in samples per second, and from a disk that forgot."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figure import Figure, NotRun, medians

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.samples import Batch
    from sciflow.stored import Stored

POINTS, MEMBERS, LEVELS = 64, 128, 9
BATCH = 8


def stored(folder: Path) -> Artifact:
    """An ensemble of random fields, 128 members of 9 levels of 64 x 64 points (19 MB)."""
    import numpy as np

    from sciflow.schema import Field, Schema
    from sciflow.store import Store

    rng = np.random.default_rng(0)
    with Store(folder, "none").writer(Schema("ensemble"), "0" * 64) as out:
        shape = (MEMBERS, LEVELS, POINTS, POINTS)
        out.create("u", Field(("member", "time", "y", "x"), "1"), shape, member=True)
        for axis in ("y", "x"):
            out.write(axis, np.arange(POINTS) / POINTS, Field((axis,), "1", "float64"))
        out.write("time", np.arange(float(LEVELS)), Field(("time",), "1", "float64"))
        out.write("parameters", np.zeros((MEMBERS, 1)), Field(("member", "parameter"), "any", "float64"))
        out.describe(parameters=["a"], parameter_units=["1"], periodic=["y", "x"])
        for member in range(MEMBERS):
            values = rng.standard_normal(shape[1:], dtype=np.float32)
            out.write_member(member, {"u": values}, {"status": 1})
        out.write("status", np.ones(MEMBERS, np.uint8), Field(("member",), "1", "uint8"))
        return out.publish({})


def endless(samples: Stored) -> Generator[Batch, None, None]:
    """Shuffled batches, epoch after epoch."""
    epoch = 0
    while True:
        yield from samples.batches(BATCH, seed=0, epoch=epoch)
        epoch += 1


def stepper() -> Callable[[np.ndarray, np.ndarray], None]:
    """A training step of the FNO on 64 x 64 points, width 32, 16 modes, 4 layers, one thread."""
    import torch

    from sciflow_operators.fourier.layers import FNONet

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = FNONet(1, 1, 32, (16, 16), 4, (True, True))
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)

    def step(x: np.ndarray, y: np.ndarray) -> None:
        given, wanted = torch.from_numpy(x)[..., None], torch.from_numpy(y)[..., None]
        loss = ((net(given) - wanted) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def forget(folder: Path) -> None:
    """Ask the system to drop the files of a folder from its cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


def bench_reading() -> Iterator[Figure]:
    """A training step fed from the same arrays, from the disk, and from the disk with a thread."""
    if find_spec("torch") is None:
        raise NotRun("torch is missing: pip install 'sciflow[torch]'")
    from sciflow.stored import Stored

    with tempfile.TemporaryDirectory() as folder:
        data = stored(Path(folder))
        feeds = {n: Stored(data, ["u"], ["u"], window=(1, 1), ahead=n) for n in (0, 2)}
        yield from _overhead(feeds)
        yield from _rate(feeds)
        # What is mapped is not dropped: a copy that nobody has read.
        other = Path(shutil.copytree(data.path, Path(folder) / "copy" / data.path.name))
        yield from _cold(other)


def _overhead(feeds: dict[int, Stored]) -> Iterator[Figure]:
    """Processor time of this process, which other work on the machine does not stretch as it does time."""
    step, batches = stepper(), {n: endless(samples) for n, samples in feeds.items()}
    kept = next(batches[0])

    def fed(n: int) -> None:
        batch = next(batches[n])
        step(batch.x["u"], batch.y["u"])

    runs: dict[str, Callable[[], object]] = {
        "step": lambda: step(kept.x["u"], kept.y["u"]),
        "reading": lambda: next(batches[0]),
        "plain": lambda: fed(0),
        "ahead": lambda: fed(2),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(44):
        for name, call in runs.items():
            begin = time.process_time()
            call()
            times[name].append(time.process_time() - begin)
    found = {name: statistics.median(values[4:]) for name, values in times.items()}
    note = f"{1e6 * found['reading']:.0f} us beside a step of {1e3 * found['step']:.1f} ms, warm cache"
    yield Figure("share_of_a_step", 100 * found["reading"] / found["step"], 5, "%", "<=", note)
    for name, text in (("plain", "read before the step"), ("ahead", "read by a thread during the step")):
        longer = 100 * (found[name] / found["step"] - 1)
        yield Figure(f"longer_step_{name}", longer, 5, "%", "<=", f"{text}; processor time, warm cache")
    for feed in batches.values():
        feed.close()


def _rate(feeds: dict[int, Stored]) -> Iterator[Figure]:
    """Samples (two fields of 64 x 64) per second from the page cache; targets are those of a GPU."""

    def epoch(n: int, size: int) -> Callable[[], object]:
        return lambda: [len(batch) for batch in feeds[n].batches(size, seed=0)]

    runs = {f"{size}_{n}": epoch(n, size) for size in (8, 64) for n in feeds}
    found = medians(runs, repeats=7)
    for key, seconds in found.items():
        size, n = key.split("_")
        how = "in a thread" if n != "0" else "without a thread"
        rate = 1e-3 * len(feeds[0]) / seconds
        yield Figure(f"samples_{key}", rate, 20, "k/s", ">=", f"batches of {size}, {how}, warm cache")


def _cold(path: Path) -> Iterator[Figure]:
    """An epoch of waiting 1 ms (a step on a GPU) for each batch, from files that the system dropped."""
    from sciflow.artifact import Artifact
    from sciflow.stored import Stored

    def epoch(ahead: int, drop: bool) -> float:
        if drop:
            forget(path)
        fresh = Stored(Artifact.open(path), ["u"], ["u"], window=(1, 1), block=16, ahead=ahead)
        begin = time.perf_counter()
        for _ in fresh.batches(BATCH, seed=0):
            time.sleep(1e-3)
        return time.perf_counter() - begin

    warm = min(epoch(0, False) for _ in range(3))
    for ahead in (0, 2):
        cold = statistics.median(epoch(ahead, True) for _ in range(3))
        note = f"an epoch of {cold:.2f} s, {warm:.2f} s where the cache is warm and no thread reads"
        yield Figure(f"cold_{'ahead' if ahead else 'plain'}", cold / warm, 1.2, "x", "<=", note)
