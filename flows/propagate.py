"""What uncertain parameters do to a plate: thousands of queries by a reduced model, corrected by few solves.

    -div((1 + u^2) grad u) = A exp(-|x - c|^2 / (2 w^2)),  u = 0 on the boundary of the unit square

Where the source sits, and how strong it is, is known to some accuracy alone. A ROM-net with a calibrated
bound of its error, and a regression without one, answer every query. Answers in doubt go to the solver, and
some queries drawn by lot tell what the others are off by. The report sets both beside the solver alone.

    sciflow run flows/propagate.py                  # size=ci: two minutes
    sciflow run flows/propagate.py --set size=full  # a finer mesh, more members and queries
"""

from pathlib import Path
from typing import Literal

from prefect import flow

from sciflow import Artifact, Resources, report, run
from sciflow.quantities import Exceeds, Maximum, Mean
from sciflow.quantity import Quantity
from sciflow.stages.design import Design
from sciflow.stages.propagate import Propagate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow_fenics.components import SteadyHeat
from sciflow_rom.components import BuildRom, Cluster, Compress, KMedoids, PODRegression, RomNet

SIZES = {"ci": (32, 120, 10_000, 60), "full": (96, 400, 100_000, 200)}
"""Cells of the mesh along a side, members of the training, queries, full solves at most."""


@flow
async def propagate(
    size: Literal["ci", "full"] = "ci",
    threshold: float = 1.2,
    centre: float = 0.1,
    strength: float = 0.5,
    solvers: int = 2,
    seed: int = 0,
) -> Path:
    """Train on a wide range, then ask for the distribution of the temperature of an uncertain source.

    Args:
        size: ci takes two minutes; full has a finer mesh, more members and queries.
        threshold: Of the largest temperature.
        centre: Standard deviation of the place of the source along x and y, over the side.
        strength: Standard deviation of the logarithm of its amplitude.
        solvers: Simulations at the same time.
        seed: Decides designs, trainings and lots.
    """
    cells, members, count, budget = SIZES[size]
    plate, several = SteadyHeat(cells), Resources(parallel=solvers)
    points = await run(Design(problem=plate, count=members, seed=seed))
    data = await run(Simulate(plate, seed=seed), design=points, resources=several)
    small = await run(Compress(plate.unknown, seed=seed), ensemble=data)
    groups = await run(Cluster(clusterer=KMedoids(4), seed=seed), compression=small)
    net = BuildRom(RomNet(plate, modes=20, indicator_modes=40), seed=seed)
    regression = Train(PODRegression(logarithmic=("amplitude",)), tuple(plate.parameters), (plate.unknown,))
    rom = await run(net, ensemble=data, compression=small, clustering=groups)
    fit = await run(regression, ensemble=data)

    law = {"x": (0.5, centre), "y": (0.5, centre), "amplitude": (100.0, strength)}
    uncertain = Design(problem=plate, count=count, normal=law, method="random", seed=seed + 1)
    queries = await run(uncertain)

    async def asked(model: Artifact, quantity: Quantity) -> Artifact:
        stage = Propagate(quantity, budget=budget, seed=seed)
        return await run(stage, model=model, design=queries, ensemble=data, resources=several)

    mean, hottest = Mean(plate.unknown), Exceeds(Maximum(plate.unknown), threshold)
    found = [await asked(rom, mean), await asked(fit, mean), await asked(fit, hottest)]
    return await report("What an uncertain source does to a plate", *found, rom, fit, data, queries)
