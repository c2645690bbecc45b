"""Problems under a step controller beside their own fixed steps: work for an equal error at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.figure import Figure, NotRun
from sciflow import Context, Diverged
from sciflow_control.controllers.fixed_step import FixedStep
from sciflow_control.controllers.pi import PI
from sciflow_control.trials.frontier import Frontier

TOLERANCES = tuple(10.0**-k for k in range(2, 10))
STEPS = (12, 25, 50, 100, 200, 400, 800, 1600)


def bench_burgers() -> Iterator[Figure]:
    """Evaluations of the nonlinear term, PI over fixed ETDRK4, four members at each viscosity."""
    from sciflow_spectral.components import Burgers

    for viscosity, points in ((0.1, 512), (0.01, 1024), (0.001, 2048)):
        problem = Burgers(points=points, solve_points=points)
        mus = [{"viscosity": viscosity}] * 4
        yield from _spectral(f"burgers_{viscosity:g}", problem, mus, (1e-3, 1e-4, 1e-6, 1e-8))


def bench_waves() -> Iterator[Figure]:
    """The same for Kuramoto-Sivashinsky and for the vorticity of a flow."""
    from sciflow_spectral.components import KuramotoSivashinsky, NavierStokes

    flame = KuramotoSivashinsky(points=128, length=32.0, levels=2, end=10.0)
    yield from _spectral("flame", flame, [{"amplitude": 0.2}] * 4, (1e-3, 1e-6))
    flow = NavierStokes(points=48, levels=2, end=4.0)
    yield from _spectral("flow", flow, [{"viscosity": 1e-3, "force": 0.1}] * 2, (1e-3, 1e-6))


def _spectral(
    name: str, problem: Any, mus: Sequence[Mapping[str, float]], wanted: Sequence[float]
) -> Iterator[Figure]:
    exact = _finals(problem.replace(steps=6400), mus)
    assert exact is not None, "the reference blows up"
    fixed = [(4.0 * n, _error(_finals(problem.replace(steps=n), mus), exact)) for n in STEPS]
    steered = []
    for tolerance in TOLERANCES:
        work: list[float] = []
        found = _finals(problem.replace(stepping=PI(tolerance)), mus, "evaluations", work)
        steered.append((float(np.mean(work)), _error(found, exact)))
    blown = max((int(work) for work, error in fixed if math.isinf(error)), default=0)
    beyond = f", which blows up with {blown}" if blown else ""
    ours, theirs = (Frontier.of(*zip(*points, strict=True)) for points in (steered, fixed))
    for error in wanted:
        mine, other = ours.work_at(math.log10(error)), theirs.work_at(math.log10(error))
        note = f"worst member; PI {mine:.0f}, fixed {other:.0f}{beyond}"
        yield Figure(f"{name}_{error:g}", mine / other, 1.0, better="<=", note=note)


def _finals(
    problem: Any, mus: Sequence[Mapping[str, float]], metric: str = "", work: list[float] | None = None
) -> list[np.ndarray] | None:
    """The last state of each member, None if one blows up; its summed metric goes to `work`."""
    found = []
    for seed, mu in enumerate(mus):
        try:
            states = list(problem.solve(mu, Context(seed=seed)))
        except Diverged:
            return None
        values = next(v for k, v in states[-1].fields.items() if k != "source")
        found.append(np.asarray(getattr(values, "values", values), dtype=float))
        if work is not None:
            work.append(float(sum((s.metrics or {})[metric] for s in states)))
    return found


def _error(found: list[np.ndarray] | None, exact: list[np.ndarray]) -> float:
    """log10 of the largest relative error of a member; infinite where one blew up."""
    if found is None:
        return math.inf
    pairs = zip(found, exact, strict=True)
    return math.log10(max(float(np.linalg.norm(u - r) / np.linalg.norm(r)) for u, r in pairs))


def bench_heat() -> Iterator[Figure]:
    """Linear solves of a plate under a moving source, PI over fixed steps, four members."""
    if find_spec("dolfinx") is None:
        raise NotRun("dolfinx is missing: apt install python3-dolfinx")
    from sciflow_fenics.components import MovingHeat

    plate = MovingHeat(12, grid=17, levels=2)
    rng = np.random.default_rng(0)
    mus = [
        {n: p.low + (p.high - p.low) * rng.random() for n, p in plate.parameters.items()} for _ in range(4)
    ]
    exact = _finals(plate.replace(stepping=PI(1e-6)), mus)
    assert exact is not None, "the reference fails"

    def point(controller: Any) -> tuple[float, float]:
        work: list[float] = []
        found = _finals(plate.replace(stepping=controller), mus, "solves", work)
        return float(np.mean(work)), _error(found, exact)

    fixed = [point(FixedStep(dt)) for dt in (2.0, 1.0, 0.5, 0.25, 0.125, 0.0625)]
    steered = [point(PI(tolerance)) for tolerance in (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)]
    ours, theirs = (Frontier.of(*zip(*points, strict=True)) for points in (steered, fixed))
    for error in (1e-2, 2e-3):
        mine, other = ours.work_at(math.log10(error)), theirs.work_at(math.log10(error))
        note = f"worst member; PI {mine:.0f}, fixed {other:.0f} solves a member"
        yield Figure(f"moving_heat_{error:g}", mine / other, 0.5, better="<=", note=note)
