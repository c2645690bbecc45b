"""sciflow: workflows that turn simulations into fast models, and fast models into faster simulations."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.artifact.share import Share
    from sciflow.component import Component
    from sciflow.context import Context
    from sciflow.controller import Controller, Proposal
    from sciflow.errors import Cancelled, Diverged, Failed, Invalid, Missing, NotFound, SciflowError
    from sciflow.executor import Executor, Resources
    from sciflow.flow import report, run
    from sciflow.hooks import hookimpl
    from sciflow.linear_solver import LinearSolver, Solving
    from sciflow.problem import Parameter, ParameterSpace, Part, Problem, State
    from sciflow.samples import Batch, Samples, Signature
    from sciflow.schema import Field, Schema
    from sciflow.stage import Stage
    from sciflow.step_controller import (
        Knob,
        StepController,
        Stepper,
        StepResult,
        StepState,
        Verdict,
    )
    from sciflow.stepping import Stepping
    from sciflow.store import Store, Writer
    from sciflow.surrogate import Model, Report, Surrogate

_WHERE = {
    "Artifact": "artifact",
    "Batch": "samples",
    "Component": "component",
    "Context": "context",
    "Cancelled": "errors",
    "Controller": "controller",
    "Diverged": "errors",
    "Failed": "errors",
    "Invalid": "errors",
    "Missing": "errors",
    "NotFound": "errors",
    "Executor": "executor",
    "Field": "schema",
    "Knob": "step_controller",
    "LinearSolver": "linear_solver",
    "Model": "surrogate",
    "Parameter": "problem",
    "ParameterSpace": "problem",
    "Part": "problem",
    "Problem": "problem",
    "Proposal": "controller",
    "Report": "surrogate",
    "Resources": "executor",
    "Samples": "samples",
    "Schema": "schema",
    "SciflowError": "errors",
    "Share": "artifact.share",
    "Signature": "samples",
    "Solving": "linear_solver",
    "Stage": "stage",
    "State": "problem",
    "StepController": "step_controller",
    "StepResult": "step_controller",
    "StepState": "step_controller",
    "Stepper": "step_controller",
    "Stepping": "stepping",
    "Store": "store",
    "Surrogate": "surrogate",
    "Verdict": "step_controller",
    "Writer": "store",
    "hookimpl": "hooks",
    "report": "flow",
    "run": "flow",
}
# Written out for type checkers; the names are those that __getattr__ serves.
__all__ = [
    "Artifact",
    "Batch",
    "Cancelled",
    "Component",
    "Context",
    "Controller",
    "Diverged",
    "Executor",
    "Failed",
    "Field",
    "Invalid",
    "Knob",
    "LinearSolver",
    "Missing",
    "Model",
    "NotFound",
    "Parameter",
    "ParameterSpace",
    "Part",
    "Problem",
    "Proposal",
    "Report",
    "Resources",
    "Samples",
    "Schema",
    "SciflowError",
    "Share",
    "Signature",
    "Solving",
    "Stage",
    "State",
    "StepController",
    "StepResult",
    "StepState",
    "Stepper",
    "Stepping",
    "Store",
    "Surrogate",
    "Verdict",
    "Writer",
    "hookimpl",
    "report",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that ``import sciflow`` costs nothing."""
    if name not in _WHERE:
        raise AttributeError(f"module 'sciflow' has no attribute {name!r}")
    return getattr(import_module(f"sciflow.{_WHERE[name]}"), name)
