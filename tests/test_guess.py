"""Guesses: a model that learned from a solver serves back to it, and can do no harm."""

import asyncio
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from sciflow import Context, Diverged, Field, Invalid, NotFound, Problem, State, report, run
from sciflow.flow import Session, within
from sciflow.guess import FromModel, Guess, TakesGuess, first_guess
from sciflow.registry import Plugin, registry
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.stages.solver_comparison import SolverComparison
from sciflow.stages.train import Train
from sciflow.store import Store
from tests.toys import SPACE, Least


@dataclass(frozen=True)
class Cubic(TakesGuess):
    """u^3 + u = q with q = a + b x, by Newton's method at each point."""

    name: ClassVar[str] = "toy_cubic"
    parameters: ClassVar = SPACE
    fields: ClassVar[dict] = {"q": Field(("x",), "W", "float64"), "u": Field(("x",), "K", "float64")}
    guessed: ClassVar[str] = "u"
    foreknown: ClassVar[tuple[str, ...]] = ("q",)
    points: int = 6
    unit: str = "K"
    guess: Guess | None = None

    def coordinates(self):
        return {"x": np.linspace(0, 1, self.points)}

    def solve(self, mu, ctx):
        q = mu["a"] + mu["b"] * self.coordinates()["x"]
        u, start = np.zeros(self.points), first_guess(self, mu, ctx, {"q": q})
        taken = start is not None and np.abs(start**3 + start - q).max() < np.abs(q).max()
        u = start if taken else u
        change, iteration = np.ones(1), 0
        while np.abs(change).max() > 1e-8:
            change, iteration = (u**3 + u - q) / (3 * u**2 + 1), iteration + 1
            u = u - change
        metrics = {"newton": iteration, **({} if self.guess is None else {"guessed": float(taken)})}
        yield State(0.0, {"q": q, "u": u}, metrics)


@dataclass(frozen=True)
class Says(Guess):
    """Says what it is told to."""

    name: ClassVar[str] = "toy_says"
    value: float = 0.5
    count: int = 6
    error: str = ""

    def check(self, problem):
        if problem.points != self.count:
            raise Invalid("another grid")

    def predict(self, problem, mu, known):
        if self.error:
            raise {"diverged": Diverged, "invalid": Invalid, "value": ValueError}[self.error]("as told")
        return np.full(self.count, self.value)


@pytest.fixture(autouse=True)
def here(tmp_path):
    for cls in (Cubic, Says):
        registry().add(cls, Plugin("tests", __name__, "tests", "0"))
    with within(Session(Store(tmp_path))):
        yield
    del registry()._classes["problem", Cubic.name], registry()._classes["guess", Says.name]


async def ensemble(problem):
    return await run(Simulate(problem), design=await run(Design(problem=Cubic(), count=20)))


async def learned(data, inputs=("a", "b"), outputs=("u",), **how):
    return await run(Train(Least(), inputs, outputs, **how), ensemble=data)


@pytest.mark.parametrize("inputs", [("a", "b"), ("q",)])
def test_a_model_of_the_solver_saves_it_iterations_and_changes_nothing(inputs):
    async def flow():
        data = await ensemble(Cubic())
        model = await learned(data, inputs)
        guided = await ensemble(Cubic(guess=FromModel(str(model.path), model.digest)))
        stage = SolverComparison(("u",), labels=("from zero", "from a model"))
        made = await run(stage, baseline=data, candidate=guided, model=model)
        return data, guided, model, made, await report("Loop", made)

    data, guided, model, made, page = asyncio.run(flow())
    np.testing.assert_allclose(guided.read("u"), data.read("u"), rtol=1e-10)
    assert guided.read("solver_guessed").tolist() == [1.0] * 20
    assert guided.read("solver_newton").mean() <= data.read("solver_newton").mean() - 1
    assert guided.attributes["problem"]["guess"]["model_digest"] == model.digest
    about = made.attributes
    assert about["offline_seconds"] == pytest.approx(model.provenance["end"] - model.provenance["start"])
    assert about["training_data_seconds"] == pytest.approx(made.read("baseline_seconds").sum())
    settled = made.read("settled") == 1
    one, other = (made.read(f"{side}_seconds")[settled] for side in ("baseline", "candidate"))
    saved = one.mean() - other.mean()
    expected = math.ceil(about["offline_seconds"] / saved) if saved > 0 else None
    assert about["break_even"] == expected
    assert "A guess takes" in page.read_text()


def test_without_a_guess_a_problem_is_the_one_it_was():
    assert Cubic().to_json() == {"component": "toy_cubic", "points": 6, "unit": "K"}
    assert "guess" in Cubic(guess=Says()).to_json()
    assert Cubic.from_json(Cubic(guess=Says(0.25)).to_json()) == Cubic(guess=Says(0.25))


@pytest.mark.parametrize("guess", [Says(math.nan), Says(math.inf), Says(error="diverged"), Says(-1e3)])
def test_a_useless_guess_is_dropped(guess):
    mu, ctx = {"a": 1.3, "b": 0.4}, Context()
    plain, other = next(Cubic().solve(mu, ctx)), next(Cubic(guess=guess).solve(mu, ctx))
    np.testing.assert_array_equal(other.fields["u"], plain.fields["u"])
    assert other.metrics == {**plain.metrics, "guessed": 0.0}


def test_a_guess_that_fails_in_another_way_is_an_error():
    for guess, words in (
        (Says(error="value"), "the guess of toy_cubic failed: ValueError: as told"),
        (Says(error="invalid"), "failed: as told"),
        (Says(count=5), r"gave shape \(5,\), 'u' has \(6,\)"),
    ):
        with pytest.raises(Invalid, match=words):
            first_guess(Cubic(guess=guess), {"a": 1.0, "b": 0.1}, Context())


def test_what_fits_no_model_is_refused_before_a_job_starts(tmp_path):
    async def flow():
        data = await ensemble(Cubic())
        model, of_q = await learned(data), await learned(data, ("a",), ("q",))
        from_u = await learned(data, ("u",), ("u",))
        good = FromModel(str(model.path))
        assert good.model_digest == model.digest
        good.check(Cubic())
        for guess, problem, words in (
            (FromModel(str(of_q.path)), Cubic(), "predicts q; a guess for toy_cubic is its 'u'"),
            (FromModel(str(from_u.path)), Cubic(), "needs 'u', which toy_cubic does not know before"),
            (good, Cubic(points=7), "another grid, 6 points of 'x' from 0 to 1; toy_cubic has 7"),
            (FromModel(str(model.path), "1" * 64), Cubic(), "the configuration asks for 1111"),
            (FromModel(str(data.path), data.digest), Cubic(), "is a ensemble, a guess is made from a model"),
            (Says(count=3), Cubic(), "another grid"),
            ("u", Cubic(), "is a Guess, for example FromModel"),
        ):
            with pytest.raises(Invalid, match=words):
                problem.replace(guess=guess).check_guess()
        with pytest.raises(NotFound, match="no model artifact at"):
            Cubic(guess=FromModel(str(tmp_path / "gone"), model.digest)).check_guess()
        with pytest.raises(NotFound, match="no model artifact at"):
            FromModel(str(tmp_path / "gone"))
        with pytest.raises(Invalid, match="another grid"):
            await ensemble(Cubic(guess=Says(count=3)))

    asyncio.run(flow())


@dataclass(frozen=True)
class Moving(Problem):
    """Two time levels of a line."""

    name: ClassVar[str] = "toy_moving"
    parameters: ClassVar = SPACE
    fields: ClassVar[dict] = {"u": Field(("time", "x"), "K", "float64")}

    def coordinates(self):
        return {"time": np.arange(2.0), "x": np.linspace(0, 1, 6)}

    def solve(self, mu, ctx):
        for level in range(2):
            yield State(float(level), {"u": mu["a"] + level * self.coordinates()["x"]})


def test_a_model_of_time_steps_is_no_guess():
    registry().add(Moving, Plugin("tests", __name__, "tests", "0"))

    async def flow():
        data = await run(Simulate(Moving()), design=await run(Design(problem=Moving(), count=8)))
        model = await learned(data, ("u",), window=(1, 1))
        with pytest.raises(Invalid, match="is a model of time steps"):
            FromModel(str(model.path)).check(Cubic())
        whole = await learned(data, ("a",))
        with pytest.raises(Invalid, match=r"'u' has the axes \('time', 'x'\)"):
            FromModel(str(whole.path)).check(Cubic())

    try:
        asyncio.run(flow())
    finally:
        del registry()._classes["problem", Moving.name]
