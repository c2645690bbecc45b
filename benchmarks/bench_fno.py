"""The FNO beside neuraloperator 2.0.0 at equal weights and equal output, and its accuracy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec

from benchmarks.figure import Figure, NotRun, medians

TARGETS = {1: {"step": 1.3, "forward": 1.3, "compiled step": 1.45}, 2: {"step": 1.5, "forward": 1.6}}
"""By number of threads."""
GRIDS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, int]] = {
    "": ((64, 64), (16, 16), 32, 8),
    "3d_": ((32, 32, 32), (8, 8, 8), 16, 2),
}
"""Points, modes, width and batch of each case; four layers."""


def bench_speed() -> Iterator[Figure]:
    """64 x 64 points, width 32, 16 modes, batch 8, and three axes; a process for each thread count."""
    if find_spec("neuralop") is None:
        raise NotRun("neuraloperator is missing: pip install -c constraints.txt neuraloperator==2.0.0")
    for threads, targets in TARGETS.items():
        word = "thread" if threads == 1 else "threads"
        if threads > len(os.sched_getaffinity(0)):
            raise NotRun(f"{threads} threads need as many cores")
        for case in GRIDS:
            seconds = _measured(threads, case)
            for what, target in targets.items():
                if f"{what} ours" not in seconds:
                    continue
                theirs, ours = seconds[f"{what.removeprefix('compiled ')} theirs"], seconds[f"{what} ours"]
                note = f"neuraloperator {1e3 * theirs:.1f} ms, here {1e3 * ours:.1f} ms"
                name = f"{case}{what.replace(' ', '_')}_{threads}_{word}"
                yield Figure(name, theirs / ours, target, note=note)
            name = f"{case}difference_{threads}_{word}"
            yield Figure(name, seconds["difference"], 1e-6, "", "<=", "of the outputs")


def _measured(threads: int, case: str) -> dict[str, float]:
    """`compare` in a fresh process."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "WANDB_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.bench_fno", str(threads), case],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise NotRun(done.stderr.strip().splitlines()[-1])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(threads: int, case: str) -> dict[str, float]:
    """Median seconds of a training step and a prediction, ours and theirs, at equal weights."""
    import torch
    from neuralop.models import FNO

    from sciflow_operators.fourier.neuralop import network

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    points, modes, width, batch = GRIDS[case]
    theirs = FNO(n_modes=modes, in_channels=1, out_channels=1, hidden_channels=width, n_layers=4)
    ours = network(theirs.state_dict(), (True,) * len(points))
    x, y = torch.randn(2, batch, *points, 1)
    first = (0, x.ndim - 1, *range(1, x.ndim - 1))
    data = {"ours": (ours, x, y), "theirs": (theirs, *(v.permute(first).contiguous() for v in (x, y)))}
    with torch.no_grad():
        difference = float((ours(x).permute(first) - theirs(data["theirs"][1])).abs().max())
    optimisers = {k: torch.optim.AdamW(v[0].parameters()) for k, v in data.items()}
    fast = torch.compile(ours) if threads == 1 and not case else None

    def step(who: str, net: torch.nn.Module) -> None:
        _, a, b = data[who]
        optimisers[who].zero_grad(set_to_none=True)
        (net(a) - b).norm().backward()
        optimisers[who].step()

    def forward(who: str) -> None:
        with torch.no_grad():
            data[who][0](data[who][1])

    runs = {f"step {who}": partial(step, who, data[who][0]) for who in data}
    runs |= {f"forward {who}": partial(forward, who) for who in data}
    if fast is not None:
        runs["compiled step ours"] = partial(step, "ours", fast)
    return {**medians(runs, repeats=30, warm=3), "difference": difference}


def bench_burgers() -> Iterator[Figure]:
    """Burgers' equation, viscosity 0.1, 1000 members at 256 points, 60 epochs; then 1024 points."""
    import numpy as np

    from sciflow.context import Context
    from sciflow.samples import Batch, Samples, Signature
    from sciflow.schema import Field
    from sciflow_operators.components import FNO
    from sciflow_spectral.components import Burgers

    class Memory(Samples):
        def __init__(self, first: np.ndarray, last: np.ndarray) -> None:
            u = Field(("x",), "1")
            self.signature = Signature({"u": u}, {"v": u}, {"x": np.arange(256) / 256}, ("x",))
            self.first, self.last = first, last

        def __len__(self) -> int:
            return len(self.first)

        def batches(self, size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]:
            order = np.arange(len(self))
            if seed is not None:
                order = np.random.default_rng([seed, epoch]).permutation(len(self))
            for i in range(0, len(self), size):
                pick = order[i : i + size]
                yield Batch({"u": self.first[pick]}, {"v": self.last[pick]})

    mu = {"viscosity": np.full(1200, 0.1), "member": np.arange(1200)}
    states = list(Burgers(points=1024, solve_points=1024).solve_batch(mu, Context()))
    first, last = (np.asarray(states[i].fields["u"], dtype=np.float32) for i in (0, -1))
    train = Memory(first[:1000, ::4], last[:1000, ::4])
    begin = time.perf_counter()
    fit = FNO(epochs=60, threads=1).fit(train, Memory(train.first[:8], train.last[:8]), Context())
    while True:
        try:
            next(fit)
        except StopIteration as end:
            model = end.value
            break
    seconds = time.perf_counter() - begin

    def errors(every: int) -> np.ndarray:
        truth = last[1000:, ::every]
        apart = model.predict({"u": first[1000:, ::every]})["v"] - truth
        return np.asarray(100 * np.linalg.norm(apart, axis=1) / np.linalg.norm(truth, axis=1))

    coarse, fine = errors(4), errors(1)
    note = f"200 unseen members, trained in {seconds:.0f} s on one thread"
    yield Figure("burgers_median_error", float(np.median(coarse)), 0.7, " %", "<=", note)
    yield Figure("burgers_mean_error", float(coarse.mean()), 0.7, " %", "<=", note)
    yield Figure(
        "burgers_finer_grid", float(np.median(fine) / np.median(coarse)), 1.05, "x", "<=", "1024 points"
    )


if __name__ == "__main__":
    print(json.dumps(compare(int(sys.argv[1]), sys.argv[2])))
