"""Learn heat conduction from a finite-element solver that runs under MPI.

    rho c dT/dt = div(k(T) grad T) + q(x, y)

A dolfinx problem on several ranks makes the members, zarr keeps them, an FNO learns the map from
source, conductivity slope and boundary temperature to the temperature at all stored times.

    sciflow run flows/heat_fno.py --set members=100 --set ranks=2
"""

from pathlib import Path

from prefect import flow

from sciflow import Resources, report, run
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow_fenics.components import Heat
from sciflow_operators.components import FNO


@flow
async def heat_fno(
    problem: Heat = Heat(),
    surrogate: FNO = FNO(epochs=40, batch=10),
    members: int = 400,
    ranks: int = 2,
    seed: int = 0,
) -> Path:
    """Train an FNO on transient heat conduction and test it on members it has never seen.

    Args:
        problem: The solver.
        surrogate: The operator.
        members: Simulations in all.
        ranks: MPI ranks of each simulation.
        seed: Decides the design, the split and the training.
    """
    points = await run(Design(problem=problem, count=members, seed=seed))
    data = await run(Simulate(problem, seed=seed), design=points, resources=Resources(ranks=ranks))
    stage = Train(surrogate, ("source", "beta", "boundary"), ("temperature",), seed=seed)
    model = await run(stage, ensemble=data)
    score = await run(Evaluate(), model=model, ensemble=data, training=data)
    return await report(
        "Heat conduction: an operator learned from finite elements", score, model, data, points
    )
