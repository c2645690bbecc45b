"""The log of a member's steps says of every attempt who chose it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sciflow import Knob, StepController, Stepper, Stepping, StepResult
from sciflow.step_controller import ACCEPT, ending, reject
from sciflow.step_log import COLUMNS, LOG, StepLog


class Ticking(Stepper):
    """No solution at all; the error is the step."""

    def __init__(self):
        self.knob, self.time = Knob("dt", "s", 1e-6, 1.0), 0.0

    def attempt(self, value, until):
        self.end = ending(self.time, value, until)
        return StepResult(self.time, value, value, self.knob, value, cost=1.0)

    def accept(self):
        self.time = self.end

    def reject(self):
        pass

    def restart(self):
        return {"time": np.array(self.time)}


@dataclass(frozen=True)
class Guard(StepController):
    """A policy that wants 0.5 everywhere, and a fallback that wants 0.4 and then 0.2."""

    name: ClassVar[str] = "guard"

    def choose(self, memory, state):
        return 0.5, {"source": "policy"}

    def judge(self, memory, result):
        if result.error <= 0.25:
            return ACCEPT, memory
        return reject(0.4 if result.value > 0.45 else 0.2), {"source": "fallback"}


def test_an_attempt_of_the_policy_that_was_taken_back_is_not_the_fallbacks():
    log = StepLog(Stepping(Ticking(), Guard()))
    leg = log.to(2.0)
    table = dict(zip(COLUMNS, log.saved()[LOG].T, strict=True))
    assert table["value"][:3].tolist() == [0.5, 0.4, 0.2]
    assert table["accepted"][:3].tolist() == [0.0, 0.0, 1.0]
    assert table["fallback"][:3].tolist() == [0.0, 1.0, 1.0]
    assert leg.rejected_by[:2] == ["policy", "fallback"]
    assert len(leg.rejected_by) == len(leg.rejected)
