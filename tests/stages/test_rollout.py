"""Roll-outs against a loop over the model, the guard, and going on after a kill."""

import asyncio
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from sciflow import Field, Invalid, Parameter, ParameterSpace, Problem, State, report, run
from sciflow.flow import Session, within
from sciflow.registry import Plugin, registry
from sciflow.stages.design import Design
from sciflow.stages.rollout import Rollout
from sciflow.stages.simulate import Simulate
from sciflow.stages.stepping import pair_steps, time_below, whole_levels, window_steps
from sciflow.stages.train import Train, load_model
from sciflow.store import Store
from tests.toys import Least, Line


@dataclass(frozen=True)
class Turn(Problem):
    """A rotation of the plane, u' = omega R u with a gain: linear, so that least squares learns the step."""

    name: ClassVar[str] = "toy_turn"
    parameters: ClassVar[ParameterSpace] = ParameterSpace(
        a=Parameter(0.5, 2.0, "m"), b=Parameter(-1.0, 1.0, "m")
    )
    fields: ClassVar[dict] = {"u": Field(("time", "x"), "K"), "q": Field(("x",), "W")}
    levels: int = 9
    gain: float = 1.0

    def coordinates(self):
        return {"time": 0.5 * np.arange(self.levels), "x": np.linspace(0, 1, 6)}

    def solve(self, mu, ctx):
        x = np.linspace(0, 1, 6)
        for level in range(self.levels):
            angle = 0.7 * level
            u = mu["a"] * np.cos(angle + x) + mu["b"] * np.sin(angle + 2 * x)
            yield State(0.5 * level, {"u": self.gain**level * u, **({} if level else {"q": x + mu["a"]})})


class Broken(Line):
    """Gives what it is told to from the `after`-th answer on, for members with a large first input."""

    calls = 0

    def predict(self, x):
        found = super().predict(x)
        Broken.calls += 1
        if self.kill and Broken.calls == self.kill:
            raise RuntimeError("the power went")
        lost = (np.asarray(x["a"]) > 1.2) & (Broken.calls >= self.after)
        return {n: np.where(lost.reshape(-1, *[1] * (v.ndim - 1)), self.value, v) for n, v in found.items()}


@dataclass(frozen=True)
class Breaking(Least):
    """Linear, and broken in a roll-out."""

    name: ClassVar[str] = "toy_breaking"
    after: int = 1000
    value: str = "0"
    kill: int = 0

    def load(self, state, signature):
        model = Broken(signature, np.asarray(state["weights"]))
        model.after, model.value, model.kill = self.after, float(self.value), self.kill
        return model


@pytest.fixture(autouse=True, scope="module")
def known():
    registry().add(Breaking, Plugin("tests", __name__, "tests", "0"))
    registry().add(Turn, Plugin("tests", __name__, "tests", "0"))
    registry().add(Rest, Plugin("tests", __name__, "tests", "0"))
    yield
    del registry()._classes["surrogate", Breaking.name], registry()._classes["problem", Turn.name]
    del registry()._classes["problem", Rest.name]


@pytest.fixture(autouse=True)
def here(tmp_path):
    session = Session(Store(tmp_path))
    Broken.calls = 0
    with within(session):
        yield session


async def learned(surrogate, inputs=("u", "a", "q"), problem=Turn(), **how):
    design = await run(Design(problem=problem, count=16))
    data = await run(Simulate(problem, seed=1), design=design)
    return data, await run(Train(surrogate, inputs, ("u",), train=0.5, **how), ensemble=data)


def rolled(stage, surrogate=Least(), inputs=("u", "a", "q"), problem=Turn(), **how):  # noqa: B008
    async def flow():
        data, model = await learned(surrogate, inputs, problem, **how)
        return data, model, await run(stage, model=model, ensemble=data)

    return asyncio.run(flow())


def page_of(found):
    return asyncio.run(report("Roll-out", found)).read_text()


@pytest.mark.parametrize("window", [(1, 1), (2, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize(("start", "levels"), [(0, None), (2, 3)])
def test_a_roll_out_is_the_loop_over_the_model(window, start, levels):
    stage = Rollout(start=start, levels=levels, batch=3)
    data, artifact, found = rolled(stage, window=window)
    k, end = window[0], 9 if levels is None else start + window[0] + levels
    model, truth = load_model(artifact), data.read("u")
    parameters, q = data.read("parameters"), data.read("q")
    for row, m in enumerate(found.read("members")):
        levels_ = list(truth[m, start : start + k])
        while len(levels_) < end - start:
            fed = np.stack(levels_[-k:])
            x = {
                "u": fed[None] if k > 1 else fed,
                "a": parameters[m : m + 1, 0].astype("f4"),
                "q": q[m : m + 1],
            }
            y = model.predict(x)["u"][0].astype("f4")
            levels_ += list(y if window[1] > 1 else y[None])
        expected = np.stack(levels_[k : end - start])
        np.testing.assert_allclose(found.read("predicted_u")[m], expected, rtol=1e-5, atol=1e-6)
        wanted = truth[m, start + k : end]
        error = np.linalg.norm(expected - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
        np.testing.assert_allclose(found.read("relative_l2")[row], error, rtol=1e-2, atol=1e-6)
        still = np.linalg.norm(truth[m, start + k - 1] - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
        np.testing.assert_allclose(found.read("persistence")[row], still, rtol=1e-5)
    np.testing.assert_allclose(found.read("time"), 0.5 * np.arange(start + k, end))
    np.testing.assert_allclose(found.read("since"), 0.5 * np.arange(1, end - start - k + 1))
    assert (found.read("kept") == end - start - k).all()
    if levels and window == (2, 3):
        assert "Roll-outs of unseen members" in page_of(found)


def test_what_is_linear_is_followed_to_the_end():
    found = rolled(Rollout(), window=(2, 1), inputs=("u",))[2]
    assert found.read("relative_l2").max() < 1e-3
    assert found.read("pearson").min() > 0.999
    assert not found.read("fell_below").any()
    assert (found.read("time_below") == 0.5 * 7).all()


@pytest.mark.parametrize(
    ("leads", "direct", "levels"),
    [
        ((1,), False, [1, 2, 3, 4, 5, 6, 7, 8]),
        ((3,), False, [3, 6]),
        ((2, 3), False, [2, 5, 7]),
        ((4,), True, [4, 8]),
    ],
)
def test_a_model_of_pairs_leaps(leads, direct, levels):
    stage = Rollout(leads=leads, direct=direct, limit=1e3)
    data, artifact, found = rolled(stage, inputs=("u", "a", "lead_time"), pairs=(1, 5))
    model, truth = load_model(artifact), data.read("u")
    for m in found.read("members"):
        at, state, expected = 0, truth[m, :1], []
        for level in levels:
            x = {"u": state, "a": data.read("parameters")[m : m + 1, 0].astype("f4")}
            y = model.predict({**x, "lead_time": np.array([0.5 * (level - at)], "f4")})["u"].astype("f4")
            expected.append(y[0])
            at, state = (0, state) if direct else (level, y)
        np.testing.assert_allclose(found.read("predicted_u")[m], np.stack(expected), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.read("since"), 0.5 * np.array(levels))
    if direct:
        assert "Roll-outs of unseen members" in page_of(found)


def test_a_model_of_pairs_begins_later():
    data, _, found = rolled(Rollout(leads=(3,), start=2), inputs=("u", "lead_time"), pairs=(2, 3))
    np.testing.assert_allclose(found.read("since"), [1.5, 3.0])
    np.testing.assert_allclose(found.read("time"), [2.5, 4.0])
    u = data.read("u")[found.read("members")]
    still = np.linalg.norm(u[:, 2] - u[:, 5], axis=1) / np.linalg.norm(u[:, 5], axis=1)
    np.testing.assert_allclose(found.read("persistence")[:, 0], still, rtol=1e-5)


@pytest.mark.parametrize("value", ["nan", "inf", "1e4"])
@pytest.mark.parametrize("after", [1, 3])
def test_a_member_that_goes_astray_is_stopped_and_kept_until_there(value, after):
    surrogate = Breaking(after=after, value=value)
    data, _, found = rolled(Rollout(batch=100), surrogate, window=(2, 2))
    lost = data.read("parameters")[found.read("members"), 0] > 1.2
    assert 0 < lost.sum() < len(lost)
    kept = found.read("kept")
    assert (kept[lost] == 2 * (after - 1)).all()
    assert (kept[~lost] == 7).all()
    errors, stored = found.read("relative_l2"), found.read("predicted_u")
    for row, m in enumerate(found.read("members")):
        assert np.isfinite(errors[row, : kept[row]]).all()
        assert np.isinf(errors[row, kept[row] :]).all()
        assert np.isfinite(stored[m, : kept[row]]).all()
        assert np.isnan(stored[m, kept[row] :]).all()
    assert found.read("fell_below")[lost].all()
    np.testing.assert_allclose(found.read("time_below")[lost, 0], 0.5 * (2 * (after - 1) + 1))
    if after == 1:
        assert f"{lost.sum()} of {len(lost)} roll-outs went astray" in page_of(found)


@dataclass(frozen=True)
class Rest(Turn):
    """Nothing moves."""

    name: ClassVar[str] = "toy_rest"

    def solve(self, mu, ctx):
        for state in super().solve(mu, ctx):
            yield State(state.time, {**state.fields, "u": np.zeros(6)})


def test_a_field_that_was_zero_in_training_stops_nobody():
    found = rolled(Rollout(), Breaking(after=1, value="1e-9"), window=(2, 2), problem=Rest())[2]
    assert (found.read("kept") == 7).all()
    found = rolled(Rollout(), Breaking(after=1, value="inf"), window=(2, 2), problem=Rest())[2]
    assert not found.read("kept").all()


def test_a_roll_out_that_everybody_leaves_at_once_has_a_report(monkeypatch):
    monkeypatch.setattr(
        Broken, "predict", lambda self, x: {n: v * np.nan for n, v in Line.predict(self, x).items()}
    )
    found = rolled(Rollout(), Breaking(), window=(2, 1))[2]
    assert not found.read("kept").any()
    assert np.isinf(found.read("relative_l2")).all()
    count = len(found.read("members"))
    assert f"{count} of {count} roll-outs went astray" in page_of(found)


@pytest.mark.parametrize("kill", range(1, 9))
def test_a_roll_out_that_was_killed_goes_on_and_has_the_same_bits(kill, tmp_path):
    whole = rolled(Rollout(batch=4), window=(2, 1))[2]

    async def flow():
        data, model = await learned(Breaking(kill=kill), window=(2, 1))
        with pytest.raises(RuntimeError, match="the power went"):
            await run(Rollout(batch=4), model=model, ensemble=data)
        calls = Broken.calls
        found = await run(Rollout(batch=4), model=model, ensemble=data)
        return found, Broken.calls - calls

    found, more = asyncio.run(flow())
    for name in ("predicted_u", "relative_l2", "kept", "members"):
        assert found.read(name).tobytes() == whole.read(name).tobytes(), name
    assert more == 14 - (kill - 1)


@pytest.mark.parametrize("levels", [1, 3])
def test_members_of_which_some_were_a_step_ahead(levels, monkeypatch):
    """The power goes between two members of one step; with several levels a step also within one."""
    from sciflow.artifact.member import Member

    whole = rolled(Rollout(batch=4), window=(2, levels))[2]
    plain, count = Member.append, 0

    def append(self, *values, **settings):
        nonlocal count
        count += 1
        if count == 4 * levels + 2 * levels + (levels > 1):
            raise RuntimeError("the power went")
        plain(self, *values, **settings)

    async def flow():
        data, model = await learned(Breaking(), window=(2, levels))
        monkeypatch.setattr(Member, "append", append)
        with pytest.raises(RuntimeError, match="the power went"):
            await run(Rollout(batch=4), model=model, ensemble=data)
        return await run(Rollout(batch=4), model=model, ensemble=data)

    found = asyncio.run(flow())
    assert found.read("predicted_u").tobytes() == whole.read("predicted_u").tobytes()


def test_the_windows_of_the_well():
    found = rolled(Rollout(), window=(1, 1), problem=Turn(levels=32), inputs=("u", "a"))[2]
    vrmse = found.read("vrmse")
    assert vrmse.shape[1] == 31
    np.testing.assert_allclose(found.read("vrmse_6_12"), vrmse[:, 6:12].mean(axis=1))
    np.testing.assert_allclose(found.read("vrmse_13_30"), vrmse[:, 13:30].mean(axis=1))
    short = rolled(Rollout(levels=8), window=(1, 1), problem=Turn(levels=32), inputs=("u", "a"))[2]
    assert not [n for n in short.schema.fields if n.startswith("vrmse_")]


@pytest.mark.parametrize(
    ("how", "stage", "message"),
    [
        ({"inputs": ("a",)}, Rollout(), "has no time steps"),
        ({"window": (1, 1)}, Rollout(leads=(2,)), "knows no lead times"),
        ({"window": (2, 1)}, Rollout(levels=8), "more than the trajectories have"),
        ({"window": (1, 1)}, Rollout(start=9), "leave nothing|no member has a sample"),
        ({"window": (1, 1)}, Rollout(members="all"), "trained on members of this ensemble"),
        ({"pairs": (2, 3), "inputs": ("u", "lead_time")}, Rollout(start=1), "begins at the time level 1"),
    ],
)
def test_what_is_refused(how, stage, message):
    with pytest.raises(Invalid, match=message):
        rolled(stage, **how)


@pytest.mark.parametrize(
    "settings",
    [
        {"limit": 1.0},
        {"members": "tset"},
        {"leads": ()},
        {"leads": (0,)},
        {"levels": 0},
        {"start": -1},
        {"batch": 0},
    ],
)
def test_stages_that_cannot_be(settings):
    with pytest.raises(Invalid):
        Rollout(**settings)


def test_members_seen_in_training_are_refused_on_another_grid_too():
    async def flow():
        data, model = await learned(Least(), window=(1, 1))
        design = await run(Design(problem=Turn(), count=16))
        more = await run(Simulate(Turn(levels=11), seed=1), design=design)
        await run(Rollout(members="all"), model=model, ensemble=more, training=data)

    with pytest.raises(Invalid, match="parameters and the seed of members that"):
        asyncio.run(flow())


def test_steps_cover_the_levels_without_a_gap():
    times = np.arange(20.0) ** 2
    for window in ((1, 1), (3, 4), (2, 5)):
        steps = window_steps(window, 2, 17, times)
        assert [level for s in steps for level in s.levels] == list(range(2 + window[0], 17))
        assert [s.time for s in steps] == [times[s.levels[0]] for s in steps]
        assert [s.place for s in steps] == [sum(len(b.levels) for b in steps[:i]) for i in range(len(steps))]
    steps = pair_steps((2, 3), 1, 20, times, False)
    assert [s.levels[0] for s in steps] == [3, 6, 8, 11, 13, 16, 18]
    assert sum(s.lead for s in steps) == times[18] - times[1]
    assert [s.lead for s in pair_steps((5,), 1, 20, times, True)] == [
        times[i] - times[1] for i in (6, 11, 16)
    ]


def test_levels_are_kept_until_the_first_bad_one():
    values = np.ones((5, 4, 3))
    values[1, 2, 0] = np.nan
    values[2, 0] = 100.0
    values[3, 1, 1] = -np.inf
    values[4, 3] = 2.0
    assert whole_levels({"u": values}, {"u": 1.5}).tolist() == [4, 2, 0, 1, 3]


def test_the_time_of_a_correlation():
    curve = np.array([[0.9, 0.85, 0.7, 0.95], [0.9, 0.9, 0.9, 0.9], [np.nan, 1, 1, 1]])
    time, fell = time_below(curve, np.array([1.0, 2.0, 3.0, 4.0]), 0.8)
    assert time.tolist() == [3.0, 4.0, 1.0]
    assert fell.tolist() == [True, False, True]
