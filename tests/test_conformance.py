"""Every registered component holds to the rules of its kind; and the checks themselves can fail."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from sciflow import Field, NotFound, Parameter, ParameterSpace, Problem, Proposal, State
from sciflow.controller import Controller
from sciflow.registry import missing, registry
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow.testing import (
    check_component,
    check_controller,
    check_executor,
    check_problem,
    check_stage,
    check_surrogate,
    example,
)
from tests.toys import Least, Wave

# Stages that cannot be made from defaults alone.
MADE = {
    "design": Design(problem=Wave()),
    "simulate": Simulate(Wave()),
    "train": Train(Least(), ("a",), ("u",)),
    "evaluate": Evaluate(),
}
ALL = [pytest.param(cls, id=f"{cls.kind}-{cls.name}") for cls, _ in registry().components()]


@pytest.mark.parametrize("cls", ALL)
def test_registered_components_conform(cls, tmp_path):
    component = MADE.get(cls.name) or example(cls)
    check_component(component)
    if missing(cls):
        pytest.skip(f"needs {', '.join(missing(cls))}")
    if cls.kind == "problem":
        check_problem(component)
    elif cls.kind == "surrogate":
        check_surrogate(component)
    elif cls.kind == "stage":
        check_stage(component)
    elif cls.kind == "controller":
        check_controller(component)
    elif cls.kind == "executor":
        check_executor(component, tmp_path)


@dataclass(frozen=True)
class Sloppy(Problem):
    """A problem that breaks one rule at a time."""

    name: ClassVar[str] = "sloppy"
    parameters: ClassVar[ParameterSpace] = ParameterSpace(a=Parameter(0.0, 1.0, "1"))
    fields: ClassVar[dict] = {"u": Field(("time", "x"), "1")}
    fault: str = ""

    def coordinates(self):
        import numpy as np

        x = np.linspace(1, 0, 4) if self.fault == "axis" else np.linspace(0, 1, 4)
        return {"time": np.array([0.0, 1.0]), "x": x}

    def solve(self, mu, ctx):
        import numpy as np

        noise = np.random.default_rng().random(4) if self.fault == "noise" else 0.0
        a = 0.0 if self.fault == "deaf" else mu["a"]
        for t in (0.0,) if self.fault == "short" else (0.0, 1.0):
            yield State(t, {"u": a + noise + np.zeros(4)})


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("axis", "'x' do not increase"),
        ("noise", "equal seeds, other bits"),
        ("deaf", "the parameters change nothing"),
        ("short", "yielded 1 of 2 states"),
    ],
)
def test_a_sloppy_problem_is_caught(fault, message):
    check_problem(Sloppy())
    with pytest.raises((AssertionError, ValueError), match=message):
        check_problem(Sloppy(fault))


@dataclass(frozen=True)
class Alternate(Controller):
    """Takes two settings in turn."""

    name: ClassVar[str] = "alternate"
    forgetful: bool = False

    def init(self, rng):
        return {"count": 0, "open": []}

    def propose(self, state, features):
        n = state["count"]
        return Proposal({"omega": 1.0 + n % 2}, n), {"count": n + 1, "open": [*state["open"], n]}

    def observe(self, state, token, cost, status):
        if token not in state["open"] and not self.forgetful:
            raise NotFound(f"token {token} was never proposed or is already observed")
        return {**state, "open": [t for t in state["open"] if t != token]}


def test_controllers_are_checked():
    check_controller(Alternate())
    with pytest.raises(AssertionError, match="never made"):
        check_controller(Alternate(forgetful=True))
