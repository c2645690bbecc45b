"""What must hold for the step controller: the rules of its kind, and what is known about it alone."""

import math

from sciflow import Knob, StepResult, StepState
from sciflow.testing import check, example

from sciflow.templates.step_controller.template_name import TemplateName


def test_it_holds_to_the_rules_of_step_controllers() -> None:
    """Replays, memory as JSON, positive values, steps that stand, imports."""
    check(example(TemplateName))


def test_where_the_error_is_a_power_of_the_step_it_settles_at_the_tolerance() -> None:
    """The error of a step is ``(safety) ** order`` times the tolerance then."""
    knob, steering = Knob("dt", "s", 1e-6, 1.0, order=3.0), TemplateName(1e-4)
    memory = steering.init(knob)
    errors = []
    for _ in range(30):
        value, memory = steering.choose(memory, StepState(0.0, 1e3, knob))
        verdict, memory = steering.judge(memory, StepResult(0.0, value, value, knob, error=0.2 * value**3))
        while verdict.retry is not None:
            value = verdict.retry
            result = StepResult(0.0, value, value, knob, error=0.2 * value**3)
            verdict, memory = steering.judge(memory, result)
        errors.append(0.2 * value**3)
    assert math.isclose(errors[-1], 0.9**3 * 1e-4, rel_tol=1e-6)
    assert max(errors) <= 1e-4
