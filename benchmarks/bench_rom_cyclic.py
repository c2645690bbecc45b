"""A viscoplastic plate reduced from two load cycles and run for fifteen, beside the full-order model."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.figure import Figure, NotRun

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.reduction import Reducible
    from sciflow_rom.net.online_slice import RomModel

CELLS, MEMBERS, FEW, MANY, MODES = 30, 16, 2, 15, 30


async def made(problem: Any) -> tuple[Artifact, Artifact]:
    """The ensemble of few cycles, and the model of it; as in flows/cyclic_rom.py."""
    from sciflow import run
    from sciflow.stages.design import Design
    from sciflow.stages.simulate import Simulate
    from sciflow_rom.clusters.clusterers import KMedoids
    from sciflow_rom.clusters.clustering import Cluster
    from sciflow_rom.compress.compression import Compress
    from sciflow_rom.net.romnet import BuildRom, RomNet
    from sciflow_rom.points.cubatures import EmpiricalCubature

    loads = await run(Design(problem=problem, count=MEMBERS))
    few = await run(Simulate(problem), design=loads)
    small = await run(Compress(problem.unknown, "level", "euclidean", 1e-8), ensemble=few)
    one = await run(Cluster(clusterer=KMedoids(1)), compression=small)
    net = RomNet(
        problem,
        modes=MODES,
        top=1,
        hyper_reduction=EmpiricalCubature(1e-3),
        states=150,
        indicator_modes=MODES + 10,
        coverage=0.75,
        calibration=3,
        newton_tolerance=1e-5,
    )
    return few, await run(BuildRom(net), ensemble=few, compression=small, clustering=one)


def full(problem: Reducible, mu: Mapping[str, float]) -> tuple[dict[str, np.ndarray], float]:
    """All fields of the full-order model, and the seconds of its steps: nothing is stored or copied."""
    from sciflow import Context
    from sciflow.states import Collector

    ctx = Context()
    problem.integrals(ctx)  # the mesh is there already, as it is for the reduced model
    begin = time.perf_counter()
    states = list(problem.solve(mu, ctx))
    seconds = time.perf_counter() - begin
    collector = Collector(problem, ctx.comm)
    for state in states:
        collector.add(state)
    collector.finish()
    return dict(collector.arrays), seconds


def solved(model: RomModel, problem: Reducible, mu: Mapping[str, float]) -> float:
    """Median seconds of an answer with its error indicator."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        model.solve(mu, problem=problem)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def parts(model: RomModel, artifact: Artifact, truth: Mapping[str, np.ndarray], answer: Any) -> str:
    """What of the errors comes from where: the modes of each field, and the values at the points."""
    from sciflow_rom.net.extrapolation import relative, unexplained

    said = []
    for kind, name in (("basis_0", "displacement"), ("dual_cumulated_0", "cumulated")):
        modes = np.linalg.qr(artifact.read(kind))[0]
        levels = truth[name]
        said.append(
            f"best of the {modes.shape[1]} {name} modes {relative(levels @ modes @ modes.T, levels):.4f}"
        )
    places = artifact.read("places_0")
    at = np.stack([model.problem.observe("cumulated", s, h) for s, h in _pairs(answer)])
    said.append(f"cumulated at the points {relative(at, truth['cumulated'][:, places]):.4f}")
    said.append(f"not followed there {unexplained(model, 'cumulated', answer)[-1]:.4f} at the end")
    said.append(f"the model's estimate {answer.estimate:.4f}")
    return ", ".join(said)


def _pairs(answer: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return zip(answer.response.stress, answer.response.history, strict=True)


def bench_extrapolation() -> Iterator[Figure]:
    """Speed on one thread and relative errors, for a load of the training and for one that is not."""
    try:
        import dolfinx  # noqa: F401
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise NotRun(f"{error.name} is missing") from None
    from sciflow.flow import Session, within
    from sciflow.stages.train import load_model
    from sciflow.store import Store
    from sciflow_fenics.components import ElastoViscoplastic

    problem = ElastoViscoplastic(cells=CELLS, cycles=FEW)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        with within(Session(Store(Path(folder)), "cyclic", listener=lambda *_: None)):
            few, artifact = asyncio.run(made(problem))
        model = load_model(artifact)
        for name in ("train", "test"):
            member = artifact.read(f"{name}_members")[0]
            mu = dict(zip(problem.parameters, few.read("parameters")[member].tolist(), strict=True))
            yield from compared(
                model, artifact, problem.replace(cycles=MANY), mu, "seen" if name == "train" else "unseen"
            )


def compared(
    model: Any, artifact: Artifact, problem: Reducible, mu: Mapping[str, float], load: str
) -> Iterator[Figure]:
    """Figures of one load."""
    from sciflow_rom.net.extrapolation import relative

    answer = model.solve(mu, problem=problem)
    before = solved(model, problem, mu)
    truth, seconds = full(problem, mu)
    query = statistics.mean([before, solved(model, problem, mu)])
    begin = time.perf_counter()
    fields = {"displacement": model.lift(answer), "cumulated": model.dual("cumulated", answer)}
    lift = time.perf_counter() - begin
    points = int((model.local[answer.cluster].tables.weights > 0).sum())
    note = (
        f"{len(answer.times)} steps, {FEW} of {MANY} cycles trained: {seconds:.1f} s, {query:.3f} s, and "
        f"{lift:.3f} s for the fields; {answer.iterations.mean():.1f} evaluations a step at "
        f"{points} of {problem.shape('cumulated')[0]} points, {answer.coefficients.shape[1]} modes"
    )
    yield Figure(f"speed_{load}", seconds / query, 20, "x", ">=", note)
    notes = {"displacement": "", "cumulated": parts(model, artifact, truth, answer)}
    for (name, found), target in zip(fields.items(), (2, 5), strict=True):
        last = len(truth[name]) // MANY
        end = relative(found[-last:], truth[name][-last:])
        note = f"last cycle {100 * end:.2g} %" + (f", {notes[name]}" if notes[name] else "")
        yield Figure(f"{name}_{load}", 100 * relative(found, truth[name]), target, " %", "<=", note)
