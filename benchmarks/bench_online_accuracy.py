"""Errors of surrogates that learn while solvers run, beside those of surrogates trained from a store."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.figure import Figure, NotRun

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.controller import Controller
    from sciflow_online.components import OnlineTrain
    from sciflow_operators.components import Trained

SEEDS = 3
TESTS, SOLVERS = 60, 2
"""Unseen members, solvers at the same time."""
SPLIT = {"train": 0.88, "valid": 0.1}
LARGER = 4
CORES = len(os.sched_getaffinity(0))
FULL = 0.8
"""An online run that took less of the time than this is planned again, from its own rates."""


# -- equal wall time -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A surrogate, and what both paths have.

    Attributes
    ----------
    surrogate : Trained
        The operator.
    known : tuple of str
        What it learns from.
    window : tuple of int
        See `Train`.
    members : int
        Of the stored ensemble; so few that more passes over them help no further.
    epochs : tuple of int
        Passes to choose from; solvers, store and the last of these take the time that both have.
    """

    surrogate: Trained
    known: tuple[str, ...]
    window: tuple[int, int]
    members: int
    epochs: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """Errors and wall times of one seed."""

    offline: float
    equal_runs: float
    equal_time: float
    larger_store: float
    seconds: tuple[float, float, float]
    members: int
    chosen: str

    @property
    def note(self) -> str:
        """Offline, online, in words."""
        t = self.seconds
        return (
            f"{self.chosen} {t[0]:.1f} s {100 * self.offline:.2f} %; online {self.members} members "
            f"{t[2]:.1f} s {100 * self.equal_time:.2f} %"
        )


def bench_mlp() -> Iterator[Figure]:
    """Heat equation, a perceptron from parameters and time."""
    from sciflow_operators.components import MLP

    known = ("x", "y", "width", "amplitude", "beta", "boundary", "time")
    found = [outcome(Case(MLP(batch=16), known, (0, 1), 60, (60, 200)), seed) for seed in range(SEEDS)]
    yield from figures("mlp", found, 0.75)
    ratios = [o.equal_time / o.larger_store for o in found]
    note = f"offline with {LARGER} times the members stored, in the same time; {spread(ratios)}"
    yield Figure("mlp_larger_store", statistics.median(ratios), 1.0, "x", "<=", note)


def bench_fno() -> Iterator[Figure]:
    """Heat equation, an FNO for the step from level to level."""
    from sciflow_operators.components import FNO

    known = ("temperature", "source", "beta", "boundary")
    case = Case(FNO(width=16, modes=8, layers=3, batch=16), known, (1, 1), 20, (30, 100))
    yield from figures("fno", [outcome(case, seed, larger=False) for seed in range(SEEDS)], 0.95)


def figures(name: str, found: Sequence[Outcome], target: float) -> Iterator[Figure]:
    """Medians over the seeds."""
    ratios = [o.equal_time / o.offline for o in found]
    note = f"{spread(ratios)}; {' | '.join(o.note for o in found)}"
    yield Figure(f"{name}_equal_time", statistics.median(ratios), target, "x", "<=", note)
    times = [o.seconds[2] / o.seconds[0] for o in found]
    yield Figure(
        f"{name}_wall_time", max(times), 1.05, "x", "<=", f"online to offline, the worst; {spread(times)}"
    )
    ratios = [o.equal_runs / o.offline for o in found]
    note = f"as many members and steps; {spread(ratios)}"
    yield Figure(f"{name}_equal_runs", statistics.median(ratios), 1.05, "x", "<=", note)


def spread(values: Sequence[float]) -> str:
    """All values."""
    return f"seeds {', '.join(f'{v:.2f}' for v in values)}"


def outcome(case: Case, seed: int, *, larger: bool = True) -> Outcome:
    """All trainings of one seed, in a store of its own.

    Raises
    ------
    NotRun
        If dolfinx, torch or pyzmq is missing.
    """
    for module in ("dolfinx", "torch", "zmq"):
        if find_spec(module) is None:
            raise NotRun(f"{module} is missing")
    from sciflow.flow import Session, within
    from sciflow.store import Store

    with tempfile.TemporaryDirectory() as folder, within(Session(Store(folder), "benchmark")):
        return asyncio.run(_outcome(case, seed, larger=larger))


async def _outcome(case: Case, seed: int, *, larger: bool) -> Outcome:
    from sciflow import run
    from sciflow.stages.design import Design
    from sciflow.stages.simulate import Simulate
    from sciflow_fenics.components import Heat
    from sciflow_online.comparison import seconds
    from sciflow_online.components import OnlineTrain
    from sciflow_online.reservoirs import Reservoir

    problem = Heat(cells=16, grid=24, substeps=2)
    other = await run(Design(problem=problem, count=TESTS, seed=seed + 100))
    unseen = await run(Simulate(problem, seed=seed + 100), design=other)
    points = await run(Design(problem=problem, count=case.members, seed=seed))
    data = await run(Simulate(problem, seed=seed), design=points)
    surrogate, longest, error = await _offline(case, data, unseen, seed)
    outputs = ("temperature",)
    online = OnlineTrain(
        problem,
        surrogate.replace(threads=0),
        case.known,
        outputs,
        case.window,
        **SPLIT,
        reservoir=Reservoir(capacity=8000),
        seed=seed,
    )
    same_runs = await _online(online, points)
    same_time = await _equal_time(online, data, longest, same_runs)
    spent = seconds(data) + seconds(longest)
    more = await _larger(case, surrogate, problem, unseen, spent, longest, seed) if larger else float("nan")
    return Outcome(
        error,
        await _score(same_runs, unseen),
        await _score(same_time, unseen),
        more,
        (spent, seconds(same_runs), seconds(same_time)),
        len(same_time.read("train_members")),
        f"offline {case.members} members, {surrogate.epochs} epochs, threads: {surrogate.threads},",
    )


async def _offline(
    case: Case, data: Artifact, unseen: Artifact, seed: int
) -> tuple[Trained, Artifact, float]:
    """The best epochs by the error on the unseen members, the longest run, and the error of the best."""
    from sciflow_online.comparison import seconds

    few = case.epochs[0]
    tried = {
        t: await _train(case, case.surrogate.replace(epochs=few, threads=t), data, seed) for t in (CORES, 1)
    }
    threads = min(tried, key=lambda t: seconds(tried[t]))
    found = {few: tried[threads]}
    for epochs in case.epochs[1:]:
        found[epochs] = await _train(case, case.surrogate.replace(epochs=epochs, threads=threads), data, seed)
    errors = {epochs: await _score(model, unseen, data) for epochs, model in found.items()}
    best = min(errors, key=lambda e: errors[e])
    return case.surrogate.replace(epochs=best, threads=threads), found[case.epochs[-1]], errors[best]


async def _train(case: Case, surrogate: Trained, data: Artifact, seed: int) -> Artifact:
    from sciflow import run
    from sciflow.stages.train import Train

    stage = Train(surrogate, case.known, ("temperature",), window=case.window, **SPLIT, seed=seed)
    return await run(stage, ensemble=data)


async def _online(stage: OnlineTrain, points: Artifact) -> Artifact:
    from sciflow import Resources, run

    return await run(stage, design=points, resources=Resources(parallel=SOLVERS))


async def _equal_time(stage: OnlineTrain, data: Artifact, offline: Artifact, measured: Artifact) -> Artifact:
    """Online with what fits into the wall time of data and offline model."""
    from sciflow import run
    from sciflow.stages.design import Design
    from sciflow_online.comparison import equal_time, seconds

    budget = seconds(data) + seconds(offline)
    for _ in range(2):
        plan = equal_time(data, offline, measured)
        points = await run(Design(problem=stage.problem, count=plan.members, seed=stage.seed))
        made = stage.replace(train=plan.train, valid=plan.valid, repeats=plan.repeats)
        measured = await _online(made, points)
        if seconds(measured) > FULL * budget:
            break
    return measured


async def _larger(
    case: Case, surrogate: Trained, problem: Any, unseen: Artifact, spent: float, model: Artifact, seed: int
) -> float:
    """Error of the offline path with more members stored, in the same wall time."""
    from sciflow import run
    from sciflow.stages.design import Design
    from sciflow.stages.simulate import Simulate
    from sciflow_online.comparison import seconds

    points = await run(Design(problem=problem, count=LARGER * case.members, seed=seed))
    data = await run(Simulate(problem, seed=seed), design=points)
    each = LARGER * seconds(model) / case.epochs[-1]
    epochs = max(1, round((spent - seconds(data)) / each))
    return await _score(await _train(case, surrogate.replace(epochs=epochs), data, seed), unseen, data)


async def _score(model: Artifact, unseen: Artifact, training: Artifact | None = None) -> float:
    """Mean relative error."""
    from sciflow import run
    from sciflow.stages.evaluate import Evaluate

    given = {"training": training} if training is not None else {}
    score = await run(Evaluate("all"), model=model, ensemble=unseen, **given)
    return float(np.mean(score.read("relative_l2")))


# -- equal runs ------------------------------------------------------------------------------------


class Passes:
    """Stored samples, drawn in passes, each once per pass, in random order: what offline training does.

    Parameters
    ----------
    arrays : mapping of str to ndarray, shape (sample, ...)
        All samples.
    rng : Generator
        For the order.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], rng: np.random.Generator) -> None:
        self._arrays, self._rng = arrays, rng
        self._left = np.zeros(0, dtype=np.int64)

    def draw(self, size: int) -> np.ndarray:
        """The next rows of the pass."""
        if len(self._left) < size:
            order = self._rng.permutation(len(next(iter(self._arrays.values()))))
            self._left = np.concatenate([self._left, order])
        rows, self._left = self._left[:size], self._left[size:]
        return rows

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Samples of the rows."""
        return {name: values[rows] for name, values in self._arrays.items()}

    def feedback(self, rows: np.ndarray, losses: np.ndarray) -> None:
        """Nothing comes of it."""


def bench_reservoir() -> Iterator[Figure]:
    """A reservoir of a quarter of the samples, beside passes over all of them; and first in, first out."""
    _require_torch()
    from benchmarks.bench_reservoirs import CAPACITY, LEVELS, MEMBERS, REPEATS, heat, train, wave
    from sciflow_online.reservoirs import FIFO, Reservoir

    problems = {"heat": heat, "wave": wave}
    ratios: dict[str, list[float]] = {"stored": [], "fifo": []}
    for solution in problems.values():
        for seed in range(SEEDS):
            makes = (Reservoir, FIFO)
            kept, queue = (
                train(make(capacity=CAPACITY, threshold=CAPACITY // 10), solution, 0.0, seed)
                for make in makes
            )
            ratios["stored"].append(kept / stored(solution, seed))
            ratios["fifo"].append(queue / kept)
    about = f"{' and '.join(problems)}, {MEMBERS} members of {LEVELS} levels, {CAPACITY} rows"
    note = f"{about}, {REPEATS} passes offline, as many steps; {spread(ratios['stored'])}"
    yield Figure("equal_runs_reservoir", statistics.median(ratios["stored"]), 1.05, "x", "<=", note)
    note = f"{about}, as many steps; {spread(ratios['fifo'])}"
    yield Figure("fifo_bias", statistics.median(ratios["fifo"]), 1.1, "x", ">=", note)


def stored(solution: Callable[[np.ndarray, np.ndarray], np.ndarray], seed: int) -> float:
    """Error after training in passes over the members that `train` of the reservoirs sees as they come."""
    from benchmarks.bench_reservoirs import BATCH, LEVELS, MEMBERS, REPEATS, Trainer, arrivals

    mu, t = (np.array(v) for v in zip(*arrivals(seed), strict=True))
    y = solution(mu, t[:, None])
    arrays = {"x": np.column_stack([mu, t]).astype(np.float32), "y": y.astype(np.float32)}
    steps = MEMBERS * LEVELS * REPEATS // BATCH
    trainer = Trainer(Passes(arrays, np.random.default_rng(seed)), BATCH, steps, seed)  # type: ignore[arg-type]
    for _ in range(steps):
        trainer.step()
    return trainer.error(solution)


# -- steering --------------------------------------------------------------------------------------

X = np.linspace(0.0, 1.0, 32)
TIMES = np.arange(1, 17) / 16
LADDER = (64, 96, 128, 192, 256, 384)
"""Numbers of members."""
AIM = 0.1
"""Error that has to be reached, over the root mean square of the solution."""
RADIUS = 0.1
"""Of the hard region, in ranges of the parameters."""


@dataclass(frozen=True)
class Region:
    """Smooth in two parameters but near one point, where a wave's phase turns quickly with them.

    Attributes
    ----------
    centre : ndarray, shape (2,)
        Of that region, in the unit square.
    strength : float
        Amplitude of the wave; 0 leaves the smooth part alone.
    """

    centre: np.ndarray
    strength: float = 1.0

    def __call__(self, u: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Values at `X`, shape (point, x), at points (point, 2) and times (point, 1)."""
        a, b = u.T[..., None]
        near = np.exp(-((u - self.centre) ** 2).sum(-1, keepdims=True) / (2 * RADIUS**2))
        smooth = 0.5 * np.sin(np.pi * X) * (1 + a) * np.exp(-t)
        return np.asarray(smooth + self.strength * near * np.sin(2 * np.pi * (X + 3 * a - 2 * b)) * (0.3 + t))


def bench_steering() -> Iterator[Figure]:
    """Members until the mean error over the whole square is 10 %; the region is elsewhere for every seed."""
    _require_torch()
    from sciflow_online.steering import Breed, SobolSteering

    settings: Mapping[str, Breed] = {
        "active_sampling": Breed(initial=24, period=8, sigma=0.06, start=0.5, end=0.25, rounds=4),
        "active_sampling_defaults": Breed(),
    }
    regions = [Region(0.2 + 0.6 * np.random.default_rng([seed, 77]).random(2)) for seed in range(SEEDS)]
    even = [members_for(region, SobolSteering(), seed) for seed, region in enumerate(regions)]
    for name, controller in settings.items():
        needed = [members_for(region, controller, seed) for seed, region in enumerate(regions)]
        ratios = [a / b for a, b in zip(needed, even, strict=True)]
        pairs = ", ".join(f"{a:.0f} for {b:.0f}" for a, b in zip(needed, even, strict=True))
        note = f"root mean square error over the whole square {AIM:g}; {pairs} members; {spread(ratios)}"
        yield Figure(name, statistics.median(ratios), 0.8, "x", "<=", note)
    smooth = Region(np.zeros(2), 0.0)
    ratios = [
        learn(smooth, settings["active_sampling"], 64, seed) / learn(smooth, SobolSteering(), 64, seed)
        for seed in range(SEEDS)
    ]
    note = f"error, 64 members, no hard region; {spread(ratios)}"
    yield Figure("active_sampling_smooth", statistics.median(ratios), 1.1, "x", "<=", note)


def members_for(region: Region, controller: Controller, seed: int) -> float:
    """Members until the error is `AIM` for good on the ladder, interpolated between logarithms."""
    errors = [learn(region, controller, members, seed) for members in LADDER]
    above = [i for i, e in enumerate(errors) if e > AIM]
    last = above[-1] if above else 0
    if last == len(LADDER) - 1 or not above:
        return float(LADDER[last])  # a bound only
    x, y = np.log(LADDER[last : last + 2]), np.log(errors[last : last + 2])
    return float(np.exp(x[0] + (np.log(AIM) - y[0]) * (x[1] - x[0]) / (y[1] - y[0])))


def learn(region: Region, controller: Controller, members: int, seed: int) -> float:
    """Error of a perceptron that learns while four members at a time send their levels."""
    learner = Learner(region, controller, members, seed)
    learner.run()
    return learner.error()


class Learner:
    """Online training in one process: a reservoir, a controller, a perceptron, every sample drawn 32 times.

    Parameters
    ----------
    region : Region
        What is learned.
    controller : Controller
        Where the next member is.
    members : int
        In all.
    seed : int
        Of weights, reservoir, controller and the order of arrivals.
    """

    BATCH, REPEATS, RUNNING = 32, 32, 4

    def __init__(self, region: Region, controller: Controller, members: int, seed: int) -> None:
        from sciflow_online.reservoirs import Reservoir

        self._region, self._controller, self._members = region, controller, members
        self._rng = np.random.default_rng([seed, 1])
        samples = members * len(TIMES)
        shapes = {"x": ((3,), "float32"), "y": ((len(X),), "float32")}
        policy = Reservoir(capacity=samples, threshold=10 * len(TIMES))
        self._buffer = policy.open(shapes, np.random.default_rng(seed))
        self._state: Any = controller.init(np.random.default_rng([seed, 5]))
        self._tokens: list[int] = []
        self._points: list[np.ndarray] = []
        self._unseen: set[int] = set()
        self._losses = np.zeros((members, 2))
        self._steps, self._done = samples * self.REPEATS // self.BATCH, 0
        self._network(seed)

    def _network(self, seed: int) -> None:
        import torch
        from torch import nn

        torch.set_num_threads(1)
        torch.manual_seed(seed)
        hidden = [m for a in (3, 96, 96) for m in (nn.Linear(a, 96), nn.SiLU())]
        self._net = nn.Sequential(*hidden, nn.Linear(96, len(X)))
        self._optimiser = torch.optim.Adam(self._net.parameters(), 3e-3)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, 3e-3, total_steps=self._steps + 1
        )

    def _begin(self) -> list[int]:
        """Start a member: its number, and that of its next level."""
        for member in sorted(self._unseen):
            total, count = self._losses[member]
            if count:
                token = self._tokens[member]
                self._state = self._controller.observe(self._state, token, float(total / count), "ok")
                self._unseen.remove(member)
        proposal, self._state = self._controller.propose(self._state, {"dimension": 2.0})
        self._tokens.append(proposal.token)
        self._points.append(np.array([float(proposal.values[f"u{i}"]) for i in range(2)]))
        return [len(self._points) - 1, 0]

    def run(self) -> None:
        """Take in all members, training as they come, then draw what is due."""
        running = [self._begin() for _ in range(self.RUNNING)]
        arrived = 0
        while running:
            one = running[self._rng.integers(len(running))]
            self._arrive(*one)
            arrived += 1
            one[1] += 1
            if one[1] == len(TIMES):
                self._unseen.add(one[0])
                if len(self._points) < self._members:
                    one[:] = self._begin()
                else:
                    running.remove(one)
            self._train(arrived * self.REPEATS // self.BATCH)
        self._buffer.close()
        self._train(self._steps)

    def _arrive(self, member: int, level: int) -> None:
        point, time = self._points[member], TIMES[level]
        y = self._region(point[None], np.array([[time]]))[0]
        x = 2 * np.array([*point, time]) - 1
        self._buffer.put({"x": x.astype(np.float32), "y": y.astype(np.float32)}, member, level)

    def _train(self, until: int) -> None:
        while self._done < until and self._buffer.ready(self.BATCH):
            self._step()

    def _step(self) -> None:
        import torch

        rows = self._buffer.draw(self.BATCH)
        batch = {name: torch.from_numpy(values) for name, values in self._buffer.take(rows).items()}
        losses = (self._net(batch["x"]) - batch["y"]).square().mean(1)
        told = losses.detach().numpy()
        self._buffer.feedback(rows, told)
        members = self._buffer.members_of(rows)
        np.add.at(self._losses[:, 0], members, told / told.mean())
        np.add.at(self._losses[:, 1], members, 1.0)
        self._optimiser.zero_grad(set_to_none=True)
        losses.mean().backward()
        self._optimiser.step()
        self._schedule.step()
        self._done += 1

    def error(self) -> float:
        """Root mean square error over that of the solution, 4000 points spread evenly over the square."""
        import torch

        rng = np.random.default_rng(10**6)
        u, t = rng.random((4000, 2)), rng.choice(TIMES, (4000, 1))
        truth = self._region(u, t)
        with torch.no_grad():
            got = self._net(torch.tensor(2 * np.hstack([u, t]) - 1, dtype=torch.float32)).numpy()
        return float(np.sqrt(np.mean((got - truth) ** 2) / np.mean(truth**2)))


def _require_torch() -> None:
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)
        return
    raise NotRun("torch is missing: pip install torch")
