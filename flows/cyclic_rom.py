"""A plate with a hole under cyclic load: a reduced model of a few cycles is run for many.

    div s = 0,  s = C : (e(u) - e_p),  dp/dt = <(J(dev s - X) - R(p)) / K>^N,  s . n = g(t) at the edge

A few loads are simulated for two cycles. Compressed, they give one basis; empirical cubature chooses the
integration points at which the law is still evaluated, and Gappy POD rebuilds the cumulated plastic strain
everywhere from its values there. Other loads, simulated in full for many cycles, say how far it carries.

    sciflow run flows/cyclic_rom.py --set members=6 --set more=20
"""

from pathlib import Path

from prefect import flow

from sciflow import Resources, report, run
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow_fenics.components import ElastoViscoplastic
from sciflow_rom.components import (
    BuildRom,
    Cluster,
    Compress,
    EmpiricalCubature,
    Extrapolate,
    KMedoids,
    RomNet,
)


@flow
async def cyclic_rom(
    problem: ElastoViscoplastic = ElastoViscoplastic(cells=30, cycles=2),
    members: int = 16,
    more: int = 15,
    unseen: int = 3,
    modes: int = 30,
    solvers: int = 2,
    seed: int = 0,
) -> Path:
    """Simulate a few cycles, reduce, and compare with the full model over many.

    Args:
        problem: The full-order model with the cycles of the training.
        members: Loads that are simulated for the training.
        more: Cycles of the reduced model and of the loads that it is compared with.
        unseen: Loads of that comparison.
        modes: Of the displacement.
        solvers: Simulations at the same time.
        seed: Decides loads, split and calibration.
    """
    resources = Resources(parallel=solvers)
    loads = await run(Design(problem=problem, count=members, seed=seed))
    few = await run(Simulate(problem, seed=seed), design=loads, resources=resources)
    stage = Compress(problem.unknown, columns="level", product="euclidean", tolerance=1e-8, seed=seed)
    small = await run(stage, ensemble=few)
    one = await run(Cluster(clusterer=KMedoids(1), seed=seed), compression=small)
    net = RomNet(
        problem,
        modes=modes,
        top=1,
        hyper_reduction=EmpiricalCubature(1e-3),
        states=150,
        indicator_modes=modes + 10,
        coverage=0.75,
        calibration=3,
        newton_tolerance=1e-5,
    )
    model = await run(BuildRom(net, seed=seed), ensemble=few, compression=small, clustering=one)

    longer = problem.replace(cycles=more)
    others = await run(Design(problem=longer, count=unseen, seed=seed + 1))
    many = await run(Simulate(longer, seed=seed), design=others, resources=resources)
    truth = await run(Extrapolate(last=problem.steps_per_cycle), model=model, ensemble=many)
    return await report("A viscoplastic plate over many cycles", truth, model, many, few, loads)
