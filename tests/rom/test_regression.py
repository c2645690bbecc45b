"""Regressors and the surrogate that is POD and regression."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow import Field, Invalid, run
from sciflow.context import Context
from sciflow.samples import Batch, Samples, Signature
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train, load_model
from sciflow.testing import check_surrogate
from sciflow_rom.clusters.clusterers import KMedoids
from sciflow_rom.regress.affine import affine, better_normalised
from sciflow_rom.regress.gaussian import _objective
from sciflow_rom.regress.pod_regression import PODRegression
from sciflow_rom.regress.regression import exponents
from sciflow_rom.regress.regressors import GaussianProcess, Perceptrons, Polynomial, RadialBasis
from sciflow_rom.regress.selectors import ErrorRegression
from tests.toys import Wave

SEEDS = st.integers(0, 10**6)
FEW = settings(deadline=None, max_examples=15)
ALL = [
    GaussianProcess(),
    GaussianProcess("squared_exponential", shared=True),
    RadialBasis(),
    Polynomial(3),
    Perceptrons(16, 2, 1e-4, 150),
]
IDS = ["gaussian", "shared", "radial", "polynomial", "perceptrons"]


def smooth(x):
    return np.column_stack([np.sin(3 * x[:, 0]) * x[:, 1], np.exp(x[:, 0] - x[:, 1]), x.sum(axis=1) ** 2])


@pytest.mark.parametrize("regressor", ALL, ids=IDS)
def test_smooth_functions_are_learned_whatever_the_units(regressor):
    rng = np.random.default_rng(0)
    x, t = rng.random((80, 2)), rng.random((200, 2))
    unit, size, shift = (
        np.array([2.0**20, 2.0**-20]),
        np.array([2.0**30, 1.0, 2.0**-30]),
        np.array([1e9, 0.0, 0.0]),
    )
    fitted = regressor.train(x * unit, smooth(x) * size + shift, np.random.default_rng(1))
    found = (fitted.predict(t * unit) - shift) / size
    error = np.linalg.norm(found - smooth(t), axis=0) / np.linalg.norm(smooth(t), axis=0)
    assert (error < 0.03).all(), error


@pytest.mark.parametrize("regressor", ALL, ids=IDS)
def test_a_regression_is_its_arrays_and_rows_do_not_influence_each_other(regressor):
    rng = np.random.default_rng(0)
    x = rng.random((40, 2))
    one, other = (regressor.train(x, smooth(x), np.random.default_rng(1)) for _ in range(2))
    state = {k: np.array(v) for k, v in one.state().items()}
    assert (
        regressor.load(state).predict(x).tobytes() == one.predict(x).tobytes() == other.predict(x).tobytes()
    )
    np.testing.assert_allclose(one.predict(x[7:8])[0], one.predict(x)[7], rtol=1e-9)
    with pytest.raises(Invalid, match="misses the arrays"):
        regressor.load({})
    for wrong in (x[:5], np.where(x > 0.9, np.inf, x)):
        with pytest.raises(Invalid, match="features"):
            regressor.train(wrong, smooth(x), rng)


@pytest.mark.parametrize("regressor", ALL, ids=IDS)
@pytest.mark.parametrize("members", [1, 2, 5])
def test_few_equal_or_constant_members_are_no_fault(regressor, members):
    x = np.random.default_rng(0).random((members, 3))
    constant = regressor.train(x, np.full((members, 2), 7.0), np.random.default_rng(0))
    np.testing.assert_allclose(constant.predict(x), 7.0, rtol=1e-2)
    same = regressor.train(np.ones((members, 3)), x, np.random.default_rng(0))
    assert np.isfinite(same.predict(np.ones((1, 3)))).all()


@FEW
@given(SEEDS, st.integers(1, 3))
def test_polynomials_are_found_exactly(seed, features):
    rng = np.random.default_rng(seed)
    powers = exponents(features, 2)
    x, t = rng.standard_normal((40, features)), rng.standard_normal((9, features))
    weights = rng.standard_normal((len(powers), 2))

    def values(rows):
        return np.prod(rows[:, None] ** powers, axis=2) @ weights

    found = Polynomial(2).train(x, values(x), rng).predict(t)
    np.testing.assert_allclose(found, values(t), rtol=1e-6, atol=1e-6)


@FEW
@given(SEEDS, st.sampled_from([0.0, 0.1]))
def test_radial_functions_agree_with_scipy(seed, smoothing):
    from scipy.interpolate import RBFInterpolator

    rng = np.random.default_rng(seed)
    x, t = rng.standard_normal((30, 2)), rng.standard_normal((9, 2))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    fitted = RadialBasis(smoothing).train(x, smooth(x), rng)
    expected = RBFInterpolator(x, smooth(x), kernel="cubic", degree=1, smoothing=smoothing)
    np.testing.assert_allclose(fitted.predict(t), expected(t), rtol=1e-6, atol=1e-6)
    if not smoothing:
        np.testing.assert_allclose(fitted.predict(x), smooth(x), atol=1e-8)


def test_equal_members_are_averaged_by_radial_functions():
    x = np.array([[0.0], [1.0], [2.0], [1.0]])
    y = np.array([[0.0], [1.0], [0.0], [3.0]])
    np.testing.assert_allclose(RadialBasis().train(x, y, None).predict(x[1:2]), 2.0)


@FEW
@given(SEEDS, st.booleans())
def test_the_gradient_of_the_likelihood_is_that_of_differences(seed, analytic):
    rng = np.random.default_rng(seed)
    x, y, theta = rng.random((12, 2)), rng.standard_normal((12, 2)), rng.uniform(-1, 1, 3)
    value, slope = _objective(theta, x, y, analytic)
    for i, step in enumerate(1e-5 * np.eye(3)):
        ends = [_objective(theta + s * step, x, y, analytic)[0] for s in (1, -1)]
        assert slope[i] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-3)
    assert np.isfinite(value)


def test_the_mean_of_a_process_agrees_with_scikit_learn():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern

    rng = np.random.default_rng(0)
    x, t = rng.random((50, 2)), rng.random((20, 2))
    fitted = GaussianProcess(shared=True).train(x, smooth(x)[:, :1], rng)
    a = fitted.arrays
    theirs = GaussianProcessRegressor(Matern(a["lengths"][0], nu=2.5), alpha=1e-8, optimizer=None)
    theirs.fit((x - a["mean"]) / a["spread"], smooth(x)[:, 0] - smooth(x)[:, 0].mean())
    expected = theirs.predict((t - a["mean"]) / a["spread"]) + smooth(x)[:, 0].mean()
    np.testing.assert_allclose(fitted.predict(t)[:, 0], expected, atol=1e-3)


def test_a_feature_without_influence_gets_a_great_length():
    rng = np.random.default_rng(0)
    x = rng.random((60, 3))
    fitted = GaussianProcess(shared=True).train(x, np.sin(4 * x[:, :1]), rng)
    lengths = fitted.arrays["lengths"][0]
    assert lengths[1:].min() > 3 * lengths[0]


@FEW
@given(SEEDS)
def test_modes_leave_as_little_as_any_and_as_much_as_allowed(seed):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((20, 50)) @ np.diag(0.7 ** np.arange(50)) + 5
    sizes = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    found = affine(rows, 100, 0.05)
    count = found.modes.shape[1]
    np.testing.assert_allclose(found.modes.T @ found.modes, np.eye(count), atol=1e-8)
    left = np.linalg.norm(rows - found.lift(found.project(rows)))
    assert left == pytest.approx(np.linalg.norm(sizes[count:]))
    assert np.linalg.norm(sizes[count:]) <= 0.05 * np.linalg.norm(sizes) < np.linalg.norm(sizes[count - 1 :])
    assert affine(rows, 3, 0.05).modes.shape[1] == 3
    assert not affine(np.ones((4, 5)), 3, 0.05).modes.any()


def test_fields_of_very_different_size_are_learned_by_their_shape_and_norm():
    rng = np.random.default_rng(0)
    x, grid = rng.random((60, 2)), np.linspace(0, 1, 40)
    shapes = np.sin(np.pi * grid * (1 + x[:, :1]))
    assert better_normalised(10 ** (4 * x[:, 1:]) * shapes, x, 10, 1e-3)
    # The sign of the amplitude changes: the direction jumps, the coefficient does not.
    assert not better_normalised((x[:, 1:] - 0.5) * np.sin(np.pi * grid), x, 10, 1e-3)
    rows = 10 ** (4 * x[:, 1:]) * shapes
    rows[3] = 0.0
    basis = affine(rows, 40, 1e-7, normalised=True)
    np.testing.assert_allclose(basis.lift(basis.project(rows)), rows, rtol=1e-4, atol=1e-4)
    assert basis.count == basis.modes.shape[1] + 1


class Memory(Samples):
    """Samples from arrays."""

    def __init__(self, x, y, signature):
        self.x, self.y, self.signature = x, y, signature

    def __len__(self):
        return len(next(iter(self.y.values())))

    def batches(self, size, *, seed, epoch=0):
        for i in range(0, len(self), size):
            yield Batch(
                {k: v[i : i + size] for k, v in self.x.items()},
                {k: v[i : i + size] for k, v in self.y.items()},
            )


GRID, TIMES = np.linspace(0.01, 1, 30), np.linspace(0, 1, 5)
SIGNATURE = Signature(
    {"a": Field((), "m", "float64"), "k": Field((), "W", "float64"), "start": Field(("x",), "K")},
    {"u": Field(("time", "x"), "K"), "q": Field(("x",), "J", "float64")},
    {"x": GRID, "time": TIMES},
)


def ensemble(count, seed):
    """Two families that share nothing but the grid: by the sign of `a`."""
    rng = np.random.default_rng(seed)
    a, k = rng.uniform(-1, 1, count), 10 ** rng.uniform(1, 3, count)
    phase = rng.uniform(0, 1, count)
    start = 0.2 * np.sin(np.pi * (GRID + phase[:, None])).astype("float32")
    wave = np.where(a[:, None] > 0, np.sin(7 * GRID + a[:, None]), GRID ** (1 - 2 * a[:, None]))
    decay = np.exp(-np.outer(np.abs(a) + 0.5, TIMES))
    u = (np.log10(k)[:, None, None] * decay[..., None] * wave[:, None] + start[:, None]).astype("float32")
    q = wave * np.log10(k)[:, None]
    return Memory({"a": a, "k": k, "start": start}, {"u": u, "q": q}, SIGNATURE)


def fitted(surrogate, samples, valid, resume=None):
    run = surrogate.fit(samples, valid, Context(seed=1), resume)
    reports = []
    while True:
        try:
            reports.append(next(run))
        except StopIteration as end:
            return end.value, reports


def mean_error(found, truth):
    """Mean over the members of the relative error of a field."""
    axes = tuple(range(1, truth.ndim))
    return float(np.mean(np.sqrt(np.sum((found - truth) ** 2, axis=axes) / np.sum(truth**2, axis=axes))))


def far(model, samples, name):
    return mean_error(model.predict(samples.x)[name], samples.y[name])


CLUSTERED = PODRegression(
    logarithmic=("k",), clusterer=KMedoids(2), selector=ErrorRegression(GaussianProcess(shared=True))
)


@pytest.mark.parametrize("surrogate", [PODRegression(logarithmic=("k",)), CLUSTERED], ids=["one", "clusters"])
def test_fields_follow_from_parameters_and_fields(surrogate):
    samples, test = ensemble(120, 0), ensemble(50, 1)
    model, reports = fitted(surrogate, samples, test)
    mean = {n: mean_error(samples.y[n].mean(axis=0), v) for n, v in test.y.items()}
    assert far(model, test, "u") < 0.3 * mean["u"]
    assert far(model, test, "q") < 0.3 * mean["q"]
    assert reports[0].metrics["train_error"] < reports[0].metrics["valid_error"]
    found = model.predict(test.x)
    assert found["u"].dtype == np.float32
    assert found["u"].shape == (50, 5, 30)
    again = surrogate.load({k: np.array(v) for k, v in model.state().items()}, SIGNATURE)
    assert again.predict(test.x)["u"].tobytes() == found["u"].tobytes()


def test_a_sharp_change_is_for_a_dictionary():
    samples, test = ensemble(120, 0), ensemble(50, 1)
    one, _ = fitted(PODRegression(logarithmic=("k",)), samples, test)
    two, _ = fitted(CLUSTERED, samples, test)
    assert far(two, test, "q") < far(one, test, "q")
    chosen = two.choose(two.features(test.x))
    sides = test.x["a"] > 0
    assert max(np.mean(chosen == sides), np.mean(chosen != sides)) > 0.9


def test_surrogates_conform_and_wrong_ones_are_refused():
    check_surrogate(PODRegression(RadialBasis(), clusterer=KMedoids(3), selector=CLUSTERED.selector))
    samples = ensemble(20, 0)
    with pytest.raises(Invalid, match="logarithmic names 'b'; the inputs are a, k, start"):
        fitted(PODRegression(logarithmic=("b",)), samples, samples)
    with pytest.raises(Invalid, match="'a' has no logarithm"):
        fitted(PODRegression(logarithmic=("a",)), samples, samples)
    with pytest.raises(Invalid, match="no samples to fit"):
        fitted(PODRegression(), ensemble(0, 0), samples)
    model, _ = fitted(PODRegression(), samples, samples)
    with pytest.raises(Invalid, match="no mean and modes of 150 values for 'u'"):
        PODRegression().load({k: v for k, v in model.state().items() if "u:modes" not in k}, SIGNATURE)
    with pytest.raises(Invalid, match="holds no modes"):
        PODRegression().load({}, SIGNATURE)


@pytest.mark.parametrize("inputs", [("a", "b"), ("u[0]",)], ids=["parameters", "field"])
def test_it_is_trained_and_evaluated_as_any_surrogate(plain, inputs):
    async def flow():
        design = await run(Design(problem=Wave(), count=30))
        data = await run(Simulate(Wave(), seed=1), design=design)
        model = await run(Train(PODRegression(), inputs, ("u",)), ensemble=data)
        return model, await run(Evaluate(), model=model, ensemble=data, training=data)

    model, score = asyncio.run(flow())
    assert isinstance(load_model(model).state(), dict)
    errors = score.read("relative_l2")
    assert errors.mean() < 0.02
    assert errors.mean() < 0.1 * score.read("baseline_nearest").mean()
