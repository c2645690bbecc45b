import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sciflow import Field, Invalid, Signature
from sciflow_operators.components import FNO, MLP, MPPDE, MultiGrid, Poseidon
from sciflow_operators.fields.port import Port
from sciflow_operators.wrappers.refiner import Refiner
from sciflow_operators.wrappers.stagger import Stagger
from sciflow_operators.wrappers.stagger_net import MARGIN, StaggerNet, join, split
from tests.operators.test_training import Memory, fit, smoothing

INNER = FNO(width=8, modes=8, layers=2)
SMALL = Stagger(inner=INNER, epochs=6, batch=16, learning_rate=1e-2, threads=1, device="cpu")


class Echo(torch.nn.Module):
    """Gives its first channels back, and notes what it got."""

    def __init__(self, port):
        super().__init__()
        self.port, self.got = port, None
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        self.got = x
        return x[..., : self.port.channels_out]


class Inner:
    def module(self, port):
        return Echo(port)


def port(points, periodic, fields=(0,), scalars=(), out=1):
    names = tuple(f"c{i}" for i in range(len(fields) + len(scalars)))
    return Port(tuple(fields), tuple(scalars), out, tuple(points), tuple(periodic), names)


@pytest.mark.parametrize("points", [(12,), (6, 12), (12, 6, 18)])
@pytest.mark.parametrize("factor", [2, 3])
def test_splitting_and_joining_are_inverse(points, factor):
    x = torch.randn(2, *points, 3)
    parts = split(x, factor)
    for number, shift in enumerate(np.ndindex(*[factor] * len(points))):
        every = tuple(slice(s, None, factor) for s in shift)
        assert torch.equal(parts[..., number, :], x[(slice(None), *every)])
    assert torch.equal(join(parts, factor), x)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize(
    ("points", "periodic"),
    [
        ((12,), (True,)),
        ((13,), (True,)),
        ((13,), (False,)),
        ((7, 9), (True, False)),
        ((4, 5, 6), (True, True, False)),
    ],
)
def test_a_network_that_changes_nothing_leaves_the_fine_field_as_it_is(points, periodic, joint):
    net = StaggerNet(Inner(), port(points, periodic, (0, 2), (1,), 2), 2, joint)
    x = torch.randn(3, *points, 3)
    x[..., 1] = torch.randn(3, *[1] * len(points))
    assert torch.equal(net(x), x[..., [0, 2]])
    assert len(net.nets) == (1 if joint else 2 ** len(points))
    for one in net.nets:
        assert one.got.shape[1:-1] == one.port.points
        assert one.got.shape[-1] == one.port.channels_in
        assert torch.equal(
            one.got[..., list(one.port.scalars)][..., 0].flatten(1)[:, 0], x[..., 1].flatten(1)[:, 0]
        )
        assert {one.port.names[i] for i in one.port.scalars} == {"c1"}
        assert [one.port.names[i] for i in one.port.fields[:2]] == ["c0", "c2"]


def test_axes_that_do_not_divide_go_on_as_they_should():
    x = torch.arange(13.0).reshape(1, 13, 1)
    open_ = StaggerNet(Inner(), port((13,), (False,)), 4, True)
    open_(x)
    assert open_.nets[0].port.points == (4,)
    assert join(open_.nets[0].got.reshape(1, 4, 4, 1), 4)[0, 12:, 0].tolist() == [12.0] * 4
    around = StaggerNet(Inner(), port((13,), (True,)), 4, True)
    around(x)
    inside = around.nets[0]
    assert inside.port.periodic == (False,)
    whole = join(inside.got.reshape(1, -1, 4, 1), 4)[0, :, 0]
    assert whole.tolist() == [float(i % 13) for i in range(-4 * MARGIN, len(whole) - 4 * MARGIN)]
    assert len(whole) == inside.port.points[0] * 4 == 13 + 8 * MARGIN + 3


def test_a_periodic_axis_stays_a_multiple():
    net = StaggerNet(Inner(), port((12,), (True,)), 2, True)
    net(torch.randn(1, 16, 1))
    with pytest.raises(Invalid, match="periodic axis of 2 n points, got 13"):
        net(torch.randn(1, 13, 1))


@pytest.mark.parametrize("joint", [True, False])
def test_shifting_a_periodic_field_by_a_coarse_point_shifts_the_result(joint):
    torch.manual_seed(0)
    net = StaggerNet(INNER.replace(coordinates=False), port((16,), (True,)), 2, joint)
    x = torch.randn(2, 16, 1)
    torch.testing.assert_close(net(torch.roll(x, 2, 1)), torch.roll(net(x), 2, 1), rtol=1e-4, atol=1e-5)


def test_what_a_separate_network_sees_is_its_own_grid_alone():
    torch.manual_seed(0)
    for joint, seen in ((False, 2), (True, 1)):
        net = StaggerNet(INNER, port((16,), (True,)), 2, joint)
        x = torch.randn(1, 16, 1, requires_grad=True)
        (gradient,) = torch.autograd.grad(net(x)[0, 4, 0], x)
        assert torch.nonzero(gradient[0, :, 0]).flatten().tolist() == list(range(0, 16, seen))


def test_an_operator_is_learned_on_coarse_grids():
    model, _, _ = fit(SMALL.replace(epochs=40), smoothing(200))
    test = smoothing(50, seed=9)
    error = np.linalg.norm(model.predict(test.x)["v"] - test.y["v"]) / np.linalg.norm(test.y["v"])
    assert error < 0.1
    again = SMALL.load(model.state(), test.signature)
    assert again.predict(test.x)["v"].tobytes() == model.predict(test.x)["v"].tobytes()


@pytest.mark.parametrize("inner", [INNER, MPPDE(width=8, layers=2)])
def test_planes_with_parameters_train(inner):
    axes = {"y": np.linspace(0, 1, 7), "x": np.arange(10) / 10}
    u = Field(("y", "x"), "K")
    rng = np.random.default_rng(0)
    x = {"u": rng.random((8, 7, 10), dtype="float32"), "a": rng.random(8, dtype="float32")}
    signature = Signature({"u": u, "a": Field((), "1")}, {"u": u}, axes, ("x",))
    config = SMALL.replace(inner=inner, epochs=2, increments=True)
    model, _, _ = fit(config, Memory(x, {"u": x["u"] * x["a"][:, None, None]}, signature))
    assert model.predict(x)["u"].shape == (8, 7, 10)


def test_configurations_that_would_not_be_read_are_refused():
    with pytest.raises(Invalid, match="inner has settings of training .epochs, batch."):
        Stagger(inner=INNER.replace(epochs=7, batch=3))
    with pytest.raises(Invalid, match="settings of training .resolutions."):
        Stagger(inner=INNER.replace(resolutions=(1, 2)))
    with pytest.raises(Invalid, match="settings of training .embedding_factor, norm_factor."):
        Stagger(inner=Poseidon(embedding_factor=3.0, norm_factor=3.0))
    for outer in (Stagger, MultiGrid):
        with pytest.raises(
            Invalid, match=f"{outer.name}.inner must be a network of a regular grid.* got mlp"
        ):
            outer(inner=MLP())
    with pytest.raises(Invalid, match="refiner is trained in a way of its own"):
        Stagger(inner=Refiner(inner=INNER))
    with pytest.raises(Invalid, match="factor must be at least 2"):
        Stagger(inner=INNER, factor=1)
    assert Stagger(inner=INNER).dimensions == INNER.dimensions
    assert Stagger.from_json(SMALL.to_json()) == SMALL
