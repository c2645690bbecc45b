"""Entry point of the plugin: configurations only; numpy and scikit-learn are imported where they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from sciflow_rom.clustering import Cluster
from sciflow_rom.compression import Compress
from sciflow_rom.criterion import Assess
from sciflow_rom.cubatures import AllPoints, EmpiricalCubature
from sciflow_rom.enrichment import Enrich
from sciflow_rom.extrapolate import Extrapolate
from sciflow_rom.pod_regression import PODRegression
from sciflow_rom.regressors import GaussianProcess, Perceptrons, Polynomial, RadialBasis
from sciflow_rom.romnet import BuildRom, RomNet
from sciflow_rom.selectors import ErrorRegression, Logistic, Neighbours
from sciflow_rom.vkoga import PymorVKOGA

if TYPE_CHECKING:
    from sciflow.artifact import Artifact


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Components of this plugin."""
    return [
        *(Sine, MaxAngle, Grassmann, Chordal, ProjectionError, Euclidean, Parameters),
        *(KMedoids, KMeans, Hierarchical, VQPCA),
        *(EmpiricalCubature, AllPoints),
        *(RomNet, BuildRom, Extrapolate),
        *(GaussianProcess, RadialBasis, Polynomial, Perceptrons, PymorVKOGA),
        *(ErrorRegression, Logistic, Neighbours),
        PODRegression,
        *(Compress, Assess, Cluster),
        Enrich,
    ]


@hookimpl
def sciflow_report(artifact: Artifact) -> list[tuple[str, str]] | None:
    """What a report says of a criterion, of clusters, of a reduced model and of its extrapolation."""
    from sciflow_rom import report_criterion, report_enrichment, report_extrapolation, report_rom

    parts = (report_criterion, report_rom, report_extrapolation)
    made: list[tuple[str, str]] = next((found for part in parts if (found := part.sections(artifact))), [])
    return made + report_enrichment.sections(artifact)
