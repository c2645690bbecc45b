"""Models of several tasks in one table: seeds are one row, others' numbers stand beside ours."""

import asyncio
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from sciflow import Invalid, report, run
from sciflow.flow import Session, within
from sciflow.registry import Plugin, registry
from sciflow.stages.comparison_table import ComparisonTable, Published
from sciflow.stages.convergence import Convergence
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.rollout import Rollout
from sciflow.stages.side_by_side import SideBySide
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow.store import Store
from tests.toys import Least, Line, Wave


@pytest.fixture(autouse=True)
def here(tmp_path):
    with within(Session(Store(tmp_path))):
        yield


async def compared(names, inputs):
    design = await run(Design(problem=Wave(), count=20, seed=0))
    data = await run(Simulate(Wave(), seed=0), design=design)
    given = {}
    for name in names:
        given[name] = await run(Train(Least(), inputs[name], ("u",)), ensemble=data)
        given[f"{name}_score"] = await run(Evaluate(), model=given[name], ensemble=data, training=data)
    return data, await run(SideBySide(tuple(names), queries=2), ensemble=data, **given)


def table_of():
    async def flow():
        names = ("least_seed0", "least_seed1", "other")
        inputs = {"least_seed0": ("a", "b"), "least_seed1": ("a",), "other": ("b",)}
        data, comparison = await compared(names, inputs)
        floor = await run(Convergence(("u",)), ensemble=data, finer=data)
        cited = (
            Published("waves", "least", 0.25, "a paper"),
            Published("waves", "the|irs", 0.5, "another | paper"),
        )
        stage = ComparisonTable(("waves", "again"), cited)
        made = await run(stage, waves=comparison, waves_floor=floor, again=comparison)
        return comparison, made, await report("All", made)

    return asyncio.run(flow())


def test_seeds_are_one_row_and_published_numbers_stand_beside_ours():
    comparison, made, page = table_of()
    labels = made.attributes["rows"]
    expected = [
        ("waves", "least"),
        ("waves", "other"),
        ("waves", "the|irs"),
        ("again", "least"),
        ("again", "other"),
    ]
    assert [(row["task"], row["model"]) for row in labels] == expected
    errors = comparison.read("error_mean")
    np.testing.assert_allclose(made.read("error_mean")[:2], [errors[:2].mean(), errors[2]], rtol=1e-12)
    assert made.read("error_mean_std")[0] == pytest.approx(abs(errors[0] - errors[1]) / np.sqrt(2))
    assert np.isnan(made.read("error_mean_std")[1])
    assert made.read("seeds").tolist()[:2] == [2, 1]
    np.testing.assert_array_equal(made.read("published"), [0.25, np.nan, 0.5, np.nan, np.nan])
    np.testing.assert_array_equal(made.read("floor"), [0, 0, 0, np.nan, np.nan])
    lines = made.file("table.md").read_text().splitlines()
    assert lines[2 + len(expected) :] == ["", "[1] a paper", "", "[2] another | paper"]
    assert len({line.count(" | ") for line in lines[: 2 + len(expected)]}) == 1
    assert "| 25 [1] |" in lines[2]
    text = page.read_text()
    assert "All models on all tasks" in text
    assert "25 [1]" in text
    assert "[2] another | paper" in text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": ()}, "at least one"),
        ({"tasks": ("a", "a")}, "different names"),
        ({"tasks": ("a b",)}, "'a b' cannot be the name"),
        ({"tasks": ("a",), "published": (Published("b", "m", 0.1, ""),)}, "cited for 'b'; the tasks are a"),
        ({"tasks": ("a",), "published": (Published("a", "m", 0.0, ""),)}, "cited error of m on a is 0"),
        ({"tasks": ("a",), "rollouts": (("b", "m"),)}, "roll-out of m on 'b'; the tasks are a"),
    ],
)
def test_what_makes_no_table_is_refused(fields, message):
    with pytest.raises(Invalid, match=message):
        ComparisonTable(**fields)


def test_a_rollout_stands_beside_the_error_of_one_step():
    async def flow(name):
        design = await run(Design(problem=Wave(), count=20, seed=0))
        data = await run(Simulate(Wave(), seed=0), design=design)
        model = await run(Train(Least(), ("u",), ("u",), window=(1, 1)), ensemble=data)
        score = await run(Evaluate(), model=model, ensemble=data, training=data)
        rolled = await run(Rollout(), model=model, ensemble=data, training=data)
        both = await run(SideBySide(("m",), queries=1), ensemble=data, m=model, m_score=score)
        stage = ComparisonTable(("waves",), rollouts=(("waves", name),))
        table = await run(stage, **{"waves": both, f"waves_{name}_rollout": rolled})
        return rolled, table

    with pytest.raises(Invalid, match="a roll-out of 'm_seed0' on waves; its models are m"):
        asyncio.run(flow("m_seed0"))
    rolled, table = asyncio.run(flow("m"))
    assert table.read("rollout_error")[0] == pytest.approx(rolled.read("relative_l2").mean())


class Nothing(Line):
    """Predicts nothing finite."""

    def predict(self, x):
        return {name: np.full_like(values, np.nan) for name, values in super().predict(x).items()}


@dataclass(frozen=True)
class Lost(Least):
    """Linear, until it is asked."""

    name: ClassVar[str] = "toy_lost"

    def load(self, state, signature):
        return Nothing(signature, np.asarray(state["weights"]))


def test_models_that_predict_nothing_finite_have_a_row():
    async def flow():
        data = await run(Simulate(Wave()), design=await run(Design(problem=Wave(), count=20)))
        given = {}
        for seed in (0, 1):
            stage = Train(Lost(), ("a",), ("u",), seed=seed, split_seed=0)
            given[f"lost_seed{seed}"] = model = await run(stage, ensemble=data)
            score = await run(Evaluate(), model=model, ensemble=data, training=data)
            given[f"lost_seed{seed}_score"] = score
        both = await run(SideBySide(("lost_seed0", "lost_seed1"), queries=1), ensemble=data, **given)
        table = await run(ComparisonTable(("waves",)), waves=both)
        return table, await report("All", table, both)

    registry().add(Lost, Plugin("tests", __name__, "tests", "0"))
    try:
        table, page = asyncio.run(flow())
    finally:
        del registry()._classes["surrogate", Lost.name]
    assert np.isinf(table.read("error_mean")).all()
    assert np.isnan(table.read("error_mean_std")).all()
    assert "All models on all tasks" in page.read_text()
