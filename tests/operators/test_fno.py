import numpy as np
import pytest

torch = pytest.importorskip("torch")
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sciflow_operators.fno import FNONet, SpectralConv


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


def test_a_grid_too_coarse_for_the_modes_uses_those_it_has():
    net = FNONet(1, 1, 4, (16, 16), 2, (0.0, 0.0))
    assert torch.isfinite(net(torch.randn(2, 6, 5, 1))).all()


def test_padding_is_cut_off_again_and_changes_the_result():
    plain = FNONet(1, 2, 4, (4, 4), 2, (0.0, 0.0))
    padded = FNONet(1, 2, 4, (4, 4), 2, (0.25, 0.25))
    padded.load_state_dict(plain.state_dict())
    x = torch.randn(3, 9, 8, 1)
    assert padded(x).shape == (3, 9, 8, 2)
    assert (padded(x) - plain(x)).abs().max() > 1e-4


def test_samples_of_a_batch_do_not_see_each_other():
    net = FNONet(1, 1, 4, (4,), 2, (0.125,))
    x = torch.randn(5, 16, 1)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(net(x)[order], net(x[order]), rtol=1e-5, atol=1e-6)


def test_it_exports_with_a_free_batch_size():
    net = FNONet(2, 1, 4, (4, 4), 2, (0.0, 0.0)).eval()
    x = torch.randn(3, 8, 8, 2)
    net(x)  # transforms are cached per grid
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export warns about its own internals
        program = torch.export.export(net, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    other = torch.randn(7, 8, 8, 2)
    torch.testing.assert_close(program.module()(other), net(other))


def test_weights_go_to_neuraloperator_and_back():
    """Runs where `make bench` installed neuraloperator."""
    models = pytest.importorskip("neuralop.models")
    from sciflow_operators.fno import from_neuraloperator, to_neuraloperator

    for modes, points in (((8, 8), (16, 16)), ((8,), (32,)), ((6, 4), (15, 21))):
        theirs = models.FNO(n_modes=modes, hidden_channels=8, in_channels=2, out_channels=3, n_layers=2)
        ours = FNONet(2, 3, 8, modes, 2, (0.0,) * len(modes))
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
