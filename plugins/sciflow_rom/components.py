"""Entry point of the plugin: configurations only; numpy and scikit-learn are imported where they are used."""

from __future__ import annotations

from sciflow.component import Component
from sciflow.hooks import hookimpl


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Components of this plugin."""
    return []
