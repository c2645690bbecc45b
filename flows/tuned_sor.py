"""Relaxation parameters that are learned while systems are solved: the experiments of "Learning to Relax".

Independent systems solved by SOR; steps of a heat equation whose diffusion swings by orders of magnitude,
solved by CG with SSOR. Each tuner plays over a table of all of them, solved with every omega, beside the
oracle, the best single omega, omega = 1 and random ones. Then an ensemble of plates in finite elements.

    sciflow run flows/tuned_sor.py                  # size=ci: a minute or two
    sciflow run flows/tuned_sor.py --set size=full  # the paper's
"""

from pathlib import Path
from typing import Literal

from prefect import flow

import sciflow_control.components as control
from sciflow import report, run
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow_control.bandits.tuner import Tuner
from sciflow_fenics.components import Heat

PLATE = control.Solvers(("given", "bcgs+ilu", "gmres+ilu", "bcgs+ssor"), (1.0, 1.2, 1.4, 1.6, 1.8))
OMEGAS = control.Relaxation(1.0, 1.95, 20)


def tuners(heat: bool) -> dict[str, Tuner]:
    """Those that are compared; the last ones look at a feature."""
    known = ("log_diffusion", -3.52, 1.0) if heat else ("c", -0.15, 0.45)
    theory = ("diffusion", 3e-4, 10.0, "scale", "ssor_cg") if heat else (*known, "shift", "sor")
    return {
        **{f"omega_1_{k}": control.Fixed(OMEGAS, 2 * k) for k in (4, 6, 8)},
        "tsallis_iw": control.Tsallis(OMEGAS, "iw"),
        "tsallis_rv": control.Tsallis(OMEGAS, "rv"),
        "thompson": control.Thompson(OMEGAS),
        "thompson_binned": control.Binned(control.Thompson(OMEGAS), *known),
        "chebcb": control.ChebCB(OMEGAS, *known),
        "bayes_chebyshev": control.BayesChebyshev(OMEGAS, *known),
        "relaxation_model": control.RelaxationModel(OMEGAS, *theory),
    }


@flow
async def tuned_sor(
    size: Literal["ci", "full"] = "ci", count: int = 0, members: int = 12, seeds: int = 3, seed: int = 0
) -> Path:
    """Let tuners choose the omega of SOR and SSOR-CG, and compare them with those who know the best.

    Args:
        size: ci takes a minute; full is that of the paper, ten minutes.
        count: Systems of each sequence; 0 leaves that to the size.
        members: Of the ensemble of heated plates; 0 leaves it out, where there is no dolfinx.
        seeds: How often each tuner plays.
        seed: Of systems and draws.
    """
    count, grids = (count or 5000, (25, 50, 100)) if size == "full" else (count or 1000, (25,))
    tables = {
        "wide": control.CostTable(control.ShiftedLaplacian(0.5, 1.5), OMEGAS, count=count, seed=seed),
        "narrow": control.CostTable(control.ShiftedLaplacian(2.0, 6.0), OMEGAS, count=count, seed=seed),
    }
    for nx in grids:
        tables[f"heat_{nx}"] = control.CostTable(control.HeatSequence(nx), OMEGAS, "ssor_cg", count)
    trials = {}
    for name, stage in tables.items():
        costs, heat = await run(stage), name.startswith("heat")
        for label, tuner in tuners(heat).items():
            plays = 1 if isinstance(tuner, control.Fixed) else seeds
            trial = control.Trial(tuner, plays, seed, shuffle=not heat)
            trials[f"{name}_{label}"] = await run(trial, table=costs)
    shown = [trials[f"{name}_relaxation_model"] for name in tables]
    if members:
        plate = Heat(64, levels=2)
        points = await run(Design(problem=plate, count=members, seed=seed))
        every = await run(Simulate(plate.replace(solver=control.EveryArm(PLATE))), design=points)
        tuned = control.Tuned(control.Thompson(PLATE))
        shown += [every, await run(Simulate(plate.replace(solver=tuned)), design=points)]
        for tuner in (control.Thompson(PLATE), control.Tsallis(PLATE)):
            trials[f"plate_{tuner.name}"] = await run(control.Trial(tuner, seeds, seed), ensemble=every)
    table = await run(control.TunerTable(tuple(trials)), **trials)
    return await report("Relaxation that tunes itself", table, *shown)
