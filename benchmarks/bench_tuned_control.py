"""Ensembles under learned and classical control beside PETSc's defaults and equal steps, at equal error."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figure import Figure, NotRun
from sciflow import Context
from sciflow.experience import Experience
from sciflow_control.components import PI, Solvers, Thompson, Tuned
from sciflow_control.trials.frontier import Frontier

TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)


@dataclass(frozen=True)
class _Plate:
    """A problem, its numbers of equal steps in a level, those of the reference, and the errors asked for."""

    problem: Any
    substeps: Sequence[int]
    finest: int
    errors: Sequence[float]
    members: int
    fixed: Mapping[str, float]


def bench_heat() -> Iterator[Figure]:
    """A plate heated from rest, as in flows/campaign.py, on two meshes."""
    _needed()
    from sciflow_fenics.components import Heat

    for cells in (32, 64):
        plate = Heat(cells, grid=cells + 1, levels=8, scheme="crank_nicolson")
        case = _Plate(plate, (1, 2, 4, 8, 16, 32), 200, (5e-4, 2e-4), 8, {"boundary": 0.0})
        yield from _compared(f"heat_{cells}", case)


def bench_moving() -> Iterator[Figure]:
    """A plate that a source scans."""
    _needed()
    from sciflow_fenics.components import MovingHeat

    plate = MovingHeat(32, grid=33, levels=8)
    yield from _compared("moving_heat_32", _Plate(plate, (40, 80, 160, 320), 800, (5e-3, 2e-3), 4, {}))


def _needed() -> None:
    if find_spec("dolfinx") is None:
        raise NotRun("dolfinx is missing: apt install python3-dolfinx")


def _compared(name: str, case: _Plate) -> Iterator[Figure]:
    """CPU seconds of a member: equal steps with PETSc's defaults over what is tuned, solver and steps."""
    problem = case.problem
    mus = _members(problem, case)
    exact = _run(problem.replace(substeps=case.finest), mus).found
    few = Solvers(("given", "cg+icc", "cg+ssor"), (1.0, 1.4, 1.7))
    tuned = Tuned(Thompson(few), limit=4.0)
    plain, steered, both = [], [], []
    for count in case.substeps:
        plain.append(_run(problem.replace(substeps=count), mus))
    for tolerance in TOLERANCES:
        steps = problem.replace(stepping=PI(tolerance))
        steered.append(_run(steps, mus))
        both.append(_run(steps.replace(solver=tuned), mus))
    lines = {n: _frontier(r, exact) for n, r in (("plain", plain), ("steps", steered), ("both", both))}
    for error in case.errors:
        work = {n: line.work_at(math.log10(error)) for n, line in lines.items()}
        note = "; ".join(f"{n} {1000 * w:.0f} ms" for n, w in work.items())
        yield Figure(f"{name}_steps_{error:g}", work["plain"] / work["steps"], 2.0, note=note)
        yield Figure(f"{name}_both_{error:g}", work["plain"] / work["both"], 2.0, note=note)


def _members(problem: Any, case: _Plate) -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(case.members):
        mu = {n: p.low + (p.high - p.low) * rng.random() for n, p in problem.parameters.items()}
        made.append({**mu, **case.fixed})
    return made


@dataclass(frozen=True)
class _Run:
    seconds: float
    found: list[np.ndarray]


def _run(problem: Any, mus: Sequence[Mapping[str, float]]) -> _Run:
    """Solve the members one after the other, each with what those before it learned."""
    list(problem.solve(mus[0], Context(seed=0)))  # Meshes, forms and compiled kernels are there now.
    found, spent = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        learned = Experience(Path(folder))
        for member, mu in enumerate(mus):
            ctx = Context(seed=member, experience=learned.of(member))
            begin = time.process_time()
            states = list(problem.solve(mu, ctx))
            spent += time.process_time() - begin
            fields = [s.fields["temperature"] for s in states]
            found.append(np.stack([np.asarray(getattr(f, "values", f), dtype=float) for f in fields]))
    return _Run(spent / len(mus), found)


def _frontier(runs: Sequence[_Run], exact: Sequence[np.ndarray]) -> Frontier:
    errors = [
        max(float(np.linalg.norm(u - r) / np.linalg.norm(r)) for u, r in zip(one.found, exact, strict=True))
        for one in runs
    ]
    return Frontier.of([one.seconds for one in runs], [math.log10(e) for e in errors])
