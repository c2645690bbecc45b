"""Train from a store, and train while the solvers run: the same surrogates, side by side.

Offline, a small ensemble is stored and read many times. Online, nothing is stored: with as many members,
and with as many as fit into the wall time of the offline path. All are tested on the same unseen members.
Published ratios of errors (Meyer et al., ICML 2023): MLP 0.32, FNO 0.84, message passing 0.93.

    sciflow run flows/online_heat.py --set members=100
    sciflow run flows/online_heat.py --set problem='{"component": "burgers"}' --set given='["viscosity"]'
"""

from pathlib import Path

from prefect import flow

from sciflow import Resources, report, run
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow_fenics.components import Heat
from sciflow_online.comparison import Compare, equal_time
from sciflow_online.components import OnlineTrain
from sciflow_online.reservoirs import Reservoir
from sciflow_operators.components import FNO, MLP, MPPDE
from sciflow_spectral.components import Burgers


@flow
async def online_heat(
    problem: Heat | Burgers = Heat(cells=16, grid=24, substeps=2),
    mlp: MLP = MLP(epochs=200, batch=16),
    fno: FNO = FNO(width=16, modes=8, layers=3, epochs=60, batch=16),
    mp_pde: MPPDE = MPPDE(width=16, epochs=60, batch=16),
    given: tuple[str, ...] = ("source", "beta", "boundary"),
    reservoir: Reservoir = Reservoir(capacity=4000),
    members: int = 30,
    tests: int = 60,
    solvers: int = 2,
    seed: int = 0,
) -> Path:
    """Compare offline and online training at equal numbers of solver runs and at equal wall time.

    Args:
        problem: The solver.
        mlp: Learns a level from parameters and time; from the level before where members begin at random.
        fno: Learns a level from the one before.
        mp_pde: Learns a level from the one before.
        given: What FNO and MP-PDE are told besides that level.
        reservoir: What the solvers fill.
        members: Of the stored ensemble.
        tests: Unseen members.
        solvers: How many run at the same time.
        seed: Decides the designs, the split and the training.
    """
    field = next(name for name, f in problem.fields.items() if "time" in f.axes)
    step = ((field, *given), (1, 1))
    whole = step if isinstance(problem, Burgers) else ((*problem.parameters, "time"), (0, 1))
    width = Resources(parallel=solvers)
    points = await run(Design(problem=problem, count=members, seed=seed))
    other = await run(Design(problem=problem, count=tests, seed=seed + 1))
    unseen = await run(Simulate(problem, seed=seed + 1), design=other, resources=width)
    data = await run(Simulate(problem, seed=seed), design=points, resources=width)
    rows: dict = {}
    for surrogate, (known, window), paper in ((mlp, whole, 0.32), (fno, step, 0.84), (mp_pde, step, 0.93)):
        # One after the other: what runs at the same time as something else takes longer.
        stored = Train(surrogate, known, (field,), 0.88, 0.1, window, seed=seed)
        online = OnlineTrain(problem, surrogate, known, (field,), window, 0.88, 0.1, reservoir, seed=seed)
        offline = await run(stored, ensemble=data)
        same_runs = await run(online, design=points, resources=width)
        plan = equal_time(data, offline, same_runs)
        more = await run(Design(problem=problem, count=plan.members, seed=seed))
        longer = online.replace(train=plan.train, valid=plan.valid, repeats=plan.repeats)
        same_time = await run(longer, design=more, resources=width)
        models = {"offline": offline, "equal_runs": same_runs, "equal_time": same_time}
        scores = {}
        for way, model in models.items():
            seen = {"training": data} if way == "offline" else {}
            scores[f"{way}_score"] = await run(Evaluate("all"), model=model, ensemble=unseen, **seen)
        rows["before"] = await run(Compare(surrogate.name, paper), ensemble=data, **models, **scores, **rows)
    return await report("Training from a store, and from running solvers", rows["before"])
