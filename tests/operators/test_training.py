import os
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sciflow import Cancelled, Context, Diverged, Field, Invalid, Signature
from sciflow.ahead import ahead
from sciflow.context import SerialComm
from sciflow.samples import Batch, Samples
from sciflow_operators.components import FNO, RelativeL2, Squared
from sciflow_operators.fields.channels import Layout, scales
from sciflow_operators.training.fitted import torch_threads
from sciflow_operators.training.optimiser import rate as _rate
from sciflow_operators.training.target import relative_l2

K = Field(("x",), "K")


class Memory(Samples):
    """Samples from arrays."""

    resumable = True

    def __init__(self, x, y, signature):
        self.x, self.y, self.signature = x, y, signature

    def __len__(self):
        return len(next(iter(self.y.values())))

    def batches(self, size, *, seed, epoch=0, start=0):
        order = (
            np.arange(len(self))
            if seed is None
            else np.random.default_rng([seed, epoch]).permutation(len(self))
        )
        for i in range(start * size, len(self), size):
            pick = order[i : i + size]
            parts = ({k: v[pick] for k, v in part.items()} for part in (self.x, self.y))
            yield Batch(*parts, members=100 + pick)


def smoothing(count, n=32, seed=0, scale=1.0):
    """The heat flow of random waves: a linear operator."""
    rng = np.random.default_rng(seed)
    k = np.arange(n // 2 + 1)
    z = (rng.standard_normal((count, len(k))) + 1j * rng.standard_normal((count, len(k)))) / (1 + k) ** 1.5
    z[:, -1] = 0
    u, v = np.fft.irfft(z, n) * n, np.fft.irfft(z * np.exp(-0.02 * k**2), n) * n
    line = np.arange(n) / n
    signature = Signature({"u": K}, {"v": K}, {"x": line}, ("x",))
    return Memory({"u": scale * u.astype("float32")}, {"v": scale * v.astype("float32")}, signature)


SMALL = FNO(width=8, modes=8, layers=2, epochs=6, batch=16, threads=1, device="cpu")


def fit(config, samples, valid=None, seed=1, resume=None, stop=None):
    reports, checkpoint = [], None
    generator = config.fit(samples, valid or samples, Context(seed=seed), resume)
    while True:
        try:
            report = next(generator)
        except StopIteration as end:
            return end.value, reports, checkpoint
        reports.append(report)
        if report.epoch == stop:
            checkpoint = report.checkpoint()


def test_a_linear_operator_is_learned_and_carried_to_a_finer_grid():
    model, reports, _ = fit(SMALL.replace(epochs=60, learning_rate=1e-2), smoothing(200))
    test, fine = smoothing(50, seed=9), smoothing(50, n=32, seed=9)
    error = np.linalg.norm(model.predict(test.x)["v"] - test.y["v"]) / np.linalg.norm(test.y["v"])
    assert error < 0.05
    assert reports[-1].metrics["train_loss"] < 0.1 * reports[0].metrics["train_loss"]
    spectrum = np.fft.rfft(fine.x["u"])
    four = np.fft.irfft(spectrum, 128) * 4
    predicted = model.predict({"u": four.astype("float32")})["v"]
    assert predicted.shape == (50, 128)
    assert np.abs(predicted[:, ::4] - model.predict(fine.x)["v"]).max() < 1e-3 * np.abs(predicted).max()


def test_going_on_from_a_checkpoint_gives_the_same_bits():
    samples = smoothing(40)
    whole, reports, checkpoint = fit(SMALL, samples, stop=3)
    assert all(v.dtype.kind in "fiu" for v in checkpoint.values())
    resumed, later, _ = fit(SMALL, samples, resume=checkpoint)
    assert [r.epoch for r in later] == [4, 5, 6]
    assert [r.metrics["train_loss"] for r in later] == [r.metrics["train_loss"] for r in reports[3:]]
    for name, values in whole.state().items():
        assert values.tobytes() == resumed.state()[name].tobytes(), name


def test_the_seed_decides():
    one, two, other = (fit(SMALL, smoothing(20), seed=s)[0].state() for s in (1, 1, 2))
    assert all(one[k].tobytes() == two[k].tobytes() for k in one)
    assert any(one[k].tobytes() != other[k].tobytes() for k in one)


def test_the_order_of_the_samples_depends_on_seed_and_epoch_alone(monkeypatch):
    asked = []
    real = Memory.batches

    def batches(self, size, *, seed, epoch=0, start=0):
        asked.append((seed, epoch))
        return real(self, size, seed=seed, epoch=epoch)

    monkeypatch.setattr(Memory, "batches", batches)
    fit(SMALL.replace(epochs=3), smoothing(8), seed=7)
    assert [a for a in asked if a[0] is not None] == [(7, 0), (7, 1), (7, 2)]


def test_the_unit_of_the_fields_does_not_matter():
    """1000 times the values (mK instead of K) give 1000 times the prediction."""
    one, thousand = (fit(SMALL, smoothing(40, scale=s))[0] for s in (1.0, 1000.0))
    x = smoothing(5, seed=3).x["u"]
    np.testing.assert_allclose(
        thousand.predict({"u": 1000 * x})["v"], 1000 * one.predict({"u": x})["v"], rtol=2e-2, atol=5
    )


def test_a_model_comes_back_from_its_arrays():
    samples = smoothing(20)
    model, _, _ = fit(SMALL, samples)
    again = SMALL.load(model.state(), samples.signature)
    assert again.predict(samples.x)["v"].tobytes() == model.predict(samples.x)["v"].tobytes()
    broken = {k: v for k, v in model.state().items() if k != "net.blocks.1.gate"}
    with pytest.raises(Invalid, match="net.blocks.1.gate is missing"):
        SMALL.load(broken, samples.signature)
    with pytest.raises(Invalid, match="has shape .* is needed"):
        SMALL.replace(width=4).load(model.state(), samples.signature)


def test_a_loss_that_is_not_finite_ends_training_with_advice():
    config = SMALL.replace(learning_rate=1e30, clip=0.0, batch=8)
    with pytest.raises(
        Diverged, match=r"loss is (nan|inf) in epoch 1 \(the first one\), at update \d with mem"
    ):
        fit(config, smoothing(20))
    with pytest.raises(Diverged, match="try a smaller learning_rate .now 1e.30.*No epoch was finished"):
        fit(config, smoothing(20))


def test_an_update_that_spoils_the_weights_is_not_the_last_word():
    """The losses of the only batch were finite; what the update made of the weights is not."""
    config = SMALL.replace(learning_rate=1e30, clip=0.0, batch=20, epochs=1)
    with pytest.raises(
        Diverged, match="validation error is (nan|inf) at the end of epoch 1, .*learning_rate"
    ):
        fit(config, smoothing(20))


def test_an_error_leaves_no_thread_behind_that_reads_ahead():
    class Ahead(Memory):
        def batches(self, size, *, seed, epoch=0, start=0):
            yield from ahead(super().batches(size, seed=seed, epoch=epoch), 2)

    samples, before = smoothing(40), set(threading.enumerate())
    with pytest.raises(Diverged) as caught:
        fit(
            SMALL.replace(learning_rate=1e30, clip=0.0, batch=4),
            Ahead(samples.x, samples.y, samples.signature),
        )
    assert caught.traceback, "who holds the error holds the frames it came from"
    assert "ahead" not in {thread.name for thread in set(threading.enumerate()) - before}


@pytest.mark.parametrize("side", ["x", "y"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_named_before_anything_is_learned(side, value):
    samples = smoothing(20)
    (values,) = getattr(samples, side).values()
    values[3, 7] = value
    word = {"x": "the input 'u'", "y": "the output 'v'"}[side]
    with pytest.raises(Invalid, match=rf"{word} of member 103 is {value}, point x 7: training samples"):
        fit(SMALL, samples, smoothing(4))
    with pytest.raises(Invalid, match=rf"{word} of member 103 is {value}, point x 7: validation samples"):
        fit(SMALL, smoothing(20), samples)


def test_a_sample_that_becomes_nan_later_is_named_too():
    """Samples of running solvers are not all there when scales are taken."""

    class Late(Memory):
        def batches(self, size, *, seed, epoch=0, start=0):
            for batch in super().batches(size, seed=seed, epoch=epoch):
                if epoch == 2 and seed is not None:
                    batch.y["v"][batch.members == 105, 4] = np.nan
                yield batch

    memory = smoothing(20)
    with pytest.raises(Invalid, match="the output 'v' of member 105 is nan, point x 4"):
        fit(SMALL, Late(memory.x, memory.y, memory.signature), memory)


def test_training_stops_when_it_is_cancelled():
    ctx = Context()
    generator = SMALL.fit(smoothing(20), smoothing(4), ctx)
    next(generator)
    ctx.cancelled.set()
    with pytest.raises(Cancelled):
        next(generator)


def test_thread_counts_are_put_back():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    fit(SMALL.replace(threads=before + 1, epochs=1), smoothing(16))
    assert torch.get_num_threads() == before


def test_threads_are_those_an_executor_allows(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    for told, expected in (
        ("1", 1),
        ("1,4", 1),
        (str(cores + 7), cores),
        ("", cores),
        ("0", cores),
        ("x", cores),
    ):
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        with torch_threads(0) as count:
            assert count == expected == torch.get_num_threads()
        with torch_threads(2) as count:
            assert count == 2, "an explicit number is taken as it is"
    monkeypatch.delenv("OMP_NUM_THREADS")
    with torch_threads(0) as count:
        assert count == cores


class Told(Memory):
    """Notes each batch and the losses that came back."""

    def __init__(self, x, y, signature):
        super().__init__(x, y, signature)
        self.given, self.told = [], []

    def batches(self, size, *, seed, epoch=0, start=0):
        for batch in super().batches(size, seed=seed, epoch=epoch, start=start):
            if seed is not None:
                self.given.append(batch)
            yield batch

    def feedback(self, losses):
        self.told.append((len(self.given), losses))


@pytest.mark.parametrize("loss", [RelativeL2(), Squared()], ids=lambda loss: loss.name)
def test_the_loss_of_each_sample_is_told_after_each_step(loss):
    memory = smoothing(21)
    samples = Told(memory.x, memory.y, memory.signature)
    # With a vanishing learning rate the model of the end is that of every step.
    config = SMALL.replace(epochs=2, batch=8, learning_rate=1e-12, loss=loss)
    model, reports, _ = fit(config, samples, valid=memory)
    assert [n for n, _ in samples.told] == [1, 2, 3, 4, 5, 6]
    spread = memory.y["v"].std()
    for batch, (_, losses) in zip(samples.given, samples.told, strict=True):
        apart, truth = model.predict(batch.x)["v"] - batch.y["v"], batch.y["v"]
        if loss == Squared():
            expected = ((apart / spread) ** 2).mean(axis=1)
        else:
            expected = np.linalg.norm(apart, axis=1) / np.linalg.norm(truth, axis=1)
        np.testing.assert_allclose(losses, expected, rtol=1e-4)
    told = np.concatenate([losses for _, losses in samples.told[:3]])
    assert reports[0].metrics["train_loss"] == pytest.approx(told.mean(), rel=1e-5)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
def test_the_learning_rate_peaks_where_it_should_and_ends_near_zero(schedule):
    config = FNO(schedule=schedule, learning_rate=0.1)
    rates = [_rate(config, step, 100) for step in range(101)]
    assert max(rates) == pytest.approx(0.1)
    assert rates.index(max(rates)) == (30 if schedule == "onecycle" else 0)
    assert rates[-1] == pytest.approx(1e-5)
    assert _rate(config, 250, 100) == pytest.approx(1e-5), "a live source may give more than it promised"


def test_relative_error_of_several_fields_is_their_mean():
    truth = torch.tensor([[[3.0, 4.0]]])
    guess = torch.tensor([[[3.3, 5.0]]])
    assert float(relative_l2(guess, truth, [1, 1], [1.0, 1.0])) == pytest.approx((0.1 + 0.25) / 2)
    assert float(relative_l2(guess, truth, [2], [1.0])) == pytest.approx(np.hypot(0.3, 1.0) / 5)


def test_channels_come_back_as_the_fields_they_were():
    fields = {
        "q": Field(("y", "x"), "W"),
        "b": Field((), "K"),
        "T": Field(("time", "y", "x"), "K"),
    }
    axes = {"time": np.arange(3.0), "y": np.arange(4.0), "x": np.arange(5.0)}
    layout = Layout.of(Signature({"q": fields["q"], "b": fields["b"]}, {"T": fields["T"]}, axes))
    assert (layout.channels_in, layout.channels_out) == (2, 3)
    rng = np.random.default_rng(0)
    values = {"T": rng.random((2, 3, 4, 5), dtype="float32")}
    stacked = layout.stack(values, layout.outputs)
    assert stacked.shape == (2, 4, 5, 3)
    back = layout.unstack(stacked)
    np.testing.assert_array_equal(back["T"], values["T"])
    x = layout.stack({"q": rng.random((2, 4, 5)), "b": np.array([7.0, 8.0])}, layout.inputs)
    assert (x[0, ..., 1] == 7).all()
    assert (x[1, ..., 1] == 8).all()


def test_levels_in_and_out_are_channels_though_they_share_a_name():
    axes = {"time": np.arange(-2.0, 1.0), "lead": np.arange(1.0, 3.0), "x": np.arange(5.0)}
    fields = {"u": Field(("time", "x"), "K")}, {"u": Field(("lead", "x"), "K")}
    layout = Layout.of(Signature(*fields, axes))
    assert (layout.channels_in, layout.channels_out) == (3, 2)
    u = np.random.default_rng(0).random((4, 2, 5), dtype="float32")
    stacked = layout.stack({"u": u}, layout.outputs)
    np.testing.assert_array_equal(stacked, u.transpose(0, 2, 1))
    np.testing.assert_array_equal(layout.unstack(stacked)["u"], u)


def test_inputs_that_are_all_numbers_are_spread_over_the_grid():
    axes = {"y": np.arange(3.0), "x": np.arange(4.0)}
    signature = Signature({"a": Field((), "1")}, {"u": Field(("y", "x"), "K")}, axes)
    a = np.arange(8.0, dtype="float32")
    samples = Memory({"a": a}, {"u": np.multiply.outer(a, np.ones((3, 4), "float32"))}, signature)
    model, _, _ = fit(SMALL, samples)
    assert model.predict({"a": a})["u"].shape == (8, 3, 4)


def test_fields_that_do_not_fit_together_are_refused():
    axes = {"x": np.arange(4.0), "time": np.arange(3.0)}
    layout = Layout.of(Signature({"a": K, "b": K}, {"c": Field(("time", "x"), "K")}, axes))
    with pytest.raises(Invalid, match="do not fit together"):
        layout.stack({"a": np.zeros((2, 4)), "b": np.zeros((2, 8))}, layout.inputs)
    with pytest.raises(Invalid, match="'b' is missing; there is: a"):
        layout.stack({"a": np.zeros((2, 4))}, layout.inputs)
    with pytest.raises(Invalid, match="3 time levels"):
        layout.stack({"c": np.zeros((2, 5, 4))}, layout.outputs)


def test_a_constant_output_is_predicted_exactly_and_a_zero_one_does_not_hurt():
    samples = smoothing(20)
    samples.y["v"] = np.stack([np.zeros_like(samples.y["v"]), samples.y["v"]], axis=1)
    axes = {**samples.signature.coordinates, "time": np.arange(2.0)}
    samples.signature = Signature({"u": K}, {"v": Field(("time", "x"), "K")}, axes, ("x",))
    samples.y["v"][3] = 0.0
    model, reports, _ = fit(SMALL, samples)
    assert (model.predict(samples.x)["v"][:, 0] == 0).all()
    assert reports[-1].metrics["train_loss"] < 1e3


def test_a_constant_input_divides_nothing_by_zero():
    samples = smoothing(20)
    samples.x["nu"] = np.full(20, 0.1, dtype="float32")
    samples.signature = Signature(
        {"u": K, "nu": Field((), "1")}, {"v": K}, samples.signature.coordinates, ("x",)
    )
    model, _, _ = fit(SMALL, samples)
    assert np.isfinite(model.predict(samples.x)["v"]).all()


def test_a_checkpoint_of_another_configuration_is_refused():
    samples = smoothing(20)
    _, _, checkpoint = fit(SMALL, samples, stop=3)
    with pytest.raises(Invalid, match="another training: width is 8 in the checkpoint and 4 here; delete"):
        fit(SMALL.replace(width=4), samples, resume=checkpoint)
    with pytest.raises(Invalid, match="loss.component is relative_l2 in the checkpoint and squared here"):
        fit(SMALL.replace(loss=Squared()), samples, resume=checkpoint)
    with pytest.raises(Invalid, match="seed is 1 in the checkpoint and 2 here"):
        fit(SMALL, samples, resume=checkpoint, seed=2)
    other = Memory(
        samples.x, {"w": samples.y["v"]}, Signature({"u": K}, {"w": K}, samples.signature.coordinates, ("x",))
    )
    with pytest.raises(Invalid, match=r"outputs.v is \[\['x'\], 'K'\] in the checkpoint and not there here"):
        fit(SMALL, other, resume=checkpoint)
    fit(SMALL.replace(report_every=3, threads=2), samples, resume=checkpoint)
    with pytest.raises(Invalid, match="no checkpoint of fno: it does not say what it belongs to"):
        fit(SMALL, samples, resume={k: v for k, v in checkpoint.items() if k != "about"})
    broken = {k: v for k, v in checkpoint.items() if k != "net.lift.first.weight"}
    with pytest.raises(Invalid, match="net.lift.first.weight is missing"):
        fit(SMALL, samples, resume=broken)
    del checkpoint["optimiser.0.exp_avg"]
    with pytest.raises(Invalid, match="optimiser.0.exp_avg is missing"):
        fit(SMALL, samples, resume=checkpoint)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"a": ("x",)}, {"b": ("y", "x")}, "fields on one grid"),
        ({"a": ("z", "y", "x", "w")}, {"b": ("z", "y", "x", "w")}, "one to three spatial axes"),
        ({"a": ("x",)}, {"b": ()}, "this surrogate predicts fields"),
        ({"a": ("x", "time")}, {"b": ("x",)}, "time must be the first axis"),
    ],
)
def test_signatures_that_cannot_be_fitted_are_refused(inputs, outputs, message):
    axes = {a: np.arange(4.0) for a in ("time", "w", "x", "y", "z")}
    fields = [{n: Field(a, "1") for n, a in names.items()} for names in (inputs, outputs)]
    with pytest.raises(Invalid, match=message):
        Layout.of(Signature(*fields, axes))


def test_scaling_is_computed_without_cancellation():
    samples = smoothing(50)
    samples.x["u"] = (samples.x["u"] * 1e-2 + 300).astype("float32")
    scale, _ = scales(samples, Layout.of(samples.signature), SerialComm())
    exact = samples.x["u"].astype("float64")
    assert scale.mean[0] == pytest.approx(exact.mean(), rel=1e-6)
    assert scale.spread[0] == pytest.approx(exact.std(), rel=1e-3)


@pytest.mark.parametrize(
    "change", [{"width": 1}, {"modes": 0}, {"learning_rate": 0.0}, {"padding": -0.1}, {"threads": -1}]
)
def test_bad_configurations_are_refused(change):
    with pytest.raises(Invalid, match=next(iter(change))):
        FNO(**change)


def test_a_gpu_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(Invalid, match="torch sees no GPU"):
        fit(SMALL.replace(device="cuda"), smoothing(8))
    _, _, checkpoint = fit(SMALL, smoothing(8), stop=1)
    with pytest.raises(Invalid, match="torch sees no GPU"):
        fit(SMALL.replace(device="cuda"), smoothing(8), resume=checkpoint)


def test_a_model_that_was_trained_on_a_gpu_answers_without_one(monkeypatch):
    samples = smoothing(8)
    model, _, _ = fit(SMALL, samples)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    again = SMALL.replace(device="cuda").load(model.state(), samples.signature)
    np.testing.assert_array_equal(again.predict(samples.x)["v"], model.predict(samples.x)["v"])
