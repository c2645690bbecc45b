"""Control variates: no bias whatever the cheap model is worth, intervals that hold, the best allocation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import ndtri

from sciflow.stages.allocation import allocation, best_ratio, variance_ratio
from sciflow.stages.multifidelity import Correction, plain_mean, plain_quantiles

MODELS = {
    "good": lambda x: 1 + 0.3 * x,
    "bad": lambda x: np.sin(7 * x),
    "wrong sign": lambda x: -x,
    "constant": np.zeros_like,
    "perfect": lambda x: np.exp(0.3 * x),
}
MEAN = np.exp(0.045)


def drawn(rng, model, queries=200, solves=12, level=0.95):
    """One experiment: the truth is exp(0.3 x) with x normal."""
    x = rng.standard_normal(queries)
    some = rng.permutation(queries)[:solves]
    return Correction(MODELS[model](x), some, np.exp(0.3 * x[some]), level)


@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("solves", [6, 20])
def test_the_mean_has_no_bias_and_its_interval_holds_as_often_as_it_says(model, solves):
    rng = np.random.default_rng(7)
    found = [drawn(rng, model, solves=solves).mean() for _ in range(1000)]
    values = np.array([e.value for e in found])
    assert abs(values.mean() - MEAN) < 4 * values.std() / np.sqrt(len(values))
    held = np.mean([e.low <= MEAN <= e.high for e in found])
    assert 0.91 <= held <= (0.98 if solves > 6 else 1.0)
    if solves > 6:  # the error that is told is the one that there is
        told = np.sqrt(np.mean([e.error**2 for e in found]))
        assert told == pytest.approx(values.std(), rel=0.2)


def test_the_error_is_not_too_small_where_the_quantity_bends_away_from_the_model():
    rng, values, told = np.random.default_rng(3), [], []
    for _ in range(1000):
        x = rng.standard_normal(200)
        lot = rng.permutation(200)[:20]
        mean = Correction(x, lot, x[lot] ** 2).mean()
        values.append(mean.value)
        told.append(mean.error)
    assert np.sqrt(np.mean(np.square(told))) == pytest.approx(np.std(values), rel=0.1)


def test_what_never_varied_has_no_variance_and_a_probability_one_that_is_as_unsure_as_itself():
    none = Correction(np.zeros(100), np.arange(20), np.zeros(20))
    assert (none.variance().value, none.variance().high) == (0.0, 0.0)
    seldom, mean = none.variance(share=True), none.mean(share=True)
    assert (seldom.value, seldom.low) == (0.0, 0.0)
    assert seldom.high == pytest.approx(mean.high * (1 - mean.high)) != 0
    often = Correction(np.arange(100) % 2.0, np.arange(20), np.arange(20) % 2.0).variance(share=True)
    assert (often.value, often.high) == (pytest.approx(0.25), 0.25)


def test_all_lots_of_a_small_set_together_give_its_mean_exactly():
    """Not one lot, but the mean over every possible one, to rounding: whatever the model says."""
    import itertools

    rng = np.random.default_rng(0)
    full, cheap = rng.standard_normal(7), rng.standard_normal(7) ** 3
    lots = [np.array(p) for p in itertools.combinations(range(7), 4)]
    means = [Correction(cheap, lot, full[lot]).mean().value for lot in lots]
    assert np.mean(means) == pytest.approx(full.mean(), abs=1e-12)
    # Taking the slope from the drawn values themselves would not do.
    slopes = [Correction._regress(full[lot], cheap[lot])[0] for lot in lots]
    naive = [full[k].mean() + a * (cheap.mean() - cheap[k].mean()) for k, a in zip(lots, slopes, strict=True)]
    assert abs(np.mean(naive) - full.mean()) > 1e-3


def test_a_perfect_model_leaves_the_error_of_the_queries_alone():
    rng = np.random.default_rng(1)
    one = drawn(rng, "perfect", queries=5000)
    assert one.mean().error == pytest.approx(one.cheap.std() / np.sqrt(5000), rel=1e-6)
    every = Correction(one.cheap, np.arange(5000), one.cheap)
    assert every.mean().value == pytest.approx(one.cheap.mean(), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(0.01, 100), st.integers(0, 100))
def test_a_shift_and_a_unit_change_nothing_else(shift, unit, seed):
    """What is added to the quantity is added to mean and quantiles; its unit scales them all."""
    one = drawn(np.random.default_rng(seed), "good")
    other = Correction(unit * one.cheap + shift, one.drawn, unit * one.full + shift, one.level)
    for a, b in ((one.mean(), other.mean()), (one.quantile(0.5), other.quantile(0.5))):
        for name in ("value", "low", "high"):
            assert getattr(b, name) == pytest.approx(unit * getattr(a, name) + shift, rel=1e-6, abs=1e-6)
    assert other.mean().error == pytest.approx(unit * one.mean().error, rel=1e-5)
    assert other.variance().value == pytest.approx(unit**2 * one.variance().value, rel=1e-4)


def test_adding_a_constant_to_the_cheap_model_alone_changes_nothing():
    one = drawn(np.random.default_rng(3), "good")
    other = Correction(one.cheap + 50.0, one.drawn, one.full, one.level)
    assert other.mean().value == pytest.approx(one.mean().value, rel=1e-9)
    assert other.mean().error == pytest.approx(one.mean().error, rel=1e-9)


@pytest.mark.parametrize(
    ("model", "threshold"), [("good", 1.2), ("bad", 1.2), ("perfect", 1.3), ("perfect", 2.0)]
)
def test_the_interval_of_a_probability_holds_also_where_the_models_agree_on_all_that_was_drawn(
    model, threshold
):
    from scipy.special import ndtr

    rng, truth, held = np.random.default_rng(5), float(ndtr(-np.log(threshold) / 0.3)), []
    for _ in range(400):
        one = drawn(rng, model, solves=20)
        both = (one.cheap > threshold).astype(float), (one.full > threshold).astype(float)
        found = Correction(both[0], one.drawn, both[1]).mean(share=True)
        assert 0 <= max(found.low, 0) <= found.high
        assert found.high - found.low > 0.01
        held.append(found.low <= truth <= found.high)
    assert np.mean(held) >= 0.92


@pytest.mark.parametrize("model", ["good", "bad", "perfect"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_intervals_of_quantiles_hold(model, part):
    rng, truth = np.random.default_rng(9), float(np.exp(0.3 * ndtri(part)))
    found = [drawn(rng, model, queries=300, solves=30).quantile(part) for _ in range(150)]
    assert np.mean([e.low <= truth <= e.high for e in found]) >= 0.88


def test_intervals_of_the_variance_hold_for_a_good_model():
    rng, truth = np.random.default_rng(11), (np.exp(0.09) - 1) * np.exp(0.09)
    found = [drawn(rng, "perfect", queries=300, solves=15).variance() for _ in range(150)]
    assert np.mean([e.low <= truth <= e.high for e in found]) >= 0.85
    values = [e.value for e in found]
    assert np.mean(values) == pytest.approx(truth, rel=0.1)


# -- allocation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("full", "cheap", "rho"), [(1.0, 1e-2, 0.9), (10.0, 1e-3, 0.999), (2.0, 0.1, -0.8)])
def test_the_allocation_is_the_best_that_a_budget_buys(full, cheap, rho):
    """Beside a search over all ratios: equation 3.7 of Peherstorfer, Willcox and Gunzburger, two models."""
    budget = 1000.0

    def variance(ratio):
        count = budget / (full + cheap * ratio)
        return 1 / count - (1 / count - 1 / (count * ratio)) * rho**2

    search = minimize_scalar(lambda log: variance(np.exp(log)), bounds=(0, 20), method="bounded")
    ratio = best_ratio(full, cheap, rho)
    assert np.log(ratio) == pytest.approx(search.x, abs=1e-3)
    few, many = allocation(budget, full, cheap, rho)
    assert few * full + many * cheap == pytest.approx(budget)
    assert many / few == pytest.approx(ratio)
    alone = full / budget
    assert variance_ratio(full, cheap, rho) == pytest.approx(search.fun / alone, rel=1e-6)


def test_the_allocation_of_an_example():
    # rho^2 = 0.81, w_1 / w_2 = 100: r = sqrt(100 * 0.81 / 0.19).
    assert best_ratio(1.0, 0.01, 0.9) == pytest.approx(20.6474, rel=1e-5)
    assert variance_ratio(1.0, 0.01, 0.9) == pytest.approx((np.sqrt(0.19) + np.sqrt(0.0081)) ** 2)


def test_a_cheap_model_that_is_not_worth_it_gets_nothing():
    assert best_ratio(1.0, 0.5, 0.1) < 1
    assert variance_ratio(1.0, 0.5, 0.1) == 1
    assert allocation(10.0, 1.0, 0.5, 0.1) == (10.0, 10.0)
    assert best_ratio(1.0, 0.5, 1.0) == np.inf


def test_correlation_is_that_of_numpy_where_all_are_drawn():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 2000))
    for f in (a + b, -a - 0.1 * b, b):
        found = Correction(a, np.arange(2000), f).correlation()
        assert found == pytest.approx(np.corrcoef(a, f)[0, 1], abs=2e-3)
    assert Correction(np.ones(9), np.arange(9), a[:9]).correlation() == 0
    # Nothing happened at what was drawn: it is not taken for granted that nothing differs.
    rare = (a > 1.5).astype(float)
    calm = np.flatnonzero(rare == 0)[:20]
    assert 0 < Correction(rare, calm, rare[calm]).correlation(share=True) < 0.9


def test_plain_estimates_hold_as_often_as_they_say():
    rng, held = np.random.default_rng(2), []
    for _ in range(400):
        values = rng.standard_normal(40)
        quantile = plain_quantiles(values, (0.8,), 0.9)[0]
        share = plain_mean((values > 1).astype(float), 0.9, share=True)
        mean = plain_mean(values, 0.9)
        held.append([mean.low <= 0 <= mean.high, quantile.low <= ndtri(0.8) <= quantile.high,
                     share.low <= 0.158655 <= share.high])  # fmt: skip
    assert (np.mean(held, axis=0) >= 0.86).all()
