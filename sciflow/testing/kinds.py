"""Which checks fit a component."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sciflow.component import Component
from sciflow.controller import Controller
from sciflow.errors import Invalid
from sciflow.executor import Executor
from sciflow.linear_solver import LinearSolver
from sciflow.problem import Problem
from sciflow.registry import require
from sciflow.stage import Stage
from sciflow.step_controller import StepController
from sciflow.surrogate import Surrogate
from sciflow.testing.component import check_component
from sciflow.testing.controller import check_controller
from sciflow.testing.executor import check_executor
from sciflow.testing.linear_solver import check_linear_solver
from sciflow.testing.problem import check_problem
from sciflow.testing.stage import check_stage
from sciflow.testing.step_controller import check_step_controller
from sciflow.testing.surrogate import check_surrogate


def check(component: Component) -> tuple[str, ...]:
    """Make every check that fits the kind of a component.

    Parameters
    ----------
    component : Component
        A small configuration, see `sciflow.testing.example`. A surrogate is fitted to fields on a line, or
        in a plane where it refuses those.

    Returns
    -------
    tuple of str
        Names of the checks that were made, all of which hold.

    Raises
    ------
    AssertionError, Invalid, Diverged
        As the checks do.
    Missing
        If software that it needs is not installed.
    """
    made = ["check_component"]
    check_component(component)
    require(component)
    fitting: tuple[tuple[type[Component], str, Callable[[Any], None]], ...] = (
        (Problem, "check_problem", check_problem),
        (Surrogate, "check_surrogate", _check_surrogate),
        (Stage, "check_stage", check_stage),
        (Controller, "check_controller", check_controller),
        (StepController, "check_step_controller", check_step_controller),
        (LinearSolver, "check_linear_solver", check_linear_solver),
    )
    for kind, name, function in fitting:
        if isinstance(component, kind):
            function(component)
            made.append(name)
    if isinstance(component, Executor):
        with tempfile.TemporaryDirectory() as folder:
            check_executor(component, Path(folder))
        made.append("check_executor")
    return tuple(made)


def _check_surrogate(surrogate: Surrogate) -> None:
    try:
        check_surrogate(surrogate)
    except Invalid as line:
        try:
            check_surrogate(surrogate, axes=("y", "x"))
        except Invalid as plane:
            raise Invalid(
                f"{surrogate.name} takes neither fields on a line ({line}) nor in a plane ({plane}); call "
                "check_surrogate with the axes that it takes"
            ) from None
