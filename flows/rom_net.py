"""Local reduced-order models of one ensemble: whether they are worth it, and how they compare.

    -div((1 + u^2) grad u) = A exp(-|x - c|^2 / (2 w^2)),  u = 0 on the boundary of the unit square

Snapshots are compressed once. The criterion then says, before anything is built, what a dictionary of local
models would gain. It is built, and stands beside one global reduced model, a regression of its coefficients
and an operator, on members that none of them has seen.

    sciflow run flows/rom_net.py --set members=120 --set clusters=8
"""

from pathlib import Path

from prefect import flow

from sciflow import Resources, report, run
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.side_by_side import SideBySide
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow_fenics.components import SteadyHeat
from sciflow_operators.components import FNO
from sciflow_rom.components import Assess, BuildRom, Cluster, Compress, KMedoids, PODRegression, RomNet


@flow
async def rom_net(
    problem: SteadyHeat = SteadyHeat(),
    fno: FNO = FNO(width=24, modes=12, epochs=40, batch=10),
    members: int = 400,
    clusters: int = 20,
    modes: int = 8,
    solvers: int = 2,
    seed: int = 0,
) -> Path:
    """Compress, assess, cluster and reduce an ensemble, and compare with what else can be learned from it.

    Args:
        problem: The full-order model.
        fno: The operator that is compared with.
        members: Simulations in all.
        clusters: Local models.
        modes: Of each local model; the global one gets five times as many.
        solvers: Simulations at the same time.
        seed: Decides the design, the split, the clusters and the trainings.
    """
    points = await run(Design(problem=problem, count=members, seed=seed))
    data = await run(Simulate(problem, seed=seed), design=points, resources=Resources(parallel=solvers))
    small = await run(Compress(problem.unknown, seed=seed), ensemble=data)
    verdict = await run(Assess(seed=seed), compression=small, ensemble=data)

    models, kept = {}, []
    for name, count, size in (("rom_net", clusters, modes), ("global_rom", 1, 5 * modes)):
        groups = await run(Cluster(clusterer=KMedoids(count), seed=seed), compression=small)
        stage = BuildRom(RomNet(problem, modes=size, top=min(count, 2)), seed=seed)
        models[name] = await run(stage, ensemble=data, compression=small, clustering=groups)
        kept.append(groups)
    outputs = (problem.unknown,)
    regression = Train(PODRegression(modes=5 * modes), tuple(problem.parameters), outputs, seed=seed)
    models["pod_regression"] = await run(regression, ensemble=data)
    models["fno"] = await run(Train(fno, ("source",), outputs, seed=seed), ensemble=data)

    scores = {
        f"{name}_score": await run(Evaluate(), model=model, ensemble=data, training=data)
        for name, model in models.items()
    }
    table = await run(SideBySide(tuple(models)), ensemble=data, **models, **scores)
    title = "Local reduced-order models of steady heat conduction"
    return await report(
        title, table, verdict, kept[0], scores["rom_net_score"], models["rom_net"], data, points
    )
