"""What must hold for the problem: the rules of its kind, and what is known about it alone."""

import numpy as np
from sciflow import Context
from sciflow.testing import check, example

from sciflow.templates.problem.template_name import TemplateName


def test_it_holds_to_the_rules_of_problems() -> None:
    """Shapes, times, units, seeds, JSON, imports."""
    check(example(TemplateName))


def error(points: int) -> float:
    """Largest difference from the exact solution at the last time, K."""
    problem = TemplateName(points=points, steps=points)
    *_, last = problem.solve({"diffusivity": 0.5, "amplitude": 2.0}, Context())
    exact = 2.0 * np.sin(np.pi * problem.coordinates()["x"]) * np.exp(-0.5 * np.pi**2 * last.time)
    return float(np.abs(np.asarray(last.fields["u"]) - exact).max())


def test_it_converges_to_the_exact_solution_with_second_order() -> None:
    """Half the spacing, a quarter of the error."""
    coarse, fine = error(17), error(33)
    assert fine < 1e-3
    assert 3.5 < coarse / fine < 4.5
