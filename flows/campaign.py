"""A whole campaign: from a solver to the surrogate that is worth having, in one table.

Members are solved by a solver that tunes itself and chooses its time steps, which is first compared with
PETSc's defaults and equal steps. While they are solved they are stored, and one model learns from them as
they come; the others then learn from the store, side by side as there are cores. All are tried on the same
members that none has seen: errors, what an answer and a training cost and when that pays off, what is
conserved, how often their bands hold the truth. The best one is written as a file for other programs.

    sciflow run flows/campaign.py                                        # size=ci: minutes on two cores
    sciflow run flows/campaign.py --site local                           # the same, every stage a job
    sciflow run flows/campaign.py --set problem='{"component": "rve"}'   # also steady_heat, darcy
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefect import flow

from sciflow import Artifact, Invalid, Problem, Resources, Surrogate, report, run
from sciflow.linear_solver import TakesSolver
from sciflow.reduction import Reducible
from sciflow.stages.calibrate import Calibrate
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.export_best import ExportBest
from sciflow.stages.side_by_side import SideBySide
from sciflow.stages.simulate import Simulate
from sciflow.stages.solver_comparison import SolverComparison
from sciflow.stages.train import Train
from sciflow.step_controller import TakesSteps
from sciflow_control.components import PI, Solvers, Thompson, Tuned
from sciflow_fenics.components import RVE, Darcy, Heat, SteadyHeat
from sciflow_online.components import OnlineTrain
from sciflow_operators.components import FNO, MLP, EquiNO, Poseidon
from sciflow_operators.poseidon.architecture import Architecture
from sciflow_rom.components import BuildRom, Cluster, Compress, KMedoids, PODRegression, RomNet

SIZES = ("ci", "cpu", "gpu")
CELLS = {"heat": (64, 96, 128), "steady_heat": (32, 64, 128), "darcy": (32, 64, 128), "rve": (24, 32, 48)}
"""Mesh of a problem that is left as it is, at each size."""
NUMBERS = {"heat": ("beta",), "steady_heat": (), "darcy": ("source",)}
"""Parameters that operators are told besides the given fields, which hold what the others decide."""
SMALL = Architecture(points=32, patch=2, width=24, depths=(2, 2), heads=(3, 6), skips=(1, 0), window=8)
TUNED = Tuned(Thompson(Solvers(("given", "cg+icc", "cg+ssor"), (1.0, 1.4, 1.7))), limit=4.0, hold=8)


@dataclass(frozen=True)
class Plan:
    """What is solved, with control and without; who learns what from which parameters or fields."""

    problem: Any
    plain: Any
    given: tuple[str, ...]
    fields: tuple[str, ...]
    wanted: tuple[str, ...]
    scored: tuple[str, ...]
    online: Surrogate
    stored: dict[str, Surrogate]
    rom: RomNet | None = None


def plan(problem: Any, at: int, *, control: bool) -> Plan:
    """The campaign at size 0, 1 or 2; of a problem that is not known above its fields say enough."""
    if problem == type(problem)() and problem.name in CELLS:
        problem = problem.replace(cells=CELLS[problem.name][at])
        if isinstance(problem, Heat):
            problem = problem.replace(grid=problem.cells + 1, scheme="crank_nicolson", substeps=8)
    plain, names = problem, tuple(problem.parameters)
    if control and isinstance(problem, TakesSolver):
        problem = problem.replace(solver=problem.solver or TUNED)
    if control and isinstance(problem, TakesSteps):
        problem = problem.replace(stepping=problem.stepping or PI(5e-4))
    pace: dict[str, int] = {"epochs": (60, 150, 300)[at], "batch": (8, 10, 20)[at]}
    spans = tuple(name for name, parameter in problem.parameters.items() if parameter.log)
    pod = PODRegression(modes=(30, 50, 80)[at], logarithmic=spans)
    mlp = MLP(width=(128, 256, 512)[at], **pace)
    if isinstance(problem, RVE):
        equino = EquiNO(problem=problem, epochs=(60, 150, 200)[at])
        stored = {"equino": equino, "equino_newton": equino.replace(corrector="newton")}
        stored |= {"mlp": mlp, "pod_regression": pod}
        return Plan(problem, plain, names, (), tuple(problem.fields), ("homogenised",), mlp, stored)
    wanted = problem.unknown if isinstance(problem, Reducible) else [*problem.fields][-1]
    space = set(problem.fields[wanted].axes) - {"time"}
    seen = tuple(n for n, f in problem.fields.items() if set(f.axes) == space and n != wanted)
    fno = FNO(width=(16, 32, 64)[at], modes=(8, 12, 16)[at], **pace)
    online, stored = (fno, {"fno": fno}) if seen else (mlp, {"mlp": mlp})
    rom = RomNet(problem, modes=(20, 30, 40)[at], top=1, indicator_modes=(40, 60, 80)[at])
    rom = rom if isinstance(problem, Reducible) else None
    told, out, stored["pod_regression"] = (*seen, *NUMBERS.get(problem.name, names)), (wanted,), pod
    names = told if isinstance(problem, Darcy) else names  # the field alone says which random medium it is
    return Plan(problem, plain, names, told, out, out, online, stored, rom)


@flow
async def campaign(
    problem: Heat | SteadyHeat | Darcy | RVE = Heat(),
    size: Literal["ci", "cpu", "gpu"] = "ci",
    members: int = 0,
    study: int = 12,
    control: bool = True,
    weights: str = "",
    ranks: int = 1,
    threads: int = 1,
    seed: int = 0,
) -> Path:
    """Solve, learn in several ways, compare, export.

    Args:
        problem: The full-order model; one that is left as it is gets the mesh of the size.
        size: ci takes minutes on two cores, cpu hours; gpu is that of the papers.
        members: Simulations in all; 0 leaves that to the size.
        study: Members that are also solved with PETSc's defaults and equal steps; 0 for none.
        control: Let the solver tune itself and choose its time steps, where it can.
        weights: Directory of Poseidon-T to fine-tune; empty trains a small one on a coarse mesh first.
        ranks: MPI ranks of each simulation.
        threads: Of each training; so many run at once as there are cores for.
        seed: Decides the design, the split and every training.
    """
    it = plan(problem, SIZES.index(size), control=control)
    members = members or (120, 400, 1200)[SIZES.index(size)]
    if members < 52:
        raise Invalid(f"{members} members leave too few unseen ones for bands that hold: take 52 or more")
    each, timed, alone = Resources(ranks), Resources(ranks, parallel=1), Resources(threads=threads)
    parts: dict[str, Any] = {"train": 0.6, "valid": 0.05, "seed": seed}
    fixed = {"boundary": 0.0} if isinstance(it.problem, Heat) else {}  # or it could not be reduced

    async def solved(how: Problem, many: int, resources: Resources = each) -> Artifact:
        points = await run(Design(problem=how, count=many, fixed=fixed, seed=seed))
        return await run(Simulate(how, seed=seed), design=points, resources=resources)

    shown, sides = [], {"baseline": it.plain, "candidate": it.problem}
    if study and it.problem != it.plain:
        if isinstance(it.plain, Heat):
            sides["reference"] = it.plain.replace(substeps=100)
        pair = {name: await solved(how, study, timed) for name, how in sides.items()}
        stage = SolverComparison(it.wanted, ("PETSc's defaults, equal steps", "tuned solver, chosen steps"))
        shown.append(await run(stage, **pair))

    points = await run(Design(problem=it.problem, count=members, fixed=fixed, seed=seed))
    streamed = OnlineTrain(it.problem, it.online, it.fields or it.given, it.wanted, keep=True, **parts)
    online = await run(streamed, design=points, resources=each)
    data = await solved(it.problem, members)  # stored while that model learned: it is found

    async def learned(name: str, surrogate: Surrogate) -> Artifact:
        told = it.fields if name == "fno" else it.given
        return await run(Train(surrogate, told, it.wanted, **parts), ensemble=data, resources=alone)

    async def fine_tuned() -> Artifact:
        small, begin, pace = None if weights else SMALL, {}, {"epochs": it.online.epochs // 2, "batch": 8}
        net = Poseidon(weights=weights, architecture=small, learning_rate=1e-3, **pace)
        if not weights:
            coarse = await solved(it.plain.replace(cells=it.plain.cells // 3), 2 * members)
            first = Train(net.replace(learning_rate=2e-3), it.fields, it.wanted, **parts)
            begin["start"] = await run(first, ensemble=coarse, resources=alone)
        return await run(Train(net, it.fields, it.wanted, **parts), ensemble=data, resources=alone, **begin)

    async def reduced() -> Artifact:
        columns = "level" if "time" in it.problem.fields[it.wanted[0]].axes else "member"
        small = await run(Compress(*it.wanted, columns, **parts), ensemble=data, resources=alone)
        groups = await run(Cluster(clusterer=KMedoids(it.rom.modes // 5), seed=seed), compression=small)
        given = {"ensemble": data, "compression": small, "clustering": groups}
        return await run(BuildRom(it.rom, seed=seed), resources=alone, **given)

    ways = {name: learned(name, surrogate) for name, surrogate in it.stored.items()}
    ways |= {"rom_net": reduced()} if it.rom else {}
    ways |= {"poseidon": fine_tuned()} if "fno" in it.stored else {}
    made = dict(zip(ways, await asyncio.gather(*ways.values()), strict=True))
    models = {f"online_{it.online.name}": online, **made}

    known, judge, bands = {"ensemble": data}, Evaluate(outputs_of=it.scored), Calibrate(seed=seed)
    for name, model in models.items():
        known[f"{name}_score"] = await run(judge, model=model, ensemble=data, training=data)
        known[f"{name}_calibration"] = await run(bands, model=model, ensemble=data)
    table = await run(SideBySide(tuple(models)), **models, **known)
    best = await run(ExportBest(tuple(models)), comparison=table, ensemble=data, **models)
    shown += [*models.values(), data, points]
    return await report(f"A campaign on {it.problem.name}", table, best, *shown)
