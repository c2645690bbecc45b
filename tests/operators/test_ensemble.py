import numpy as np
import pytest

pytest.importorskip("torch")
from sciflow import Context, Invalid
from sciflow_operators.baselines.mlp import MLP
from sciflow_operators.uncertainty.ensemble import DeepEnsemble
from sciflow_operators.uncertainty.scores import crps, log_likelihood
from tests.operators.test_training import fit, smoothing

INNER = MLP(width=8, layers=1, epochs=3, batch=10, learning_rate=1e-2, threads=1, device="cpu")
THREE = DeepEnsemble(inner=INNER, size=3)


def test_the_mean_and_the_spread_are_those_of_models_fitted_alone():
    samples = smoothing(20)
    model, reports, _ = fit(THREE, samples)
    assert [r.epoch for r in reports] == list(range(1, 10))
    assert {r.epochs for r in reports} == {THREE.epochs} == {9}
    alone = [m.predict(samples.x)["v"].astype(float) for m in model.models]
    np.testing.assert_allclose(model.predict(samples.x)["v"], np.mean(alone, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.spread(samples.x)["v"], np.std(alone, axis=0, ddof=1), rtol=1e-4)
    one = alone[0] - alone[1]
    assert np.abs(one).max() > 1e-3, "the seeds differ"
    assert model.size(samples.x).parameters == sum(m.size(samples.x).parameters for m in model.models)


@pytest.mark.parametrize("stop", [2, 3, 4, 9])
def test_going_on_within_between_and_after_the_models_gives_the_same_bits(stop):
    samples = smoothing(20)
    whole, reports, checkpoint = fit(THREE, samples, stop=stop)
    again, later, _ = fit(THREE, samples, resume=checkpoint)
    assert [r.epoch for r in later] == [r.epoch for r in reports[stop:]]
    for name, values in whole.state().items():
        assert values.tobytes() == again.state()[name].tobytes(), name


def test_going_on_amid_an_epoch_of_any_model_gives_the_same_bits():
    samples, config = smoothing(20), THREE.replace(inner=INNER.replace(report_every=1), size=2)
    run, kept = config.fit(samples, samples, Context(seed=1)), []
    while True:
        try:
            report = next(run)
        except StopIteration as end:
            whole = end.value.state()
            break
        if report.batches:
            kept.append((report.epoch, report.checkpoint()))
    assert [epoch for epoch, _ in kept] == [0, 1, 2, 3, 4, 5]
    for _, checkpoint in kept[1::3]:
        again = fit(config, samples, resume=checkpoint)[0].state()
        assert all(v.tobytes() == again[k].tobytes() for k, v in whole.items())


def test_arrays_of_another_ensemble_are_refused():
    samples = smoothing(20)
    model, _, checkpoint = fit(THREE, samples, stop=9)
    with pytest.raises(Invalid, match="of 3 models, this deep_ensemble has 2"):
        THREE.replace(size=2).load(model.state(), samples.signature)
    with pytest.raises(Invalid, match="no checkpoint of a deep_ensemble of 2"):
        next(THREE.replace(size=2).fit(samples, samples, Context(), checkpoint))
    holes = {k: v for k, v in model.state().items() if not k.startswith("model.1.")}
    with pytest.raises(Invalid, match=r"models \[0, 2\] are there"):
        THREE.load(holes, samples.signature)
    with pytest.raises(Invalid, match="at least 2 models"):
        DeepEnsemble(inner=INNER, size=1)


def test_the_mean_is_no_worse_than_its_models_on_average():
    """Jensen: the squared error of the mean is at most the mean of the squared errors, for every value."""
    samples, test = smoothing(20), smoothing(20, seed=5)
    model, _, _ = fit(THREE, samples)
    each = (model.each(test.x)["v"] - test.y["v"]) ** 2
    assert ((model.predict(test.x)["v"] - test.y["v"]) ** 2 <= each.mean(axis=0) + 1e-6).all()


def test_scores_are_the_integrals_that_define_them():
    """CRPS: the integral of (F - 1[z >= truth])^2; by quadrature."""
    z = np.linspace(-30, 30, 200001)
    for mean, spread, truth in ((0.3, 1.2, -1.0), (0.0, 0.5, 0.0), (2.0, 3.0, 4.0)):
        density = np.exp(-0.5 * ((z - mean) / spread) ** 2) / spread / np.sqrt(2 * np.pi)
        cumulative = np.cumsum(density) * (z[1] - z[0])
        exact = (
            np.trapezoid((cumulative - (z >= truth)) ** 2, z)
            if hasattr(np, "trapezoid")
            else np.trapz((cumulative - (z >= truth)) ** 2, z)
        )
        args = [np.array([v]) for v in (mean, spread, truth)]
        assert crps(*args)[0] == pytest.approx(exact, rel=1e-3)
        assert log_likelihood(*args)[0] == pytest.approx(np.log(np.interp(truth, z, density)), rel=1e-4)
    assert crps(np.zeros(1), np.zeros(1), np.full(1, 2.0))[0] == 2.0, "no spread: the absolute error"


def test_the_true_spread_has_the_best_scores():
    rng = np.random.default_rng(0)
    truth = 0.7 * rng.standard_normal(20000)
    scores = {
        s: (
            crps(0 * truth, 0 * truth + s, truth).mean(),
            -log_likelihood(0 * truth, 0 * truth + s, truth).mean(),
        )
        for s in (0.4, 0.7, 1.2)
    }
    assert min(scores, key=lambda s: scores[s][0]) == 0.7
    assert min(scores, key=lambda s: scores[s][1]) == 0.7
