"""Reports of outputs that are no lines and no pictures: volumes, single numbers, one time level."""

import asyncio
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from sciflow import Field, Parameter, ParameterSpace, Problem, State, report, run
from sciflow.flow import Session, within
from sciflow.registry import Plugin, registry
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.rollout import Rollout
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow.store import Store
from tests.toys import Least


@dataclass(frozen=True)
class Shapes(Problem):
    """Waves in a volume, along a line and their mean."""

    name: ClassVar[str] = "toy_shapes"
    parameters: ClassVar[ParameterSpace] = ParameterSpace(a=Parameter(0.5, 2.0, "m"))
    fields: ClassVar[dict] = {
        "w": Field(("time", "z", "y", "x"), "K"),
        "u": Field(("time", "x"), "K"),
        "s": Field(("time",), "K"),
    }

    def coordinates(self):
        return {"time": np.arange(4.0), "z": np.arange(2.0), "y": np.arange(3.0), "x": np.arange(5.0)}

    def solve(self, mu, ctx):
        for level in range(4):
            w = mu["a"] * np.cos(level + np.arange(30.0)).reshape(2, 3, 5)
            yield State(float(level), {"w": w, "u": w[0, 0], "s": np.array(w.mean())})


@pytest.fixture(autouse=True)
def here(tmp_path):
    registry().add(Shapes, Plugin("tests", __name__, "tests", "0"))
    with within(Session(Store(tmp_path))):
        yield
    del registry()._classes["problem", Shapes.name]


def shown(stage, inputs, outputs, **how):
    async def flow():
        data = await run(Simulate(Shapes()), design=await run(Design(problem=Shapes(), count=10)))
        model = await run(Train(Least(), inputs, outputs, train=0.5, **how), ensemble=data)
        return await report("All", await run(stage, model=model, ensemble=data, training=data))

    return asyncio.run(flow()).read_text()


@pytest.mark.parametrize(
    ("output", "size", "pictures"),
    [("w[-1]", "2 x 3 x 5", 2), ("w", "4 x 2 x 3 x 5", 2), ("s", "4", 2), ("s[-1]", "single", 1)],
)
def test_an_evaluation_of_any_shape_has_a_report(output, size, pictures):
    page = shown(Evaluate(), ("a",), (output,))
    assert f"{output} with {size} values" in page
    assert page.count("<img") == pictures


@pytest.mark.parametrize(("name", "levels"), [("w", None), ("s", None), ("u", 1), ("s", 1)])
def test_a_roll_out_of_any_shape_has_a_report(name, levels):
    page = shown(Rollout(levels=levels), (name,), (name,), window=(1, 1))
    assert page.count("<img") == 2
