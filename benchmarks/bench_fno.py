"""The FNO beside neuraloperator 2.0.0 at equal weights and equal output, and its accuracy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec

from benchmarks.figure import Figure, NotRun, medians

TARGETS = {1: {"step": 1.3, "forward": 1.3}, 2: {"step": 1.5, "forward": 1.6}}
"""By number of threads."""


def bench_speed() -> Iterator[Figure]:
    """64 x 64 points, width 32, 16 modes, 4 layers, batch 8; a fresh process for each thread count."""
    if find_spec("neuralop") is None:
        raise NotRun("neuraloperator is missing: pip install -c constraints.txt neuraloperator==2.0.0")
    for threads, targets in TARGETS.items():
        word = "thread" if threads == 1 else "threads"
        if threads > len(os.sched_getaffinity(0)):
            raise NotRun(f"{threads} threads need as many cores")
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "WANDB_MODE": "disabled"}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.bench_fno", str(threads)],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NotRun(done.stderr.strip().splitlines()[-1])
        seconds = json.loads(done.stdout.splitlines()[-1])
        for what, target in targets.items():
            theirs, ours = seconds[f"{what} theirs"], seconds[f"{what} ours"]
            note = f"neuraloperator {1e3 * theirs:.1f} ms, here {1e3 * ours:.1f} ms"
            yield Figure(f"{what}_{threads}_{word}", theirs / ours, target, note=note)
        yield Figure(f"difference_{threads}_{word}", seconds["difference"], 1e-6, "", "<=", "of the outputs")


def compare(threads: int) -> dict[str, float]:
    """Median seconds of a training step and a prediction, ours and theirs, at equal weights."""
    import torch
    from neuralop.models import FNO

    from sciflow_operators.fourier.layers import FNONet
    from sciflow_operators.fourier.neuralop import from_neuraloperator

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    theirs = FNO(n_modes=(16, 16), in_channels=1, out_channels=1, hidden_channels=32, n_layers=4)
    ours = FNONet(1, 1, 32, (16, 16), 4, (True, True))
    ours.load_state_dict(from_neuraloperator(theirs.state_dict(), 4))
    x, y = torch.randn(2, 8, 64, 64, 1)
    first = (0, 3, 1, 2)
    data = {"ours": (ours, x, y), "theirs": (theirs, *(v.permute(first).contiguous() for v in (x, y)))}
    with torch.no_grad():
        difference = float((ours(x).permute(first) - theirs(data["theirs"][1])).abs().max())
    optimisers = {k: torch.optim.AdamW(v[0].parameters()) for k, v in data.items()}

    def step(who: str) -> None:
        net, a, b = data[who]
        optimisers[who].zero_grad(set_to_none=True)
        (net(a) - b).norm().backward()
        optimisers[who].step()

    def forward(who: str) -> None:
        with torch.no_grad():
            data[who][0](data[who][1])

    runs = {
        f"{name} {who}": (lambda call=call, who=who: call(who))
        for name, call in (("step", step), ("forward", forward))
        for who in data
    }
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
    print(json.dumps(compare(int(sys.argv[1]))))
