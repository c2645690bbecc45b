"""Parameters behind observations: found by a model, put right by a few full solves."""

import asyncio

import numpy as np
import pytest
from scipy.optimize import least_squares

from sciflow import Invalid, NotFound, report, run
from sciflow.errors import Failed
from sciflow.flow import Session, within
from sciflow.quantities import At, Exceeds, Maximum, Mean
from sciflow.stages.design import Design
from sciflow.stages.invert import Invert
from sciflow.stages.simulate import Simulate
from sciflow.stages.solves import Solves
from sciflow.store import Store
from tests.stages.test_propagate import HERE, made
from tests.toys import Block, Least, Line, Wave

SENSORS = tuple(At("u", position={"x": x}) for x in (0.0, 0.125, 0.375, 0.75))
TRUTH = {"a": 1.1, "b": 0.22}


@pytest.fixture(autouse=True)
def here(tmp_path):
    with within(Session(Store(tmp_path), "inverse")):
        yield


async def observed(problem, point=TRUTH):
    design = Design(problem=problem, count=1, fixed=point)
    return await run(Simulate(problem), design=await run(design), **HERE)


def inverted(problem, stage, inputs=("a", "b")):
    async def flow():
        _, model = await made(problem, Least(epochs=12), inputs=inputs)
        given = {} if stage.values else {"observation": await observed(problem)}
        return await run(stage, model=model, **given, **HERE)

    return asyncio.run(flow())


def test_the_solver_puts_right_what_the_model_finds():
    found = inverted(Block(), Invert(SENSORS, budget=8, alone=30))
    about = found.attributes["inversion"]
    np.testing.assert_allclose(found.read("found"), list(TRUTH.values()), rtol=2e-3)
    first = found.read("step_points")[0]
    assert np.abs(first / list(TRUTH.values()) - 1).max() > 0.01  # what the model alone would have said
    assert about["misfit"] < 0.1 * about["first_misfit"]
    assert about["solves"] <= 12
    alone = about["alone"]
    # The solver alone needs more solves for the same misfit.
    reached = [n for n, m in zip(alone["solves"], alone["misfits"], strict=True) if m <= about["misfit"]]
    assert not reached or reached[0] > about["solves"]
    text = asyncio.run(report("Inverse", found)).read_text()
    for words in ("Parameters behind observations", "full solves", "the solver alone"):
        assert words in text


def test_a_perfect_model_needs_one_solve():
    quantities = (At("u", position={"x": 0.3}), Mean("u"), Maximum("u", level=0))
    found = inverted(Wave(), Invert(quantities, starts=2))
    np.testing.assert_allclose(found.read("found"), list(TRUTH.values()), rtol=1e-3)
    assert found.attributes["inversion"]["solves"] == 1


def test_the_errors_are_those_that_the_noise_makes():
    """Many noisy observations of a linear problem, beside what is told for one."""

    async def flow():
        _, model = await made(Wave(), Least(epochs=12))
        data, rng, fits = await observed(Wave()), np.random.default_rng(0), []
        exact = np.sin(np.array([0.0, 0.2, 0.5, 1.0]) * 2) * TRUTH["a"] + TRUTH["b"]
        for _ in range(8):
            values = tuple((exact + 0.01 * rng.standard_normal(4)).tolist())
            places = tuple(At("u", position={"x": x}) for x in (0.0, 0.2, 0.5, 1.0))
            stage = Invert(places, values, noise=(0.01,) * 4, starts=1, budget=1)
            found = await run(stage, model=model, **HERE)
            fits.append(found.read("found"))
        return data, np.array(fits), found.read("found_error")

    _, fits, told = asyncio.run(flow())
    grid = np.linspace(0, 1, 8)
    rows = np.stack([np.interp([0, 0.2, 0.5, 1], grid, np.sin(2 * grid)), np.ones(4)], axis=1)
    exact = 0.01 * np.sqrt(np.diag(np.linalg.inv(rows.T @ rows)))
    np.testing.assert_allclose(told, exact, rtol=0.02)
    assert (fits.std(axis=0) < 2 * exact).all()


def test_a_fit_that_is_not_exact_is_the_best_of_the_solver_not_of_the_model(monkeypatch):
    """Observations that no parameters fit; the derivatives of the model are not those of the solver."""
    predict = Line.predict

    def tilted(self, x):
        return {n: v + (x["a"][:, None, None] - 1) * np.arange(8) / 8 for n, v in predict(self, x).items()}

    monkeypatch.setattr(Line, "predict", tilted)
    sensors = tuple(At("u", position={"x": x}) for x in (0.125, 0.25, 0.375, 0.5, 0.75))
    x = np.array([s.position["x"] for s in sensors])

    def solver(z):
        return z[0] * np.sin(2 * np.pi * (x + z[1]))

    values = solver(list(TRUTH.values())) + 0.3 * np.array([1.0, -1.0, 1.0, 1.0, -1.0])
    exact = least_squares(lambda z: solver(z) - values, list(TRUTH.values()), xtol=1e-12)
    found = inverted(Block(), Invert(sensors, tuple(values.tolist()), noise=(0.01,) * 5, budget=20))
    np.testing.assert_allclose(found.read("found"), exact.x, rtol=5e-3)
    assert found.attributes["inversion"]["misfit"] <= 1.0001 * np.sqrt(2 * exact.cost / 5) / 0.01


def test_a_solve_that_fails_on_the_way_is_passed_over(monkeypatch):
    whole, calls = Solves.quantity, []

    def lost(self, quantity, members):
        calls.append(members)
        return whole(self, quantity, members) * (np.nan if 4 < len(calls) <= 8 else 1.0)

    monkeypatch.setattr(Solves, "quantity", lost)
    found = inverted(Block(), Invert(SENSORS, budget=12))
    assert np.isnan(found.read("step_misfit")).tolist()[:2] == [False, True]
    np.testing.assert_allclose(found.read("found"), list(TRUTH.values()), rtol=2e-3)


def test_where_the_model_gives_no_answer_the_search_turns_away(monkeypatch):
    predict = Line.predict

    def partly(self, x):
        return {n: np.where(x["a"][:, None, None] > 1.2, np.nan, v) for n, v in predict(self, x).items()}

    monkeypatch.setattr(Line, "predict", partly)
    quantities = (At("u", position={"x": 0.3}), Mean("u"))
    found = inverted(Wave(), Invert(quantities))
    np.testing.assert_allclose(found.read("found"), list(TRUTH.values()), rtol=1e-3)
    monkeypatch.setattr(Line, "predict", lambda self, x: {n: v * np.nan for n, v in predict(self, x).items()})
    with pytest.raises(Failed, match="gives no answer"):
        inverted(Wave(), Invert(quantities, seed=1))


def test_what_observations_do_not_tell_is_as_unsure_as_its_range():
    found = inverted(Wave(), Invert((At("u", position={"x": 0.0}),), (0.1,), noise=(0.01,), budget=1))
    a, b = found.read("found_error")
    assert 0.7 < a < 0.9  # members lie between 0.6 and 1.4
    np.testing.assert_allclose(b, 0.01, rtol=0.02)


def test_a_killed_run_goes_on_after_the_last_solve(tmp_path, monkeypatch):
    stage, calls, solve, whole, phases = Invert(SENSORS, budget=5), [], Block.solve_batch, Solves.quantity, []

    def counted(self, mu, ctx):
        calls.append(mu["a"].tobytes())
        return solve(self, mu, ctx)

    def killed(self, quantity, members):
        phases.append(members)
        if len(phases) == 10:
            raise KeyboardInterrupt
        return whole(self, quantity, members)

    with within(Session(Store(tmp_path / "unbroken"), "one")):
        unbroken = inverted(Block(), stage)
    monkeypatch.setattr(Block, "solve_batch", counted)
    monkeypatch.setattr(Solves, "quantity", killed)
    with within(Session(Store(tmp_path / "broken"), "two")):
        with pytest.raises((Exception, KeyboardInterrupt)):
            inverted(Block(), stage)
        assert len(phases) == 10
        found = inverted(Block(), stage)
    for name in found.schema.fields:
        np.testing.assert_array_equal(found.read(name), unbroken.read(name), err_msg=name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantities": ()}, "at least one"),
        ({"quantities": (Exceeds(Maximum("u"), 1.0),)}, "0 or 1 alone"),
        ({"values": (1.0, 2.0)}, "2 numbers for 1"),
        ({"noise": (0.0,)}, "positive and finite"),
        ({"values": (float("nan"),)}, "must be finite"),
        ({"starts": 0}, "at least 1"),
        ({"tolerance": 1.0}, "between 0 and 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(Invalid, match=message):
        Invert(**{"quantities": (Mean("u"),), **settings})


def test_what_does_not_fit_together_is_refused_at_the_door():
    async def flow():
        _, model = await made(Wave(), Least())
        data = await observed(Wave())
        other = await run(Simulate(Block()), design=await run(Design(problem=Block(), count=4)), **HERE)
        stage = Invert((Mean("u"),), (1.0,))
        cases = [
            (stage, {"observation": data}, Invalid, "one of the two"),
            (stage.replace(values=()), {}, Invalid, "one of the two"),
            (stage.replace(values=(), member=7), {"observation": data}, Invalid, "no result of member 7"),
            (stage.replace(quantities=(Mean("q"),)), {}, NotFound, "does not predict 'q'"),
            (stage.replace(quantities=(At("u"),)), {}, Invalid, "names each of the axes"),
            (stage, {"ensemble": other}, Invalid, "was not trained on"),
        ]
        for one, given, error, message in cases:
            with pytest.raises(error, match=message):
                await run(one, model=model, **given, **HERE)

    asyncio.run(flow())
