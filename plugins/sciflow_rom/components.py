"""Entry point of the plugin: configurations only; numpy and scikit-learn are imported where they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciflow.component import Component
from sciflow.hooks import hookimpl
from sciflow_rom.adapt.enrichment import Enrich
from sciflow_rom.assess.criterion import Assess
from sciflow_rom.clusters.clusterers import (
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
from sciflow_rom.clusters.clustering import Cluster
from sciflow_rom.compress.compression import Compress
from sciflow_rom.net.extrapolate import Extrapolate
from sciflow_rom.net.romnet import BuildRom, RomNet
from sciflow_rom.points.cubatures import AllPoints, EmpiricalCubature
from sciflow_rom.regress.pod_regression import PODRegression
from sciflow_rom.regress.regressors import GaussianProcess, Perceptrons, Polynomial, RadialBasis
from sciflow_rom.regress.selectors import ErrorRegression, Logistic, Neighbours
from sciflow_rom.regress.vkoga import PymorVKOGA

if TYPE_CHECKING:
    from sciflow.artifact import Artifact


sciflow_api = "1.0"


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
    from sciflow_rom.adapt import report as of_enrichment
    from sciflow_rom.assess import report as of_criterion
    from sciflow_rom.net import extrapolation_report
    from sciflow_rom.net import report as of_model

    parts = (of_criterion, of_model, extrapolation_report)
    made: list[tuple[str, str]] = next((found for part in parts if (found := part.sections(artifact))), [])
    return made + of_enrichment.sections(artifact)
