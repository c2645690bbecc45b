"""Entry point of the components that come with the core."""

from __future__ import annotations

from sciflow.component import Component
from sciflow.executors.dask import Dask
from sciflow.executors.local import Local
from sciflow.executors.mpi import Mpi
from sciflow.executors.slurm import Slurm
from sciflow.executors.steps import Steps
from sciflow.guess import FromModel
from sciflow.hooks import hookimpl
from sciflow.quantities import At, Exceeds, Integral, Maximum, Mean
from sciflow.stages.calibrate import Calibrate
from sciflow.stages.comparison_table import ComparisonTable
from sciflow.stages.convergence import Convergence
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.export_best import ExportBest
from sciflow.stages.invert import Invert
from sciflow.stages.propagate import Propagate
from sciflow.stages.resolution import Resolution
from sciflow.stages.rollout import Rollout
from sciflow.stages.sample_efficiency import SampleEfficiency
from sciflow.stages.side_by_side import SideBySide
from sciflow.stages.simulate import Simulate
from sciflow.stages.solver_comparison import SolverComparison
from sciflow.stages.train import Train

sciflow_api = "1.0"


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Stages and executors of the core."""
    return [
        Design,
        Simulate,
        Train,
        Evaluate,
        SideBySide,
        ExportBest,
        Convergence,
        Rollout,
        Resolution,
        SampleEfficiency,
        ComparisonTable,
        Calibrate,
        Propagate,
        Invert,
        Mean,
        Integral,
        At,
        Maximum,
        Exceeds,
        SolverComparison,
        FromModel,
        Local,
        Mpi,
        Slurm,
        Steps,
        Dask,
    ]
