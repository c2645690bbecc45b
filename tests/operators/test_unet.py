import numpy as np
import pytest

torch = pytest.importorskip("torch")
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow import Invalid
from sciflow_operators.baselines.unet_net import Conv, UNetNet, beyond
from sciflow_operators.components import UNet
from sciflow_operators.fields.port import Port
from tests.operators.test_training import fit, smoothing

SMALL = UNet(width=8, halvings=2, blocks=1, epochs=6, batch=16, threads=1, device="cpu")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def port(points, periodic, scalars=()):
    names = ("u", "v", *(f"s{i}" for i in range(len(scalars))))
    fields = tuple(i for i in range(len(names)) if i not in scalars)
    return Port(fields, tuple(scalars), 3, points, periodic, names)


def make(points, periodic, scalars=(), **settings):
    net = SMALL.replace(**settings).module(port(points, periodic, scalars))
    with torch.no_grad():  # the last convolution of a block begins with zeros
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.booleans(), st.booleans(), st.booleans())
def test_what_is_beyond_the_ends_is_what_numpy_puts_there(height, width, first, second, replicate):
    x = torch.randn(2, 3, height, width)
    amounts = [(min(1, height), min(2, height)), (0, min(1, width))]
    expected = x.numpy()
    for axis, (amount, periodic) in enumerate(zip(amounts, (first, second), strict=True), 2):
        pads = [amount if i == axis else (0, 0) for i in range(4)]
        expected = np.pad(expected, pads, "wrap" if periodic else "edge" if replicate else "constant")
    np.testing.assert_array_equal(beyond(x, amounts, (first, second), replicate), expected)


@pytest.mark.parametrize("periodic", [(False,), (True, False), (True, False, True)])
@pytest.mark.parametrize("replicate", [True, False])
def test_a_convolution_is_a_sum_over_neighbours(periodic, replicate):
    points = (5, 4, 3)[: len(periodic)]
    conv = Conv(2, 3, periodic, replicate)
    x = torch.randn(1, 2, *points)
    expected = conv.conv.bias.view(1, 3, *(1,) * len(points)).expand(1, 3, *points).clone()
    for at in np.ndindex(*points):
        for offset in np.ndindex(*(3,) * len(points)):
            there = [a + o - 1 for a, o in zip(at, offset, strict=True)]
            inside = [0 <= t < n for t, n in zip(there, points, strict=True)]
            if not all(i or p or replicate for i, p in zip(inside, periodic, strict=True)):
                continue
            place = [
                t % n if p else min(max(t, 0), n - 1) for t, n, p in zip(there, points, periodic, strict=True)
            ]
            expected[(0, slice(None), *at)] += (
                conv.conv.weight[(slice(None), slice(None), *offset)] @ x[(0, slice(None), *place)]
            )
    torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-5)


def test_on_a_torus_it_commutes_with_shifts_by_the_coarsest_cell():
    x = torch.randn(2, 12, 8, 2)
    moved = torch.roll(x, (4, -4), dims=(1, 2))
    for periodic in ((True, True), (True, False)):
        net = make((12, 8), periodic)
        apart = (net(moved) - torch.roll(net(x), (4, -4), dims=(1, 2))).abs().max()
        assert bool(apart < 1e-4) is all(periodic)


@pytest.mark.parametrize("points", [(16,), (13,), (3,), (8, 12), (7, 9), (1, 5), (8, 4, 4), (5, 3, 6)])
def test_grids_of_any_size_come_back_with_their_size(points):
    for periodic in (True, False):
        net = make(points, (periodic,) * len(points))
        y = net(torch.randn(2, *points, 2))
        assert y.shape == (2, *points, 3)
        assert torch.isfinite(y).all()


def test_a_grid_that_cannot_be_halved_goes_on_as_its_axes_say():
    net = make((6, 7), (True, False))
    x = torch.randn(1, 6, 7, 2)
    longer = np.pad(
        np.pad(x, ((0, 0), (0, 2), (0, 0), (0, 0)), "wrap"), ((0, 0),) * 2 + ((0, 1), (0, 0)), "edge"
    )
    torch.testing.assert_close(net(x), net(torch.from_numpy(longer))[:, :6, :7])


def test_samples_of_a_batch_do_not_see_each_other():
    net = make((8, 8), (False, True))
    x, order = torch.randn(5, 8, 8, 2), torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(net(x)[order], net(x[order]), rtol=1e-4, atol=1e-5)


def test_one_sample_on_a_coarsest_grid_of_one_point_is_one_of_several():
    net = make((3, 4), (False, True), width=2)
    x = torch.randn(2, 3, 4, 2)
    torch.testing.assert_close(net(x[:1]), net(x)[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("film", [True, False])
def test_scalars_reach_every_sample(film):
    net = make((8,), (True,), scalars=(2,), film=film)
    assert (net.lift.conv.weight.shape[1] == 2) is film
    x = torch.randn(2, 8, 3)
    x[..., 2] = torch.tensor([0.3, -1.0])[:, None]
    other = x.clone()
    other[1, :, 2] = 2.0
    apart = (net(x) - net(other)).abs().amax(dim=(1, 2))
    assert apart[0] == 0
    assert apart[1] > 1e-3


def test_inputs_that_are_all_numbers_are_fields_even_with_film():
    two = Port((), (0, 1), 1, (8,), (True,), ("a", "b"))
    net = UNetNet(two, 4, 1, 1, film=True, replicate=True)
    assert net(torch.randn(3, 8, 2)).shape == (3, 8, 1)


@pytest.mark.filterwarnings("ignore")  # torch.export warns about its own internals
def test_it_exports_with_a_free_batch_size():
    net = make((8, 7), (True, False), scalars=(2,), film=True)
    program = torch.export.export(
        net, (torch.randn(3, 8, 7, 3),), dynamic_shapes={"x": {0: torch.export.Dim.AUTO}}
    )
    other = torch.randn(7, 8, 7, 3)
    torch.testing.assert_close(program.module()(other), net(other), rtol=1e-4, atol=1e-5)


def test_it_runs_in_half_precision_where_torch_takes_it():
    net, x = make((8, 8), (True, True)), torch.randn(2, 8, 8, 2)
    whole = net(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = net(x)
        half.float().square().mean().backward()
    assert (half - whole).norm() < 0.05 * whole.norm()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_a_linear_operator_is_learned():
    model, reports, _ = fit(SMALL.replace(epochs=12, learning_rate=5e-3), smoothing(100))
    test = smoothing(50, seed=9)
    error = np.linalg.norm(model.predict(test.x)["v"] - test.y["v"]) / np.linalg.norm(test.y["v"])
    assert error < 0.1
    assert reports[-1].metrics["train_loss"] < 0.2 * reports[0].metrics["train_loss"]


@pytest.mark.parametrize("change", [{"blocks": 0}, {"halvings": -1}, {"width": 0}])
def test_bad_configurations_are_refused(change):
    with pytest.raises(Invalid, match=next(iter(change))):
        UNet(**change)
