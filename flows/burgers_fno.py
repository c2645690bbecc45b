"""Learn the flow map of Burgers' equation: u(x, 0) -> u(x, 1), with nothing but numpy and torch.

u_t + u u_x = nu u_xx,  x in [0, 1) periodic,  u(., 0) a Gaussian random field.

sciflow run flows/burgers_fno.py --set members=400 --set surrogate.epochs=20
"""

import asyncio
from pathlib import Path

from prefect import flow

from sciflow import report, run
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow_operators.components import FNO
from sciflow_spectral.components import Burgers


@flow
async def burgers_fno(
    problem: Burgers = Burgers(),
    surrogate: FNO = FNO(),
    members: int = 1200,
    viscosity: float = 0.1,
    seed: int = 0,
) -> Path:
    """Train an FNO on Burgers' equation; test it on unseen members, also on the solver's finer grid.

    Args:
        problem: The solver.
        surrogate: The operator.
        members: Simulations in all; one in six is kept for the test.
        viscosity: Of every member.
        seed: Decides the initial conditions, the split and the training.
    """
    about = {"viscosity": (viscosity * (1 - 1e-9), viscosity * (1 + 1e-9))}
    points = await run(Design(problem=problem, count=members, seed=seed, bounds=about))
    data = await run(Simulate(problem, seed=seed), design=points)
    stage = Train(surrogate, ("u[0]",), ("u[-1]",), train=0.8, valid=1 / 30, seed=seed)
    model = await run(stage, ensemble=data)
    fine = await run(Simulate(problem.replace(points=problem.solve_points), seed=seed), design=points)
    score, finer = await asyncio.gather(
        run(Evaluate(), model=model, ensemble=data, training=data),
        run(Evaluate(), model=model, ensemble=fine, training=data),
    )
    title = "Burgers' equation: from the initial to the final state"
    return await report(title, score, finer, model, data, points)
