"""Mistakes of a third party's steppers and step controllers are told in words."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from sciflow import Knob, StepController, Stepper, StepResult
from sciflow.step_controller import ACCEPT, ending, reject
from sciflow.testing import check_step_controller, check_stepper


class Decay(Stepper):
    """u' = -5 u by implicit Euler."""

    features = ("size",)

    def __init__(self, restart=None):
        self.knob = Knob("dt", "s", low=1e-8, high=1.0)
        self.time, self.u = (0.0, 1.0) if restart is None else map(float, restart["state"])

    def observe(self):
        return {"size": self.u}

    def attempt(self, value, until):
        end = ending(self.time, value, until)
        u = self.u / (1 + 5 * value)
        self.tried = end, u
        return StepResult(self.time, value, value, self.knob, abs(u - self.u * (1 - 5 * value)) / 2, cost=1)

    def accept(self):
        self.time, self.u = self.tried

    def reject(self):
        pass

    def restart(self):
        return {"state": np.array([self.time, self.u])}


ALWAYS = Decay()


def told(**changes):
    """A stepper whose results say something else."""

    class Told(Decay):
        def attempt(self, value, until):
            return dataclasses.replace(super().attempt(value, until), **changes)

    return Told


def done(**methods):
    return type("Done", (Decay,), methods)


def forward(self, value, until):
    result = Decay.attempt(self, value, until)
    self.time, self.u = self.tried
    return result


def breaks(self, value, until):
    raise ArithmeticError("the solver broke down")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (done(attempt=forward), "attempt moves the time"),
        (done(attempt=breaks), "raised ArithmeticError: the solver broke down; .* converged=False"),
        (done(attempt=lambda self, value, until: None), "gives a StepResult, not None"),
        (done(attempt=lambda s, value, until: Decay.attempt(s, value / 2, until)), "asked for 0.02"),
        (done(accept=lambda self: None), "after accept the time is 0.0, the step ended at 0.01"),
        (done(observe=lambda self: {"sise": 1.0}), r"told \('sise',\), named \('size',\)"),
        (done(observe=lambda self: {"size": float("inf")}), "not finite"),
        (done(features=["size"]), "a tuple of names"),
        (done(drift=lambda self: None), "drift is None"),
        (done(restart=lambda self: {}), "nothing to go on from"),
        (done(restart=lambda self: {"state": [self.u]}), "'state' is a list"),
        (done(__init__=lambda self: None), "has no knob"),
        (told(time=0.5), "where the step began"),
        (told(length=1.0), "the result says 1.0"),
        (told(error=-1.0), "the error is -1.0"),
        (told(error=float("inf")), "the error is inf"),
        (told(cost=0), "without cost"),
        (told(iterations=-1), "-1 iterations"),
        (told(converged="yes"), "converged is 'yes'"),
        (told(knob=Knob("mu", "1", 1e-8, 1.0)), "names the knob"),
        (Decay(), "a function that gives a new solver"),
        (lambda: ALWAYS, "the same solver again"),
    ],
)
def test_a_stepper_is_told_what_it_does_wrong(make, message):
    with pytest.raises(AssertionError, match=message):
        check_stepper(make, 0.01)


def test_a_value_that_cannot_be_doubled_and_a_restart_that_forgets_are_told():
    check_stepper(Decay, 0.01, resume=Decay)
    with pytest.raises(AssertionError, match="value from 1e-08 to 0.5"):
        check_stepper(Decay, 0.7)
    with pytest.raises(AssertionError, match=r"resumed at 0\.0, saved at 0\.04"):
        check_stepper(Decay, 0.01, resume=lambda arrays: Decay())

    class Forgets(Decay):
        slope = 0.0

        def accept(self):
            self.slope += self.tried[1] - self.u
            super().accept()

        def attempt(self, value, until):
            return dataclasses.replace(super().attempt(value, until), error=abs(self.slope))

    check_stepper(Forgets, 0.01)
    with pytest.raises(AssertionError, match="resumed, .* instead of"):
        check_stepper(Forgets, 0.01, resume=Forgets)


@dataclass(frozen=True)
class Halver(StepController):
    """Halves after an error above a tolerance, else doubles."""

    name: ClassVar[str] = "halver"

    def init(self, knob, features=()):
        return {"value": knob.high / 10}

    def choose(self, memory, state):
        return memory["value"], memory

    def judge(self, memory, result):
        if result.converged and result.error < 1e-4:
            return ACCEPT, {"value": min(2 * result.value, result.knob.high)}
        return reject(result.value / 2), memory


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"choose": lambda self, memory, state: 0.1}, "choose gives a value and what is remembered, not 0.1"),
        ({"choose": lambda self, memory, state: (np.float32(0.1), memory)}, "no positive number of Python"),
        ({"choose": lambda self, memory, state: (state.features["speed"], memory)}, "found no 'speed'"),
        ({"judge": lambda self, memory, result: (True, memory)}, r"judge gives ACCEPT or reject\(value\)"),
        ({"judge": lambda self, memory, result: (reject(result.value), memory)}, "none of 30 attempts"),
        ({"init": lambda self, knob, features=(): None}, "remembers None"),
        ({"init": lambda self, knob, features=(): {"value": np.float32(0.1)}}, "no plain JSON"),
        ({"next_stop": lambda self, time, until: time}, "not later than the first"),
    ],
)
def test_a_step_controller_is_told_what_it_does_wrong(methods, message):
    check_step_controller(Halver())
    with pytest.raises(AssertionError, match=message):
        check_step_controller(type("Wrong", (Halver,), methods)())
