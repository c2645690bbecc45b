import asyncio
import math

import numpy as np
import pytest

from sciflow import Field, Invalid, Model, Signature, report, run
from sciflow.flow import Session, within
from sciflow.samples import Batch
from sciflow.stages.calibrate import Calibrate, Calibration, load_calibration, measure
from sciflow.stages.conformal import all_but, least, mean_over_members, quantile, scale
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train, load_model, samples_of
from sciflow.store import Store
from tests.toys import Least, Wave


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("count", [19, 20, 33, 100])
def test_the_bound_is_the_smallest_score_of_the_right_rank(count, alpha):
    scores = np.random.default_rng(count).standard_normal(count)
    place = math.ceil((count + 1) * (1 - alpha) - 1e-9)
    assert quantile(scores, np.arange(count), alpha) == np.sort(scores)[place - 1]
    both = quantile(np.stack([scores, -scores], axis=1), np.arange(count), alpha)
    np.testing.assert_array_equal(both, [np.sort(scores)[place - 1], np.sort(-scores)[place - 1]])


@pytest.mark.parametrize(("alpha", "needed"), [(0.1, 9), (0.05, 19), (0.01, 99), (0.5, 1), (0.3, 3)])
def test_too_few_members_are_refused_with_the_number_needed(alpha, needed):
    assert least(alpha) == needed
    assert quantile(np.arange(float(needed)), np.arange(needed), alpha) == needed - 1
    with pytest.raises(Invalid, match=f"{needed} are needed"):
        quantile(np.arange(2.0 * needed - 2), np.arange(needed - 1).repeat(2), alpha)


def test_the_round_off_of_a_long_sum_makes_no_band_narrow(monkeypatch):
    """The fewest members that suffice, each with many values: their weights add up to a little less."""
    from sciflow.stages import conformal

    monkeypatch.setattr(conformal, "SLACK", 0.0)
    scores = np.arange(1.0, 9 * 70001 + 1)
    owner = np.arange(9).repeat(70001)
    assert np.cumsum(np.full(scores.size, 1 / 70001 / 10))[-1] < 0.9
    assert quantile(scores, owner, 0.1) == scores[-1]


def test_members_with_several_samples_count_once():
    """By the definition: the smallest score at which the mean share of each member, over K + 1, is enough."""
    rng = np.random.default_rng(0)
    members = rng.integers(0, 12, 80)
    scores = rng.random(80) * (1 + members)
    counts = {m: (members == m).sum() for m in set(members.tolist())}

    def share(q):
        return sum((scores[members == m] <= q).mean() for m in counts) / (len(counts) + 1)

    for alpha in (0.1, 0.3):
        found = quantile(scores, members, alpha)
        assert found == min(q for q in scores if share(q) >= 1 - alpha - 1e-9)
    assert mean_over_members(scores, members) == pytest.approx(
        np.mean([scores[members == m].mean() for m in counts])
    )


def test_lost_predictions_are_outside_of_every_bound():
    scores = np.append(np.arange(19.0), np.nan)
    assert quantile(scores, np.arange(20), 0.1) == 18
    assert quantile(scores, np.arange(20), 0.06) == np.inf


@pytest.mark.parametrize("delta", [0.0, 0.1, 0.5])
def test_a_bound_keeps_the_share_it_says(delta):
    ratio = np.random.default_rng(0).random((5, 3, 7))
    bound = all_but(ratio, delta)
    for row, b in zip(ratio.reshape(5, -1), bound, strict=True):
        assert (row <= b).mean() >= 1 - delta > (row < b).mean()


class Wrong(Model):
    """Predicts zero; x tells how large its error may be."""

    def __init__(self, told):
        self.told = told
        x = {"x": np.arange(6.0)}
        self.signature = Signature({"s": Field((), "1")}, {"u": Field(("x",), "K")}, x)

    def predict(self, x):
        return {"u": np.zeros((len(x["s"]), 6))}

    def spread(self, x):
        return {"u": np.repeat(x["s"][:, None], 6, axis=1)} if self.told else None

    def state(self):
        return {}


def residuals(rng, members, windows=1, rough=True):
    """Errors that are correlated within a sample and within a member, heavy-tailed, of different size."""
    s = np.repeat(rng.lognormal(0, 1, members), windows)
    common = np.repeat(rng.standard_normal((members, 1)), windows, axis=0)
    u = s[:, None] * (common + rng.standard_normal((len(s), 6)) + rng.standard_t(3, (len(s), 1)))
    return Batch({"s": s}, {"u": u}), np.repeat(np.arange(members), windows)


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize(
    ("band", "delta"), [("field", 0.0), ("point", 0.0), ("function", 0.0), ("function", 0.2)]
)
def test_new_members_are_inside_as_often_as_promised(band, delta, told):
    """The theorem, over the draw of calibration and new members: 1 - alpha, and not much more."""
    alpha, count, rng = 0.1, 39, np.random.default_rng(1)
    stage, model, found = Calibrate(alpha=alpha, band=band, delta=delta), Wrong(told), []
    for _ in range(300):
        windows = int(rng.integers(1, 4))
        factors, scaled = stage.widths(model, *residuals(rng, count, windows))
        assert scaled is told
        calibration = Calibration(band, alpha, delta, scaled, factors)
        found.append(measure(calibration, model, *residuals(rng, 40))["coverage"][0])
    error = np.std(found) / np.sqrt(len(found))
    assert 1 - alpha - 4 * error < np.mean(found) < 1 - alpha + 1 / (count + 1) + 4 * error
    assert error < 0.01


def test_the_values_of_a_member_count_as_one():
    """With the fewest members that can promise anything, nothing but the largest error will do."""
    batch, members = residuals(np.random.default_rng(0), 9, windows=3)
    for band in ("field", "function"):
        factors, _ = Calibrate(band=band).widths(Wrong(False), batch, members)
        assert factors["u"] == np.abs(batch.y["u"]).max()


def test_a_spread_that_says_something_makes_bands_narrower_where_it_is_small():
    rng = np.random.default_rng(0)
    told, measured = residuals(rng, 100), residuals(rng, 200)
    widths = []
    for knows in (False, True):
        stage = Calibrate()
        factors, scaled = stage.widths(Wrong(knows), *told)
        calibration = Calibration("field", 0.1, 0.0, scaled, factors)
        made = calibration.around(Wrong(knows), measured[0].x)["u"]
        widths.append(np.median(made[2] - made[0]))
        assert 0.84 < measure(calibration, Wrong(knows), *measured)["coverage"][0] < 0.96
    assert widths[1] < 0.6 * widths[0]


def test_a_spread_of_zero_somewhere_is_no_promise_of_exactness():
    spread = np.array([[0.0, 1.0, 1.0]])
    assert (scale(spread, spread) > 0).all()
    assert (scale(None, spread) == 1).all()


def calibrated(tmp_path, stage, count=60, train=(0.3, 0.25), window=None):
    async def flow():
        data = await run(Simulate(Wave(), seed=1), design=await run(Design(problem=Wave(), count=count)))
        inputs = ("u",) if window else ("a", "b")
        learn = Train(Least(), inputs, ("u",), train=train[0], valid=train[1], window=window)
        model = await run(learn, ensemble=data)
        made = await run(stage, model=model, ensemble=data)
        return data, model, made, await report("Bands", made)

    with within(Session(Store(tmp_path))):
        return asyncio.run(flow())


@pytest.mark.parametrize("band", ["point", "function"])
def test_the_stage_keeps_its_members_apart_and_is_read_again(tmp_path, band):
    data, model, made, page = calibrated(tmp_path, Calibrate(band=band))
    seen = set(model.read("train_members")) | set(model.read("valid_members"))
    parts = [set(made.read(f"{w}_members")) for w in ("calibration", "measured")]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & seen
    assert parts[0] | parts[1] == set(model.read("test_members"))
    calibration, fitted = load_calibration(made), load_model(model)
    samples = samples_of(model, fitted.signature, data, made.read("measured_members"))
    batch = samples.all()
    low, middle, high = calibration.around(fitted, batch.x)["u"]
    inside = (low <= batch.y["u"]) & (batch.y["u"] <= high)
    share = inside.all(axis=(1, 2)) if band == "function" else inside
    assert made.read("coverage")[0] == pytest.approx(share.mean())
    np.testing.assert_allclose(middle, fitted.predict(batch.x)["u"])
    assert calibration.factors["u"].shape == ((3, 8) if band == "point" else ())
    assert calibration.model == model.digest
    text = page.read_text()
    assert "Bands around predictions" in text
    assert "90 %" in text


def test_validation_members_and_windows_calibrate_too(tmp_path):
    _, model, made, _ = calibrated(tmp_path, Calibrate(members="valid"), window=(1, 1))
    assert made.read("calibration_members").tolist() == model.read("valid_members").tolist()
    assert made.read("measured_members").tolist() == model.read("test_members").tolist()
    with pytest.raises(Invalid, match="not a calibration"):
        load_calibration(model)


def test_members_that_were_seen_and_too_few_are_refused(tmp_path):
    with pytest.raises(Invalid, match="members='test' or 'valid'"):
        calibrated(tmp_path, Calibrate(members="all"))
    with pytest.raises(Invalid, match=r"4 members to calibrate .* alpha=0.1 needs 9"):
        calibrated(tmp_path, Calibrate(), count=20)

    async def other():
        datas = [
            await run(Simulate(Wave(), seed=s), design=await run(Design(problem=Wave(), count=n)))
            for s, n in ((1, 20), (2, 50))
        ]
        model = await run(Train(Least(), ("a", "b"), ("u",)), ensemble=datas[0])
        with pytest.raises(Invalid, match="calibrate it on that ensemble with members='all'"):
            await run(Calibrate(), model=model, ensemble=datas[1])
        return await run(Calibrate(members="all", part=0.4), model=model, ensemble=datas[1])

    with within(Session(Store(tmp_path))):
        made = asyncio.run(other())
    assert [len(made.read(f"{w}_members")) for w in ("calibration", "measured")] == [20, 30]


def test_bands_on_another_grid_or_without_a_spread_are_refused():
    model = Wrong(False)
    with pytest.raises(Invalid, match="calibrate with band='field'"):
        Calibration("point", 0.1, 0.0, False, {"u": np.ones(5)}).around(model, {"s": np.ones(2)})
    with pytest.raises(Invalid, match="this model gives none"):
        Calibration("field", 0.1, 0.0, True, {"u": np.ones(())}).around(model, {"s": np.ones(2)})
    batch = Batch({"s": np.ones(20)}, {"u": np.full((20, 6), np.nan)})
    with pytest.raises(Invalid, match="not finite"):
        Calibrate().widths(model, batch, np.arange(20))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0.0}, "alpha must be between 0 and 1"),
        ({"part": 1.0}, "part must be between 0 and 1"),
        ({"band": "function", "delta": 1.0}, "delta must be at least 0"),
        ({"delta": 0.1}, "delta belongs to band='function'"),
    ],
)
def test_bad_configurations_are_refused(change, message):
    with pytest.raises(Invalid, match=message):
        Calibrate(**change)
