"""Reservoirs: the error of a model that is trained from each, and what a put and a draw cost."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.figure import Figure, NotRun

if TYPE_CHECKING:
    from sciflow_online.buffers import Buffer
    from sciflow_online.reservoirs import ReservoirPolicy

SEEDS, MEMBERS, CONCURRENT, LEVELS, CAPACITY, BATCH, REPEATS = 3, 60, 4, 100, 1500, 32, 8
X = np.linspace(0.0, 1.0, 24)
Solution = Callable[[np.ndarray, np.ndarray], np.ndarray]


def front(mu: np.ndarray, t: np.ndarray) -> np.ndarray:
    """A front that travels, and a wave that decays: hard where the front is steep."""
    a, c, w, d = mu.T[..., None]
    wave = np.sin(2 * np.pi * (X * (1 + 2 * d) + t * (1 + a))) * np.exp(-2 * d * t)
    return np.tanh((X - 0.2 - 0.6 * c * t) / (0.03 + 0.1 * w)) + (0.3 + a) * wave


def heat(mu: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Four modes of the heat equation: late levels are easy."""
    a, c, w, d = mu.T[..., None]
    modes = ((1, 1 + a), (2, 2 * w - 1), (4, 2 * d - 1), (7, a * w))
    return np.asarray(sum(q * np.exp(-k * k * t * (0.3 + c)) * np.sin(np.pi * k * X) for k, q in modes))


def wave(mu: np.ndarray, t: np.ndarray) -> np.ndarray:
    """A smooth wave."""
    a, c, w, d = mu.T[..., None]
    return np.sin(2 * np.pi * (X * (1 + d) + t * (1 + a))) * np.exp(-2 * c * t) + w * np.cos(np.pi * X)


def arrivals(seed: int) -> Iterator[tuple[np.ndarray, float]]:
    """Parameters and time of each sample: a few members run at once, each in the order of time."""
    rng = np.random.default_rng(seed)
    mu = rng.random((MEMBERS, 4))
    running = [[m, 0] for m in range(CONCURRENT)]
    started = CONCURRENT
    while running:
        member = running[rng.integers(len(running))]
        member[1] += 1
        yield mu[member[0]], member[1] / LEVELS
        if member[1] == LEVELS and started < MEMBERS:
            member[:] = started, 0
            started += 1
        elif member[1] == LEVELS:
            running.remove(member)


class Trainer:
    """A perceptron (5, 64, 64, 64, 24) with Adam and one-cycle learning rate, told how many steps it has."""

    def __init__(self, buffer: Buffer, size: int, steps: int, seed: int) -> None:
        import torch
        from torch import nn

        torch.manual_seed(seed)
        widths = (5, 64, 64, 64)
        hidden = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.GELU())]
        self.net = nn.Sequential(*hidden, nn.Linear(64, len(X)))
        self.optimiser = torch.optim.Adam(self.net.parameters(), 3e-3)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, 3e-3, total_steps=steps + 1)
        self.buffer, self.size, self.done = buffer, size, 0

    def step(self) -> None:
        import torch

        rows = self.buffer.draw(self.size)
        batch = {k: torch.from_numpy(v) for k, v in self.buffer.take(rows).items()}
        losses = (self.net(batch["x"]) - batch["y"]).square().mean(1)
        self.buffer.feedback(rows, losses.detach().numpy())
        self.optimiser.zero_grad()
        losses.mean().backward()
        self.optimiser.step()
        self.schedule.step()
        self.done += 1

    def error(self, solution: Solution) -> float:
        """Root mean square error over 2000 unseen members, each at one time."""
        import torch

        rng = np.random.default_rng(10**6)
        mu, t = rng.random((2000, 4)), rng.random((2000, 1))
        with torch.no_grad():
            got = self.net(torch.tensor(np.hstack([mu, t]), dtype=torch.float32)).numpy()
        return float(np.sqrt(np.mean((got - solution(mu, t)) ** 2)))


def train(policy: ReservoirPolicy, solution: Solution, noise: float, seed: int) -> float:
    """Error after training from a buffer; every policy gets the same members and as many steps.

    A policy that uses each sample once gets smaller batches for that.
    """
    shapes = {"x": ((5,), "float32"), "y": ((len(X),), "float32")}
    every = BATCH // REPEATS
    steps = MEMBERS * LEVELS // every
    buffer = policy.open(shapes, np.random.default_rng(seed))
    trainer = Trainer(buffer, BATCH if policy.reuse else every, steps, seed)
    rng = np.random.default_rng([seed, 1])
    late = buffer.threshold // every
    for i, (mu, t) in enumerate(arrivals(seed)):
        while not buffer.room():
            trainer.step()
        y = solution(mu[None], np.array([[t]]))[0] + noise * rng.standard_normal(len(X))
        buffer.put({"x": np.array([*mu, t], np.float32), "y": y.astype(np.float32)}, 0, i)
        while trainer.done < i // every - late and buffer.ready(trainer.size):
            trainer.step()
    buffer.close()
    while trainer.done < steps and buffer.ready(1):
        trainer.step()
    return trainer.error(solution)


def bench_error() -> Iterator[Figure]:
    """Four problems, three seeds; error as a ratio to the reservoir of Melissa."""
    try:
        import torch
    except ImportError:
        raise NotRun("torch is missing: pip install torch") from None
    from sciflow_online.reservoirs import FIFO, FIRO, KeepHard, Reservoir

    torch.set_num_threads(1)
    policies = (FIFO, FIRO, KeepHard)
    problems: Mapping[str, tuple[Solution, float]] = {
        "front": (front, 0.0),
        "heat": (heat, 0.0),
        "wave": (wave, 0.0),
        "noisy_wave": (wave, 0.3),
    }
    for name, (solution, noise) in problems.items():

        def errors(policy: type[Any], solution: Solution = solution, noise: float = noise) -> np.ndarray:
            make = policy(capacity=CAPACITY, threshold=CAPACITY // 10)
            return np.array([train(make, solution, noise, seed) for seed in range(SEEDS)])

        usual = errors(Reservoir)
        for policy in policies:
            ratios = errors(policy) / usual
            mean = float(np.exp(np.log(ratios).mean()))
            note = f"seeds {', '.join(f'{r:.2f}' for r in ratios)}; reservoir's error {usual.mean():.3f}"
            better = "<=" if policy is KeepHard else ">="
            yield Figure(f"{name}_{policy.name}_to_reservoir", mean, 1.0, "x", better, note)


def bench_cost() -> Iterator[Figure]:
    """16 KiB per sample, 20000 rows: median microseconds beyond the copy."""
    from sciflow_online.reservoirs import FIFO, FIRO, KeepHard, Reservoir

    shapes = {"x": ((2048,), "float32"), "y": ((2048,), "float32")}
    sample = {k: np.ones(2048, np.float32) for k in shapes}
    for policy in (FIFO, FIRO, Reservoir, KeepHard):
        buffer = policy(capacity=20000, threshold=32).open(shapes, np.random.default_rng(0))
        while buffer.room():
            buffer.put(sample, 0, 0)
        for _ in range(400):
            buffer.take(buffer.draw(50))
        put, draw = cost(buffer, sample)
        yield Figure(f"put_{policy.name}", put, 10, " us", "<=", "beyond the copy of 16 KiB")
        yield Figure(f"draw_{policy.name}", draw, 60, " us", "<=", "draw and take 32, beyond their copy")


def cost(buffer: Buffer, sample: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Microseconds of a put, and of draw and take of 32, less those of copying the same rows."""
    slabs = {k: np.zeros((20000, *v.shape), v.dtype) for k, v in sample.items()}
    for slab in slabs.values():
        slab.fill(1)
    found = []
    for _ in range(300):
        rows, drawing = timed(lambda: draw_and_take(buffer, 32))
        _, copying = timed(lambda rows=rows: [slab.take(rows, axis=0) for slab in slabs.values()])
        _, putting = timed(lambda: [buffer.put(sample, 0, 0) for _ in range(32)])
        _, writing = timed(functools.partial(write, slabs, sample, rows))
        found.append(((putting - writing) / 32, drawing - copying))
    put, draw = 1e6 * np.median(found, axis=0)
    return float(put), float(draw)


def draw_and_take(buffer: Buffer, size: int) -> np.ndarray:
    while not buffer.ready(size):
        buffer.put({k: np.ones(2048, np.float32) for k in ("x", "y")}, 0, 0)
    rows = buffer.draw(size)
    buffer.take(rows)
    return rows


def write(slabs: Mapping[str, np.ndarray], sample: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
    for row in rows.tolist():
        for name, slab in slabs.items():
            slab[row] = sample[name]


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    return call(), time.perf_counter() - begin
