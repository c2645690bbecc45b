"""A ROM-net of transient heat, which steps from stored level to stored level, against its full model."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figure import Figure, NotRun, medians

MEMBERS, TRAIN, VALID = 200, 0.6, 0.1
CLUSTERS, MODES, TESTS = 4, 20, 40
SOLVES, ROW = 15, 8
"""Full-order solutions that are timed, and queries in a row between two of them."""


def bench_heat() -> Iterator[Figure]:
    """Error, speed, what the indicator is worth; in a process of its own with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.bench_rom_transient"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotRun(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no reason given")
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            yield Figure(**json.loads(line))


def artifacts(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The problem; ensemble, compression, clustering, the ROM-net and a regression of coefficients."""
    from sciflow import run
    from sciflow.flow import Session, within
    from sciflow.stages.design import Design
    from sciflow.stages.simulate import Simulate
    from sciflow.stages.train import Train
    from sciflow.store import Store
    from sciflow_fenics.components import Heat
    from sciflow_rom.clusters.clusterers import KMedoids
    from sciflow_rom.clusters.clustering import Cluster
    from sciflow_rom.compress.compression import Compress
    from sciflow_rom.net.romnet import BuildRom, RomNet
    from sciflow_rom.regress.pod_regression import PODRegression

    problem = Heat(cells=32, grid=33, levels=16, substeps=4, scheme="crank_nicolson")

    async def flow() -> dict[str, Any]:
        points = await run(Design(problem=problem, count=MEMBERS, fixed={"boundary": 0.0}))
        data = await run(Simulate(problem), design=points)
        small = await run(Compress(problem.unknown, "level", train=TRAIN, valid=VALID), ensemble=data)
        groups = await run(Cluster(clusterer=KMedoids(CLUSTERS)), compression=small)
        net = BuildRom(RomNet(problem, modes=MODES, top=1, indicator_modes=TESTS))
        names, pod = tuple(problem.parameters), PODRegression(modes=40)
        regression = Train(pod, names, (problem.unknown,), train=TRAIN, valid=VALID)
        return {
            "ensemble": data,
            "compression": small,
            "clustering": groups,
            "net": await run(net, ensemble=data, compression=small, clustering=groups),
            "pod": await run(regression, ensemble=data),
        }

    with within(Session(Store(folder))):
        return problem, asyncio.run(flow())


def errors(model: Any, made: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each unseen member the error, the bound, and what the chosen basis leaves of it at best."""
    from sciflow.stages.train import MODEL
    from sciflow_rom.bases import member_errors
    from sciflow_rom.compress.compression import load_coordinates
    from sciflow_rom.net.building import reduced_errors
    from sciflow_rom.net.planning import plan

    known = load_coordinates(made["compression"])
    parts = {name: made["compression"].read(name) for name in MODEL}
    planned = plan(model.config, known, parts, made["clustering"], 0)
    found, _, uppers = reduced_errors(model, planned.bases, known, planned.test)
    test = known.of(planned.test)
    names = list(model.problem.parameters)
    points = [dict(zip(names, test.points[g[0]].tolist(), strict=True)) for g in test.groups]
    best = np.stack([member_errors(test, basis) for basis in planned.bases], axis=1)
    chosen = [model.solve(mu).cluster for mu in points]
    return found, uppers, best[np.arange(len(chosen)), chosen]


def regressed(model: Any, ensemble: Any, names: list[str], test: np.ndarray) -> np.ndarray:
    """Errors of the regression on the same members, and over the same nodes."""
    points, truth = ensemble.read("parameters")[test], ensemble.read("temperature")[test]
    answers = model.predict({n: points[:, i] for i, n in enumerate(names)})["temperature"]
    gaps = (answers - truth).reshape(len(test), -1)
    return np.asarray(np.linalg.norm(gaps, axis=1) / np.linalg.norm(truth.reshape(len(test), -1), axis=1))


def timed(problem: Any, net: Any, points: np.ndarray) -> dict[str, float]:
    """Median seconds of a full-order solution, of a query with its bound, and with the whole field."""
    from sciflow.context import Context

    queries = [dict(zip(problem.parameters, p.tolist(), strict=True)) for p in points]
    full, short, whole = (itertools.cycle(queries) for _ in range(3))
    runs: dict[str, Any] = {
        "full": lambda: list(problem.solve(next(full), Context())),
        "bound": lambda: [net.solve(next(short)) for _ in range(ROW)],
        "field": lambda: [net.lift(net.solve(next(whole))) for _ in range(ROW)],
    }
    found = medians(runs, SOLVES, warm=2)
    return {name: s if name == "full" else s / ROW for name, s in found.items()}


def in_time(levels: int, count: int) -> tuple[float, float]:
    """Mean error in time on 16 cells: of the formula with all modes, of the full model with 2 substeps."""
    from sciflow import Context
    from sciflow_fenics.components import Heat
    from sciflow_rom.net.galerkin import Tables, solve

    fast = Heat(cells=16, grid=17, levels=levels, substeps=2, scheme="crank_nicolson")
    form, side = fast.integrals(Context()), fast.cells + 1
    inner = np.flatnonzero(np.pad(np.ones((side - 2, side - 2), bool), 1).reshape(-1)[form.rows])
    basis = np.eye(side * side)[:, inner]
    tables = Tables(form.strains(basis), form.weights, form.points, form.loads.T @ basis)

    def stored(problem: Heat, mu: dict[str, float]) -> np.ndarray:
        whole = np.zeros((levels, side * side))
        for level, state in enumerate(problem.solve(mu, Context())):
            part: Any = state.fields["temperature"]
            whole[level, part.index] = part.values
        return whole[:, form.rows[inner]]

    found = []
    for draw in np.random.default_rng(0).random((count, len(fast.parameters))):
        bounds = zip(fast.parameters.items(), draw, strict=True)
        mu = {n: float(p.low + u * (p.high - p.low)) for (n, p), u in bounds} | {"boundary": 0.0}
        exact, start = stored(fast.replace(substeps=32), mu), fast.start(len(form.weights))
        own = solve(tables, fast.law(form.points, mu), levels, history=start, tolerance=1e-9).coefficients
        gaps = [np.linalg.norm(v - exact) / np.linalg.norm(exact) for v in (own, stored(fast, mu))]
        found.append(gaps)
    mine, full = np.mean(found, axis=0)
    return float(mine), float(full)


def main() -> None:
    """Measure, and print the figures as JSON."""
    from sciflow.stages.train import load_model

    with tempfile.TemporaryDirectory() as temporary:
        problem, made = artifacts(Path(temporary))
        net, pod = load_model(made["net"]), load_model(made["pod"])
        test = made["compression"].read("test_members")
        found, uppers, best = errors(net, made)
        other = regressed(pod, made["ensemble"], list(problem.parameters), test)
        took = timed(problem, net, made["ensemble"].read("parameters")[test])
        own, full = in_time(16, 4)
        note = f"{100 * own:.3f} % of 16 steps beside {100 * full:.3f} % of 32 by Crank-Nicolson"
        shown = Figure("time_error_over_full", own / full, 1, "x", "<=", note)
        for figure in (*figures(net, found, uppers, best, other, took), shown):
            print(json.dumps(vars(figure)), flush=True)


def figures(
    net: Any, found: np.ndarray, uppers: np.ndarray, best: np.ndarray, other: np.ndarray,
    took: dict[str, float],
) -> Iterator[Figure]:  # fmt: skip
    """The figures of one run."""
    ms = {name: 1e3 * seconds for name, seconds in took.items()}
    size = f"{CLUSTERS} local models of {MODES} modes"
    note = f"{size}; p95 {100 * np.quantile(found, 0.95):.1f} %, {len(found)} unseen members"
    yield Figure("mean_error", float(100 * found.mean()), 2, " %", "<=", note)
    note = f"beside the projection of the truth, {100 * best.mean():.2f} %: time, points and selection add it"
    yield Figure("error_over_projection", float(found.mean() / best.mean()), 1.2, "x", "<=", note)
    note = f"full {ms['full']:.0f} ms, {ms['bound']:.2f} ms for coefficients, estimate and bound"
    yield Figure("speed_up_with_bound", took["full"] / took["bound"], 20, note=note)
    yield Figure(
        "speed_up_field", took["full"] / took["field"], 20, note=f"{ms['field']:.2f} ms, all levels lifted"
    )
    note = f"of a bound for 90 %; median bound {np.median(uppers / found):.1f} times the error"
    yield Figure("coverage", float(100 * np.mean(found <= uppers)), 85, " %", ">=", note)
    note = f"PODRegression(modes=40): {100 * other.mean():.2f} %"
    yield Figure("regression_over_rom_error", float(other.mean() / found.mean()), 2, note=note)
    points = np.mean([(m.tables.weights > 0).sum() for m in net.local])
    note = f"{points:.0f} of {6 * net.problem.cells**2}"
    yield Figure("points", float(100 * points / (6 * net.problem.cells**2)), 5, " %", "<=", note)


if __name__ == "__main__":
    main()
