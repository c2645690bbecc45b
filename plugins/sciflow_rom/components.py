"""Entry point of the plugin: configurations only; numpy and scikit-learn are imported where they are used."""

from __future__ import annotations

from sciflow.component import Component
from sciflow.hooks import hookimpl
from sciflow_rom.clusterers import (
    VQPCA,
    Chordal,
    Euclidean,
    Grassmann,
    Hierarchical,
    KMeans,
    KMedoids,
    MaxAngle,
    Parameters,
    ProjectionError,
    Sine,
)
from sciflow_rom.compression import Compress
from sciflow_rom.cubatures import AllPoints, EmpiricalCubature


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Components of this plugin."""
    return [
        *(Sine, MaxAngle, Grassmann, Chordal, ProjectionError, Euclidean, Parameters),
        *(KMedoids, KMeans, Hierarchical, VQPCA),
        *(EmpiricalCubature, AllPoints),
        Compress,
    ]
