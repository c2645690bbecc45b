"""Two plain step controllers, so that these tests need no other plugin."""

from dataclasses import dataclass
from typing import ClassVar

from sciflow.step_controller import ACCEPT, StepController, reject


@dataclass(frozen=True)
class Toy(StepController):
    """The elementary controller of an error."""

    name: ClassVar[str] = "toy_error"
    tolerance: float = 1e-3
    first: float = 1e-2

    def init(self, knob, features=()):
        return {"want": self.first}

    def choose(self, memory, state):
        return memory["want"], memory

    def judge(self, memory, result):
        if not result.converged:
            return reject(result.value / 4), memory
        error = max(result.error / self.tolerance, 1e-6)
        ratio = min(max(0.9 * error ** (-1 / result.knob.order), 0.2), 3.0)
        if error > 1:
            return reject(result.value * min(ratio, 0.9)), memory
        want = result.value * ratio
        if result.value < memory["want"] and ratio > 1:
            want = max(want, memory["want"])
        return ACCEPT, {"want": want}


@dataclass(frozen=True)
class Equal(StepController):
    """Steps of one length."""

    name: ClassVar[str] = "toy_equal"
    dt: float = 1.0

    def choose(self, memory, state):
        return self.dt, memory

    def judge(self, memory, result):
        return ACCEPT, memory
