"""One design solved in two ways: what is compared, what the figures say, what is refused."""

import asyncio
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from sciflow import Field, Invalid, Problem, State, report, run
from sciflow.flow import Session, within
from sciflow.registry import Plugin, registry
from sciflow.stages.costs import answer_seconds, training_data_seconds
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.stages.solver_comparison import SolverComparison
from sciflow.stages.train import Train
from sciflow.store import Store
from tests.toys import SPACE, Least, Wave


@dataclass(frozen=True)
class Decay(Problem):
    """exp(-a t) by so many Euler steps, of the first or the second order."""

    name: ClassVar[str] = "toy_decay"
    parameters: ClassVar = SPACE
    fields: ClassVar[dict] = {"u": Field(("x",), "1", "float64")}
    steps: int = 10
    points: int = 5
    fails: bool = False

    def coordinates(self):
        return {"x": np.linspace(0, 1, self.points)}

    def solve(self, mu, ctx):
        from sciflow import Diverged

        if self.fails and mu["a"] > 1.6:
            raise Diverged("as asked")
        u = (1 + self.coordinates()["x"]) * (1 - mu["a"] / self.steps) ** self.steps
        yield State(0.0, {"u": u}, {"steps": self.steps})


@pytest.fixture(autouse=True)
def here(tmp_path):
    registry().add(Decay, Plugin("tests", __name__, "tests", "0"))
    with within(Session(Store(tmp_path))):
        yield
    del registry()._classes["problem", Decay.name]


async def solved(problem, seed=0):
    return await run(
        Simulate(problem, minimum=0.1), design=await run(Design(problem=Wave(), count=12, seed=seed))
    )


def test_differences_errors_and_figures_are_those_of_the_members():
    stage = SolverComparison(("u",), labels=("coarse", "fine <b>"))

    async def flow():
        one, other = await solved(Decay(10)), await solved(Decay(20))
        exact = await solved(Decay(10_000, points=9))
        made = await run(stage, baseline=one, candidate=other, reference=exact)
        return one, other, exact, made, await report("Two", made)

    one, other, exact, made, page = asyncio.run(flow())
    a, b, c = (e.read("u")[:, 0] for e in (one, other, exact))
    np.testing.assert_allclose(made.read("difference"), np.abs(b - a) / a, rtol=1e-12)
    np.testing.assert_allclose(made.read("baseline_error"), np.abs(a - c) / c, rtol=1e-12)
    np.testing.assert_allclose(made.read("candidate_error"), np.abs(b - c) / c, rtol=1e-12)
    assert (made.read("baseline_error") > 1.7 * made.read("candidate_error")).all()
    assert made.read("baseline_steps").tolist() == [10.0] * 12
    assert made.read("candidate_steps").tolist() == [20.0] * 12
    times = [made.read(f"{side}_seconds") for side in ("baseline", "candidate")]
    assert min(t.min() for t in times) > 0
    settled = made.read("settled") == 1
    assert 0 < settled.sum() < 12  # toys are solved by one process or by several
    assert made.attributes["speed_up_all"] == pytest.approx(times[0].sum() / times[1].sum())
    assert made.attributes["speed_up"] == pytest.approx(times[0][settled].sum() / times[1][settled].sum())
    text = page.read_text()
    assert "fine &lt;b&gt;" in text
    assert "fine <b>" not in text
    for words in (
        "steps, mean",
        "0.5 x",
        "without the first of each process",
        "worst error to the reference",
    ):
        assert words in text


def test_an_ensemble_beside_itself_differs_in_nothing():
    async def flow():
        one = await solved(Decay(10))
        return await run(SolverComparison(("u",)), baseline=one, candidate=one)

    made = asyncio.run(flow())
    assert not made.read("difference").any()
    assert made.attributes["speed_up"] == 1.0
    assert "baseline_error" not in made.schema.fields


def test_members_that_failed_in_one_are_left_out_and_counted():
    async def flow():
        one, other = await solved(Decay(10)), await solved(Decay(10, fails=True))
        made = await run(SolverComparison(("u",)), baseline=one, candidate=other)
        return other, made, await report("Two", made)

    other, made, page = asyncio.run(flow())
    assert 0 < len(made.read("members")) < 12
    assert made.read("members").tolist() == other.members().tolist()
    assert made.attributes["failed"] == {"baseline": 0, "candidate": 12 - len(other.members())}
    assert "members that failed" in page.read_text()


def test_ensembles_of_other_members_and_models_of_nobody_are_refused():
    async def flow():
        one, other = await solved(Decay(10)), await solved(Decay(10), seed=1)
        with pytest.raises(Invalid, match="parameters differ"):
            await run(SolverComparison(("u",)), baseline=one, candidate=other)
        model = await run(Train(Least(), ("a",), ("u",)), ensemble=one)
        with pytest.raises(Invalid, match="solved without a model"):
            await run(SolverComparison(("u",)), baseline=one, candidate=one, model=model)
        assert 0 < answer_seconds(model, one, one.members()) < 1
        spent = training_data_seconds(model)
        made = await run(SolverComparison(("u",)), baseline=one, candidate=one)
        assert spent == pytest.approx(made.read("baseline_seconds").sum())

    asyncio.run(flow())


@pytest.mark.parametrize(
    "bad", [{"outputs_of": ()}, {"outputs_of": "u"}, {"labels": ("a", "a")}, {"batch": 0}]
)
def test_a_comparison_of_nothing_is_refused(bad):
    with pytest.raises(Invalid):
        SolverComparison(**{"outputs_of": ("u",), **bad})
