"""Entry point of the plugin: configurations only."""

from __future__ import annotations

from sciflow.component import Component
from sciflow.hooks import hookimpl
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.space import Relaxation, Solvers


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Tuners, linear solvers, sequences of systems and stages of this plugin."""
    return [
        Relaxation,
        Solvers,
        Thompson,
    ]
