"""Neural operators on five equations in one table, beside what others published.

Burgers, two-phase Darcy flow, Navier-Stokes, Kuramoto-Sivashinsky, the unit cell of a fibre composite. Each
solver makes an ensemble, and a few members more finely, which tells its own error; each model learns from it.

    sciflow run flows/operators_table.py --set size=cpu --set seeds=3 --set 'tasks=["burgers", "darcy"]'
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from prefect import flow

from sciflow import Invalid, Problem, Surrogate, report, run
from sciflow.stages.comparison_table import ComparisonTable, Published
from sciflow.stages.convergence import Convergence
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.rollout import Rollout
from sciflow.stages.side_by_side import SideBySide
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow_fenics.components import RVE
from sciflow_operators.components import FNO, MLP, MPPDE, EquiNO, Poseidon, Squared, UNet
from sciflow_operators.poseidon.architecture import Architecture
from sciflow_spectral.components import Burgers, KuramotoSivashinsky, NavierStokes, TwoPhaseDarcy

TASKS = ("burgers", "darcy", "navier_stokes", "kuramoto_sivashinsky", "rve")
PUBLISHED = (
    Published("burgers", "fno", 0.0149, "Li et al. 2021, table 1, 256 points"),
    Published("burgers", "fno_rerun", 0.0025, "neuraloperator issue 30, its later code, 1024 points"),
    Published("darcy", "fno", 0.0108, "Li et al. 2021, table 4, 85 points"),
    Published("darcy", "fno_rerun", 0.0076, "neuraloperator issue 59, its later code"),
    Published("navier_stokes", "fno", 0.0128, "Li et al. 2021, FNO-2D, 64 points, roll-out to T = 50"),
)


@dataclass(frozen=True)
class Task:
    """What is learned of a problem, from how many members, by whom; and the problem on a finer grid."""

    problem: Problem
    finer: Problem
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    members: int
    models: dict[str, Surrogate]
    fixed: dict[str, float] = field(default_factory=dict)
    window: tuple[int, int] | None = None
    scored: tuple[str, ...] = ()


def task(name: str, at: int) -> Task:
    """A task at size 0, 1 or 2."""
    sizes = ((16, 16, 12, 100, 30), (60, 32, 16, 1200, 200), (500, 64, 24, 1200, 1200))
    epochs, width, modes, many, few = sizes[at]
    pace: dict[str, int] = {"epochs": epochs, "batch": (5, 10, 20)[at]}
    # A step changes little: what is learned is the change, measured beside how much it varies.
    change = (
        {"increments": True, "loss": Squared()} if name in ("navier_stokes", "kuramoto_sivashinsky") else {}
    )
    nets: dict[str, Surrogate] = {
        "fno": FNO(width=width, modes=modes, **pace, **change),
        "tucker_fno": FNO(width=width, modes=modes, factorisation="tucker", rank=0.1, **pace, **change),
        "unet": UNet(width=width, **pace, **change),
        "mp_pde": MPPDE(width=width, **pace),
    }
    if name in ("darcy", "navier_stokes"):
        few_tokens = Architecture(
            points=32, patch=2, width=24, depths=(2, 2), heads=(3, 6), skips=(1, 0), window=8
        )
        nets["poseidon"] = Poseidon(size="T", architecture=few_tokens if at < 2 else None, **pace)
    if name == "burgers":
        line = Burgers(points=(64, 256, 1024)[at])
        finer = line.replace(solve_points=2048, steps=400)
        return Task(line, finer, ("u[0]",), ("u[-1]",), many, nets, {"viscosity": 0.1})
    if name == "darcy":
        points, solved = ((22, 43), (43, 169), (85, 421))[at]
        medium = TwoPhaseDarcy(points=points, solve_points=solved)
        finer = medium.replace(solve_points=2 * solved - 1)
        return Task(medium, finer, ("permeability",), ("pressure",), many, nets, {"source": 1.0})
    if name == "navier_stokes":
        points, solved, end, before = ((16, 96, 6, 2), (32, 96, 20, 10), (64, 128, 50, 10))[at]
        swirl = NavierStokes(points=points, solve_points=solved, levels=end + 1, end=end, steps=100 * end)
        finer, w = swirl.replace(solve_points=2 * solved, steps=200 * end), ("vorticity",)
        return Task(swirl, finer, w, w, few, nets, {"viscosity": 1e-3, "force": 0.1}, (before, 1))
    if name == "kuramoto_sivashinsky":
        points, solved, steps = ((64, 128, 20), (128, 256, 140), (256, 256, 140))[at]
        waves = KuramotoSivashinsky(points=points, solve_points=solved, levels=steps + 1, end=0.2 * steps)
        waves = waves.replace(steps=8 * steps, spin_up=800)
        finer = waves.replace(solve_points=2 * solved, steps=16 * steps, spin_up=1600)
        return Task(waves, finer, ("u",), ("u",), few, nets, {}, (1, 1))
    cell = RVE(cells=(12, 48, 48)[at])
    rounds: dict[str, int] = {"modes": (8, 16, 16)[at], "epochs": (50, 200, 200)[at]}
    models: dict[str, Surrogate] = {
        "equino": EquiNO(problem=cell, **rounds),
        "equino_newton": EquiNO(problem=cell, corrector="newton", **rounds),
        "mlp": MLP(**pace),
    }
    strain, answer, mean = ("exx", "eyy", "gxy"), ("fluctuation", "stress", "homogenised"), ("homogenised",)
    finer = cell.replace(cells=2 * cell.cells)
    return Task(cell, finer, strain, answer, (40, 160, 160)[at], models, scored=mean)


def chosen_of(it: Task, models: tuple[str, ...]) -> list[str]:
    """The models of a task that are wanted; () wants all."""
    return [label for label in it.models if label in models or not models]


def refuse(tasks: tuple[str, ...], models: tuple[str, ...]) -> None:
    """Refuse what cannot become a table, before anything is solved."""
    for name in tasks:
        if name not in TASKS:
            raise Invalid(f"there is no task {name!r}; the tasks are {', '.join(TASKS)}")
        it = task(name, 0)
        if not chosen_of(it, models):
            raise Invalid(
                f"the task {name} has none of the models {', '.join(models)}; it has {', '.join(it.models)}. "
                "Leave the task out, or add one of these"
            )


@flow
async def operators_table(
    tasks: tuple[str, ...] = TASKS,
    size: Literal["ci", "cpu", "gpu"] = "ci",
    models: tuple[str, ...] = (),
    seeds: int = 1,
    checked: int = 4,
) -> Path:
    """Train every model on every task and put them into one table.

    Args:
        tasks: Some of burgers, darcy, navier_stokes, kuramoto_sivashinsky, rve.
        size: ci takes minutes on two cores, cpu hours; gpu is that of the papers.
        models: Some of fno, tucker_fno, unet, mp_pde, poseidon, equino, equino_newton, mlp; () takes all.
        seeds: Trainings of each model.
        checked: Members that are also solved more finely.
    """
    refuse(tasks, models)
    compared, rolled = {}, {}
    for name in tasks:
        it = task(name, ("ci", "cpu", "gpu").index(size))
        points = await run(Design(problem=it.problem, count=it.members, fixed=it.fixed))
        data = await run(Simulate(it.problem), design=points)
        few = await run(Design(problem=it.problem, count=checked, fixed=it.fixed))
        pair = [await run(Simulate(problem), design=few) for problem in (it.problem, it.finer)]
        floor = Convergence(it.scored or it.outputs)
        compared[f"{name}_floor"] = await run(floor, ensemble=pair[0], finer=pair[1])
        trained, scores = {}, {}
        for label, seed in ((label, seed) for label in chosen_of(it, models) for seed in range(seeds)):
            stage = Train(it.models[label], it.inputs, it.outputs, window=it.window, seed=seed, split_seed=0)
            model = trained[f"{label}_seed{seed}"] = await run(stage, ensemble=data)
            given = {"model": model, "ensemble": data, "training": data}
            scores[f"{label}_seed{seed}_score"] = await run(Evaluate(outputs_of=it.scored), **given)
            if it.window and not seed:
                rolled[name, label] = await run(Rollout(), **given)
        compared[name] = await run(SideBySide(tuple(trained)), ensemble=data, **trained, **scores)
    cited = tuple(p for p in PUBLISHED if p.task in tasks)
    rollouts = {f"{name}_{label}_rollout": found for (name, label), found in rolled.items()}
    table = await run(ComparisonTable(tasks, cited, tuple(rolled)), **compared, **rollouts)
    shown = [found for (_, label), found in rolled.items() if label == "fno"]
    return await report("Neural operators on several equations", table, *shown)
