import numpy as np
import pytest

torch = pytest.importorskip("torch")
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sciflow_operators.fourier.continuation import extra_points
from sciflow_operators.fourier.layers import FNONet
from sciflow_operators.fourier.neuralop import from_neuraloperator, to_neuraloperator
from sciflow_operators.fourier.spectral import SpectralConv


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
        k = min(conv.kept[-1], z.shape[-2])
        if len(points) == 1:
            out[:, :k] = torch.einsum("bki,kio->bko", z[:, :k], w[:k])
        else:
            m = min(conv.modes[0], points[0])
            rows = torch.arange(-(m // 2), m - m // 2)
            start = conv.modes[0] // 2 - m // 2
            w = w[start : start + m, :k]
            out[:, rows, :k] = torch.einsum("bmki,mkio->bmko", z[:, rows][:, :, :k], w)
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


@pytest.mark.parametrize(("points", "modes"), [(16, 8), (17, 8), (33, 16), (64, 1)])
def test_one_dimension_agrees_with_complex_transforms(points, modes):
    _, _, ours, theirs = both((points,), (modes,))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


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


@pytest.mark.parametrize(("points", "modes"), [((24,), (8,)), ((12, 15), (6, 5))])
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
