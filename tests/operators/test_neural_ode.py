"""The neural ODE as a surrogate: what it learns, and what its training keeps."""

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sciflow import Diverged, Field, Invalid, Signature
from sciflow_operators.components import FNO, MLP, NeuralODE, Poseidon, RollOut
from sciflow_operators.fields.channels import Layout
from sciflow_operators.ode.model import Integrated
from sciflow_operators.ode.solve import march
from sciflow_operators.ode.states import Rows, States
from sciflow_operators.training.update import Updates
from tests.operators.test_training import Memory, fit, smoothing

U = Field(("channel",), "1")
SMALL = NeuralODE(
    width=16, layers=1, tolerance=1e-3, epochs=3, batch=16, learning_rate=2e-2, threads=1, device="cpu"
)
TIMES = np.array([0.0, 0.1, 0.3, 0.7, 1.2, 2.0])


def spiral(count, times=TIMES, seed=0, unit=1.0, size=1.0):
    """u' = A u with A = [[-r, 2], [-2, -r]]: trajectories at uneven times, parameter r."""
    rng = np.random.default_rng(seed)
    start, rate = rng.uniform(-1, 1, (count, 2)), rng.uniform(0.1, 0.6, count)
    turn = np.array([np.cos(2 * times), np.sin(2 * times)])
    x, y = start.T[:, :, None]
    u = np.stack([x * turn[0] + y * turn[1], y * turn[0] - x * turn[1]], 2)
    u = size * np.exp(-rate[:, None] * times)[:, :, None] * u
    signature = Signature(
        {"u[0]": U, "r": Field((), "1/s")},
        {"u": Field(("time", "channel"), "1")},
        {"time": unit * times, "channel": np.arange(2.0)},
    )
    return Memory({"u[0]": u[:, 0].astype("f4"), "r": rate.astype("f4")}, {"u": u.astype("f4")}, signature)


def leads(count, seed=0, unit=1.0):
    """The same as pairs: from the beginning to a time that is an input."""
    when = np.random.default_rng([1, seed]).uniform(0, 2, count)
    whole = [spiral(count, np.array([0.0, t]), seed) for t in when]
    u = np.stack([w.y["u"][i, 1] for i, w in enumerate(whole)])
    signature = Signature(
        {"u": U, "r": Field((), "1/s"), "lead_time": Field((), "s")}, {"u": U}, {"channel": np.arange(2.0)}
    )
    x = {"u": whole[0].x["u[0]"], "r": whole[0].x["r"], "lead_time": (unit * when).astype("f4")}
    return Memory(x, {"u": u}, signature)


def apart(model, samples):
    """Relative error of the only output."""
    ((name, truth),) = samples.y.items()
    return np.linalg.norm(model.predict(samples.x)[name] - truth) / np.linalg.norm(truth)


@pytest.fixture(scope="module")
def learned():
    return fit(SMALL.replace(epochs=110, batch=64, width=32, learning_rate=5e-2), spiral(64))


def test_a_flow_is_learned_at_uneven_times_and_its_beginning_is_kept(learned):
    model, reports, _ = learned
    test = spiral(40, seed=7)
    assert apart(model, test) < 0.1
    np.testing.assert_allclose(model.predict(test.x)["u"][:, 0], test.x["u[0]"], atol=1e-6)
    assert reports[-1].metrics["train_loss"] < 0.02 * reports[0].metrics["train_loss"]


def test_every_sample_is_alone_in_a_batch(learned):
    model = learned[0]
    x = spiral(40, seed=3).x
    together = model.predict(x)["u"]
    counts = model.evaluations
    assert counts.shape == (40,)
    assert len(set(counts.tolist())) > 1
    for pick in (slice(0, 1), slice(5, 9)):
        alone = model.predict({k: v[pick] for k, v in x.items()})["u"]
        np.testing.assert_allclose(alone, together[pick], rtol=1e-4, atol=1e-5)
        assert (model.evaluations == counts[pick]).mean() > 0.7


def test_evaluations_of_one_sample_are_the_calls_of_its_network(learned):
    model = learned[0]
    calls = []
    hook = model.net.register_forward_hook(lambda *_: calls.append(1))
    model.predict({k: v[:1] for k, v in spiral(2, seed=3).x.items()})
    hook.remove()
    assert model.evaluations.tolist() == [len(calls)]
    assert (len(calls) - 2) % 6 == 0


def test_a_tighter_tolerance_asks_more_often_and_changes_little(learned):
    model = learned[0]
    test = spiral(20, seed=4)
    loose = model.predict(test.x)["u"]
    count = model.evaluations.mean()
    other = model.config.replace(tolerance=1e-5).load(model.state(), model.signature)
    assert np.abs(other.predict(test.x)["u"] - loose).max() < 0.02
    assert other.evaluations.mean() > 1.3 * count
    equal = model.config.replace(fixed_steps=40).load(model.state(), model.signature)
    np.testing.assert_allclose(equal.predict(test.x)["u"], other.predict(test.x)["u"], atol=2e-4)
    assert set(equal.evaluations.tolist()) == {161}


def test_the_units_of_time_and_state_do_not_matter():
    test = spiral(10, seed=5).x
    one, _, _ = fit(SMALL, spiral(32))
    other, _, _ = fit(SMALL, spiral(32, unit=3600.0, size=100.0))
    found = other.predict({"u[0]": 100 * test["u[0]"], "r": test["r"]})["u"]
    np.testing.assert_allclose(found, 100 * one.predict(test)["u"], rtol=1e-2, atol=0.3)
    fast, _, _ = fit(SMALL, leads(32))
    slow, _, _ = fit(SMALL, leads(32, unit=64.0))
    x = leads(8, seed=3).x
    after = slow.predict({**x, "lead_time": 64 * x["lead_time"]})["u"]
    np.testing.assert_allclose(after, fast.predict(x)["u"], rtol=1e-5, atol=1e-6)


def test_numbers_that_never_vary_stay_what_they_are_in_any_unit():
    """As the values on a boundary do; beside them the others count in units of their own spread."""
    errors = []
    for size in (1.0, 1e-4):
        samples = smoothing(32, n=8, scale=size)
        samples.y["v"][:, 0] = 300 * size
        model, _, _ = fit(SMALL.replace(epochs=10), samples)
        found = model.predict(samples.x)["v"]
        np.testing.assert_allclose(found[:, 0], 300 * size, rtol=1e-6)
        errors.append(np.linalg.norm(found - samples.y["v"]) / size)
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)


def test_lead_times_of_each_sample_go_beyond_those_of_the_training():
    model, _, _ = fit(SMALL.replace(epochs=30), leads(96))
    assert apart(model, leads(40, seed=8)) < 0.12
    x = leads(10, seed=9).x
    still = model.predict({**x, "lead_time": 0 * x["lead_time"]})["u"]
    np.testing.assert_allclose(still, x["u"], atol=1e-6)
    # An autonomous flow: two steps of one second are one of two.
    once = model.predict({**x, "lead_time": np.full(10, 1.0, "f4")})["u"]
    twice = model.predict({**x, "u": once, "lead_time": np.full(10, 1.0, "f4")})["u"]
    whole = model.predict({**x, "lead_time": np.full(10, 2.0, "f4")})["u"]
    np.testing.assert_allclose(twice, whole, atol=5e-3)


HARD = {"regularise": "both", "error_weight": 0.5, "stiffness_weight": 0.05}
WAYS = [
    {},
    {**HARD, "where": "global"},
    {**HARD, "where": "local", "detach": True},
    {**HARD, "where": "local", "sampling": "steps", "clock": True},
    {**HARD, "where": "local", "fixed_steps": 3},
    {**HARD, "where": "local", "adjoint": "torchdiffeq"},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda w: "-".join(map(str, w.values())) or "plain")
def test_going_on_from_a_checkpoint_gives_the_same_bits(way):
    if way.get("adjoint") == "torchdiffeq":
        pytest.importorskip("torchdiffeq")
    config, samples = SMALL.replace(report_every=1, **way), spiral(24)
    whole, reports, checkpoint = fit(config.replace(epochs=2), samples, stop=1)
    resumed, later, _ = fit(config.replace(epochs=2), samples, resume=checkpoint)
    for name, values in whole.state().items():
        assert values.tobytes() == resumed.state()[name].tobytes(), name
    told = {k: v for k, v in later[-1].metrics.items() if k != "samples_per_second"}
    assert told == {k: v for k, v in reports[-1].metrics.items() if k != "samples_per_second"}
    assert {"nfe", "train_nfe"} <= set(told)
    assert ("regularisation" in told) == bool(way)
    if way:
        part = HARD["error_weight"] * told["error_estimate"] + HARD["stiffness_weight"] * told["stiffness"]
        assert told["regularisation"] == pytest.approx(part, rel=1e-4)


def test_what_regularises_fades():
    """With next to no learning rate the term itself stays, and its weight falls by `fade`."""
    config = SMALL.replace(regularise="error", error_weight=1.0, learning_rate=1e-9, schedule="constant")
    told = [fit(config.replace(fade=f), spiral(16))[1] for f in (1.0, 1e-3)]
    parts = [b.metrics["regularisation"] / a.metrics["regularisation"] for a, b in zip(*told, strict=True)]
    # Three epochs of one update each.
    np.testing.assert_allclose(parts, [1.0, 1e-1, 1e-2], rtol=1e-4)


@pytest.mark.parametrize("detach", [True, False])
def test_a_detached_step_does_not_change_how_the_solution_comes_there(detach):
    rate = torch.tensor(2.0, requires_grad=True)
    config, times = SMALL.replace(regularise="both", where="local", detach=detach), torch.ones(3, 1).double()

    def slope(t, z):
        return rate * torch.sin(z)

    solution = march(slope, torch.rand(3, 2), times, config.tolerance, config.max_steps)
    states = torch.rand(len(solution.steps.begins), 3, 2, requires_grad=True)
    costs = Integrated._local(SimpleNamespace(config=config), slope, states, solution, torch.rand(3).double())
    by_state, by_rate = torch.autograd.grad(costs.error.sum(), (states, rate), allow_unused=True)
    assert by_rate != 0
    assert (by_state is None) == detach


def test_both_adjoints_learn_the_same():
    pytest.importorskip("torchdiffeq")
    config = SMALL.replace(tolerance=1e-6, epochs=2)
    one, other = (fit(config.replace(adjoint=a), spiral(16))[0] for a in ("discrete", "torchdiffeq"))
    x = spiral(5, seed=2).x
    np.testing.assert_allclose(one.predict(x)["u"], other.predict(x)["u"], rtol=1e-3, atol=1e-3)


def test_what_regularises_asks_the_network_less_often():
    samples, test = smoothing(32, n=8), smoothing(32, n=8, seed=5)
    counts = {}
    for way in ({}, {"regularise": "error", "error_weight": 3.0}, {**HARD, "where": "local"}):
        model, _, _ = fit(SMALL.replace(epochs=20, width=32, tolerance=1e-6, **way), samples)
        model.predict(test.x)
        counts[way.get("where", way.get("regularise", ""))] = model.evaluations.mean()
    assert counts["error"] < 0.9 * counts[""]
    assert counts["local"] < counts[""]


def test_a_network_of_a_grid_gives_the_derivative():
    samples = smoothing(24, n=16)
    inner = FNO(width=4, modes=4, layers=1)
    config = SMALL.replace(inner=inner, epochs=4, clock=True)
    model, reports, _ = fit(config, samples)
    assert reports[-1].metrics["valid_error"] < reports[0].metrics["valid_error"]
    fine = smoothing(6, n=32, seed=3)
    assert model.predict(fine.x)["v"].shape == (6, 32)
    with pytest.raises(Invalid, match="regular grid"):
        NeuralODE(inner=MLP())
    room = Signature({}, {"u": Field(("z", "y", "x"), "1")}, dict.fromkeys("zyx", np.arange(4.0)))
    with pytest.raises(Invalid, match="poseidon takes 2 spatial axes"):
        NeuralODE(inner=Poseidon()).network(room)


def window(before, after, axes=("x",)):
    steps = {"time": np.arange(1.0 - before, 1), "lead": np.arange(1.0, after + 1), "x": np.arange(4.0)}
    field = [Field((*((a,) if n > 1 else ()), *axes), "1") for a, n in (("time", before), ("lead", after))]
    return Signature({"u": field[0], "nu": Field((), "1")}, {"u": field[1]}, steps)


@pytest.mark.parametrize("kind", [Rows, Layout])
def test_channels_find_their_place_in_the_state_and_back(kind):
    signature = window(3, 2)
    layout = kind.of(signature)
    states = States.of(signature, layout)
    per = 4 if kind is Rows else 1
    assert states.sizes == (per,)
    assert states.times == (0.5, 1.0)
    assert states.start == tuple(range(2 * per, 3 * per))
    assert states.driving == (*range(2 * per), 3 * per)
    rng = np.random.default_rng(0)
    x = {"u": rng.random((5, 3, 4), dtype="f4"), "nu": rng.random(5, dtype="f4")}
    model, _, _ = fit(
        SMALL.replace(epochs=1, inner=None if kind is Rows else FNO(width=4, modes=2, layers=1)),
        Memory(x, {"u": np.repeat(x["u"][:, -1:], 2, 1)}, signature),
    )
    for p in model.net.parameters():
        torch.nn.init.zeros_(p)
    # Nothing moves: both levels are the last one that was given.
    np.testing.assert_allclose(model.predict(x)["u"], np.repeat(x["u"][:, -1:], 2, 1), atol=1e-5)
    assert model.evaluations.tolist() == [8] * 5


def test_a_window_rolls_out_in_training():
    times = np.arange(4.0) / 2
    whole = spiral(24, times)
    signature = Signature({"u": U, "r": Field((), "1")}, {"u": U}, {"channel": np.arange(2.0)})
    three = Signature(
        signature.inputs,
        {"u": Field(("lead", "channel"), "1")},
        {"channel": np.arange(2.0), "lead": np.arange(1.0, 4)},
    )
    x = {"u": whole.x["u[0]"], "r": whole.x["r"]}
    samples = Memory(x, {"u": whole.y["u"][:, 1:]}, three)
    valid = Memory(x, {"u": whole.y["u"][:, 1]}, signature)
    config = SMALL.replace(unroll=RollOut(steps=3, ramp=0.0), regularise="error", where="local", epochs=15)
    _, reports, _ = fit(config, samples, valid)
    assert reports[-1].metrics["valid_error"] < 0.7 * reports[0].metrics["valid_error"]
    assert reports[-1].metrics["unroll"] == 3


def test_what_cannot_be_integrated_is_an_error_with_advice():
    config = SMALL.replace(max_steps=2, tolerance=1e-7)
    with pytest.raises(Diverged, match=r"max_steps is 2.*regularise='error'.*epoch 1, update 0, with member"):
        fit(config, spiral(8))
    model, _, _ = fit(SMALL, spiral(8))
    for p in model.net.parameters():
        torch.nn.init.constant_(p, 40.0)
    few = SMALL.replace(max_steps=20).load(model.state(), model.signature)
    found = few.predict(spiral(3).x)["u"]
    assert np.isnan(found[:, -1]).all()
    assert np.isfinite(found[:, 0]).all()


def test_numbers_that_are_not_finite_are_refused_by_place(monkeypatch):
    samples = spiral(8)
    samples.y["u"][5, 2, 1] = np.nan
    with pytest.raises(Invalid, match=r"output 'u'.* is nan at time level 2.*must be finite"):
        fit(SMALL, samples)
    # A live source may send them later: whose fault it is, is told then too.
    good = spiral(8)
    real = Updates.add

    def spoilt(self, batch, number):
        batch.x["u[0]"][2, 0] = np.inf
        return real(self, batch, number)

    monkeypatch.setattr(Updates, "add", spoilt)
    with pytest.raises(Invalid, match=r"input 'u\[0\]'.* is inf.*must be finite"):
        fit(SMALL, good)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tolerance": 1e-9}, "single precision"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"error_weight": -1.0}, "error_weight must be a finite number"),
        ({"fade": 0.0}, "fade is a part of the weights"),
        ({"regularise": "error", "fixed_steps": 3}, "no estimate of errors to add up"),
        ({"regularise": "error", "adjoint": "torchdiffeq"}, "does not show its steps: take where='local'"),
        ({"fixed_steps": 3, "adjoint": "torchdiffeq"}, "differentiated through"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(change, message):
    with pytest.raises(Invalid, match=message):
        SMALL.replace(**change)


def test_a_trajectory_may_begin_at_any_time():
    early = spiral(1).signature
    late = Signature(early.inputs, early.outputs, {**early.coordinates, "time": TIMES + 5})
    one, other = (States.of(s, Rows.of(s)).times for s in (early, late))
    assert one == pytest.approx(tuple(TIMES / 2))
    assert other == pytest.approx(one)


def test_signatures_without_an_order_of_time_are_refused():
    trajectory = Field(("time", "x"), "1")
    axes = {"time": np.arange(3.0), "x": np.arange(4.0)}
    with pytest.raises(Invalid, match=r"take 'u\[0\]'"):
        NeuralODE().network(Signature({"u": trajectory}, {"u": trajectory}, axes))
    with pytest.raises(Invalid, match="all outputs at the same times"):
        NeuralODE().network(Signature({}, {"u": trajectory, "p": Field(("x",), "1")}, axes))
    with pytest.raises(Invalid, match="must grow"):
        NeuralODE().network(Signature({}, {"u": trajectory}, {**axes, "time": np.array([0.0, 2, 1])}))
