import numpy as np
import pytest

torch = pytest.importorskip("torch")
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sciflow import Invalid, Signature
from sciflow.context import SerialComm
from sciflow_operators.components import FNO
from sciflow_operators.fields.channels import scales
from sciflow_operators.fields.port import Port
from sciflow_operators.fourier import dft
from sciflow_operators.fourier.continuation import extend, extra_points
from sciflow_operators.fourier.layers import FNONet
from sciflow_operators.fourier.neuralop import from_neuraloperator, to_neuraloperator
from sciflow_operators.fourier.spectral import SpectralConv
from tests.operators.test_training import SMALL, K, Memory, fit, smoothing


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


class ComplexSpectral(nn.Module):
    """The textbook layer with complex numbers and fast transforms: the oracle."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        conv = self.conv
        n = conv.channels_out
        w = torch.complex(conv.weight[..., :n].contiguous(), conv.weight[..., n:].contiguous())
        w = w.reshape(*conv.kept, *w.shape[1:])
        points = x.shape[1:-1]
        axes = tuple(range(1, x.ndim - 1))
        z = torch.fft.rfftn(x, dim=axes, norm="forward")
        out = torch.zeros(*z.shape[:-1], n, dtype=z.dtype)
        places = []
        for axis, (m, size) in enumerate(zip(conv.modes[:-1], points[:-1], strict=True)):
            kept = min(m, size)
            places.append(torch.arange(-(kept // 2), kept - kept // 2) % size)
            w = w.narrow(axis, m // 2 - kept // 2, kept)
        k = min(conv.kept[-1], z.shape[-2])
        places.append(torch.arange(k))
        w = w.narrow(len(places) - 1, 0, k)
        every = (slice(None), *torch.meshgrid(*places, indexing="ij"))
        out[every] = torch.einsum("b...i,...io->b...o", z[every], w)
        return torch.fft.irfftn(out, s=points, dim=axes, norm="forward")


def both(points, modes, channels=3):
    conv = SpectralConv(channels, channels, modes).double()
    x = torch.randn(2, *points, channels, dtype=torch.float64, requires_grad=True)
    ours = conv(x, torch.zeros_like(x))
    theirs = ComplexSpectral(conv)(x)
    return conv, x, ours, theirs


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 19), st.integers(4, 19), st.integers(1, 8), st.integers(1, 8))
def test_two_dimensions_agree_with_complex_transforms(height, width, m1, m2):
    # An even number of modes on an equally even grid would hold a Nyquist wave, which fast
    # transforms of real data treat in a way of their own.
    if m1 >= height or 2 * (m2 // 2) >= width:
        return
    conv, x, ours, theirs = both((height, width), (m1, m2))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    seed = torch.randn_like(ours)
    ga = torch.autograd.grad(ours, [x, conv.weight], seed, retain_graph=True)
    gb = torch.autograd.grad(theirs, [x, conv.weight], seed)
    for a, b in zip(ga, gb, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@settings(max_examples=15, deadline=None)
@given(*[st.integers(3, 9)] * 3, *[st.integers(1, 10)] * 3)
def test_three_dimensions_agree_with_complex_transforms(n1, n2, n3, m1, m2, m3):
    if m1 >= n1 or m2 >= n2 or 2 * (m3 // 2) >= n3:
        return
    conv, x, ours, theirs = both((n1, n2, n3), (m1, m2, m3), 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    seed = torch.randn_like(ours)
    ga = torch.autograd.grad(ours, [x, conv.weight], seed, retain_graph=True)
    gb = torch.autograd.grad(theirs, [x, conv.weight], seed)
    for a, b in zip(ga, gb, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("points", "modes"), [(16, 8), (17, 8), (33, 16), (64, 1)])
def test_one_dimension_agrees_with_complex_transforms(points, modes):
    _, _, ours, theirs = both((points,), (modes,))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("points", "modes"), [(200, 160), (201, 150), (128, 128), (127, 300)])
def test_many_modes_take_fast_transforms_to_the_same_numbers(points, modes, monkeypatch):
    conv, x, ours, theirs = both((points,), (modes,))
    assert conv._many(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    seed = torch.randn_like(ours)
    ga = torch.autograd.grad(ours, [x, conv.weight], seed)
    monkeypatch.setattr(conv, "_many", lambda x: False)
    matrices = conv(x, torch.zeros_like(x))
    torch.testing.assert_close(ours, matrices, rtol=1e-9, atol=1e-11)
    for a, b in zip(ga, torch.autograd.grad(matrices, [x, conv.weight], seed), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["learning_rate", "padding", "weight_decay", "clip", "noise"])
def test_settings_that_are_no_numbers_are_refused(name):
    with pytest.raises(Invalid, match=f"{name} .*got nan"):
        FNO(**{name: float("nan")})


def test_matrices_that_a_prediction_kept_serve_a_training(monkeypatch):
    net = FNONet(1, 1, 4, (4,), 1, (False,), padding=0.25, continuation=2)
    monkeypatch.setattr(dft, "_KEPT", {})
    with torch.inference_mode():
        net(torch.randn(2, 23, 1))
    assert dft._KEPT
    net(torch.randn(2, 23, 1)).sum().backward()


def test_only_so_many_matrices_are_kept(monkeypatch):
    monkeypatch.setattr(dft, "_KEPT", {})
    x = torch.zeros(1)
    for n in range(8, 8 + 2 * dft.MOST):
        made = dft.kept(dft.real_transform, (n, 4, True, False), x)
    assert len(dft._KEPT) == dft.MOST
    assert dft.kept(dft.real_transform, (n, 4, True, False), x) is made


def test_the_spectral_layer_is_linear():
    conv = SpectralConv(2, 2, (4, 4)).double()
    x, y = torch.randn(2, 1, 9, 8, 2, dtype=torch.float64)
    zero = torch.zeros_like(x)
    torch.testing.assert_close(conv(2 * x - 3 * y, zero), 2 * conv(x, zero) - 3 * conv(y, zero))


def test_the_spectral_layer_commutes_with_translation():
    conv = SpectralConv(2, 2, (5, 4)).double()
    x = torch.randn(1, 12, 10, 2, dtype=torch.float64)
    zero = torch.zeros_like(x)
    moved = torch.roll(x, (3, 7), dims=(1, 2))
    torch.testing.assert_close(conv(moved, zero), torch.roll(conv(x, zero), (3, 7), dims=(1, 2)))


def test_the_spectral_layer_knows_no_grid():
    """A band-limited function gives the same function on a grid four times as fine."""
    conv = SpectralConv(1, 1, (8,)).double()

    def function(n):
        x = torch.arange(n, dtype=torch.float64) / n
        return (torch.sin(2 * torch.pi * x) + torch.cos(6 * torch.pi * x))[None, :, None]

    coarse, fine = (conv(function(n), torch.zeros(1, n, 1, dtype=torch.float64)) for n in (32, 128))
    torch.testing.assert_close(fine[:, ::4], coarse)


def test_a_grid_too_coarse_for_the_modes_keeps_the_right_ones():
    conv = SpectralConv(1, 1, (8, 8)).double()

    def function(n):
        x = 2 * torch.pi * torch.arange(n, dtype=torch.float64) / n
        values = 1 + torch.sin(x)[:, None] * torch.cos(2 * x)
        return conv(values[None, ..., None], torch.zeros(1, n, n, 1, dtype=torch.float64))

    torch.testing.assert_close(function(20)[:, ::4, ::4], function(5))


def test_padding_adds_the_same_length_on_every_grid():
    for n in (17, 65, 257):
        assert n + extra_points(n, 0.25) == 1.25 * (n - 1)
    assert extra_points(64, 0.0) == 0


def test_a_grid_too_coarse_for_the_modes_uses_those_it_has():
    net = FNONet(1, 1, 4, (16, 16), 2, (True, True))
    assert torch.isfinite(net(torch.randn(2, 6, 5, 1))).all()


def test_no_weight_is_made_for_modes_that_the_training_grid_lacks():
    """They would stay random, and a finer grid would meet them."""
    net = FNO(modes=(64, 6, 40), width=4).module(Port((0,), (), 1, (9, 8, 12), (True,) * 3, ("u",)))
    assert net.blocks[0].conv.kept == (9, 6, 7)
    with pytest.raises(Invalid, match="for 3 axes; these fields have 2"):
        FNO(modes=(4, 4, 4)).module(Port((0,), (), 1, (9, 8), (True,) * 2, ("u",)))
    with pytest.raises(Invalid, match="continuation takes 3 points of each end; axis 0 has 2"):
        FNO(continuation=3).module(Port((0,), (), 1, (2,), (False,), ("u",)))


@pytest.mark.parametrize("ends", [1, 2, 3, 4])
def test_a_continuation_meets_polynomials_and_the_period(ends):
    """Through the gap goes the one polynomial of degree 2 ends - 1 that both ends lie on."""
    extra, n = 5, 12
    at = torch.arange(n - ends, n + extra + ends, dtype=torch.float64) - n
    curve = sum((0.3 * at) ** k for k in range(2 * ends))
    field = torch.zeros(2, n, 1, dtype=torch.float64)
    field[:, n - ends :, 0], field[:, :ends, 0] = curve[:ends], curve[-ends:]
    wide = extend(field, 1, extra, ends)
    assert wide.shape == (2, n + extra, 1)
    torch.testing.assert_close(wide[0, n:, 0], curve[ends:-ends])
    torch.testing.assert_close(extend(torch.ones_like(field), 1, extra, ends), torch.ones(2, 17, 1).double())


@pytest.mark.parametrize("ends", [1, 2, 3, 4])
def test_a_continuation_converges_with_the_order_of_its_ends(ends):
    """The function continued into a gap that shrinks with the grid, beside the periodic function itself."""
    errors = []
    for n in (80, 160):
        x = 2 * np.pi * np.arange(n + 3, dtype=float) / (n + 3)
        wave = torch.from_numpy(np.exp(np.sin(x + np.arange(0, 6, 0.1)[:, None])))[..., None]
        errors.append(float((extend(wave[:, :n], 1, 3, ends) - wave).abs().max()))
    assert abs(np.log2(errors[0] / errors[1]) - 2 * ends) < 0.6


def test_a_continued_axis_is_as_smooth_as_it_was_told():
    """On a fine grid the slope at the ends goes on without a jump; zeros leave one of order one."""
    n = 401
    x = torch.linspace(0, 1, n, dtype=torch.float64)
    field = (torch.sin(3 * x) + x**2)[None, :, None]
    jumps = {}
    for ends in (0, 1, 2):
        wide = extend(field, 1, 100, ends)[0, :, 0]
        closed = torch.cat([wide, wide[:2]])
        jumps[ends] = closed.diff().abs().max().item(), closed.diff(n=2).abs().max().item() * (n - 1)
    assert jumps[0][0] > 0.5
    assert jumps[1][0] < 0.02
    assert jumps[1][1] > 1
    assert jumps[2][1] < 0.5


@pytest.mark.parametrize(("periodic", "n", "stride"), [(True, 32, 2), (False, 33, 4)])
def test_training_on_parts_of_the_grid_is_training_on_that_grid(periodic, n, stride):
    """With a single resolution: the same losses as with samples of that grid."""
    whole = smoothing(20, n)
    line = whole.signature.coordinates["x"]
    axes = ("x",) if periodic else ()
    fine = Memory(whole.x, whole.y, Signature({"u": K}, {"v": K}, {"x": line}, axes))
    part = {k: v[:, ::stride] for k, v in whole.x.items()}, {k: v[:, ::stride] for k, v in whole.y.items()}
    coarse = Memory(*part, Signature({"u": K}, {"v": K}, {"x": line[::stride]}, axes))
    config = SMALL.replace(modes=4, epochs=2)
    one = config.replace(resolutions=(stride,)).fitted
    layout, net = config.network(fine.signature)
    scaling = scales(coarse, layout, SerialComm())
    x, y = (
        torch.from_numpy(layout.stack(v, w)) for v, w in ((fine.x, layout.inputs), (fine.y, layout.outputs))
    )
    draw = torch.Generator().manual_seed(0)
    a = one(fine.signature, layout, net, scaling).objective(x, y, draw, 0.0)
    b = config.fitted(coarse.signature, layout, net, scaling).objective(
        x[:, ::stride], y[:, ::stride], draw, 0.0
    )
    torch.testing.assert_close(a, b)


def test_resolutions_are_drawn_and_resumed_and_checked():
    config = SMALL.replace(resolutions=(1, 2, 4))
    samples = smoothing(40)
    seen = set()
    whole, _, checkpoint = fit(config, samples, stop=3)
    model = config.load(whole.state(), whole.signature)
    model.net.register_forward_hook(lambda net, x, y: seen.add(x[0].shape[1]))
    values = torch.zeros(2, 32, 1)
    for seed in range(20):
        model.objective(values, values + 1, torch.Generator().manual_seed(seed), 0.0)
    assert seen == {32, 16, 8}
    resumed, _, _ = fit(config, samples, resume=checkpoint)
    for name, array in whole.state().items():
        assert array.tobytes() == resumed.state()[name].tobytes(), name
    with pytest.raises(
        Invalid, match="every 3th point is no grid of the same domain: x has 32 points, periodic"
    ):
        fit(SMALL.replace(resolutions=(1, 3)), samples)


@pytest.mark.parametrize("factorisation", ["dense", "tucker"])
def test_half_precision_stays_near(factorisation):
    net = FNONet(1, 1, 8, (6, 6), 2, (False, True), 0.25, True, 2, factorisation, 0.3)
    x = torch.randn(4, 12, 12, 1)
    whole = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x)
    half.float().square().sum().backward()
    assert (half.float() - whole).norm() < 0.05 * whole.norm()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("factorisation", ["dense", "tucker"])
def test_a_compiler_sees_one_graph_whatever_the_batch(factorisation):
    """No break and no warning: nothing is computed outside of the graph."""
    net = FNONet(1, 1, 4, (6, 6), 1, (False, True), 0.25, True, 2, factorisation, 0.3)
    torch.compiler.reset()
    traced = torch.compile(net, fullgraph=True, backend="eager")
    for batch in (2, 5):
        x = torch.randn(batch, 12, 12, 1)
        torch.testing.assert_close(traced(x), net(x))


@pytest.mark.torture
@pytest.mark.filterwarnings("ignore")  # the compiler warns about its own internals
@pytest.mark.parametrize("factorisation", ["dense", "tucker"])
def test_it_compiles_to_the_same_numbers(factorisation):
    net = FNONet(1, 1, 8, (6, 6), 2, (False, True), 0.25, True, 2, factorisation, 0.3)
    fast = torch.compile(net)
    x = torch.randn(4, 12, 12, 1)
    torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)
    for a, b in zip(
        *(torch.autograd.grad(n(x).square().sum(), list(net.parameters())) for n in (fast, net)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_padding_is_cut_off_again_and_changes_the_result():
    plain = FNONet(1, 2, 4, (4, 4), 2, (False, False))
    padded = FNONet(1, 2, 4, (4, 4), 2, (False, False), padding=0.4)
    padded.load_state_dict(plain.state_dict())
    x = torch.randn(3, 9, 8, 1)
    assert padded(x).shape == (3, 9, 8, 2)
    assert (padded(x) - plain(x)).abs().max() > 1e-4


def test_samples_of_a_batch_do_not_see_each_other():
    net = FNONet(1, 1, 4, (4,), 2, (False,), padding=0.25)
    x = torch.randn(5, 16, 1)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(net(x)[order], net(x[order]), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # torch.export warns about its own internals
def test_it_exports_with_a_free_batch_size():
    net = FNONet(2, 1, 4, (4, 4), 2, (False, True), padding=0.25)
    program = torch.export.export(
        net, (torch.randn(3, 9, 8, 2),), dynamic_shapes={"x": {0: torch.export.Dim.AUTO}}
    )
    other = torch.randn(7, 9, 8, 2)
    # The net itself after the trace: nothing made while tracing may have been kept.
    torch.testing.assert_close(program.module()(other), net(other))


def reference(state, x, layers, modes):
    """The whole network with complex numbers, fast transforms and channels first."""

    def dense(name, values):
        out = torch.einsum("oi,bi...->bo...", state[f"{name}.weight"], values)
        return out + state[f"{name}.bias"].reshape(-1, *(1,) * (values.ndim - 2))

    def perceptron(name, values):
        return dense(f"{name}.second", nn.functional.gelu(dense(f"{name}.first", values)))

    points = x.shape[2:]
    axes = tuple(range(2, x.ndim))
    grids = torch.meshgrid(*(torch.arange(n, dtype=x.dtype) / n for n in points), indexing="ij")
    x = perceptron("lift", torch.cat([x, torch.stack(grids).expand(len(x), -1, *points)], dim=1))
    for i in range(layers):
        weight = state[f"blocks.{i}.conv.weight"]
        n = weight.shape[2] // 2
        weight = torch.complex(weight[..., :n].contiguous(), weight[..., n:].contiguous())
        weight = weight.reshape(*modes[:-1], modes[-1] // 2 + 1, *weight.shape[1:])
        z = torch.fft.rfftn(x, dim=axes, norm="forward")
        low = torch.zeros_like(z)
        for index in np.ndindex(weight.shape[: len(points)]):
            signed = [k - m // 2 for k, m in zip(index[:-1], modes[:-1], strict=True)]
            place = (slice(None), slice(None), *signed, index[-1])
            low[place] = z[place] @ weight[index]
        y = dense(f"blocks.{i}.skip", x) + torch.fft.irfftn(low, s=points, dim=axes, norm="forward")
        y = y if i == layers - 1 else nn.functional.gelu(y)
        y = perceptron(f"blocks.{i}.mlp", y) + state[f"blocks.{i}.gate"].reshape(-1, *(1,) * len(points)) * x
        x = y if i == layers - 1 else nn.functional.gelu(y)
    return perceptron("project", x)


@pytest.mark.parametrize(("points", "modes"), [((24,), (8,)), ((12, 15), (6, 5)), ((7, 8, 9), (4, 3, 5))])
def test_the_network_agrees_with_complex_numbers_and_channels_first(points, modes):
    net = FNONet(2, 3, 6, modes, 3, (True,) * len(points))
    x = torch.randn(4, *points, 2)
    first, last = (0, x.ndim - 1, *range(1, x.ndim - 1)), (0, *range(2, x.ndim), 1)
    weights = dict(net.named_parameters())
    ours, theirs = net(x), reference(weights, x.permute(first), 3, modes).permute(last)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    seed = torch.randn_like(ours)
    ga = torch.autograd.grad(ours, list(weights.values()), seed)
    gb = torch.autograd.grad(theirs, list(weights.values()), seed)
    for name, a, b in zip(weights, ga, gb, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm(), name


def test_without_coordinates_a_periodic_network_commutes_with_translation():
    x = torch.randn(2, 12, 10, 1)
    for coordinates in (False, True):
        net = FNONet(1, 1, 6, (5, 4), 2, (True, True), coordinates=coordinates)
        apart = (
            (net(torch.roll(x, (3, 7), dims=(1, 2))) - torch.roll(net(x), (3, 7), dims=(1, 2))).abs().max()
        )
        assert (apart < 1e-5) is not coordinates


@pytest.mark.parametrize("periodic", [True, False])
def test_a_smooth_input_gives_the_same_output_on_a_finer_grid(periodic):
    # Without activations a band-limited input stays band-limited, with them nearly so.
    net = FNONet(1, 1, 8, (8,), 2, (periodic,), padding=0.25)
    coarse, fine = (64, 256) if periodic else (65, 257)

    def run(n):
        x = torch.arange(n) / n if periodic else torch.linspace(0, 1, n)
        return net(torch.sin(2 * torch.pi * x)[None, :, None])[0, :, 0]

    a, b = run(coarse), run(fine)[::4]
    assert len(a) == len(b)
    # A jump at the end of a padded axis is resolved to first order only.
    assert (a - b).norm() < (1e-3 if periodic else 3e-2) * b.norm()


def test_weights_go_to_neuraloperator_and_back():
    """Runs where `make bench` installed neuraloperator."""
    models = pytest.importorskip("neuralop.models")
    # With an odd number of rows neuraloperator 2.0 shifts its modes by one (fftshift twice): even ones.
    for modes, points in (((8, 8), (16, 16)), ((8,), (32,)), ((7, 5), (16, 21))):
        theirs = models.FNO(n_modes=modes, hidden_channels=8, in_channels=2, out_channels=3, n_layers=2)
        ours = FNONet(2, 3, 8, modes, 2, (True,) * len(modes))
        ours.load_state_dict(from_neuraloperator(theirs.state_dict(), 2))
        x = torch.randn(4, 2, *points)
        last = (0, *range(2, x.ndim), 1)
        with torch.no_grad():
            difference = (theirs(x).permute(last) - ours(x.permute(last))).abs().max()
        assert difference <= 1e-6
        again = to_neuraloperator(ours.state_dict(), theirs.state_dict(), 2)
        for name, value in theirs.state_dict().items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(again[name], value)


def test_the_oracle_can_fail():
    _, _, ours, theirs = both((8, 8), (4, 4))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ours * 1.001, theirs)
    assert np.isfinite(ours.detach().numpy()).all()
