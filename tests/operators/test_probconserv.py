import numpy as np
import pytest

pytest.importorskip("torch")
from sciflow import Field, Invalid, Model, NotFound, Signature
from sciflow_operators.baselines.mlp import MLP
from sciflow_operators.uncertainty.conserve import ConservedModel, Integral, correct, differences, weights
from sciflow_operators.uncertainty.probconserv import Conserved
from tests.operators.test_training import fit, smoothing

INNER = MLP(width=8, layers=1, epochs=2, batch=10, threads=1, device="cpu")
RNG = np.random.default_rng


def signature(n=9, periodic=(), levels=0):
    axes = {"x": np.linspace(0, 2, n) ** 1.3, "time": np.arange(3.0), "lead": np.arange(1.0, levels + 1)}
    if periodic:
        axes["x"] = np.arange(n) / n
    out = Field(("lead", "x") if levels else ("x",), "K")
    return Signature({"u": Field(("x",), "K"), "m": Field((), "K m")}, {"u": out}, axes, periodic)


class Known(Model):
    """Predicts what it was given."""

    def __init__(self, signature, values, spread=None):
        self.signature, self.values, self.told = signature, values, spread

    def predict(self, x):
        return {"u": self.values}

    def spread(self, x):
        return None if self.told is None else {"u": self.told}

    def state(self):
        return {}


def dense(mean, variance, rows, values, noise):
    """The conditional Gaussian by its joint covariance with the constraint, as textbooks have it."""
    cov = np.diag(variance)
    gain = cov @ rows.T @ np.linalg.inv(rows @ cov @ rows.T + noise**2 * np.eye(len(rows)))
    return mean - gain @ (rows @ mean - values), np.diag(cov - gain @ rows @ cov)


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("count", [1, 3])
def test_the_correction_is_conditioning_on_the_constraints(noise, count):
    from scipy import sparse

    rng = RNG(count)
    mean, variance = rng.standard_normal((4, 12)), rng.random((4, 12)) + 0.1
    rows, values = rng.standard_normal((count, 12)), rng.standard_normal((4, count))
    for given in (rows, sparse.csr_array(rows)):
        new, left = correct(mean, variance, given, values, noise)
        for i in range(4):
            expected = dense(mean[i], variance[i], rows, values[i], noise)
            np.testing.assert_allclose(new[i], expected[0], rtol=1e-9)
            np.testing.assert_allclose(left[i], expected[1], rtol=1e-9, atol=1e-12)
    with pytest.raises(Invalid, match="linearly dependent"):
        correct(mean, variance, np.ones((2, 12)), np.ones((4, 2)))
    if count == 3:  # dependent but for round-off, and of very different size
        again = np.vstack([rows, 1e4 * (0.1 * rows[0] + 0.7 * rows[1])])
        with pytest.raises(Invalid, match="linearly dependent"):
            correct(mean, variance, again, np.ones((4, 4)))
        scaled = rows * np.array([[1e-6], [1.0], [1e6]])
        new, _ = correct(mean, variance, scaled, values * np.array([1e-6, 1.0, 1e6]))
        np.testing.assert_allclose(new @ rows.T, values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("smoothing", [0.0, 2.0])
def test_one_integral_is_the_same_conditioning(seed, smoothing):
    """Against a dense solve; with smoothing the penalty is an observation of differences that are 0."""
    rng = RNG(seed)
    n, noise = 10, 0.2 * (seed % 2)
    w, mean, spread = rng.random(n) + 0.1, rng.standard_normal(n), rng.random(n) + 0.1
    value = np.array([1.5])
    new, left = Integral(w, (True,), noise, smoothing)(mean[None], spread[None], value)
    variance = spread**2 * w.mean() / w
    rows, errors, told = w[None], np.array([noise**2]), value
    if smoothing:
        matrix = differences((n,), (True,)).toarray()
        size = (spread**2).mean() / smoothing
        rows, told = np.vstack([w, matrix]), np.append(value, np.zeros(n))
        errors = np.append(errors, np.full(n, size))
    cov = np.diag(variance)
    gain = cov @ rows.T @ np.linalg.inv(rows @ cov @ rows.T + np.diag(errors))
    np.testing.assert_allclose(new[0], mean - gain @ (rows @ mean - told), rtol=1e-7)
    if not smoothing:
        after = np.diag(cov - gain @ rows @ cov) * w / w.mean()
        np.testing.assert_allclose(left[0] ** 2, after, rtol=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_the_constraint_holds_to_round_off_and_correcting_again_changes_nothing(smoothing):
    rng = RNG(0)
    w = weights(signature(), ("x",), (9,))
    mean, spread, values = rng.standard_normal((6, 9)), rng.random((6, 9)), 10 * rng.standard_normal(6)
    apply = Integral(w, (False,), smoothing=smoothing)
    new, left = apply(mean, spread, values)
    np.testing.assert_allclose(new @ w, values, rtol=1e-12, atol=1e-12)
    if not smoothing:
        np.testing.assert_allclose(apply(new, spread, values)[0], new, rtol=1e-12)
        assert (left <= spread * (1 + 1e-12)).all()


@pytest.mark.parametrize("seed", range(20))
def test_the_error_against_any_truth_with_that_integral_never_grows(seed):
    """Pythagoras in the norm of the inverse covariance: for equal spreads, the L2 norm of the quadrature."""
    rng = RNG(seed)
    n = int(rng.integers(2, 30))
    w = rng.random(n) + 0.01
    spread = None if seed % 2 else rng.random((1, n)) + 0.01
    truth = rng.standard_normal((1, n))
    mean = truth + 10 ** rng.uniform(-6, 2) * rng.standard_normal((1, n))
    new, _ = Integral(w, (False,))(mean, spread, truth @ w)
    scale = w if spread is None else w / spread[0] ** 2
    before, after, step = (
        (((a - b) ** 2) @ scale).item() for a, b in ((mean, truth), (new, truth), (mean, new))
    )
    assert after <= before * (1 + 1e-9)
    assert before == pytest.approx(after + step, rel=1e-6)


def test_equal_spreads_shift_all_points_by_one_constant():
    w = weights(signature(), ("x",), (9,))
    new, _ = Integral(w, (False,))(np.zeros((1, 9)), None, np.array([3.0]))
    np.testing.assert_allclose(new, 3.0 / w.sum(), rtol=1e-12)


@pytest.mark.parametrize("periodic", [True, False])
def test_quadrature_converges_as_it_should(periodic):
    """The trapezoidal rule: second order, and to round-off for a smooth periodic function."""
    errors = []
    for n in (16, 32, 64):
        x = np.arange(n) / n if periodic else np.linspace(0, 1, n)
        made = Signature({}, {"u": Field(("x",), "K")}, {"x": 3 * x}, ("x",) if periodic else ())
        u = np.exp(np.sin(2 * np.pi * x)) if periodic else np.exp(x)
        exact = 3 * 1.2660658777520084 if periodic else 3 * (np.e - 1)
        errors.append(abs(weights(made, ("x",), (n,)) @ u - exact))
        if n == 16:
            finer = weights(made, ("x",), (64,))
            assert finer.sum() == pytest.approx(3.0), "another grid of the same extent"
    assert errors[1] < 1e-12 if periodic else 3.5 < errors[0] / errors[1] < 4.7


def test_several_levels_and_axes_are_corrected_each():
    axes = {"y": np.linspace(0, 1, 4), "x": np.arange(5) / 5, "time": np.arange(2.0), "lead": np.arange(3.0)}
    fields = {"u": Field(("time", "y", "x"), "K")}, {"u": Field(("lead", "y", "x"), "K")}
    made = Signature(*fields, axes, ("x",))
    rng = RNG(0)
    x, y = {"u": rng.random((3, 2, 4, 5))}, rng.random((3, 3, 4, 5))
    w = np.multiply.outer([1 / 6, 1 / 3, 1 / 3, 1 / 6], np.full(5, 0.2))
    for config in (Conserved(inner=INNER, field="u"), Conserved(inner=INNER, field="u", smoothing=0.5)):
        model = ConservedModel(config, Known(made, y))
        total = np.einsum("btyx,yx->bt", model.predict(x)["u"], w)
        np.testing.assert_allclose(total, np.einsum("byx,yx->b", x["u"][:, -1], w)[:, None].repeat(3, 1))


def test_the_integral_may_be_a_parameter_or_a_number():
    made, rng = signature(), RNG(0)
    w = weights(made, ("x",), (9,))
    x = {"u": rng.random((2, 9)), "m": np.array([5.0, 7.0])}
    for config, expected in (
        (Conserved(inner=INNER, field="u", total="m"), x["m"]),
        (Conserved(inner=INNER, field="u", value=-2.0), [-2.0, -2.0]),
        (Conserved(inner=INNER, field="u"), x["u"] @ w),
    ):
        model = config.around(Known(made, rng.random((2, 9))))
        np.testing.assert_allclose(model.predict(x)["u"] @ w, expected, rtol=1e-12)
        assert model.spread(x) is None


def test_points_that_the_model_is_sure_of_move_less():
    made, rng = signature(), RNG(1)
    spread = np.full((1, 9), 1e-3)
    spread[0, 4] = 1.0
    model = Conserved(inner=INNER, field="u", value=9.0).around(Known(made, rng.random((1, 9)), spread))
    moved = np.abs(model.predict({})["u"] - model.inner.predict({})["u"])[0]
    assert moved[4] > 1e5 * np.delete(moved, 4).max()
    left = model.spread({})["u"]
    assert left[0, 4] < 0.01, "the integral tells the one value that was not known"
    zero = Conserved(inner=INNER, field="u", value=9.0).around(Known(made, rng.random((1, 9)), 0 * spread))
    assert np.ptp(zero.predict({})["u"] - zero.inner.predict({})["u"]) < 1e-12


def test_a_trained_model_conserves_and_its_error_does_not_grow():
    samples, test = smoothing(30), smoothing(30, seed=4)  # the heat flow keeps the mean
    config = Conserved(inner=INNER, field="v", total="u")
    model, reports, _ = fit(config, samples)
    assert len(reports) == config.epochs == 2
    raw, new = model.inner.predict(test.x)["v"], model.predict(test.x)["v"]
    apart = np.abs(new.mean(axis=1) - test.x["u"].mean(axis=1))
    assert apart.max() < 1e-6
    assert np.abs(raw.mean(axis=1) - test.x["u"].mean(axis=1)).max() > 1e-3
    errors = [np.linalg.norm(v - test.y["v"], axis=1) for v in (raw, new)]
    assert (errors[1] <= errors[0] * (1 + 1e-5)).all()
    again = config.load(model.state(), samples.signature)
    assert again.predict(test.x)["v"].tobytes() == new.tobytes()


def test_what_cannot_be_conserved_is_refused():
    made = signature()
    for config, error, message in (
        (Conserved(inner=INNER, field="w"), NotFound, "no output 'w'"),
        (Conserved(inner=INNER, field="u", total="q"), NotFound, "input 'q', which is not there"),
    ):
        with pytest.raises(error, match=message):
            config.around(Known(made, None))
    odd = Signature(
        {"u": Field(("y",), "K")}, {"u": Field(("x",), "K")}, {"x": np.arange(3), "y": np.arange(2)}
    )
    with pytest.raises(Invalid, match="over different grids"):
        Conserved(inner=INNER, field="u").around(Known(odd, None))
    with pytest.raises(Invalid, match="nothing to integrate"):
        Conserved(inner=INNER, field="u").around(Known(Signature({}, {"u": Field((), "K")}, {}), None))
    mesh = Field(("time", "dof"), "K")
    numbered = Signature({"u": mesh}, {"u": mesh}, {"time": np.arange(2), "dof": np.arange(9)})
    with pytest.raises(Invalid, match="axis 'dof', whose values are numbered .* regular grid"):
        Conserved(inner=INNER, field="u").around(Known(numbered, None))
    with pytest.raises(Invalid, match="not both"):
        Conserved(inner=INNER, field="u", total="m", value=1.0)
    for noise in (-1.0, np.nan):
        with pytest.raises(Invalid, match="noise cannot be negative"):
            Conserved(inner=INNER, field="u", noise=noise)
    with pytest.raises(Invalid, match="a finite number; got nan"):
        Conserved(inner=INNER, field="u", value=float("nan"))
    stretched = Signature({}, {"u": Field(("x",), "K")}, {"x": np.array([0.0, 1.0, 3.0])}, ("x",))
    with pytest.raises(Invalid, match="not evenly spaced"):
        weights(stretched, ("x",), (3,))
