"""A hyper-reduced ROM-net of steady heat against its full-order model: speed, error, choice by residual."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figure import Figure, NotRun, medians

MEMBERS, TRAIN, CLUSTERS, MODES, SEEDS = 400, 0.75, 20, 8, 3
TRAINED = round(TRAIN * MEMBERS)
SOLVES, ROW = 40, 40
"""Full-order solutions that are timed, and queries in a row between two of them."""


def bench_steady_heat() -> Iterator[Figure]:
    """B8 and B10, in a process of its own with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.bench_rom_online"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotRun(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no reason given")
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            yield Figure(**json.loads(line))


def ensemble_of(folder: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The ensemble, and for each seed of the split what a ROM-net is built from."""
    from sciflow import run
    from sciflow.flow import Session, within
    from sciflow.stages.design import Design
    from sciflow.stages.simulate import Simulate
    from sciflow.store import Store
    from sciflow_fenics.components import SteadyHeat
    from sciflow_rom.clusters.clusterers import KMedoids
    from sciflow_rom.clusters.clustering import Cluster
    from sciflow_rom.compress.compression import Compress

    problem = SteadyHeat()

    async def flow() -> list[dict[str, Any]]:
        ensemble = await run(Simulate(problem), design=await run(Design(problem=problem, count=MEMBERS)))
        cases = []
        for seed in range(SEEDS):
            compress = Compress(field=problem.unknown, train=TRAIN, seed=seed)
            compression = await run(compress, ensemble=ensemble)
            groups = {}
            for count in (CLUSTERS, 1) if seed == 0 else (CLUSTERS,):
                stage = Cluster(clusterer=KMedoids(count), seed=seed)
                groups[count] = await run(stage, compression=compression)
            inputs = {"ensemble": ensemble, "compression": compression}
            cases.append({count: {**inputs, "clustering": g} for count, g in groups.items()})
        return cases

    with within(Session(Store(folder))):
        return problem, asyncio.run(flow())


def built(rom: Any, inputs: Any, folder: Path, seed: int) -> tuple[Any, Any, float]:
    """The model, its artifact, and how long its local models took, s."""
    from sciflow.context import Context
    from sciflow.stages.train import MODEL, load_model
    from sciflow.store import Store
    from sciflow_rom.net import building
    from sciflow_rom.net.romnet import BuildRom

    seconds, make = [], building._locals

    def watched(*arguments: Any) -> None:
        begin = time.perf_counter()
        make(*arguments)
        seconds.append(time.perf_counter() - begin)

    with Store(folder, "rename").writer(MODEL, rom.digest()) as out:
        building._locals = watched
        try:
            BuildRom(rom, seed=seed).run(inputs, out, Context())
        finally:
            building._locals = make
        artifact = out.publish({})
    return load_model(artifact), artifact, seconds[0]


def survey(model: Any, inputs: Any, seed: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """The plan, and of each unseen member and local model the error and the indicator."""
    from sciflow.stages.train import MODEL
    from sciflow_rom.compress.compression import load_coordinates
    from sciflow_rom.net.planning import plan

    compression = inputs["compression"]
    coordinates = load_coordinates(compression)
    parts = {name: compression.read(name) for name in MODEL}
    made = plan(model.config, coordinates, parts, inputs["clustering"], seed)
    test = coordinates.of(made.test)
    errors, shown = np.full((2, len(made.test), model.clusters), np.inf)
    for row, group in enumerate(test.groups):
        mu = dict(zip(model.problem.parameters, test.points[group[0]].tolist(), strict=True))
        features, truth = model.space.scale(test.points[group[0]]), test.triangle[:, group[0]]
        for cluster, basis in enumerate(made.bases):
            response = model._respond(model.problem, cluster, mu, features)
            gap = truth - basis.coordinates @ response.coefficients[0]
            errors[row, cluster] = np.linalg.norm(gap) / np.linalg.norm(truth)
            shown[row, cluster] = model._indicate(model.problem, cluster, mu, response)
    return (made, test), errors, shown


def choices(order: np.ndarray, errors: np.ndarray, shown: np.ndarray) -> dict[str, float]:
    """Mean errors of the first of a ranking, and of the better of the first two by what is known of them."""
    rows = np.arange(len(errors))
    two = order[:, :2]
    e, i = np.take_along_axis(errors, two, 1), np.take_along_axis(shown, two, 1)
    return {
        "first": errors[rows, order[:, 0]].mean(),
        "exact": e.min(axis=1).mean(),
        "residual": e[rows, i.argmin(axis=1)].mean(),
    }


def selection(model: Any, inputs: Any, seed: int) -> dict[str, Any]:
    """What the choice by residual is worth, behind two selectors."""
    from sciflow_rom.net.indicator import spearman
    from sciflow_rom.regress.selectors import Logistic

    (made, test), errors, shown = survey(model, inputs, seed)
    asked = model.space.scale(test.points)
    known = model.space.scale(made.known.points[[g[0] for g in made.known.groups]])
    hard = Logistic(sharpness=50.0).train(known, made.errors, np.random.default_rng(seed))
    orders = [np.argsort([ranker.rank(f) for f in asked], axis=1) for ranker in (hard, model.ranker)]
    rows, first = np.arange(len(errors)), orders[1][:, 0]
    found = [model.solve(dict(zip(model.problem.parameters, p.tolist(), strict=True))) for p in test.points]
    real = errors[rows, [f.cluster for f in found]]
    return {
        "hard": choices(orders[0], errors, shown),
        "regression": choices(orders[1], errors, shown),
        "spearman": spearman(shown[rows, first], errors[rows, first]),
        "covered": float(np.mean(real <= [f.upper for f in found])),
        "p95": float(np.quantile(errors[rows, first], 0.95)),
    }


def timed(problem: Any, models: dict[str, tuple[Any, int]], points: np.ndarray) -> dict[str, float]:
    """Median seconds of a full-order solution and of a query of each model."""
    from sciflow.context import Context

    queries = [dict(zip(problem.parameters, p.tolist(), strict=True)) for p in points]
    turns = {name: itertools.cycle(queries) for name in ("full", *models)}
    ctx = Context()
    runs: dict[str, Any] = {"full": lambda: list(problem.solve(next(turns["full"]), ctx))}
    for name, (model, top) in models.items():
        runs[name] = lambda m=model, t=top, q=turns[name]: [m.solve(next(q), top=t) for _ in range(ROW)]
    found = medians(runs, SOLVES, warm=5)
    return {name: s if name == "full" else s / ROW for name, s in found.items()}


def main() -> None:
    """Measure, and print the figures as JSON."""
    from sciflow.stages.train import load_model
    from sciflow_rom.net.romnet import RomNet

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        problem, cases = ensemble_of(root / "store")
        rom = RomNet(problem, modes=MODES)
        nets = [built(rom, c[CLUSTERS], root / f"rom-{seed}", seed) for seed, c in enumerate(cases)]
        results = [selection(net[0], cases[seed][CLUSTERS], seed) for seed, net in enumerate(nets)]
        model, artifact, _ = nets[0]
        bare = rom.replace(indicator_modes=0, top=1)
        plain, _, local = built(bare, cases[0][CLUSTERS], root / "plain", 0)
        whole = built(bare.replace(modes=5 * MODES, states=TRAINED), cases[0][1], root / "global", 0)
        points = cases[0][CLUSTERS]["ensemble"].read("parameters")[artifact.read("test_members")]
        models = {"plain": (plain, 1), "one": (model, 1), "two": (model, 2), "global": (whole[0], 1)}
        took = timed(problem, models, points)
        begin = time.perf_counter()
        for _ in range(5):
            load_model(artifact)
        loading = (time.perf_counter() - begin) / 5
        size = artifact.file("model.safetensors").stat().st_size
        for figure in figures(problem, model, whole[0], results, took, (local, whole[2]), (loading, size)):
            print(json.dumps(vars(figure)), flush=True)


def figures(
    problem: Any, model: Any, whole: Any, results: list[dict[str, Any]], took: dict[str, float],
    offline: tuple[float, float], stored: tuple[float, int],
) -> Iterator[Figure]:  # fmt: skip
    """The figures of one run."""
    from sciflow.context import Context

    def mean(selector: str, choice: str) -> float:
        return float(np.mean([r[selector][choice] for r in results]))

    full, ms = took["full"], {k: 1e3 * v for k, v in took.items()}
    counts = np.mean([(m.tables.weights > 0).sum() for m in model.local])
    total = len(problem.integrals(Context()).weights)
    note = f"full {ms['full']:.1f} ms, {ms['plain']:.3f} ms with the selector; K={CLUSTERS}, n={MODES}"
    yield Figure("speed_up", full / took["plain"], 150, note=note)
    note = f"{ms['one']:.3f} ms: selector, one local model, its error estimate and bound"
    yield Figure("speed_up_with_estimate", full / took["one"], 150, note=note)
    note = f"{ms['two']:.3f} ms: the better of two by their residuals; no target is known"
    yield Figure("speed_up_best_of_two", full / took["two"], 75, note=note)
    note = f"{ms['global']:.3f} ms with n={5 * MODES}"
    yield Figure("faster_than_global", took["global"] / took["plain"], 3, note=note)
    note = f"first choice, {SEEDS} splits; p95 {100 * np.mean([r['p95'] for r in results]):.1f} %"
    yield Figure("mean_error", 100 * mean("regression", "first"), 3.5, " %", "<=", note)
    note = f"{counts:.0f} of {total}"
    yield Figure("points", 100 * counts / total, 0.3, " %", "<=", note)
    note = f"{offline[0]:.1f} s for the local models, {offline[1]:.1f} s for a global one of n={5 * MODES}"
    yield Figure("offline_over_global", offline[0] / offline[1], 0.2, "x", "<=", note)
    exact = mean("hard", "residual") / mean("hard", "exact")
    yield Figure("residual_over_exact", exact, 1.05, "x", "<=", "best of two by residual and by true error")
    hard = mean("hard", "first")
    note = f"hard label {100 * hard:.2f} %, best of two {100 * mean('hard', 'residual'):.2f} %"
    yield Figure("best_of_two_over_hard_label", mean("hard", "residual") / hard, 0.92, "x", "<=", note)
    note = f"best of two {100 * mean('regression', 'residual'):.2f} %, behind a regression of the errors"
    yield Figure(
        "best_of_two_over_hard_label_regression", mean("regression", "residual") / hard, 0.92, "x", "<=", note
    )
    yield Figure("spearman", float(np.mean([r["spearman"] for r in results])), 0.85, "", ">=", "first choice")
    covered = float(np.mean([r["covered"] for r in results]))
    yield Figure("coverage", 100 * covered, 85, " %", ">=", "of a bound for 90 %, 20 members to calibrate")
    snapshots = MEMBERS * np.prod(problem.shape(problem.unknown)) * 8
    yield Figure("load", 1e3 * stored[0], 50, " ms", "<=", "the online slice, ready to solve")
    note = f"{stored[1] / 1e6:.2f} MB, the same on any mesh; {snapshots / 1e6:.1f} MB of snapshots"
    yield Figure("size_over_snapshots", 100 * stored[1] / snapshots, 1, " %", "<=", note)


if __name__ == "__main__":
    main()
