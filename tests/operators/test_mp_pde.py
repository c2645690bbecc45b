import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sciflow import Field, Invalid, Signature
from sciflow_operators.baselines.mp_pde_net import Bundle, MPPDENet, normed, stencil
from sciflow_operators.components import MPPDE, Pushforward
from sciflow_operators.fields.channels import Layout, places
from tests.operators.test_training import Memory, fit

SMALL = MPPDE(width=16, layers=2, epochs=40, batch=16, learning_rate=1e-2, threads=1, device="cpu")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def heat(count, n=32, levels=1, seed=0, diffusivity=0.2, periodic=True):
    """Explicit steps of the heat equation: u_j + nu (u_j-1 - 2 u_j + u_j+1), nu a parameter of the sample."""
    rng = np.random.default_rng(seed)
    nu = diffusivity * (0.5 + rng.random((count, 1)))
    u = np.cumsum(rng.standard_normal((count, n)), axis=1)
    steps = [u]
    for _ in range(levels):
        ends = "wrap" if periodic else "edge"
        padded = np.pad(u, ((0, 0), (1, 1)), mode=ends)
        u = u + nu * (padded[:, 2:] - 2 * u + padded[:, :-2])
        steps.append(u)
    out = np.stack(steps[1:], axis=1) if levels > 1 else steps[1]
    axes = ("lead", "x") if levels > 1 else ("x",)
    coordinates = {"x": np.arange(n) / n, "lead": np.arange(1.0, levels + 1)}
    signature = Signature(
        {"u": Field(("x",), "K"), "nu": Field((), "1")},
        {"u": Field(axes, "K")},
        coordinates,
        ("x",) if periodic else (),
    )
    x = {"u": steps[0].astype("float32"), "nu": nu[:, 0].astype("float32")}
    return Memory(x, {"u": out.astype("float32")}, signature)


@pytest.mark.parametrize(
    ("dimensions", "radius", "count"), [(1, 1, 2), (1, 2, 4), (2, 1, 4), (2, 2, 12), (3, 1, 6)]
)
def test_neighbours_are_all_points_within_the_radius(dimensions, radius, count):
    found = stencil(dimensions, radius)
    assert len(set(found)) == len(found) == count
    assert all(tuple(-i for i in o) in found for o in found)
    assert max(np.linalg.norm(o) for o in found) == radius


def by_edges(step, h, u, theta, points, periodic, offsets):
    """The step as the equation in `MessageStep` reads, one edge at a time."""
    radius = max(max(map(abs, o)) for o in offsets)
    new = torch.zeros_like(h)
    for place in np.ndindex(*points):
        here = (slice(None), *place)
        messages = []
        for offset in offsets:
            there = [p + o for p, o in zip(place, offset, strict=True)]
            if any(not p and not 0 <= t < n for t, n, p in zip(there, points, periodic, strict=True)):
                continue
            other = (slice(None), *(t % n for t, n in zip(there, points, strict=True)))
            way = torch.tensor(offset, dtype=h.dtype) / radius
            z = step.receiver(h[here]) + step.sender(h[other]) + step.place(way)
            z = z + step.difference(u[here] - u[other]) + step.known(theta).chunk(2, -1)[0]
            messages.append(torch.nn.functional.silu(z))
        heard = torch.stack(messages).mean(dim=0)
        z = step.own(h[here]) + step.heard(heard) + step.known(theta).chunk(2, -1)[1]
        new[here] = h[here] + step.update(torch.nn.functional.silu(z))
    return new


@pytest.mark.parametrize(
    ("points", "periodic", "radius"),
    [
        ((3, 4, 3), (True, False, True), 1),
        ((7,), (True,), 2),
        ((7,), (False,), 3),
        ((5, 4), (True, False), 1),
        ((4, 3), (False, False), 2),
    ],
)
def test_slices_of_a_padded_array_are_the_edges_of_the_graph(points, periodic, radius):
    net = MPPDENet([0, 1], [2], 1, 6, 1, radius, periodic, coordinates=False).double()
    x = torch.randn(3, *points, 3, dtype=torch.float64)
    x[..., 2] = torch.randn(3, *(1,) * len(points))
    u, theta = x[..., :2], x[(slice(None), *(0,) * len(points), slice(2, 3))]
    h = net.encoder(x)
    expected = net.decoder(by_edges(net.steps[0], h, u, theta, points, periodic, net.offsets))
    torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("points", [(12,), (12, 10)])
def test_without_coordinates_a_periodic_network_commutes_with_translation(points):
    x = torch.randn(2, *points, 2)
    shift, dims = (3, 7)[: len(points)], (1, 2)[: len(points)]
    for coordinates in (False, True):
        net = MPPDENet([0, 1], [], 1, 8, 3, 1, (True,) * len(points), coordinates)
        apart = (net(torch.roll(x, shift, dims)) - torch.roll(net(x), shift, dims)).abs().max()
        assert (apart < 1e-5) is not coordinates


def test_a_pass_makes_no_tensor_on_the_host(monkeypatch):
    net = MPPDENet([0], [], 1, 8, 2, 2, (True, False), coordinates=True)
    assert not [name for name in net.state_dict() if "apart" in name]
    for maker in ("tensor", "as_tensor", "from_numpy"):
        monkeypatch.setattr(torch, maker, None)
    assert net(torch.randn(1, 6, 5, 1)).shape == (1, 6, 5, 1)


def test_nothing_is_heard_from_beyond_the_reach():
    """After three steps of radius 2, a point knows six points to each side and no more."""
    net = MPPDENet([0], [], 1, 8, 3, 2, (True,), coordinates=False)
    x = torch.randn(1, 40, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x)[0, 20, 0], x)
    assert torch.nonzero(gradient[0, :, 0]).flatten().tolist() == list(range(14, 27))


def test_samples_of_a_batch_do_not_see_each_other():
    net = MPPDENet([0], [1], 1, 8, 2, 1, (False, True), coordinates=True)
    x = torch.randn(5, 6, 7, 2)
    x[..., 1] = x[:, :1, :1, 1]
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(net(x)[order], net(x[order]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("periodic", [True, False])
def test_an_explicit_step_is_learned_and_works_on_a_longer_line(periodic):
    """A stencil is local: what was learned on 32 points holds on 96 of the same spacing."""
    config = SMALL.replace(coordinates=False, epochs=60)
    model, _, _ = fit(config, heat(200, periodic=periodic))
    for n in (32, 96):
        test = heat(50, n=n, seed=9, periodic=periodic)
        change = np.linalg.norm(test.y["u"] - test.x["u"])
        error = np.linalg.norm(model.predict(test.x)["u"] - test.y["u"])
        assert error < 0.2 * change, "error of the increment"


def test_several_levels_are_increments_of_the_last_one():
    samples = heat(60, levels=3)
    model, _, _ = fit(SMALL, samples)
    layout = model.layout
    assert layout.previous == (0, 0, 0)
    assert model.predict(samples.x)["u"].shape == (60, 3, 32)
    change = samples.y["u"] - samples.x["u"][:, None]
    state = model.state()
    np.testing.assert_allclose(state["output.spread"], change.std(axis=(0, 2)), rtol=1e-3)
    np.testing.assert_allclose(
        state["output.size"], np.sqrt((samples.y["u"] ** 2).mean(axis=(0, 2))), rtol=1e-3
    )
    error = np.linalg.norm(model.predict(samples.x)["u"] - samples.y["u"])
    assert error < 0.5 * np.linalg.norm(change)


def test_what_does_not_change_is_predicted_without_an_error():
    samples = heat(20)
    samples.y["u"] = samples.x["u"].copy()
    model, _, _ = fit(SMALL.replace(epochs=2), samples)
    np.testing.assert_array_equal(model.predict(samples.x)["u"], samples.y["u"])


def test_the_last_of_several_input_levels_is_what_increments_are_added_to():
    axes = {"time": np.array([-2.0, -1.0, 0.0]), "lead": np.array([1.0, 2.0]), "x": np.arange(8.0)}
    levels = Field(("time", "x"), "K")
    both = Signature(
        {"nu": Field((), "1"), "v": levels, "u": levels},
        {"u": Field(("lead", "x"), "K"), "v": Field(("lead", "x"), "K")},
        axes,
    )
    layout = Layout.of(both, increments=True)
    assert layout.previous == (6, 6, 3, 3)
    assert places(layout.inputs) == ([1, 2, 3, 4, 5, 6], [0])
    other = Signature({"v": levels, "nu": Field((), "1")}, both.outputs, axes)
    assert Layout.of(other, increments=True).previous == (), "u has no level in: outputs are predicted"
    assert Layout.of(both).previous == ()


@pytest.mark.parametrize("space", [("x",), ("y", "x")])
def test_without_input_levels_fields_are_a_function_of_the_parameters(space):
    sizes = {"x": 6, "y": 5}
    axes = {a: np.linspace(0, 1, sizes[a]) for a in space}
    rng = np.random.default_rng(0)
    a, t = rng.random((2, 40)).astype("float32")
    shape = tuple(sizes[s] for s in space)
    pattern = np.sin(np.arange(np.prod(shape))).reshape(shape)
    values = (np.multiply.outer(a, pattern) + t.reshape(-1, *(1,) * len(space))).astype("float32")
    signature = Signature({"a": Field((), "1"), "time": Field((), "s")}, {"u": Field(space, "K")}, axes)
    model, reports, _ = fit(SMALL, Memory({"a": a, "time": t}, {"u": values}, signature))
    assert model.predict({"a": a, "time": t})["u"].shape == values.shape
    assert reports[-1].metrics["valid_error"] < 0.5 * reports[0].metrics["valid_error"]


def test_the_decoder_of_a_bundle_is_that_of_the_paper():
    net = Bundle(128, 25)
    assert [(c.kernel_size, c.stride, c.out_channels) for c in (net.first, net.second)] == [
        ((16,), (3,), 8),
        ((14,), (1,), 1),
    ]
    for width, out in ((4, 1), (32, 1), (32, 4), (16, 10), (128, 60)):
        h = torch.randn(3, 5, width)
        found = Bundle(width, out)
        assert found(h).shape == (3, 5, out)
        one = found.second(torch.nn.functional.silu(found.first(h[1, 2][None, None])))[0, 0]
        torch.testing.assert_close(found(h)[1, 2], one)
    with pytest.raises(Invalid, match="at most 15 outputs of width 16, 20 are needed"):
        Bundle(16, 20)


def test_normed_channels_have_mean_0_and_spread_1_whatever_the_unit():
    h = 5 + torch.randn(2, 6, 7, 3) * torch.tensor([1.0, 10.0, 100.0])
    found = normed(h)
    torch.testing.assert_close(found.mean(dim=(1, 2)), torch.zeros(2, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.var(dim=(1, 2), correction=0), torch.ones(2, 3), rtol=1e-4, atol=1e-4)
    reference = torch.nn.functional.instance_norm(h.movedim(-1, 1)).movedim(1, -1)
    torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [{"norm": True}, {"decoder": "convolution"}])
def test_as_the_paper_has_it_a_step_is_learned_too(change):
    samples = heat(60, levels=3)
    model, _, _ = fit(SMALL.replace(**change), samples)
    change = samples.y["u"] - samples.x["u"][:, None]
    error = np.linalg.norm(model.predict(samples.x)["u"] - samples.y["u"])
    assert error < 0.5 * np.linalg.norm(change)


def test_pushforward_makes_roll_outs_better():
    """From inputs with errors of its own: after ten steps the pushed network is nearer to the truth."""
    long = heat(60, levels=10, seed=3)
    single = heat(150, levels=1)
    three = heat(150, levels=3)
    samples = {"once": (single, SMALL), "pushed": (three, SMALL.replace(unroll=Pushforward(steps=2)))}
    errors = {}
    for name, (train, config) in samples.items():
        model, _, _ = fit(config, train, valid=single)
        state = dict(long.x)
        for _ in range(10):
            state["u"] = model.predict(state)["u"]
        errors[name] = np.linalg.norm(state["u"] - long.y["u"][:, -1]) / np.linalg.norm(long.y["u"][:, -1])
    assert errors["pushed"] < 0.9 * errors["once"]
    assert model.signature.outputs["u"].axes == ("x",), "it predicts one step, learned from three"


def test_fields_on_several_grids_are_refused_by_name():
    axes = {a: np.arange(4.0) for a in "wxyz"}
    for inputs, outputs, message in (
        ({"a": ("x",)}, {"b": ("y", "x")}, "one grid, these have the axes .*'b'"),
        ({"a": ("w", "z", "y", "x")}, {"b": ("w", "z", "y", "x")}, "one to three spatial axes"),
        ({"a": ("x",)}, {"b": ()}, "'b' is a single number"),
    ):
        signature = Signature(
            {n: Field(a, "1") for n, a in inputs.items()},
            {n: Field(a, "1") for n, a in outputs.items()},
            axes,
        )
        with pytest.raises(Invalid, match=message):
            SMALL.network(signature)
    with pytest.raises(Invalid, match="radius cannot be negative"):
        MPPDE(radius=-1)
