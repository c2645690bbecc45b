import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sciflow import Invalid
from sciflow_operators.components import FNO, RelativeL2, Squared
from sciflow_operators.wrappers.refined import following, schedule
from sciflow_operators.wrappers.refiner import Refiner
from tests.operators.test_training import fit, smoothing

INNER = FNO(width=8, modes=8, layers=2)
SMALL = Refiner(
    inner=INNER,
    steps=2,
    variance=1e-3,
    epochs=6,
    batch=16,
    learning_rate=1e-2,
    threads=1,
    device="cpu",
    draws=3,
)


@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize("variance", [4e-7, 1e-2])
def test_powers_of_signal_and_noise(steps, variance):
    """Products over the steps; what goes on has the noise that the next level asks for."""
    beta, signal = schedule(steps, variance)
    assert beta[0] == 1.0
    assert beta[-1] == pytest.approx(variance)
    assert signal[0] == 0.0
    assert signal[-1] == pytest.approx(1 - variance)
    np.testing.assert_allclose(np.diff(np.log(beta)), np.log(variance) / steps)
    for k in range(steps):
        assert signal[k] == pytest.approx(signal[k + 1] * (1 - beta[k]))
        to_clean, to_noised, deviation = following(beta[k], signal[k], signal[k + 1])
        assert to_clean + to_noised * np.sqrt(signal[k]) == pytest.approx(np.sqrt(signal[k + 1]))
        assert to_noised**2 * (1 - signal[k]) + deviation**2 == pytest.approx(1 - signal[k + 1])


class Knowing(torch.nn.Module):
    """Knows the truth, and so the noise of what it is shown."""

    def __init__(self, truth, signal):
        super().__init__()
        self.truth, self.signal, self.seen = truth, torch.tensor(signal), []
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x):
        noised, place = x[..., -2:-1], x[:, :1, -1:]
        self.seen.append(noised)
        power = self.signal[((place + 1) / 2 * (len(self.signal) - 1)).round().long()].float()
        noise = (noised - power.sqrt() * self.truth) / (1 - power).sqrt()
        return (1 - power).sqrt() * self.truth - power.sqrt() * noise


def test_a_network_that_knows_the_noise_gives_the_truth():
    samples = smoothing(12)
    model, _, _ = fit(SMALL.replace(epochs=1, increments=False), samples)
    mean, spread = (torch.from_numpy(model.state()[f"output.{k}"]) for k in ("mean", "spread"))
    truth = (torch.from_numpy(samples.y["v"])[..., None] - mean) / spread
    model.call = Knowing(truth, model.signal)
    np.testing.assert_allclose(model.predict(samples.x)["v"], samples.y["v"], atol=1e-5)
    first, second, last = model.call.seen
    assert (first == 0).all()
    for seen, power in ((second, model.signal[1]), (last, model.signal[2])):
        noise = (seen - power**0.5 * truth) / (1 - power) ** 0.5
        assert 0.5 < float(noise.std()) < 1.5
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.from_numpy(v)[..., None] for v in (samples.x["u"], samples.y["v"]))
    assert float(model.objective(x, y, draw, 0.0).max()) < 1e-9, "the objective asks for what it knows"


def test_without_refinement_it_is_the_inner_network():
    """The plain regression, bit for bit."""
    samples = smoothing(40)
    same = {"epochs": 3, "batch": 16, "learning_rate": 1e-2, "threads": 1, "device": "cpu", "loss": Squared()}
    plain, _, _ = fit(INNER.replace(**same), samples)
    none, _, _ = fit(Refiner(inner=INNER, steps=0, increments=False, ema=0.0, **same), samples)
    for name, values in plain.state().items():
        assert none.state()[name].tobytes() == values.tobytes(), name
    assert none.predict(samples.x)["v"].tobytes() == plain.predict(samples.x)["v"].tobytes()
    assert none.spread(samples.x) is None


def test_predictions_are_reproducible_and_samples_differ():
    samples = smoothing(20)
    model, _, _ = fit(SMALL, samples)
    one, two = model.predict(samples.x)["v"], model.predict(samples.x)["v"]
    assert one.tobytes() == two.tobytes()
    np.testing.assert_allclose(model.predict({"u": samples.x["u"][3:4]})["v"], one[3:4], rtol=1e-4, atol=1e-5)
    several = model.samples(samples.x, 3)["v"]
    assert several.shape == (3, 20, 32)
    spread = model.spread(samples.x)["v"]
    np.testing.assert_allclose(spread, several.std(axis=0, ddof=1), rtol=1e-5)
    assert (spread > 0).all()
    again = SMALL.load(model.state(), samples.signature)
    assert again.predict(samples.x)["v"].tobytes() == one.tobytes()


def test_a_linear_operator_is_learned_and_going_on_gives_the_same_bits():
    samples, test = smoothing(100), smoothing(50, seed=9)
    config = SMALL.replace(epochs=30, ema=0.0)
    model, _, checkpoint = fit(config, samples, stop=29)
    error = np.linalg.norm(model.predict(test.x)["v"] - test.y["v"]) / np.linalg.norm(test.y["v"])
    assert error < 0.2
    again, _, _ = fit(config, samples, resume=checkpoint)
    assert all(v.tobytes() == again.state()[k].tobytes() for k, v in model.state().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": -1}, "steps cannot be negative"),
        ({"variance": 1.0}, "between 0 and 1"),
        ({"draws": 1}, "at least 2 draws"),
        ({"loss": RelativeL2()}, "relative_l2' would not be read"),
    ],
)
def test_bad_configurations_are_refused(change, message):
    with pytest.raises(Invalid, match=message):
        SMALL.replace(**change)
