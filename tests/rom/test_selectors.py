"""Selectors: what each must rank right, and that only units and the order of things do not matter."""

import time

import numpy as np
import pytest

from sciflow import Invalid
from sciflow_rom.regress.ranking import log_errors
from sciflow_rom.regress.regressors import GaussianProcess, Perceptrons, Polynomial, RadialBasis
from sciflow_rom.regress.selectors import ErrorRegression, Logistic, Neighbours

SMALL = Perceptrons(width=16, networks=2, steps=100)
ALL = [
    ErrorRegression(SMALL),
    ErrorRegression(GaussianProcess(shared=True)),
    ErrorRegression(RadialBasis()),
    Logistic(),
    Neighbours(),
]
IDS = ["perceptrons", "gaussian", "radial", "logistic", "neighbours"]


def models(members=150, clusters=5, features=2, seed=0):
    """Local models that are good near a centre of their own; units of the features far apart."""
    rng = np.random.default_rng(seed)
    centres = rng.random((clusters, features))
    x = rng.random((members, features))
    errors = 1e-3 * np.exp(6 * np.linalg.norm(x[:, None] - centres, axis=2))
    return x * np.array([1e6, 1e-3, *[1.0] * features][:features]), errors


def regret(selector, members=150):
    """Mean error of the models chosen for unseen members, over that of the best ones."""
    x, errors = models(members + 200)
    ranker = selector.train(x[:members], errors[:members], np.random.default_rng(0))
    chosen = [int(np.argmin(ranker.rank(row))) for row in x[members:]]
    unseen = errors[members:]
    return float(np.mean(unseen[np.arange(200), chosen]) / unseen.min(axis=1).mean())


@pytest.mark.parametrize("selector", ALL, ids=IDS)
def test_a_selector_is_nearly_as_good_as_knowing_the_errors(selector):
    assert regret(selector) < 1.1


def test_random_choices_are_far_worse():
    """What the bound above is worth: the third of five models, always."""
    _, errors = models(350)
    assert errors[:, 2].mean() / errors.min(axis=1).mean() > 3


@pytest.mark.parametrize("selector", ALL, ids=IDS)
def test_a_ranker_is_its_arrays_and_equal_seeds_give_equal_bits(selector):
    x, errors = models()
    one, other = (selector.train(x, errors, np.random.default_rng(3)) for _ in range(2))
    state = {k: np.array(v) for k, v in one.state().items()}
    assert all(v.dtype.kind in "fiub" for v in state.values())
    again = selector.load(state)
    for row in x[:10]:
        assert one.rank(row).tobytes() == other.rank(row).tobytes() == again.rank(row).tobytes()
        assert one.rank(row).shape == (5,)
    with pytest.raises(Invalid, match="misses the arrays"):
        selector.load({})


@pytest.mark.parametrize("selector", ALL[1:], ids=IDS[1:])
def test_the_order_of_members_and_clusters_and_the_units_do_not_matter(selector):
    x, errors = models()
    one = selector.train(x, errors, np.random.default_rng(0))
    rows, clusters = np.random.default_rng(1).permutation(150), np.array([3, 1, 0, 4, 2])
    scale = np.array([2.0**12, 2.0**-9])
    other = selector.train(x[rows] * scale, errors[rows][:, clusters], np.random.default_rng(0))
    for row in x[:20]:
        np.testing.assert_allclose(other.rank(row * scale), one.rank(row)[clusters], rtol=5e-3, atol=5e-3)


def test_what_a_wrong_choice_costs_is_learned():
    """Two models; the first is best for most members, by a little, and far worse for the others."""
    rng = np.random.default_rng(0)
    x = rng.random((400, 1))
    rare = rng.random(400) < 0.3
    errors = np.column_stack([np.where(rare, 1.0, 0.009), np.full(400, 0.01)])
    ranker = ErrorRegression(Polynomial(1)).train(x, errors, rng)
    hard = Logistic(1, sharpness=50.0).train(x, errors, rng)
    assert np.mean([np.argmin(ranker.rank(row)) for row in x]) == 1
    assert np.mean([np.argmin(hard.rank(row)) for row in x]) == 0


def test_the_nearest_neighbours_count_most():
    x, errors = models()
    ranker = Neighbours(3).train(x, errors, np.random.default_rng(0))
    np.testing.assert_allclose(ranker.rank(x[5]), np.log10(errors[5]), rtol=1e-5)


def test_predicted_errors_are_logarithms_of_errors():
    x, errors = models()
    ranker = ErrorRegression(GaussianProcess(shared=True)).train(x, errors, np.random.default_rng(0))
    predicted = np.stack([ranker.rank(row) for row in x])
    assert np.abs(predicted - np.log10(errors)).mean() < 0.02


@pytest.mark.parametrize("selector", ALL, ids=IDS)
def test_a_query_takes_less_than_fifty_microseconds(selector):
    """With twelve features, 20 clusters and 300 members; the best of many, since others use this machine."""
    x, errors = models(300, 20, 12)
    ranker = selector.train(x, errors, np.random.default_rng(0))
    times = []
    for row in np.repeat(x[:50], 10, axis=0):
        begin = time.perf_counter()
        ranker.rank(row)
        times.append(time.perf_counter() - begin)
    assert np.percentile(times, 10) < 50e-6


def test_models_that_failed_and_errors_of_nothing_are_ranked_too():
    x, errors = models()
    errors[:, 1] = np.inf
    errors[::7, 2] = 0.0
    for selector in ALL[1:]:
        ranker = selector.train(x, errors, np.random.default_rng(0))
        assert all(np.argmin(ranker.rank(row)) != 1 for row in x)
    logs = log_errors(errors)
    assert np.isfinite(logs).all()
    assert logs[:, 1].min() == pytest.approx(1 + logs[:, [0, 2, 3, 4]].max())
    assert (log_errors(np.zeros((3, 2))) == log_errors(np.zeros((3, 2)))[0, 0]).all()


@pytest.mark.parametrize("selector", ALL[1:], ids=IDS[1:])
@pytest.mark.parametrize("members", [1, 2, 7])
def test_few_members_or_one_cluster_are_enough_to_be_asked(selector, members):
    x, errors = models(members)
    assert np.isfinite(selector.train(x, errors, np.random.default_rng(0)).rank(x[0])).all()
    one = selector.train(x, errors[:, :1], np.random.default_rng(0))
    assert one.rank(x[0]).shape == (1,)
    constant = np.ones_like(x)
    assert np.isfinite(selector.train(constant, errors, np.random.default_rng(0)).rank(constant[0])).all()


@pytest.mark.parametrize("selector", ALL[1:], ids=IDS[1:])
def test_wrong_errors_and_features_are_refused(selector):
    x, errors = models()
    rng = np.random.default_rng(0)
    for wrong in (-errors, errors * np.nan, errors[:, 0], errors[:, :0]):
        with pytest.raises(Invalid, match="not negative and not NaN"):
            selector.train(x, wrong, rng)
    with pytest.raises(Invalid, match="all errors are infinite"):
        selector.train(x, errors + np.inf, rng)
    with pytest.raises(Invalid, match=r"\(member, ...\)"):
        selector.train(x[:9], errors, rng)
    with pytest.raises(Invalid, match="features of 150 members are not finite, the first is row 0"):
        selector.train(x * np.nan, errors, rng)
