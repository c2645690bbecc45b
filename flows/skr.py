"""Krylov recycling on the four data sets of its paper, with every preconditioner row and what else there is.

Flow through random media, heat in a slotted plate, Poisson's and Helmholtz's equation: sequences of systems
as a data generator meets them. GCRO-DR carries a space from one to the next, as drawn and in an order in
which neighbours are alike; beside it stand GMRES, CG, BiCGStab and direct solvers: a user would take those.

    sciflow run flows/skr.py
    sciflow run flows/skr.py --set size=paper --set 'sets=["darcy"]' --set systems=20
"""

from pathlib import Path
from typing import Literal

from prefect import flow

from sciflow import Invalid, report, run
from sciflow_control.components import (
    DarcySystems,
    HelmholtzSystems,
    PoissonSystems,
    RecyclingTrial,
    ThermalSystems,
)
from sciflow_control.recycling.trial import PRECONDITIONERS
from sciflow_control.systems.system import Systems

SETS: dict[str, tuple[Systems, Systems]] = {
    "darcy": (DarcySystems(50, form="skr"), DarcySystems(80, form="skr")),
    "darcy_symmetric": (DarcySystems(50), DarcySystems(80)),
    "thermal": (ThermalSystems(2), ThermalSystems(4)),
    "poisson": (PoissonSystems(50), PoissonSystems(267)),
    "helmholtz": (HelmholtzSystems(50), HelmholtzSystems(100)),
}
"""Small, and of the published size (6400, 11063, 71313 and 10000 unknowns; thermal on another mesh)."""


@flow
async def skr(
    sets: tuple[str, ...] = tuple(SETS),
    size: Literal["ci", "paper"] = "ci",
    systems: int = 10,
    preconditioners: tuple[str, ...] = PRECONDITIONERS,
    ordering: Literal["greedy", "hilbert"] = "greedy",
    seed: int = 0,
) -> Path:
    """Solve sequences of systems with and without recycling.

    Args:
        sets: Some of darcy (the published stencil), darcy_symmetric, thermal, poisson, helmholtz.
        size: ci takes a minute on one core; paper has the published numbers of unknowns and takes hours,
            most of them for poisson.
        systems: Of each sequence; 100 are published.
        preconditioners: Some of none, jacobi, bjacobi, sor, asm, icc, ilu.
        ordering: How the sorted sequences are sorted.
        seed: Decides all systems.
    """
    for name in sets:
        if name not in SETS:
            raise Invalid(f"there is no data set {name!r}; there are {', '.join(SETS)}")
    found = []
    for name in sets:
        sequence = SETS[name][size == "paper"]
        stage = RecyclingTrial(sequence, systems, seed, preconditioners, ordering=ordering)
        found.append(await run(stage))
    return await report("Krylov recycling on the data sets of SKR", *found)
