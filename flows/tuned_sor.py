"""Relaxation parameters that are learned while systems are solved: the experiments of "Learning to Relax".

5000 independent systems solved by SOR, their shifts from two laws; 5000 steps of a heat equation whose
diffusion swings by orders of magnitude, solved by CG with SSOR. Every system is solved with every omega once,
and each tuner plays over the table: beside the best omega of every system (the oracle), the best single one,
omega = 1 (the default) and random ones.

    sciflow run flows/tuned_sor.py                  # size=ci: a minute
    sciflow run flows/tuned_sor.py --set size=full  # the paper's
"""

from pathlib import Path
from typing import Literal

from prefect import flow

from sciflow import report, run
from sciflow_control.bandits.bayes_chebyshev import BayesChebyshev
from sciflow_control.bandits.binned import Binned
from sciflow_control.bandits.chebcb import ChebCB
from sciflow_control.bandits.fixed import Fixed
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.bandits.tsallis import Tsallis
from sciflow_control.bandits.tuner import Tuner
from sciflow_control.harness.cost_table import CostTable
from sciflow_control.harness.trial import Trial
from sciflow_control.harness.tuner_table import TunerTable
from sciflow_control.space import Relaxation
from sciflow_control.systems.heat2d import HeatSequence
from sciflow_control.systems.laplacian import ShiftedLaplacian

OMEGAS = Relaxation(1.0, 1.95, 20)


def tuners(feature: str, low: float, high: float) -> dict[str, Tuner]:
    """Those that are compared; the last ones look at a feature."""
    known = (feature, low, high)
    return {
        "omega_1_4": Fixed(OMEGAS, 8),
        "omega_1_6": Fixed(OMEGAS, 12),
        "omega_1_8": Fixed(OMEGAS, 16),
        "tsallis_iw": Tsallis(OMEGAS, "iw"),
        "tsallis_rv": Tsallis(OMEGAS, "rv"),
        "thompson": Thompson(OMEGAS),
        "thompson_binned": Binned(Thompson(OMEGAS), *known),
        "chebcb": ChebCB(OMEGAS, *known),
        "bayes_chebyshev": BayesChebyshev(OMEGAS, *known),
    }


@flow
async def tuned_sor(
    size: Literal["ci", "full"] = "ci", count: int = 0, seeds: int = 3, seed: int = 0
) -> Path:
    """Let tuners choose the omega of SOR and SSOR-CG, and compare them with those who know the best.

    Args:
        size: ci takes a minute; full is that of the paper, a quarter of an hour.
        count: Systems of each sequence; 0 leaves that to the size.
        seeds: How often each tuner plays.
        seed: Of the systems and the draws.
    """
    full = size == "full"
    count, grids = count or (5000 if full else 1000), (25, 50, 100) if full else (25,)
    sequences = {
        f"beta_{name}": CostTable(ShiftedLaplacian(a, b), OMEGAS, count=count, seed=seed)
        for name, a, b in (("wide", 0.5, 1.5), ("narrow", 2.0, 6.0))
    }
    sequences |= {f"heat_{nx}": CostTable(HeatSequence(nx), OMEGAS, "ssor_cg", count) for nx in grids}
    trials = {}
    for name, stage in sequences.items():
        costs, heat = await run(stage), name.startswith("heat")
        for tuner, it in tuners(*(("log_diffusion", -4, 1.001) if heat else ("c", -0.151, 0.451))).items():
            trial = Trial(it, 1 if isinstance(it, Fixed) else seeds, seed, shuffle=not heat)
            trials[f"{name}_{tuner}"] = await run(trial, table=costs)
    table = await run(TunerTable(tuple(trials)), **trials)
    shown = [trials[f"{name}_bayes_chebyshev"] for name in sequences]
    return await report("Relaxation that tunes itself", table, *shown)
