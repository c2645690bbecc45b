"""Distributions of a quantity by a cheap model and few full solves: what is promised, and what is refused."""

import asyncio

import numpy as np
import pytest

from sciflow import Invalid, NotFound, report, run
from sciflow.errors import Diverged, Failed
from sciflow.executors.local import Local
from sciflow.flow import Session, within
from sciflow.quantities import At, Exceeds, Maximum, Mean
from sciflow.sections.propagation import worth
from sciflow.stages.calibrate import Calibrate
from sciflow.stages.design import Design
from sciflow.stages.propagate import Propagate
from sciflow.stages.queries import grid_of
from sciflow.stages.simulate import Simulate
from sciflow.stages.solves import Solves
from sciflow.stages.train import Train
from sciflow.store import Store
from tests.toys import Block, Least, Line, Steps, Unsure, Wave

HERE = {"executor": Local()}
NARROW = {"a": (0.6, 1.4), "b": (0.05, 0.3)}
QUARTER = At("u", position={"x": 0.25})


@pytest.fixture(autouse=True)
def here(tmp_path):
    session = Session(Store(tmp_path), "queries", listener=lambda stage, event: session.heard.append(event))
    session.heard = []
    with within(session):
        yield session


async def made(problem, surrogate, inputs=("a", "b"), outputs=("u",), bounds=NARROW, **settings):
    design = await run(Design(problem=problem, count=40, bounds=bounds))
    data = await run(Simulate(problem, minimum=0.5), design=design, **HERE)
    return data, await run(Train(surrogate, inputs, outputs, **settings), ensemble=data)


async def asked(problem, count=400, bounds=NARROW, seed=3, method="random"):
    return await run(Design(problem=problem, count=count, bounds=bounds, method=method, seed=seed))


def propagated(problem, surrogate, stage, bounds=NARROW, **settings):
    async def flow():
        _, model = await made(problem, surrogate, **settings)
        design = await asked(problem, bounds=bounds)
        return await run(stage, model=model, design=design, **HERE), design

    return asyncio.run(flow())


def truth(problem, design, quantity):
    """The quantity of all queries, by the solver."""
    data = asyncio.run(run(Simulate(problem, minimum=0.0), design=design, **HERE))
    name, level = quantity.source
    grid = grid_of(problem.fields[name], problem.coordinates(), problem.axis_units(), problem.periodic)
    return quantity.of(data.read(name)[:, level], grid)


def test_a_perfect_model_gives_the_answers_of_the_solver():
    quantity = Mean("u")
    found, design = propagated(Wave(), Least(epochs=12), Propagate(quantity, budget=12, pilot=10))
    exact = truth(Wave(), design, quantity)
    np.testing.assert_allclose(found.read("query_model"), exact, rtol=1e-5)
    about = found.attributes["propagation"]
    mean = about["corrected_estimate"]["mean"]
    assert mean["error"] == pytest.approx(exact.std() / np.sqrt(400), rel=1e-3)
    assert mean["value"] == pytest.approx(exact.mean(), rel=2e-3)
    assert about["correlation"] > 0.999999
    assert about["drawn"] == about["solved"] == 10  # more would not pay
    full = found.read("query_full")
    solved = np.isfinite(full)
    np.testing.assert_allclose(full[solved], exact[solved], rtol=1e-6)
    assert (found.read("query_state")[solved] == 2).all()


def test_doubtful_answers_are_replaced_the_most_doubtful_first():
    stage = Propagate(QUARTER, tolerance=0.2, budget=90, pilot=10, share=0.5, cost=50.0)
    found, design = propagated(Block(), Unsure(epochs=12), stage)
    exact, state = truth(Block(), design, QUARTER), found.read("query_state")
    doubt = np.abs(design.read("parameters")[:, 0] - 1)
    np.testing.assert_allclose(found.read("query_doubt"), doubt, atol=1e-6)
    doubtful = doubt > 0.2
    assert (state == 1).sum() == 45
    assert doubt[state == 1].min() >= doubt[(state == 3) | (state == 0)].max()
    assert (state[doubtful & (state != 1)] >= 2).all()
    assert not doubtful[state == 0].any()
    np.testing.assert_allclose(found.read("query_full")[state == 1], exact[state == 1], rtol=1e-6)
    about = found.attributes["propagation"]
    replaced = np.where(state == 1, exact, found.read("query_model"))
    assert about["replaced_estimate"]["mean"]["value"] == pytest.approx(replaced.mean(), rel=1e-6)
    assert about["doubtful"] == doubtful.sum()
    assert about["solved"] <= 90


def test_what_the_doubts_say_bounds_the_bias_where_they_hold():
    """Doubts of 0.4 at most are no bound here; those of a calibrated band are."""

    async def flow():
        data, model = await made(Block(), Least(epochs=12), train=0.4, valid=0.1)
        design = await asked(Block())
        bands = await run(Calibrate(alpha=0.3, band="function", part=0.7), model=model, ensemble=data)
        stage = Propagate(Mean("u"), tolerance=10.0, budget=20, pilot=20)
        return await run(stage, model=model, design=design, calibration=bands, **HERE), design

    found, design = asyncio.run(flow())
    change, error = (
        found.read("query_change"),
        np.abs(found.read("query_model") - truth(Block(), design, Mean("u"))),
    )
    assert np.mean(error <= change) >= 0.7
    bias = found.attributes["propagation"]["replaced_estimate"]["bias"]
    assert error.mean() <= bias < 10 * error.mean() + 1


def test_the_corrected_mean_holds_the_truth_where_the_model_is_wrong():
    """A model of the amplitude alone, that knows nothing of the shift."""
    quantity = At("u", position={"x": 0.125})
    held, biased = [], []
    for seed in range(8):
        stage = Propagate(quantity, budget=30, pilot=30, seed=seed, share=0.0)
        found, design = propagated(Block(), Least(epochs=12), stage, inputs=("a",))
        exact = truth(Block(), design, quantity).mean()
        about = found.attributes["propagation"]
        mean = about["corrected_estimate"]["mean"]
        held.append(mean["low"] <= exact <= mean["high"])
        biased.append(about["replaced_estimate"]["mean"])
    assert sum(held) >= 7
    assert all(np.isfinite(b["value"]) for b in biased)


def test_a_constant_in_the_field_moves_the_mean_and_nothing_else():
    """The same wave about another level: `b` is added everywhere."""
    stage = Propagate(Mean("u"), budget=12, pilot=12, cost=50.0)
    one, _ = propagated(Wave(), Least(epochs=12), stage, bounds=NARROW)
    near = {"a": NARROW["a"], "b": (0.3, 0.3001)}
    two, _ = propagated(Wave(), Least(epochs=12), stage, bounds=near)
    low = np.mean([0.05, 0.3])
    assert one.attributes["unit"] == "K"
    gap = [f.attributes["propagation"]["corrected_estimate"]["mean"]["value"] for f in (two, one)]
    # b is log-uniform in [0.05, 0.3]: its mean is (0.3 - 0.05) / log 6.
    assert gap[0] - gap[1] == pytest.approx(0.3 - 0.25 / np.log(6), abs=0.03)
    assert low > 0


def test_queries_outside_of_the_training_are_in_doubt():
    wide = {"a": (0.6, 1.7), "b": (0.05, 0.3)}
    found, design = propagated(Wave(), Least(epochs=12), Propagate(Mean("u"), budget=30, pilot=10), wide)
    reason, a = found.read("query_reason"), design.read("parameters")[:, 0]
    assert (reason[a > 1.5] == 2).all()
    assert (reason[(a > 0.65) & (a < 1.38)] == 0).all()
    assert found.attributes["propagation"]["replaced_estimate"]["bias"] is None


def test_queries_for_which_a_model_diverges_are_in_doubt_and_no_others(monkeypatch):
    """Also where its doubt is made from a prediction."""
    predict, broken = Line.predict, []

    def some(self, x):
        if broken and (np.asarray(x["a"]) > 1.2).any():
            raise Diverged("it left the finite numbers")
        return predict(self, x)

    async def flow():
        _, model = await made(Wave(), Least(epochs=12))
        design = await asked(Wave(), count=100)
        broken.append(True)
        return await run(
            Propagate(Mean("u"), budget=30, pilot=10), model=model, design=design, **HERE
        ), design

    monkeypatch.setattr(Line, "predict", some)
    monkeypatch.setattr(Line, "spread", lambda self, x: {n: 1e-3 * v for n, v in self.predict(x).items()})
    found, design = asyncio.run(flow())
    diverges = design.read("parameters")[:, 0] > 1.2
    doubt = found.read("query_doubt")
    assert diverges.any()
    assert np.isinf(doubt[diverges]).all()
    assert doubt[~diverges] == pytest.approx(1e-3)
    assert (found.read("query_reason")[diverges] == 4).all()
    assert found.attributes["propagation"]["doubtful"] == diverges.sum()


@pytest.mark.parametrize("phase", [0, 1, 2])
def test_a_killed_run_goes_on_after_the_last_solve(tmp_path, monkeypatch, phase):
    """Wherever it is killed: the same bits as a run that was not, and nothing is solved twice."""
    stage = Propagate(Mean("u"), tolerance=0.3, budget=40, pilot=10, cost=20.0)

    async def flow():
        _, model = await made(Wave(), Unsure(epochs=12), inputs=("a",))
        return await run(stage, model=model, design=await asked(Wave()), **HERE)

    calls, phases, solve, whole = [], [], Wave.solve, Solves.quantity

    def counted(self, mu, ctx):
        calls.append(tuple(mu.values()))
        return solve(self, mu, ctx)

    def killed(self, quantity, members):
        phases.append(members)
        if len(phases) == phase + 1:
            raise KeyboardInterrupt
        return whole(self, quantity, members)

    with within(Session(Store(tmp_path / "unbroken"), "one")):
        unbroken = asyncio.run(flow())
    monkeypatch.setattr(Wave, "solve", counted)
    monkeypatch.setattr(Solves, "quantity", killed)
    with within(Session(Store(tmp_path / "broken"), "two")):
        with pytest.raises((Exception, KeyboardInterrupt)):
            asyncio.run(flow())
        assert len(phases) == phase + 1
        begun_with = len(calls)
        found = asyncio.run(flow())
    assert len(calls) == len(set(calls))
    assert begun_with < len(calls) or phase == 2
    for name in found.schema.fields:
        np.testing.assert_array_equal(found.read(name), unbroken.read(name), err_msg=name)
    assert found.attributes["propagation"] == unbroken.attributes["propagation"]
    assert found.digest == unbroken.digest


def test_members_that_fail_are_said_and_left_out(here):
    stage = Propagate(Mean("u"), budget=40, pilot=40, problem=Wave(fail="diverge", above=1.2))
    found, design = propagated(Wave(), Least(epochs=12), stage)
    about, state = found.attributes["propagation"], found.read("query_state")
    assert about["failed"] == (state == 4).sum() > 0
    assert about["drawn"] == 40 - about["failed"]
    assert (design.read("parameters")[state == 4, 0] > 1.2).all()
    assert any("full-order model failed" in str(e.get("message", e)) for e in here.heard)
    nothing = stage.replace(problem=Wave(fail="diverge", above=0.0))
    with pytest.raises(Failed, match="cannot be corrected"):
        propagated(Wave(), Least(epochs=12), nothing)


def test_more_are_drawn_until_the_interval_is_as_narrow_as_asked_for():
    halves = []
    for precision in (0.6, 0.3):
        stage = Propagate(QUARTER, budget=300, pilot=10, share=0.0, precision=precision)
        found, _ = propagated(Block(), Least(epochs=12), stage, inputs=("b",))
        about = found.attributes["propagation"]
        mean = about["corrected_estimate"]["mean"]
        halves.append((mean["high"] - mean["low"]) / 2 / about["spread"])
        assert about["drawn"] < 300
    assert halves[0] < 0.8
    assert halves[1] < 0.4


def test_a_report_says_what_was_found():
    async def flow():
        _, model = await made(Block(), Unsure(epochs=12))
        design = await asked(Block())
        stage = Propagate(QUARTER, tolerance=0.3, budget=40, pilot=15)
        found = await run(stage, model=model, design=design, **HERE)
        chance = Propagate(Exceeds(Maximum("u"), 1.2), tolerance=0.3, budget=40, pilot=15)
        other = await run(chance, model=model, design=design, **HERE)
        return found, other, await report("Queries", found, other)

    found, other, page = asyncio.run(flow())
    text = page.read_text()
    titles = (
        "A quantity over many queries: u at x = 0.25, answered by toy unsure",
        "above 1.2, answered by toy unsure",
    )
    for words in (*titles, "u at x = 0.25", "maximum of u above 1.2", "has no bias"):
        assert words in text
    about = other.attributes["propagation"]
    many = {**about["costs"], "equal_solves": 12345.6, "ratio": 1050.0}
    assert "12,346 solutions" in worth({**about, "costs": many})
    assert "1,050 answers for each" in worth({**about, "costs": many})
    mean = about["corrected_estimate"]["mean"]
    assert 0 <= mean["low"] <= mean["value"] <= mean["high"] <= 1
    costs = found.attributes["propagation"]["costs"]
    assert costs["all"] == pytest.approx(
        found.attributes["propagation"]["solved"] * costs["full"] + 400 * costs["cheap"]
    )
    assert costs["training"] > 0


# -- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pilot": 4}, "at least 5"),
        ({"budget": 10, "pilot": 20}, "less than the pilot"),
        ({"share": 1.0}, "part of the budget"),
        ({"coverage": 1.0}, "probability"),
        ({"quantiles": (0.0,)}, "between 0 and 1"),
        ({"tolerance": -1.0}, "negative"),
        ({"cost": float("inf")}, "infinite"),
        ({"far": 0.0}, "must be positive"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(Invalid, match=message):
        Propagate(Mean("u"), **settings)


def test_what_does_not_fit_together_is_refused_at_the_door():
    async def flow():
        data, model = await made(Wave(), Least())
        design = await asked(Wave(), 40)
        foreign, other = await made(Block(), Least())
        stage = Propagate(Mean("u"), budget=20)
        cases = [
            (Propagate(Mean("v")), {}, NotFound, "no field 'v'"),
            (Propagate(Mean("q")), {}, NotFound, "does not predict 'q'"),
            (Propagate(Mean("u", level=7)), {}, Invalid, "3 time levels"),
            (Propagate(At("u", position={"y": 0.0})), {}, Invalid, "names each of the axes"),
            (Propagate(At("u", position={"x": 9.0})), {}, Invalid, "outside of the domain"),
            (stage, {"ensemble": foreign}, Invalid, "was not trained on"),
            (stage, {"design": await asked(Wave(), 8, method="grid")}, Invalid, "is a grid"),
            (stage, {"design": await asked(Wave(), 10)}, Invalid, "fewer than the pilot"),
            (stage.replace(problem=Steps()), {}, Invalid, "stands for toy_wave, not for toy_steps"),
            (stage, {"model": await run(Train(Least(), ("q", "a"), ("u",)), ensemble=data)}, Invalid,
             "maps from the fields"),
            (stage, {"model": await run(Train(Least(), ("u",), ("u",), window=(1, 1)), ensemble=data)},
             Invalid, "predicts steps"),
            (stage, {"model": await run(Train(Least(), ("a",), ("u[0]",)), ensemble=data)}, NotFound,
             "does not predict 'u' at level -1"),
        ]  # fmt: skip
        for one, changed, error, message in cases:
            given = {"model": model, "design": design, **changed}
            with pytest.raises(error, match=message):
                await run(one, **given, **HERE)
        assert other is not None

    asyncio.run(flow())


def test_a_model_that_does_not_say_what_it_stands_for_is_refused(tmp_path):
    async def flow():
        from tests.rom.ensembles import write

        rng = np.random.default_rng(0)
        lines = {"x": np.linspace(0, 1, 5)}
        data = write(Store(tmp_path), rng.random((20, 5)), ("x",), coordinates=lines)
        model = await run(Train(Least(), ("a",), ("u",)), ensemble=data)
        design = await asked(Wave(), 40)
        with pytest.raises(Invalid, match="does not say which problem"):
            await run(Propagate(Mean("u"), budget=20), model=model, design=design, **HERE)

    asyncio.run(flow())


def test_members_with_steps_of_their_own_are_read_at_their_last_one():
    wide = {"a": (0.5, 1.9), "b": (0.05, 0.3)}

    async def flow():
        _, model = await made(Steps(), Least(epochs=2), outputs=("u[-1]",), bounds=wide)
        stage = Propagate(At("u", position={"x": 1.0}), budget=20, pilot=20)
        return await run(stage, model=model, design=await asked(Steps(), 60, wide), **HERE)

    found = asyncio.run(flow())
    full, (a, b) = found.read("query_full"), found.read("queries").T
    solved = np.isfinite(full)
    assert solved.sum() == 20
    last = np.array([Steps().times(one)[-1] for one in a])
    np.testing.assert_allclose(full[solved], (b + last)[solved], rtol=1e-6)
