"""A structure of a fibre composite on two scales: a neural operator for the cell, beside the cell itself.

    int_V S(e(u)) : e(w) dV = F w,  S(E) the mean stress of a periodic cell under the mean strain E

The cell is solved for some mean strains. EquiNO takes modes from these solutions and learns, without labels,
to choose their coefficients so that the material's law holds. The structure is then loaded twice: with the
cell solved at every integration point and every Newton step (FE2), and with EquiNO and its tangent at all of
them at once.

    sciflow run flows/two_scale.py --set size=ci
"""

from pathlib import Path
from typing import Literal, NamedTuple

from prefect import flow

from sciflow import Resources, report, run
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow_fenics.components import RVE, CookMembrane, TwoScale, TwoScaleComparison
from sciflow_operators.components import EquiNO


class Size(NamedTuple):
    """Cells of the RVE and of the structure, members, load steps, modes, epochs."""

    cells: int
    mesh: int
    members: int
    steps: int
    modes: int
    epochs: int


SIZES = {"ci": Size(8, 2, 60, 2, 16, 12), "cpu": Size(48, 6, 150, 5, 16, 60)}


@flow
async def two_scale(
    size: Literal["ci", "cpu"] = "cpu",
    corrector: Literal["none", "newton", "magic"] = "magic",
    volume_fraction: float = 0.28,
    force: float = 120.0,
    solvers: int = 2,
    seed: int = 0,
) -> Path:
    """Simulate cells, train EquiNO, load Cook's membrane with the cell and with EquiNO, compare.

    Args:
        size: ``ci`` takes seconds, ``cpu`` minutes.
        corrector: What follows the networks in EquiNO's answers.
        volume_fraction: Of the fibre in the cell.
        force: The largest one on the membrane, N per mm of thickness.
        solvers: Cells that are solved at the same time for the training.
        seed: Decides the strains, the split and the training.
    """
    how = SIZES[size]
    cell = RVE(cells=how.cells, volume_fraction=volume_fraction)
    strains = await run(Design(problem=cell, count=how.members, seed=seed))
    data = await run(Simulate(cell, seed=seed), design=strains, resources=Resources(parallel=solvers))
    surrogate = EquiNO(
        problem=cell, modes=how.modes, epochs=how.epochs, polish=how.epochs // 6, corrector=corrector
    )
    outputs = (cell.unknown, *cell.dual, "homogenised")
    model = await run(Train(surrogate, tuple(cell.parameters), outputs, seed=seed), ensemble=data)
    score = await run(Evaluate(), model=model, ensemble=data, training=data)

    computation = TwoScale(CookMembrane(how.mesh), cell, force, how.steps)
    fast = await run(computation, model=model)
    full = await run(computation)
    both = await run(TwoScaleComparison(), reference=full, other=fast)
    return await report("A composite on two scales", both, full, fast, score, model, data, strains)
