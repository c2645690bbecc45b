"""Gains of a model over a baseline: power laws in closed form, what lies out of range, what is refused."""

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow import Invalid, report, run
from sciflow.flow import Session, within
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.sample_efficiency import SampleEfficiency, error_with, members_for, rate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow.store import Store
from tests.toys import Least, Wave

SIZES = (8, 16, 64, 256, 1024)


@pytest.fixture(autouse=True)
def here(tmp_path):
    session = Session(Store(tmp_path))
    with within(session):
        yield session


def law(size, exponent, sizes=SIZES):
    return size * np.array(sizes, dtype=float) ** -exponent


def gains(base, other, **settings):
    stage = SampleEfficiency(("base", "other"), SIZES, **settings)
    reference = stage.reference or max(SIZES)
    return stage._gains(np.stack([base, other]), reference, stage.accuracy_at or reference // 8)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.2, 0.9), st.floats(1.05, 3.0))
def test_power_laws_have_gains_in_closed_form(exponent, better):
    """E = c N^-p against E / b: the error gain is b everywhere, and b^(1/p) times fewer members do."""
    base = law(1.0, exponent)
    reasons, found = gains(base, base / better)
    fewer = better ** (1 / exponent)
    assert found[0] == (pytest.approx(1), pytest.approx(1))
    assert found[1][1] == pytest.approx(better)
    if fewer < 1024 / 8:
        assert found[1][0] == pytest.approx(fewer)
        assert not reasons
    else:
        assert math.isnan(found[1][0])
        assert "already with the fewest members (8)" in reasons["other"][0]
    assert rate(SIZES, base) == pytest.approx(exponent)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.01, 1.0), min_size=5, max_size=5), st.integers(8, 1024))
def test_reading_a_curve_forwards_and_backwards(errors, members):
    curve = np.array(errors)
    error, why = error_with(SIZES, curve, members)
    assert why == ""
    assert curve.min() * 0.999 <= error <= curve.max() * 1.001
    need, _ = members_for(SIZES, curve, error)
    if not math.isnan(need):
        assert need <= members * (1 + 1e-6)
    falling = np.sort(curve)[::-1] * np.geomspace(1, 0.9, 5)
    error, _ = error_with(SIZES, falling, members)
    assert members_for(SIZES, falling, error)[0] == pytest.approx(members)


def test_out_of_range_is_nan_with_a_reason():
    base = law(1.0, 0.5)
    assert "not reached with the most members (1024)" in gains(base, 2 * base)[0]["other"][0]
    assert "already with the fewest" in gains(base, base / 100)[0]["other"][0]
    reasons, found = gains(base, base / 2, reference=2048)
    assert all(math.isnan(row[0]) for row in found)
    assert "the baseline: 2048 members lie outside" in reasons["base"][0]
    short = np.where(np.array(SIZES) > 64, np.nan, base / 2)
    reasons, found = gains(base, short)
    assert math.isnan(found[1][0])
    assert math.isnan(found[1][1])
    assert "128 members lie outside of what was trained (8 to 64 members)" in reasons["other"][1]
    assert error_with(SIZES, np.full(5, np.nan), 8)[1].endswith("(nothing)")


def test_a_prediction_that_is_not_finite_leaves_its_size_out():
    base = law(1.0, 0.5)
    lost = base.copy()
    lost[2] = np.inf
    assert gains(base, lost)[1][1] == (pytest.approx(1), pytest.approx(1))


async def trained(data, size, inputs=("a", "b"), **settings):
    model = await run(Train(Least(), inputs, ("u",), members=size, **settings), ensemble=data)
    return model, await run(Evaluate(), model=model, ensemble=data, training=data)


async def simulated():
    return await run(Simulate(Wave(), seed=1), design=await run(Design(problem=Wave(), count=40)))


def test_curves_of_models_that_were_trained():
    async def flow():
        data = await simulated()
        runs = {}
        for size in (4, 8, 24):
            for name, inputs in (("flat", ("a",)), ("both", ("a", "b"))):
                if (name, size) != ("both", 24):
                    runs[f"{name}_{size}"], runs[f"{name}_{size}_score"] = await trained(data, size, inputs)
        stage = SampleEfficiency(("flat", "both"), (4, 8, 24), accuracy_at=6)
        found = await run(stage, **runs)
        return runs, found, await report("Samples", found)

    runs, found, page = asyncio.run(flow())
    error = found.read("error")
    for i, name in enumerate(("flat", "both")):
        for j, size in enumerate((4, 8, 24)):
            if (name, size) != ("both", 24):
                score = runs[f"{name}_{size}_score"]
                assert error[i, j] == pytest.approx(np.median(score.read("relative_l1")))
    assert np.isnan(error[1, 2])
    assert found.read("members").tolist() == [[4, 8, 24], [4, 8, 0]]
    share = np.log(6 / 4) / np.log(2)
    exact = error[:, 0] ** (1 - share) * error[:, 1] ** share
    assert found.read("accuracy_gain")[1] == pytest.approx(exact[0] / exact[1])
    assert "EG (error of flat with 24)" in page.read_text()


def test_what_cannot_be_compared_is_refused():
    async def flow(change):
        data = await simulated()
        runs = {}
        for size in (4, 8):
            settings = {"seed": 1} if (change, size) == ("seed", 8) else {}
            runs[f"m_{size}"], runs[f"m_{size}_score"] = await trained(data, size, **settings)
        if change == "size":
            runs["m_8"], runs["m_8_score"] = runs["m_4"], runs["m_4_score"]
        if change == "score":
            runs["m_8_score"] = runs["m_4_score"]
        if change == "none":
            del runs["m_8_score"]
        models = ("m", "n") if change == "absent" else ("m",)
        await run(SampleEfficiency(models, (4, 8)), **runs)

    for change, message in {
        "seed": "tested on other members",
        "size": "trained on 4 members; give Train members=8",
        "score": "is not an evaluation of",
        "none": "needs the input 'm_8_score'",
        "absent": "has no model 'n' of any size",
    }.items():
        with pytest.raises(Invalid, match=message):
            asyncio.run(flow(change))


@pytest.mark.parametrize(
    "arguments",
    [
        ((), (4, 8)),
        (("a", "a"), (4, 8)),
        (("a",), (8,)),
        (("a",), (8, 4)),
        (("a_score",), (4, 8)),
        (("a",), (4, 8), 4, 1, "l2"),
    ],
)
def test_stages_that_cannot_be(arguments):
    with pytest.raises(Invalid):
        SampleEfficiency(*arguments)
