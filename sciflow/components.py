"""Entry point of the components that come with the core."""

from __future__ import annotations

from sciflow.component import Component
from sciflow.hooks import hookimpl


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Stages and executors of the core."""
    return []
