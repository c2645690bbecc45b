"""What the training loop costs beside a step written by hand, what its options cost, and a kill."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks.figure import Figure

if TYPE_CHECKING:
    from sciflow.samples import Samples
    from sciflow.surrogate import Model
    from sciflow_operators.fourier.fno import FNO

POINTS, COUNT, BATCH = 64, 64, 8
OPTIONS: dict[str, tuple[dict[str, object], float]] = {
    "ema": ({"ema": 0.999}, 1.05),
    "noise": ({"noise": 0.01}, 1.05),
    "compiled": ({"compile": "on"}, 1.0),
    "bfloat16": ({"precision": "bfloat16"}, 1.0),
}
"""Settings, and how long a step may be beside one without."""


def samples(count: int = COUNT) -> Samples:
    """Random waves and their shift on 64 x 64 points, in memory."""
    import numpy as np

    from sciflow import Field, Signature
    from sciflow.samples import Batch, Samples

    rng = np.random.default_rng(0)
    u = rng.standard_normal((count, POINTS, POINTS)).astype("float32")
    field, line = Field(("y", "x"), "1"), np.arange(POINTS) / POINTS

    class Memory(Samples):
        signature = Signature({"u": field}, {"v": field}, {"y": line, "x": line}, ("y", "x"))
        resumable = True

        def __len__(self) -> int:
            return count

        def batches(self, size: int, *, seed: int | None, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
            order = np.random.default_rng([seed or 0, epoch]).permutation(count)
            for i in range(start * size, count, size):
                pick = order[i : i + size]
                yield Batch({"u": u[pick]}, {"v": np.roll(u[pick], 1, axis=-1)})

    return Memory()


def network(**more: object) -> FNO:
    """The network of the step: width 32, 16 modes, four layers, one thread."""
    from sciflow_operators.fourier.fno import FNO

    return FNO(width=32, modes=16, epochs=100, batch=BATCH, threads=1, device="cpu").replace(**more)


def epochs(config: FNO) -> Iterator[float]:
    """CPU seconds of a step, of one epoch after another."""
    from sciflow import Context

    data = samples()
    fit = config.fit(data, samples(1), Context(seed=1))
    while True:
        begin = time.process_time()
        next(fit)
        yield (time.process_time() - begin) / (COUNT // BATCH)


def by_hand(config: FNO) -> Iterator[float]:
    """The same of a loop that does nothing but learn."""
    import torch

    from sciflow_operators.training.target import relative_l2

    data = samples()
    _, net = config.network(data.signature)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    torch.set_num_threads(1)
    while True:
        begin = time.process_time()
        for batch in data.batches(BATCH, seed=1):
            x, y = (torch.from_numpy(v)[..., None] for v in (batch.x["u"], batch.y["v"]))
            optimiser.zero_grad(set_to_none=True)
            relative_l2(net(x), y, [1], [1.0]).mean().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
        yield (time.process_time() - begin) / (COUNT // BATCH)


def best(*runs: Iterator[float], rounds: int = 6) -> list[float]:
    """Least seconds of each, taken in turn; the first round, which may compile, is left out."""
    times = [[next(run) for run in runs] for _ in range(rounds)][1:]
    return [min(column) for column in zip(*times, strict=True)]


def bench_step() -> Iterator[Figure]:
    """A step of an FNO on 64 x 64 points in batches of 8, CPU time on one thread."""
    options = {k: epochs(network(**more)) for k, (more, _) in OPTIONS.items()}
    plain, hand, *others = best(epochs(network()), by_hand(network()), *options.values())
    note = f"by hand {1e3 * hand:.1f} ms, here {1e3 * plain:.1f} ms"
    yield Figure("loop", plain / hand, 1.05, "x", "<=", note)
    for (name, (_, target)), seconds in zip(OPTIONS.items(), others, strict=True):
        note = f"without {1e3 * plain:.1f} ms, with {1e3 * seconds:.1f} ms"
        yield Figure(name, seconds / plain, target, "x", "<=", note)


def bench_resume() -> Iterator[Figure]:
    """The largest difference of the weights after training went on from amid an epoch."""
    import numpy as np

    from sciflow import Context

    config = network(width=8, epochs=3, report_every=1, ema=0.9, noise=0.02, accumulate=2, keep="best")

    def learn(resume: object = None) -> tuple[Model, list[object]]:
        fit, kept = config.fit(samples(), samples(2), Context(seed=1), resume), []  # type: ignore[arg-type]
        while True:
            try:
                kept.append(next(fit).checkpoint())
            except StopIteration as end:
                return end.value, list(kept)

    whole, kept = learn()
    apart = 0.0
    for resume in kept[:-1]:
        resumed, _ = learn(resume)
        state = resumed.state()
        apart = max(apart, *(float(np.abs(state[k] - v).max()) for k, v in whole.state().items()))
    yield Figure("resume_difference", apart, 0.0, "", "<=", f"from each of {len(kept) - 1} updates")
