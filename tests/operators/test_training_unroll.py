"""Training on several of a network's own steps: samples are cut right, gradients are what they should be."""

import asyncio

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sciflow import Context, Field, Invalid, Signature
from sciflow.flow import Session, run, within
from sciflow.samples import Batch
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train, load_model
from sciflow.store import Store
from sciflow.stored import Stored
from sciflow_operators.components import MLP, Once, Pushforward, RollOut
from sciflow_operators.fields.channels import Flat, Layout
from sciflow_operators.training.chain import Chain, Cut
from sciflow_operators.training.unroll import ramp
from tests.operators.test_training import SMALL, Memory, fit, smoothing
from tests.toys import March, Steps

CPU = torch.device("cpu")
POINTS, LEVELS = 8, 9


def trajectories(count=12, seed=0):
    """Levels of two fields, a static one, a parameter, and times that are not equally far apart."""
    rng = np.random.default_rng(seed)
    return {
        "u": rng.standard_normal((count, LEVELS, POINTS)).astype("float32"),
        "v": rng.standard_normal((count, LEVELS, POINTS)).astype("float32"),
        "a": rng.standard_normal((count, POINTS)).astype("float32"),
        "nu": rng.random(count).astype("float32"),
        "time": np.cumsum(rng.random((count, LEVELS)), axis=1).astype("float32"),
    }


def windows(data, k, levels, begin, outputs=("u", "v")):
    """The batch of windows that begin at a level, and their signature."""
    x = {
        "u": data["u"][:, begin : begin + k],
        "nu": data["nu"],
        "time": data["time"][:, begin + k],
        "a": data["a"],
        "v": data["v"][:, begin : begin + k],
    }
    y = {n: data[n][:, begin + k : begin + k + levels] for n in outputs}
    x, y = (
        {n: v[:, 0] if v.ndim == 3 and v.shape[1] == 1 else v for n, v in part.items()} for part in (x, y)
    )
    times = data["time"][:, begin + k : begin + k + levels]
    before, after = (("time",) if k > 1 else ()), (("lead",) if levels > 1 else ())
    signature = Signature(
        {
            "u": Field((*before, "x"), "K"),
            "nu": Field((), "1"),
            "time": Field((), "s"),
            "a": Field(("x",), "K"),
            "v": Field((*before, "x"), "K"),
        },
        {n: Field((*after, "x"), "K") for n in outputs},
        {"x": np.arange(8.0), "time": np.arange(1.0 - k, 1.0), "lead": np.arange(1.0, levels + 1)},
        ("x",),
    )
    return Batch(x, y, times=times), signature


@pytest.mark.parametrize("kind", [Layout, Flat])
@pytest.mark.parametrize(("k", "out"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2), (1, 3)])
def test_right_predictions_lead_to_the_inputs_that_the_trajectory_has_later(kind, k, out):
    """Whatever the numbers of levels: fed with the truth, step s begins where the window s * l later does."""
    data = trajectories()
    horizon = (LEVELS - k) // out
    batch, long = windows(data, k, out * horizon, 0)
    _, short = windows(data, k, out, 0)
    layout = kind.of(short)
    cut = Cut(long, short, layout, horizon, CPU)
    x = torch.from_numpy(layout.stack(batch.x, layout.inputs))
    chain = Chain(None, cut, batch, x)
    for step in range(horizon):
        there, _ = windows(data, k, out, step * out)
        np.testing.assert_array_equal(chain.true_input(step), layout.stack(there.x, layout.inputs))
        np.testing.assert_array_equal(chain.truth(step), layout.stack(there.y, layout.outputs))


def test_an_output_that_is_no_input_is_predicted_and_not_fed_back():
    data = trajectories()
    batch, long = windows(data, 2, 3, 0)
    short = windows(data, 2, 1, 0)[1]
    long, short = (
        Signature({n: f for n, f in s.inputs.items() if n != "v"}, s.outputs, s.coordinates)
        for s in (long, short)
    )
    layout = Layout.of(short)
    cut = Cut(long, short, layout, 3, CPU)
    chain = Chain(None, cut, batch, torch.from_numpy(layout.stack(batch.x, layout.inputs)))
    later = windows(data, 2, 1, 2)[0]
    np.testing.assert_array_equal(chain.true_input(2), layout.stack(later.x, layout.inputs))


def marching(count=40, steps=3, n=16, seed=0):
    """Windows of a damped travelling wave, u' = c roll(u): long samples, and single steps."""
    rng = np.random.default_rng(seed)
    u = np.cumsum(rng.standard_normal((count, n)), axis=1)
    u -= u.mean(axis=1, keepdims=True)
    path = [u]
    for _ in range(steps):
        path.append(0.9 * np.roll(path[-1], 1, axis=1) + 0.05 * np.roll(path[-1], -1, axis=1))
    data = np.stack(path, axis=1).astype("float32")
    axes = {"x": np.arange(n) / n, "lead": np.arange(1.0, steps + 1)}
    field = Field(("x",), "K")
    one = Signature({"u": field}, {"u": field}, {"x": axes["x"]}, ("x",))
    several = Signature({"u": field}, {"u": Field(("lead", "x"), "K")}, axes, ("x",))
    short = Memory({"u": data[:, 0]}, {"u": data[:, 1]}, one)
    return (Memory({"u": data[:, 0]}, {"u": data[:, 1:]}, several) if steps > 1 else short), short


def first_losses(unroll, steps, config=SMALL, **more):
    """Losses of the first batch, its gradients, the model with its first weights, and the samples."""
    from sciflow_operators.training.loop import _begin
    from sciflow_operators.training.update import seed

    samples, valid = marching(steps=steps)
    config = config.replace(unroll=unroll, batch=40, **more)
    now, run = _begin(config, samples, valid, Context(seed=1), None)
    batch = next(iter(samples.batches(40, seed=None)))
    x = torch.from_numpy(now.fitted.layout.stack(batch.x, now.fitted.layout.inputs))
    draw = torch.Generator().manual_seed(seed(1, 2))
    return Chain(now.fitted, run.cut, batch, x), draw, now.fitted, batch


def gradients(net, losses):
    return torch.cat([g.flatten() for g in torch.autograd.grad(losses.mean(), list(net.parameters()))])


@pytest.mark.parametrize("increments", [False, True])
def test_a_pushforward_is_the_loss_of_the_step_after_predictions(increments):
    chain, draw, fitted, batch = first_losses(Pushforward(steps=2, ramp=0.0), 3, increments=increments)
    seen = set()
    for _ in range(12):
        losses = fitted.config.unroll(chain, draw, 0.5)
        u, found = batch.x["u"], []
        for step in range(3):
            truth = batch.y["u"][:, step]
            x, y = torch.from_numpy(u)[..., None], torch.from_numpy(truth)[..., None]
            found.append(fitted.objective(x, y, draw, 0.5))
            u = fitted.predict({"u": u})["u"]
        which = [torch.allclose(losses, f, rtol=1e-4) for f in found]
        assert sum(which) == 1
        count = which.index(True)
        torch.testing.assert_close(
            gradients(fitted.net, losses), gradients(fitted.net, found[count]), rtol=1e-3, atol=1e-5
        )
        seen.add(count)
    assert seen == {0, 1, 2}


def test_a_roll_out_is_the_mean_loss_of_the_chain_and_its_gradient_goes_through_it():
    chain, draw, fitted, batch = first_losses(RollOut(steps=3, ramp=0.0), 3)
    x, y = torch.from_numpy(batch.x["u"])[..., None], torch.from_numpy(batch.y["u"])[..., None]

    def by_hand(cut_after):
        u, total = x, 0.0
        for step in range(3):
            u = fitted.apply(u)
            total = total + fitted.config.loss(u, y[:, step], x, fitted.target) / 3
            u = u.detach() if step + 1 in cut_after else u
        return total

    losses = fitted.config.unroll(chain, draw, 0.5)
    torch.testing.assert_close(losses, by_hand(()))
    whole = gradients(fitted.net, losses)
    torch.testing.assert_close(whole, gradients(fitted.net, by_hand(())))
    for truncate, cut_after in ((1, (1, 2)), (2, (2,))):
        unroll = RollOut(steps=3, ramp=0.0, truncate=truncate)
        cut = gradients(fitted.net, unroll(chain, draw, 0.5))
        torch.testing.assert_close(cut, gradients(fitted.net, by_hand(cut_after)))
        assert (cut - whole).norm() > 1e-3 * whole.norm()


def test_a_probability_decides_for_each_sample_what_the_next_step_begins_from():
    chain, draw, fitted, batch = first_losses(RollOut(steps=2, ramp=1.0, by="probability"), 2)
    u, y = batch.x["u"], batch.y["u"]

    def second(begin):
        pairs = ((fitted.predict({"u": v})["u"], y[:, i]) for i, v in enumerate((u, begin)))
        return sum(fitted.errors(*(torch.from_numpy(a)[..., None] for a in pair)) for pair in pairs) / 2

    taught, own = second(y[:, 0]), second(fitted.predict({"u": u})["u"])
    shares = []
    for progress in (0.0, 0.5, 1.0):
        with torch.no_grad():
            losses = torch.stack([fitted.config.unroll(chain, draw, progress) for _ in range(5)])
        near = (losses - own).abs() < (losses - taught).abs()
        np.testing.assert_allclose(losses, torch.where(near, own, taught), rtol=1e-4)
        shares.append(float(near.float().mean()))
    assert shares[0] == 0.0
    assert 0.35 < shares[1] < 0.65
    assert shares[2] == 1.0


def test_the_ramp_is_a_tanh_from_nothing_to_all():
    parts = [ramp(p, 0.5) for p in np.linspace(0, 1, 41)]
    assert parts[0] == 0.0
    assert parts[10] == pytest.approx(0.5)
    assert parts[20:] == [1.0] * 21
    assert np.all(np.diff(parts[:21]) > 0)
    assert parts[5] == pytest.approx((1 + np.tanh(-1.0) / np.tanh(2.0)) / 2)
    assert ramp(0.0, 0.0) == 1.0


@pytest.mark.parametrize("unroll", [Pushforward(steps=3, ramp=0.8), RollOut(steps=4, ramp=0.8)])
def test_chains_grow_step_by_step_and_the_reports_say_how_long_they_are(unroll):
    lengths = [unroll.figures(p)["unroll"] for p in np.linspace(0, 1, 200)]
    assert sorted(set(lengths)) == [1.0, 2.0, 3.0, 4.0]
    assert lengths == sorted(lengths)
    samples, valid = marching(steps=4, count=8)
    model, reports, _ = fit(SMALL.replace(epochs=8, unroll=unroll), samples, valid)
    told = [r.metrics["unroll"] for r in reports]
    assert told == sorted(told)
    assert told[-1] == 4.0
    assert told[0] < 4.0
    assert model.signature.to_json() == valid.signature.to_json()
    assert model.predict(valid.x)["u"].shape == valid.y["u"].shape


def test_a_network_that_was_trained_on_roll_outs_is_better_at_them():
    """Trained for equally many updates on one step and on four, and asked for twelve."""
    steps = 12
    samples, valid = marching(steps=4, count=100)
    far, _ = marching(steps=steps, count=50, seed=7)
    errors = {}
    for name, unroll, data in (("once", Once(), valid), ("roll_out", RollOut(steps=4), samples)):
        config = SMALL.replace(unroll=unroll, epochs=20, learning_rate=1e-2)
        model, _, _ = fit(config, data, valid)
        u = far.x["u"]
        for _ in range(steps):
            u = model.predict({"u": u})["u"]
        errors[name] = np.linalg.norm(u - far.y["u"][:, -1]) / np.linalg.norm(far.y["u"][:, -1])
    assert errors["roll_out"] < 0.8 * errors["once"]


def test_noise_has_the_spread_it_is_said_to_have_and_spares_numbers():
    from sciflow_operators.training.loop import _begin
    from sciflow_operators.training.update import Updates

    samples = smoothing(64)
    samples.x["u"] = 5 + 3 * samples.x["u"]
    samples.x["nu"] = np.random.default_rng(0).random(64).astype("float32")
    inputs = {"u": samples.signature.inputs["u"], "nu": Field((), "1")}
    samples.signature = Signature(inputs, samples.signature.outputs, samples.signature.coordinates, ("x",))
    now, run_ = _begin(SMALL.replace(noise=0.1), samples, samples, Context(seed=1), None)
    updates = Updates(now, run_)
    x = torch.from_numpy(now.fitted.layout.stack(samples.x, now.fitted.layout.inputs))
    noisy = [updates._noisy(x, torch.Generator().manual_seed(s)) - x for s in (1, 1, 2)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])
    assert (noisy[0][..., 1] == 0).all(), "a parameter has no noise"
    assert float(noisy[0][..., 0].std()) == pytest.approx(0.1 * samples.x["u"].std(), rel=0.05)
    assert abs(float(noisy[0][..., 0].mean())) < 0.02 * samples.x["u"].std()


LINE = {"x": np.arange(4.0), "lead": np.arange(1.0, 4.0), "time": np.arange(2.0)}


@pytest.mark.parametrize(
    ("inputs", "outputs", "levels", "message"),
    [
        ({"a": ("x",)}, {"u": ("x",)}, 3, "no output .u. is an input .a.: such a model has no steps"),
        (
            {"u": ("x",), "f": ("time", "x")},
            {"u": ("x",)},
            3,
            "'f' changes from step to step and is no output",
        ),
        ({"u": ("x",), "lead_time": ()}, {"u": ("x",)}, 3, "'lead_time' changes from step to step"),
        ({"u": ("x",)}, {"u": ("x",)}, 1, "needs samples with 3 time levels of the output 'u'.*no such axis"),
    ],
)
def test_what_cannot_be_rolled_out_is_refused(inputs, outputs, levels, message):
    short, long = (
        Signature(
            {n: Field(a, "K") for n, a in inputs.items()},
            {n: Field((*axis, *a), "K") for n, a in outputs.items()},
            LINE,
        )
        for axis in ((), ("lead",) if levels > 1 else ())
    )
    with pytest.raises(Invalid, match=message):
        Cut(long, short, Layout.of(short), 3, CPU)


def test_single_steps_are_refused_where_the_network_is_trained_on_several():
    _, valid = marching()
    with pytest.raises(Invalid, match="a live source does not"):
        fit(SMALL.replace(unroll=RollOut(steps=2)), valid)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"ramp": 1.5}, {"ramp": -0.1}])
@pytest.mark.parametrize("kind", [Pushforward, RollOut])
def test_bad_curricula_are_refused(kind, bad):
    with pytest.raises(Invalid, match=next(iter(bad))):
        kind(**bad)
    with pytest.raises(Invalid, match="truncate"):
        RollOut(truncate=-1)


async def marched(problem, count=12):
    return await run(Simulate(problem, seed=1), design=await run(Design(problem=problem, count=count)))


def test_the_stage_gives_long_windows_to_train_on_and_a_model_of_single_steps(tmp_path):
    surrogate = MLP(width=16, layers=2, epochs=3, threads=1, device="cpu", unroll=RollOut(steps=2, ramp=0.9))
    good = Train(surrogate, ("u", "time", "a"), ("u",), window=(1, 1))

    async def flow():
        data = await marched(March())
        model = await run(good, ensemble=data)
        return data, model, await run(Evaluate(), model=model, ensemble=data, training=data)

    with within(Session(Store(tmp_path))):
        data, model, score = asyncio.run(flow())
    assert np.isfinite(score.read("relative_l2")).all()
    single = Stored(data, ("u", "time", "a"), ("u",), window=(1, 1)).signature
    assert load_model(model).signature.to_json() == single.to_json()
    assert model.read("history_unroll").tolist() == [1.0, 2.0, 2.0]
    for change, message in (
        (
            {"window": None, "inputs_of": ("u[0]",), "outputs_of": ("u[-1]",)},
            "roll-outs of 2 steps.*give window=",
        ),
        (
            {"window": None, "pairs": (1, 3), "inputs_of": ("u", "lead_time")},
            "roll-outs of 2 steps.*give window=",
        ),
        ({"inputs_of": ("u", "v")}, r"need the inputs \['v'\] at later time levels, and they are no outputs"),
        ({"surrogate": surrogate.replace(unroll=RollOut(steps=40))}, "longer than the trajectories"),
    ):
        with pytest.raises(Invalid, match=message):
            good.replace(**change).check({"ensemble": data})


def test_windows_tell_the_times_of_all_their_levels_where_time_is_an_input(tmp_path):
    problem = Steps()
    with within(Session(Store(tmp_path))):
        data = asyncio.run(marched(problem, 6))
    samples = Stored(data, ("u", "time"), ("u",), window=(1, 3))
    batch = samples.all()
    times = {m: problem.times(a) for m, a in enumerate(data.read("parameters")[:, 0])}
    for member, level, found, first in zip(
        batch.members, batch.levels, batch.times, batch.x["time"], strict=True
    ):
        np.testing.assert_allclose(found, times[member][level[1] : level[1] + 3], rtol=1e-6)
        assert level[1] == level[0] + 1
        assert found[0] == first
    assert Stored(data, ("u",), ("u",), window=(1, 3)).all().times is None
