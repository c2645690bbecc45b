import numpy as np
import pytest

torch = pytest.importorskip("torch")
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sciflow import Field, Invalid, Signature
from sciflow_operators.components import FNO, Conditioned, MultiGrid, Refiner, Stagger
from sciflow_operators.fourier.patches import Patched, inside, split, starts, stitch, window, windows
from tests.operators.test_training import Memory, fit

EDGES = ("circular", "reflect", "replicate")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(4, 13), min_size=1, max_size=3),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 5),
    st.sampled_from(EDGES),
)
def test_stitching_is_the_inverse_of_splitting(points, count, halo, edge):
    x = torch.randn(2, *points, 3)
    halos = [halo + axis for axis in range(len(points))]
    patches = split(x, count, halos, [edge] * len(points), 0)
    assert patches.shape[0] == 2 * count ** len(points)
    torch.testing.assert_close(stitch(patches, points, count, halos), x, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("edge", "mode"), [("circular", "wrap"), ("reflect", "reflect"), ("replicate", "edge")]
)
@pytest.mark.parametrize("points", [5, 8])
def test_beyond_the_ends_stands_what_numpy_pads(edge, mode, points):
    line = np.arange(points)
    index = torch.arange(-11, points + 11)
    np.testing.assert_array_equal(inside(index, points, edge).numpy(), np.pad(line, 11, mode=mode))


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 70), st.integers(0, 3), st.integers(0, 4), st.sampled_from(EDGES))
def test_coarser_views_have_the_centre_of_the_patch(points, levels, halo, edge):
    count = 2**levels
    width = -(-points // count) + 2 * halo
    for level in range(levels + 1):
        middle = starts(points, count, halo, level) + 2**level * (width - 1) / 2
        apart = middle - starts(points, count, halo, 0) - (width - 1) / 2
        assert apart.abs().max() <= 1.5 * 2**level
        index = windows(points, count, halo, level, edge)
        assert index.shape == (count, width)
        assert index.min() >= 0
        assert index.max() < points
    # The coarsest view is as wide as the domain.
    assert 2**levels * width >= points


@pytest.mark.parametrize(("points", "levels"), [((16, 24), 1), ((18, 13), 1), ((33,), 2), ((9, 8, 11), 1)])
@pytest.mark.parametrize("edge", ["circular", "replicate", "reflect"])
def test_a_local_network_does_not_see_the_patches(points, levels, edge):
    """A stencil no wider than the halo gives what it gives on the whole, padded at its edge."""
    axes = len(points)
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes](2 * (levels + 1), 3, 3, padding="same").double()
    first, last = (0, axes + 1, *range(1, axes + 1)), (0, *range(2, axes + 2), 1)

    class Stencil(nn.Module):
        def forward(self, x):
            return conv(x.permute(first)).permute(last)

    with torch.no_grad():
        conv.weight[:, 2:] = 0  # the finest view only
    net = Patched(Stencil(), levels, 0.13, [edge == "circular"] * axes, edge, coordinates=False)
    assert min(round(n * 0.13) for n in points) >= 1
    x = torch.randn(2, *points, 2).double()
    wide = np.pad(
        x.numpy(),
        [(0, 0), *[(1, 1)] * axes, (0, 0)],
        mode={"circular": "wrap", "replicate": "edge"}.get(edge, edge),
    )
    seen = torch.cat([torch.from_numpy(wide)] * (levels + 1), dim=-1)
    whole = Stencil()(seen)[:, *[slice(1, -1)] * axes]
    torch.testing.assert_close(net(x), whole)


def test_without_coordinates_it_commutes_with_shifts_by_a_patch():
    inner = FNO(width=4, modes=4, layers=2, padding=0.0, coordinates=False)
    net = MultiGrid(inner=inner, levels=1, coordinates=False).module(port((16, 12), (True, True)))
    x = torch.randn(2, 16, 12, 1)
    moved = torch.roll(x, (8, 6), dims=(1, 2))
    torch.testing.assert_close(net(moved), torch.roll(net(x), (8, 6), dims=(1, 2)), rtol=1e-4, atol=1e-5)


def port(points, periodic):
    from sciflow_operators.fields.port import Port

    return Port((0,), (), 1, points, periodic, ("u",))


def test_the_network_of_a_patch_knows_fields_from_numbers():
    from sciflow_operators.fields.port import Port

    seen = []

    class Spy(FNO):
        def module(self, port):
            seen.append(port)
            return super().module(port)

    outer = Port((0, 2), (1,), 1, (16, 21), (True, False), ("u", "lead_time", "v"))
    net = MultiGrid(inner=Spy(width=4, modes=4, layers=1), levels=1, halo=0.1).module(outer)
    (inner,) = seen
    assert inner.channels_in == 10
    assert inner.scalars == (1,)
    assert inner.names[:6] == ("u", "lead_time", "v", "coordinate_0", "coordinate_1", "u_2")
    assert inner.points == (8 + 2 * 2, 11 + 2 * 2)
    assert inner.periodic == (False, False)
    assert net(torch.randn(3, 16, 21, 3)).shape == (3, 16, 21, 1)


def test_windows_have_the_announced_size():
    for points in ((16, 24), (33,), (9, 8, 11)):
        halos = [round(0.1 * n) for n in points]
        patches = split(torch.randn(1, *points, 1), 2, halos, ["reflect"] * len(points), 1)
        assert patches.shape[1:-1] == window(points, 1, 0.1)


def test_patches_of_neuraloperator_are_the_same():
    """Runs where `make bench` installed neuraloperator: square, periodic, two axes."""
    patching = pytest.importorskip("neuralop.training.patching")
    for levels, padding, n in ((1, 0.0625, 32), (2, 0.125, 32), (2, 0.0625, 64)):
        theirs = patching.MultigridPatching2D(nn.Identity(), levels=levels, padding_fraction=padding)
        x = torch.randn(2, 3, n, n)
        halos = [round(padding * n)] * 2
        ours = split(x.permute(0, 2, 3, 1), 2**levels, halos, ["circular"] * 2, levels)
        assert torch.equal(theirs.patch(x, x)[0], ours.permute(0, 3, 1, 2))
        y = torch.randn(2 * 4**levels, 2, *ours.shape[1:3])
        whole = stitch(y.permute(0, 2, 3, 1), (n, n), 2**levels, halos)
        assert torch.equal(theirs.unpatch(y, None)[0], whole.permute(0, 3, 1, 2))


@pytest.mark.filterwarnings("ignore")  # torch.export warns about its own internals
def test_it_exports_with_a_free_batch_size():
    inner = FNO(width=4, modes=4, layers=1, factorisation="tucker", rank=0.3)
    net = MultiGrid(inner=inner).module(port((9, 12), (False, True)))
    program = torch.export.export(
        net, (torch.randn(3, 9, 12, 1),), dynamic_shapes={"x": {0: torch.export.Dim.AUTO}}
    )
    other = torch.randn(7, 9, 12, 1)
    torch.testing.assert_close(program.module()(other), net(other))


def test_it_learns_a_local_operator_from_patches():
    """The derivative of random waves, on an axis that is not periodic and does not divide."""
    rng = np.random.default_rng(0)
    x = np.linspace(0, 1, 33)
    k = np.arange(1, 7)
    a, b = rng.standard_normal((2, 120, 6)) / k
    wave = 2 * np.pi * k[:, None] * x / 1.3
    u = (a @ np.sin(wave) + b @ np.cos(wave)).astype("float32")
    v = (a * k) @ np.cos(wave) - (b * k) @ np.sin(wave)
    K = Field(("x",), "K")
    samples = Memory({"u": u}, {"v": v.astype("float32")}, Signature({"u": K}, {"v": K}, {"x": x}))
    inner = FNO(width=12, modes=8, layers=2, padding=0.25, continuation=2, coordinates=False)
    config = MultiGrid(
        inner=inner, levels=1, epochs=60, batch=12, threads=1, device="cpu", learning_rate=1e-2
    )
    model, reports, _ = fit(config, samples)
    assert reports[-1].metrics["valid_error"] < 0.15
    assert model.predict({"u": u[:, ::2]})["v"].shape == (120, 17)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": -1}, "levels must be 0 to 6"),
        ({"halo": 0.5}, "halo must be a fraction"),
        ({"levels": 3}, "8 patches of at least 2 points; the grid has"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    with pytest.raises(Invalid, match=message):
        MultiGrid(**change).module(port((12, 12), (True, True)))


def test_networks_that_are_trained_in_a_way_of_their_own_go_around_it_not_inside():
    inner = FNO(width=4, modes=4, layers=1)
    for kind in (Conditioned, Refiner):
        with pytest.raises(
            Invalid, match=f"{kind.name} is trained in a way of its own .* put multigrid inside"
        ):
            MultiGrid(inner=kind(inner=inner))
        assert kind(inner=MultiGrid(inner=inner)).inner.name == "multigrid"
    assert MultiGrid(inner=Stagger(inner=inner)).inner.name == "stagger"
