"""What the training loop may be asked for: accumulation, averages, the best epoch, precision, compilation."""

import logging

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sciflow import Failed, Invalid
from sciflow.samples import Batch
from sciflow_operators.components import FNO, Poseidon, RollOut, UNet
from sciflow_operators.training import precision
from sciflow_operators.training.fitted import Fitted
from sciflow_operators.training.optimiser import Average, rate
from tests.operators.test_training import SMALL, Memory, fit, smoothing
from tests.operators.test_training_unroll import first_losses

PLAIN = SMALL.replace(epochs=3, weight_decay=0.0, batch=8)


def same(one, other, rtol=0.0, atol=0.0):
    for name, values in one.state().items():
        np.testing.assert_allclose(other.state()[name], values, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    ("component", "setting"),
    [
        (FNO, {"device": "gpu"}),
        (FNO, {"precision": "float16"}),
        (FNO, {"keep": "worst"}),
        (UNet, {"edges": "mirror"}),
        (Poseidon, {"size": "XXL"}),
        (RollOut, {"by": "chance"}),
    ],
)
def test_a_choice_that_there_is_not_is_no_default(component, setting):
    """A device of another name would train on the processor, and say nothing."""
    ((name, value),) = setting.items()
    with pytest.raises(Invalid, match=f"{name} '{value}' is not one of "):
        component(**setting)


def test_small_batches_that_are_accumulated_are_large_ones():
    """Also where the last update has fewer batches, and the last batch fewer samples."""
    samples = smoothing(26)
    large, _, _ = fit(PLAIN, samples)
    for batch, accumulate in ((4, 2), (2, 4), (1, 8)):
        small, _, _ = fit(PLAIN.replace(batch=batch, accumulate=accumulate), samples)
        same(large, small, rtol=2e-3, atol=2e-5)
    other, _, _ = fit(PLAIN.replace(batch=4), samples)
    with pytest.raises(AssertionError):
        same(large, other, rtol=2e-3, atol=2e-5)


def test_a_batch_without_samples_changes_nothing():
    """A rank may have none of its own in a batch."""
    memory = smoothing(16)

    class Gaps(Memory):
        def batches(self, size, *, seed, epoch=0, start=0):
            for batch in super().batches(size, seed=seed, epoch=epoch):
                yield batch
                if seed is not None:
                    nothing = ({n: v[:0] for n, v in part.items()} for part in (batch.x, batch.y))
                    yield Batch(*nothing, members=batch.members[:0])

        def feedback(self, losses):
            told.append(len(losses))

    told, config = [], PLAIN.replace(schedule="constant", epochs=2)
    dense, _, _ = fit(config, memory)
    gaps, _, _ = fit(config.replace(accumulate=2), Gaps(memory.x, memory.y, memory.signature), memory)
    same(dense, gaps, rtol=2e-3, atol=2e-5)
    assert told == [8, 0] * 4


def test_frozen_weights_stay_and_training_goes_on_from_a_checkpoint_without_them(monkeypatch):
    real = FNO.module

    def frozen(self, port):
        net = real(self, port)
        next(net.parameters()).requires_grad_(False)
        return net

    monkeypatch.setattr(FNO, "module", frozen)
    samples, config = smoothing(16), PLAIN.replace(weight_decay=0.1, ema=0.5)
    first, _, _ = fit(config.replace(epochs=1), samples)
    whole, _, checkpoint = fit(config, samples, stop=1)
    name = next(n for n in whole.state() if n.startswith("net."))
    np.testing.assert_allclose(whole.state()[name], first.state()[name], rtol=1e-6)
    resumed, _, _ = fit(config, samples, resume=checkpoint)
    same(whole, resumed)


def test_each_batch_is_answered_before_the_next_is_drawn_though_updates_take_several():
    memory, log = smoothing(26), []

    class Told(Memory):
        def batches(self, size, *, seed, epoch=0, start=0):
            for batch in super().batches(size, seed=seed, epoch=epoch):
                if seed is not None:
                    log.append(("given", len(batch)))
                yield batch

        def feedback(self, losses):
            log.append(("told", len(losses)))

    fit(PLAIN.replace(batch=4, accumulate=3, epochs=1), Told(memory.x, memory.y, memory.signature), memory)
    assert log == [(word, n) for n in (4, 4, 4, 4, 4, 4, 2) for word in ("given", "told")]


def test_the_average_is_the_normalised_sum_over_the_updates():
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    average, history = Average(net, 0.8), []
    for t in range(1, 20):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p))
        history.append([p.detach().clone() for p in net.parameters()])
        average.update(t)
        powers = 0.8 ** np.arange(t)[::-1]
        for i, value in enumerate(average.values):
            exact = sum(w * h[i].double() for w, h in zip(powers, history, strict=True)) / powers.sum()
            torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
    before = [p.detach().clone() for p in net.parameters()]
    with average.swapped():
        assert not torch.equal(net.weight, before[0])
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))


def test_the_average_is_what_is_validated_and_what_is_given_in_the_end():
    samples, valid = smoothing(40), smoothing(20, seed=4)
    model, reports, _ = fit(PLAIN.replace(ema=0.9), samples, valid)
    plain, others, _ = fit(PLAIN.replace(keep="best"), samples, valid)
    assert [r.metrics["train_loss"] for r in reports] == [r.metrics["train_loss"] for r in others]

    def error(model):
        apart = model.predict(valid.x)["v"] - valid.y["v"]
        return (np.linalg.norm(apart, axis=1) / np.linalg.norm(valid.y["v"], axis=1)).mean()

    assert error(model) == pytest.approx(reports[-1].metrics["valid_error"], rel=1e-4)
    assert error(plain) == pytest.approx(min(r.metrics["valid_error"] for r in others), rel=1e-4)
    assert reports[-1].metrics["valid_error"] != others[-1].metrics["valid_error"]


def test_the_best_epoch_is_the_one_that_validates_best():
    """With a rate that grows too large the last epoch is not the best."""
    samples, valid = smoothing(40), smoothing(20, seed=4)
    config = SMALL.replace(epochs=8, learning_rate=0.3, schedule="constant", warmup=0.9, clip=0.0)
    last, reports, _ = fit(config, samples, valid)
    best, others, _ = fit(config.replace(keep="best"), samples, valid)
    errors = [r.metrics["valid_error"] for r in reports]
    assert errors == [r.metrics["valid_error"] for r in others]
    assert np.argmin(errors) < 7
    for model, expected in ((last, errors[-1]), (best, min(errors))):
        apart = model.predict(valid.x)["v"] - valid.y["v"]
        found = (np.linalg.norm(apart, axis=1) / np.linalg.norm(valid.y["v"], axis=1)).mean()
        assert found == pytest.approx(expected, rel=1e-4)


def test_training_ends_when_nothing_gets_better():
    config = SMALL.replace(
        epochs=30, keep="best", patience=2, learning_rate=0.5, schedule="constant", clip=0.0
    )
    _, reports, _ = fit(config, smoothing(16), smoothing(8, seed=2))
    errors = [r.metrics["valid_error"] for r in reports]
    best = int(np.argmin(errors))
    assert len(reports) == best + 3
    assert len(reports) < 30
    assert reports[-1].epochs == 30


@pytest.mark.parametrize(
    ("schedule", "more", "expected"),
    [
        ("constant", {}, [1.0] * 9),
        ("constant", {"warmup": 0.5}, [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1]),
        ("step", {"drops": 3}, [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.125]),
        ("step", {"drops": 1, "warmup": 0.25}, [1 / 3, 2 / 3, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]),
        ("cosine", {}, [(1 + np.cos(np.pi * i / 8)) / 2 for i in range(9)]),
    ],
)
def test_learning_rates_follow_their_schedules(schedule, more, expected):
    config = FNO(schedule=schedule, learning_rate=2.0, **more)
    np.testing.assert_allclose([rate(config, i, 8) / 2 for i in range(9)], expected, atol=2e-4)


def test_mixed_precision_learns_nearly_the_same_and_predicts_in_single():
    samples = smoothing(60)
    _, reports, _ = fit(SMALL.replace(epochs=15), samples)
    other, others, checkpoint = fit(SMALL.replace(epochs=15, precision="bfloat16"), samples, stop=2)
    losses = [r[-1].metrics["train_loss"] for r in (reports, others)]
    assert losses[1] < 1.5 * losses[0]
    assert losses[1] != losses[0]
    assert all(v.dtype != np.float16 for v in checkpoint.values())
    assert other.predict(samples.x)["v"].dtype == np.float32
    again = SMALL.load(other.state(), samples.signature).predict(samples.x)["v"]
    assert again.tobytes() == other.predict(samples.x)["v"].tobytes()


@pytest.mark.parametrize("where", ["compile", "call"])
def test_without_a_compiler_training_goes_on_and_says_why(monkeypatch, caplog, where):
    def broken(net, **options):
        if where == "compile":
            raise RuntimeError("no g++ was found\nand more")

        def call(x):
            raise RuntimeError("no g++ was found\nand more")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with caplog.at_level(logging.WARNING):
        one, _, _ = fit(PLAIN.replace(compile="on"), smoothing(16))
    assert [r.getMessage() for r in caplog.records] == [
        "the network is not compiled, training goes on without: no g++ was found"
    ]
    same(one, fit(PLAIN, smoothing(16))[0])


def test_auto_compiles_on_a_gpu_alone(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda net, **options: seen.append(options) or net)
    net = torch.nn.Linear(2, 2)
    for wish, device in (("off", "cuda"), ("auto", "cpu"), ("on", "cpu"), ("auto", "cuda")):
        call = precision.forward(PLAIN.replace(compile=wish), net, torch.device(device), logging.getLogger())
        call(torch.zeros(1, 2))
    assert [o["mode"] for o in seen] == ["default", "reduce-overhead"]


@pytest.mark.torture
@pytest.mark.filterwarnings("default")  # torch's compiler warns of parts of its own
def test_a_compiled_network_learns_the_same_and_resumes_to_the_same_bits(caplog):
    samples = smoothing(40)
    config = SMALL.replace(compile="on", epochs=4)
    whole, reports, checkpoint = fit(config, samples, stop=2)
    resumed, _, _ = fit(config, samples, resume=checkpoint)
    assert not [r for r in caplog.records if "not compiled" in r.getMessage()]
    same(whole, resumed)
    eager, others, _ = fit(config.replace(compile="off"), samples)
    assert set(whole.state()) == set(eager.state())
    for one, other in zip(reports, others, strict=True):
        assert one.metrics["train_loss"] == pytest.approx(other.metrics["train_loss"], rel=1e-3)


def test_a_gpu_that_is_too_small_gets_advice(monkeypatch):
    def objective(self, x, y, draw, progress):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB.\nProcess 1 has ...")

    monkeypatch.setattr(Fitted, "objective", objective)
    message = "for a batch of 8 samples.*try batch=4 with accumulate=2.*bfloat16.*Tried to allocate 7 GiB.$"
    with pytest.raises(Failed, match=message):
        fit(PLAIN, smoothing(16))
    with pytest.raises(Failed, match=r"batch=1\): lower the width or the resolution"):
        fit(PLAIN.replace(batch=1, precision="bfloat16"), smoothing(16))


@pytest.mark.parametrize(
    "change",
    [
        {"accumulate": 0},
        {"ema": 1.0},
        {"ema": -0.1},
        {"warmup": 1.0},
        {"noise": -1.0},
        {"patience": -1},
        {"report_every": -1},
    ],
)
def test_bad_settings_are_refused(change):
    with pytest.raises(Invalid, match=next(iter(change))):
        FNO(**change)


def test_an_objective_of_its_own_can_be_rolled_out():
    """`Fitted.step` takes the prediction from a further pass then: the losses are those of one pass."""
    chain, draw, fitted, _ = first_losses(RollOut(steps=3, ramp=0.0), 3)
    plain = fitted.config.unroll(chain, draw, 0.5)
    real, calls = Fitted.objective, []

    class Own(Fitted):
        def objective(self, x, y, draw, progress):
            calls.append(len(x))
            return real(self, x, y, draw, progress)

    fitted.__class__ = Own
    torch.testing.assert_close(fitted.config.unroll(chain, draw, 0.5), plain)
    assert calls == [40, 40, 40]
