"""A whole campaign: from a solver to the surrogate that is worth having, in one table.

Members are designed and solved by a solver that tunes itself and chooses its time steps. While they are
solved they are stored, and one model learns from them as they come. Then the others learn from the store,
side by side as there are cores; all are tried on the same members that none has seen, in error, in what an
answer and a training cost, in what they conserve and in how often their bands hold the truth. The best one is
written as a file for other programs.

    sciflow run flows/campaign.py                                  # size=ci: minutes on two cores
    sciflow run flows/campaign.py --site local                     # every stage a job of that Slurm
    sciflow run flows/campaign.py --set problem='{"component": "rve"}'
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from prefect import flow

from sciflow import Artifact, Resources, Surrogate, report, run
from sciflow.stages.calibrate import Calibrate
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.export_best import ExportBest
from sciflow.stages.side_by_side import SideBySide
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow_control.components import PI, Solvers, Thompson, Tuned
from sciflow_fenics.components import RVE, Heat, SteadyHeat
from sciflow_online.components import OnlineTrain
from sciflow_operators.components import FNO, MLP, EquiNO
from sciflow_rom.components import PODRegression

SIZES = ("ci", "cpu", "gpu")
TUNED = Tuned(Thompson(Solvers()))


@dataclass(frozen=True)
class Plan:
    """What is solved, how often, and who learns what of it."""

    problem: Heat | SteadyHeat | RVE
    members: int
    given: tuple[str, ...]
    wanted: tuple[str, ...]
    online: Surrogate
    models: dict[str, Surrogate]
    fixed: dict[str, float] = field(default_factory=dict)
    scored: tuple[str, ...] = ()


def plan(problem: Heat | SteadyHeat | RVE, size: str) -> Plan:
    """The campaign of a problem at a size."""
    at = SIZES.index(size)
    pace: dict[str, int] = {"epochs": (40, 100, 300)[at], "batch": (8, 10, 20)[at]}
    fno = FNO(width=(16, 32, 64)[at], modes=(8, 12, 16)[at], **pace)
    mlp = MLP(width=(128, 256, 512)[at], **pace)
    members, names = (80, 400, 1200)[at], tuple(problem.parameters)
    if isinstance(problem, RVE):
        cell = problem if problem != RVE() else RVE(cells=(12, 32, 48)[at])
        equino = EquiNO(problem=cell, epochs=(20, 100, 200)[at])
        models = {"equino": equino, "pod_regression": PODRegression(modes=16)}
        return Plan(cell, members, names, (*cell.fields,), mlp, models, scored=("homogenised",))
    fields = {"fno": fno}
    if isinstance(problem, SteadyHeat):
        cells = (24, 64, 128)[at] if problem == SteadyHeat() else problem.cells
        plate = problem.replace(cells=cells, solver=problem.solver or TUNED)
        return Plan(
            plate, members, names, ("temperature",), mlp, {**fields, "pod_regression": PODRegression()}
        )
    cells = (24, 32, 64)[at] if problem == Heat() else problem.cells
    grid = cells + 1 if problem == Heat() else problem.grid
    heat = problem.replace(cells=cells, grid=grid, solver=problem.solver or TUNED)
    heat = heat.replace(stepping=problem.stepping or PI(1e-3))
    models = {**fields, "pod_regression": PODRegression()}
    return Plan(heat, members, names, ("temperature",), mlp, models, {"boundary": 0.0})


@flow
async def campaign(
    problem: Heat | SteadyHeat | RVE = Heat(),
    size: Literal["ci", "cpu", "gpu"] = "ci",
    members: int = 0,
    threads: int = 1,
    seed: int = 0,
) -> Path:
    """Solve, learn in several ways, compare, export.

    Args:
        problem: The full-order model; one that is left as it is gets the mesh of the size.
        size: ci takes minutes on two cores, cpu hours; gpu is for a machine with one.
        members: Simulations in all; 0 leaves that to the size.
        threads: Of each training; so many run at once as there are cores for.
        seed: Decides the design, the split and every training.
    """
    it = plan(problem, size)
    alone = Resources(threads=threads)
    points = await run(Design(problem=it.problem, count=members or it.members, fixed=it.fixed, seed=seed))
    names = it.given, it.wanted
    parts = {"train": 0.6, "valid": 0.05, "seed": seed}
    online = OnlineTrain(it.problem, it.online, *names, keep=True, **parts)
    models = {"online_mlp": await run(online, design=points)}
    # Published beside the model: this finds it.
    data = await run(Simulate(it.problem, seed=seed), design=points)

    async def learned(surrogate: Surrogate) -> Artifact:
        given = it.given if surrogate.name != "fno" else ("source", *(n for n in it.given if n in ("beta",)))
        return await run(Train(surrogate, given, it.wanted, **parts), ensemble=data, resources=alone)

    models |= dict(zip(it.models, await asyncio.gather(*map(learned, it.models.values())), strict=True))
    scores = {}
    for name, model in models.items():
        scores[f"{name}_score"] = await run(
            Evaluate(outputs_of=it.scored), model=model, ensemble=data, training=data
        )
        scores[f"{name}_calibration"] = await run(Calibrate(seed=seed), model=model, ensemble=data)
    table = await run(SideBySide(tuple(models)), ensemble=data, **models, **scores)
    best = await run(ExportBest(tuple(models)), comparison=table, ensemble=data, **models)
    return await report(f"A campaign on {it.problem.name}", table, best, *models.values(), data, points)
