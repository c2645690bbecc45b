"""Conformance checks for components; plain functions that raise AssertionError with a sentence.

A sentence says who broke a rule, what came, what was asked for, and what to do. The convention for
configurations: a component whose defaults take long, or that cannot be made from defaults alone, defines ::

    @classmethod
    def example(cls) -> Self:
        return cls(points=16, epochs=2)

a configuration that is solved or fitted within about a second. `example` finds it, and takes the
defaults where there is none. The checks need no pytest; a third party's whole test may read ::

    from sciflow.testing import check, example

    check(example(Mine))

`check` makes every check that fits the kind; each can be made alone too.
"""

from __future__ import annotations

from sciflow.testing.component import HEAVY, check_component, example
from sciflow.testing.controller import check_controller
from sciflow.testing.executor import check_executor
from sciflow.testing.kinds import check
from sciflow.testing.linear_solver import check_linear_solver
from sciflow.testing.problem import check_problem
from sciflow.testing.stage import check_stage
from sciflow.testing.step_controller import check_step_controller
from sciflow.testing.stepper import check_stepper
from sciflow.testing.surrogate import check_surrogate

__all__ = [
    "HEAVY",
    "check",
    "check_component",
    "check_controller",
    "check_executor",
    "check_linear_solver",
    "check_problem",
    "check_stage",
    "check_step_controller",
    "check_stepper",
    "check_surrogate",
    "example",
]
