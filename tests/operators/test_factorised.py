import numpy as np
import pytest

torch = pytest.importorskip("torch")
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow import Invalid
from sciflow_operators.components import FNO
from sciflow_operators.fourier.decompose import cp, factorise, full, train, tucker
from sciflow_operators.fourier.factors import spectral
from sciflow_operators.fourier.layers import FNONet
from sciflow_operators.fourier.neuralop import from_neuraloperator, network, to_neuraloperator
from sciflow_operators.fourier.ranks import choose, largest, parameters
from sciflow_operators.fourier.spectral import SpectralConv

KINDS = ("tucker", "cp", "tt")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def as_dense(conv):
    """The same layer with a matrix for each mode."""
    dense = SpectralConv(conv.channels_in, conv.channels_out, conv.modes).to(conv.parts[0])
    with torch.no_grad():
        dense.weight.copy_(torch.cat(conv.dense(conv.kept).unbind(-1), dim=-1))
    return dense


def reference(kind, parts):
    """The full array by one contraction of complex numbers: the oracle."""
    parts = [torch.view_as_complex(p.detach()) for p in parts]
    axes = "iokl"[: len(parts) - (kind != "tt")]
    if kind == "tucker":
        core = axes.upper()
        return torch.einsum(
            f"{core},{','.join(a + c for a, c in zip(axes, core, strict=True))}->{axes}", *parts
        )
    if kind == "cp":
        return torch.einsum(f"r,{','.join(a + 'r' for a in axes)}->{axes}", *parts)
    bonds = "ABCDE"
    names = [bonds[i] + a + bonds[i + 1] for i, a in enumerate(axes)]
    return torch.einsum(f"{','.join(names)}->{axes}", *parts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("points", "modes"), [((9,), (6,)), ((8, 7), (5, 4))])
def test_factors_act_as_the_array_they_stand_for(kind, points, modes):
    conv = spectral(4, 5, modes, kind, 0.5).double()
    whole = reference(kind, conv.parts)
    assert whole.shape == (4, 5, *conv.kept)
    dense = as_dense(conv)
    torch.testing.assert_close(full(dense), whole)
    x, skip = torch.randn(3, *points, 4).double(), torch.randn(3, *points, 5).double()
    for direct in (False, True):
        conv.direct = direct
        torch.testing.assert_close(conv(x, skip), dense(x, skip))
    coarse = tuple(slice(0, 4) for _ in points)  # carries fewer modes
    a, b = x[:, *coarse], skip[:, *coarse]
    torch.testing.assert_close(conv(a, b), dense(a, b))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_all_factors_in_both_ways(kind):
    conv = spectral(4, 4, (4, 4), kind, 0.4).double()
    x = torch.randn(2, 8, 8, 4).double()
    found = []
    for direct in (False, True):
        conv.direct = direct
        found.append(torch.autograd.grad(conv(x, x).square().sum(), list(conv.parts)))
    for a, b in zip(*found, strict=True):
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [0.02, 0.1, 1.0])
def test_random_factors_stand_for_an_array_as_large_as_a_dense_one(kind, rank):
    wanted = SpectralConv(16, 24, (16, 16)).weight.square().mean() * 2
    conv = spectral(16, 24, (16, 16), kind, rank)
    assert abs(conv.dense(conv.kept).square().sum(dim=-1).mean() / (2 / 40) - 1) < 1e-4
    assert abs(wanted / (2 / 40) - 1) < 0.05
    # No array is tiny beside the others: one learning rate serves all.
    sizes = [p.square().sum(dim=-1).mean().sqrt() for p in conv.parts]
    assert max(sizes) < 100 * min(sizes)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.lists(st.integers(2, 40), min_size=3, max_size=5),
    st.floats(0.01, 1.0),
)
def test_ranks_keep_within_the_fraction_of_the_parameters(kind, shape, rank):
    ranks = choose(kind, shape, rank)
    budget = rank * np.prod(shape)
    assert all(1 <= r <= m for r, m in zip(ranks, largest(kind, shape), strict=True))
    least = [1] * len(ranks)
    if parameters(kind, shape, least) <= budget:
        assert parameters(kind, shape, ranks) <= budget
    else:
        assert ranks == least


def test_a_tenth_of_the_parameters_is_eight_times_smaller():
    def count(**more):
        return sum(p.numel() for p in FNONet(1, 1, 32, (16, 16), 4, (True, True), **more).parameters())

    for kind in KINDS:
        assert count() > 8 * count(factorisation=kind, rank=0.1)


@pytest.mark.parametrize(
    ("kind", "rank", "message"),
    [
        ("tucker", (2, 2, 2), r"takes 4 ranks of at most \(6, 6, 4, 3\), got \(2, 2, 2\)"),
        ("tucker", (7, 2, 2, 2), "takes 4 ranks of at most"),
        ("cp", (2, 2), "takes 1 ranks"),
        ("tt", (0, 2, 2), "takes 3 ranks"),
        ("tucker", 0.0, r"a fraction of the dense parameters in \(0, 1\], got 0.0"),
        ("cpd", 0.5, "there is no factorisation 'cpd'; choose dense, tucker, cp, tt"),
    ],
)
def test_ranks_that_make_no_sense_are_refused(kind, rank, message):
    with pytest.raises(Invalid, match=message):
        spectral(6, 6, (4, 4), kind, rank)


def test_configurations_that_make_no_sense_are_refused():
    for wrong in (
        {"rank": 1.5},
        {"rank": (0, 2, 2)},
        {"modes": (4, 4, 4, 4)},
        {"modes": (4, 0)},
        {"continuation": 9},
        {"resolutions": ()},
        {"resolutions": (0,)},
    ):
        with pytest.raises(Invalid, match=next(iter(wrong)).rstrip("s")):
            FNO(**wrong)


def test_truncated_decompositions_keep_their_bounds():
    draw = torch.Generator().manual_seed(3)
    whole = torch.randn(6, 5, 7, 3, dtype=torch.complex128, generator=draw)
    whole = whole * torch.exp(-torch.arange(7.0))[:, None]
    ranks, left = (4, 3, 5, 2), 0.0
    for axis, r in enumerate(ranks):
        left += torch.linalg.svdvals(whole.movedim(axis, 0).flatten(1))[r:].square().sum()
    made = [torch.view_as_real(p.resolve_conj()) for p in tucker(whole, ranks)]
    error = (reference("tucker", made) - whole).abs().square().sum()
    assert 0 < error <= left * (1 + 1e-9)
    bonds, left = (4, 8, 2), 0.0
    for axis, r in enumerate(bonds, 1):
        rows = whole.reshape(int(np.prod(whole.shape[:axis])), -1)
        left += torch.linalg.svdvals(rows)[r:].square().sum()
    made = [torch.view_as_real(p.resolve_conj()) for p in train(whole, bonds)]
    error = (reference("tt", made) - whole).abs().square().sum()
    assert 0 < error <= left * (1 + 1e-9)


def test_full_ranks_lose_nothing():
    whole = torch.randn(9, 2, 3, dtype=torch.complex128)
    for kind, made in (("tucker", tucker(whole, (9, 2, 3))), ("tt", train(whole, (9, 3)))):
        parts = [torch.view_as_real(p.resolve_conj()) for p in made]
        torch.testing.assert_close(reference(kind, parts), whole)


def test_a_sum_of_products_is_found_again():
    factors = [torch.randn(n, 2, dtype=torch.complex128) for n in (6, 5, 4)]
    whole = torch.einsum("ir,or,kr->iok", *factors)
    parts = [torch.view_as_real(p.resolve_conj()) for p in cp(whole, (2,))]
    assert (reference("cp", parts) - whole).norm() < 1e-6 * whole.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_a_dense_network_becomes_a_factorised_one(kind):
    """One whose weights have these ranks is found again; more ranks come closer to any other."""
    small = FNONet(1, 1, 5, (4, 4), 2, (True, True), factorisation=kind, rank=0.2)
    dense = FNONet(1, 1, 5, (4, 4), 2, (True, True))
    state = small.state_dict()
    state |= {f"blocks.{i}.conv.weight": as_dense(b.conv).weight for i, b in enumerate(small.blocks)}
    dense.load_state_dict({k: v for k, v in state.items() if ".parts." not in k})
    x = torch.randn(2, 8, 8, 1)
    again = factorise(dense, kind, small.blocks[0].conv.ranks)
    # Alternating least squares for CP converge slowly.
    torch.testing.assert_close(again(x), dense(x), rtol=1e-3, atol=2e-3 if kind == "cp" else 1e-5)
    random = FNONet(1, 1, 5, (4, 4), 2, (True, True))

    def error(rank):
        conv = factorise(random, kind, rank).blocks[1].conv
        return (as_dense(conv).weight - random.blocks[1].conv.weight).norm().item()

    errors = [error(r) for r in (0.1, 0.4, 1.0)]
    assert errors[0] > errors[1] > errors[2]
    with pytest.raises(Invalid, match="factorised already"):
        factorise(again, kind, 0.5)


@pytest.mark.filterwarnings("ignore")  # torch.export warns about its own internals
@pytest.mark.parametrize("kind", KINDS)
def test_it_exports_with_a_free_batch_size(kind):
    net = FNONet(1, 1, 4, (4, 4), 1, (False, True), 0.25, True, 2, kind, 0.3)
    program = torch.export.export(
        net, (torch.randn(3, 9, 8, 1),), dynamic_shapes={"x": {0: torch.export.Dim.AUTO}}
    )
    other = torch.randn(7, 9, 8, 1)
    torch.testing.assert_close(program.module()(other), net(other))


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_weights_go_to_neuraloperator_and_back(kind):
    """Runs where `make bench` installed neuraloperator."""
    models = pytest.importorskip("neuralop.models")
    for modes, points in (((8,), (33,)), ((6, 5), (16, 21)), ((20, 8), (16, 8)), ((4, 6, 4), (8, 10, 11))):
        theirs = models.FNO(
            n_modes=modes,
            hidden_channels=8,
            in_channels=2,
            out_channels=3,
            n_layers=2,
            factorization=kind,
            rank=0.3,
            implementation="factorized",
        )
        ours = network(theirs.state_dict(), (True,) * len(modes))
        x = torch.randn(4, 2, *points, requires_grad=True)
        a = theirs(x).permute(0, *range(2, x.ndim), 1)
        b = ours(x.permute(0, *range(2, x.ndim), 1))
        assert (a - b).abs().max() <= 1e-6
        seed = torch.randn_like(a)
        ga, gb = (torch.autograd.grad(v, [x], seed)[0] for v in (a, b))
        assert (ga - gb).norm() <= 1e-5 * ga.norm()
        again = to_neuraloperator(ours.state_dict(), theirs.state_dict(), 2)
        for name, value in theirs.state_dict().items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(again[name], value)


def their_state(dense):
    """Weights of a small network with neuraloperator's names and shapes, one axis."""
    draw = torch.Generator().manual_seed(1)

    def perceptron(name, a, b, c):
        return {
            f"{name}.fcs.0.weight": torch.randn(b, a, 1, generator=draw),
            f"{name}.fcs.0.bias": torch.randn(b, generator=draw),
            f"{name}.fcs.1.weight": torch.randn(c, b, 1, generator=draw),
            f"{name}.fcs.1.bias": torch.randn(c, generator=draw),
        }

    block = "fno_blocks.convs.0"
    state = perceptron("lifting", 3, 8, 4) | perceptron("projection", 4, 8, 1)
    state |= perceptron("fno_blocks.channel_mlp.0", 4, 2, 4)
    state |= {
        f"{block}.bias": torch.randn(4, 1, generator=draw),
        "fno_blocks.fno_skips.0.conv.weight": torch.randn(4, 4, 1, generator=draw),
        "fno_blocks.channel_mlp_skips.0.weight": torch.randn(1, 4, 1, generator=draw),
        "_metadata": {"kind": "FNO"},
    }
    shapes = (
        {"": (4, 4, 3)}
        if dense
        else {".weights": (5,)} | {f".factors.factor_{i}": (n, 5) for i, n in enumerate((4, 4, 3))}
    )
    for name, shape in shapes.items():
        state[f"{block}.weight{name}"] = torch.randn(*shape, dtype=torch.complex64, generator=draw)
    return state


@pytest.mark.parametrize("dense", [True, False])
def test_weights_in_neuraloperators_layout_are_taken_and_given(dense):
    state = their_state(dense)
    net = network(state, (True,))
    assert net(torch.randn(2, 9, 2)).shape == (2, 9, 1)
    again = to_neuraloperator(net.state_dict(), state, 1)
    for name, value in state.items():
        if name != "_metadata":
            torch.testing.assert_close(again[name], value)


def test_what_has_no_counterpart_is_named():
    state = their_state(True)
    with pytest.raises(
        Invalid, match=r"fno_blocks\.norm\.0\.weight of neuraloperator's network has no count"
    ):
        from_neuraloperator({**state, "fno_blocks.norm.0.weight": torch.ones(4)}, 1)
    with pytest.raises(Invalid, match=r"nothing for \['blocks\.0\.gate'\]"):
        network({k: v for k, v in state.items() if "skips.0.weight" not in k}, (True,))
    with pytest.raises(Invalid, match=r"nothing for \['blocks\.0\.skip\.bias'\]"):
        network({k: v for k, v in state.items() if k != "fno_blocks.convs.0.bias"}, (True,))
    with pytest.raises(Invalid, match="is the network separable"):
        network({**state, "fno_blocks.convs.0.weight": torch.randn(4, 3, dtype=torch.complex64)}, (True,))
    with pytest.raises(Invalid, match="1 axes, periodic is given for 2"):
        network(state, (True, True))
    wider = FNONet(1, 1, 6, (4,), 1, (True,))
    with pytest.raises(Invalid, match="is it the same network"):
        to_neuraloperator(wider.state_dict(), state, 1)
