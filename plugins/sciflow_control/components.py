"""Entry point of the plugin: configurations only."""

from __future__ import annotations

from sciflow.component import Component
from sciflow.hooks import hookimpl
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.space import Relaxation, Solvers
from sciflow_control.systems.darcy import DarcySystems
from sciflow_control.systems.helmholtz import HelmholtzSystems
from sciflow_control.systems.poisson import PoissonSystems
from sciflow_control.systems.thermal import ThermalSystems


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Tuners, linear solvers, sequences of systems and stages of this plugin."""
    return [
        Relaxation,
        Solvers,
        Thompson,
        DarcySystems,
        HelmholtzSystems,
        PoissonSystems,
        ThermalSystems,
    ]
