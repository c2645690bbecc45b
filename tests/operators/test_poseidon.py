"""The scalable operator transformer against formulas written another way, and as a surrogate."""

import dataclasses
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn

from sciflow import Context, Field, Invalid, Signature
from sciflow_operators.components import Poseidon, RelativeL1
from sciflow_operators.fields.port import Port
from sciflow_operators.poseidon.architecture import SIZES, Architecture
from sciflow_operators.poseidon.blocks import Attention, Block, ConvNeXt, TimeNorm, attend, walls
from sciflow_operators.poseidon.net import PoseidonNet
from sciflow_operators.poseidon.scot import Embed, Expand, Merge, Recover, ScOT, resample
from tests.operators.test_training import Memory, fit

SMALL = Architecture(points=16, patch=2, width=8, depths=(2, 1), heads=(2, 4), skips=(1, 0), window=4)
FIELD = Field(("y", "x"), "1")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def rough(net):
    """Weights that leave nothing near zero or one."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return net


# ------------------------------------------------------------------------------------------ the parts


def brute_attention(net, x):
    """Every token looks at every other one of its window and side of the wall, one by one."""
    n, w, heads = net.tokens, net.window, net.heads
    width = x.shape[-1]
    size = width // heads
    zero = torch.zeros(width, dtype=x.dtype)
    q, k, v = nn.functional.linear(x, net.weight, torch.cat([net.bias[0], zero, net.bias[1]])).chunk(3, -1)

    def home(i):  # window of a row or column, and on which side of the grid's end it was cut
        moved = (i - net.shift) % n
        return moved // w, moved >= n - net.shift

    def place(i):
        return (i - net.shift) % n % w

    def bias(di, dj, h):
        both = torch.tensor([di, dj], dtype=x.dtype) * 8 / (w - 1)
        both = both.sign() * torch.log2(both.abs() + 1) / math.log2(8)
        return 16 * torch.sigmoid(net.position(both))[h]

    out = torch.zeros_like(x)
    for i, j in np.ndindex(n, n):
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            logits, values = [], []
            for a, b in np.ndindex(n, n):
                if home(i) != home(a) or home(j) != home(b):
                    continue
                cosine = nn.functional.cosine_similarity(q[0, i, j, part], k[0, a, b, part], dim=0)
                sharp = net.sharpness[h].clamp(max=math.log(100)).exp()
                logits.append(sharp * cosine + bias(place(i) - place(a), place(j) - place(b), h))
                values.append(v[0, a, b, part])
            out[0, i, j, part] = torch.softmax(torch.stack(logits), 0) @ torch.stack(values)
    return net.out(out)


@pytest.mark.parametrize(("tokens", "window", "shift"), [(4, 2, 0), (4, 2, 1), (6, 3, 1), (3, 3, 0)])
def test_attention_agrees_with_one_that_looks_at_pairs(tokens, window, shift):
    net = rough(Attention(4, 2, tokens, window, shift)).double()
    with torch.no_grad():
        net.sharpness[0] = 7.0  # beyond the largest factor
    x = torch.randn(1, tokens, tokens, 4, dtype=torch.float64)
    expected = brute_attention(net, x)
    torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-7)
    with torch.no_grad():  # the fused kernel
        torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-7)


def test_fused_attention_and_plain_products_agree():
    q, k, v = torch.randn(3, 2, 3, 9, 4)
    bias = torch.randn(1, 3, 9, 9).masked_fill(torch.rand(1, 3, 9, 9) < 0.3, -math.inf)
    bias.diagonal(dim1=-2, dim2=-1).zero_()
    plain = attend(q, k, v, bias)
    with torch.no_grad():
        torch.testing.assert_close(attend(q, k, v, bias), plain)


def test_tokens_do_not_see_through_the_wall_that_a_shift_leaves():
    wall = walls(8, 4, 2)
    assert wall.shape == (4, 1, 16, 16)
    # A window amid the grid has no wall, the last one four quarters.
    assert [int((w == 0).sum()) for w in wall] == [256, 128, 128, 64]
    net = rough(Attention(4, 2, 8, 4, 2))
    x = torch.randn(1, 8, 8, 4, requires_grad=True)
    net(x)[0, 7, 7].sum().backward()
    seen = x.grad[0].abs().sum(-1) > 0
    assert seen[6:, 6:].all()
    assert int(seen.sum()) == 4


def test_a_norm_is_a_layer_norm_whose_gain_and_offset_move_with_time():
    norm, x = rough(TimeNorm(6)), torch.randn(3, 2, 2, 6)
    y = norm(x, torch.tensor([0.0, 0.5, 1.0]))
    for i, t in enumerate((0.0, 0.5, 1.0)):
        gain, offset = norm.constant + t * norm.slope
        torch.testing.assert_close(y[i], nn.functional.layer_norm(x[i], (6,), gain, offset))
    plain = TimeNorm(6)
    with torch.no_grad():
        plain.slope.zero_()
    torch.testing.assert_close(plain(x, torch.ones(3)), nn.functional.layer_norm(x, (6,)))


def test_patches_are_those_of_a_convolution_and_come_back_by_its_transpose():
    embed, recover = rough(Embed(3, 8, 4)), rough(Recover(8, 2, 4))
    x, time = torch.randn(2, 12, 12, 3), torch.rand(2)
    conv = nn.functional.conv2d(x.permute(0, 3, 1, 2), embed.weight, embed.bias, stride=4)
    tokens = embed.norm(conv.permute(0, 2, 3, 1), time)
    torch.testing.assert_close(embed(x, time), tokens)
    for i, j in ((0, 0), (2, 1)):  # far from a neighbour's patch: a point that the 5 x 5 mixing leaves alone
        with torch.no_grad():
            recover.mix.zero_()
            recover.mix[:, :, 2, 2] = torch.eye(2)
        patch = torch.einsum("c,cdpq->pqd", tokens[0, i, j], recover.weight) + recover.bias
        got = recover(tokens)[0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        torch.testing.assert_close(got, patch, rtol=1e-4, atol=1e-5)


def test_merging_and_expanding_put_tokens_where_they_belong():
    merge, expand = rough(Merge(2)), rough(Expand(4))
    x, time = torch.randn(1, 4, 4, 2), torch.rand(1)
    four = torch.cat([x[0, 2, 0], x[0, 3, 0], x[0, 2, 1], x[0, 3, 1]])
    torch.testing.assert_close(
        merge(x, time)[0, 1, 0], merge.norm((merge.weight @ four)[None, None, None], time)[0, 0, 0]
    )
    y = torch.randn(1, 3, 3, 4)
    one = (expand.weight @ y[0, 1, 2]).view(2, 2, 2)[1, 0]
    torch.testing.assert_close(
        expand(y, time)[0, 3, 4], expand.mix @ expand.norm(one[None, None, None], time)[0, 0, 0]
    )


def test_blocks_keep_what_comes_in_when_their_norms_are_shut():
    for block in (Block(4, 2, 4, 2, 1, 8), ConvNeXt(4)):
        for part in block.modules():
            if isinstance(part, TimeNorm):
                nn.init.zeros_(part.constant)
                nn.init.zeros_(part.slope)
        if isinstance(block, ConvNeXt):
            nn.init.zeros_(block.factor)
        x = torch.randn(2, 4, 4, 4)
        torch.testing.assert_close(block(x, torch.rand(2)), x)


# ---------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize(("size", "count"), [("T", 20_774_444), ("B", 157_729_988)])
def test_the_published_sizes_have_as_many_weights(size, count):
    with torch.device("meta"):
        net = ScOT(4, 4, SIZES[size])
    assert sum(p.numel() for p in net.parameters()) == count


def test_samples_of_a_batch_do_not_see_each_other_and_time_matters():
    net = rough(ScOT(2, 1, SMALL))
    x, time = torch.randn(5, 16, 16, 2), torch.rand(5)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(net(x, time)[order], net(x[order], time[order]), rtol=1e-4, atol=1e-5)
    assert (net(x, time) - net(x, time + 0.5)).abs().amax(dim=(1, 2, 3)).min() > 1e-4


def fourier(x, points):
    """What a real field on an odd grid is on another one, by fast transforms."""
    n = x.shape[1]
    z, least = torch.fft.fft2(x, dim=(1, 2), norm="forward"), min(n, points)
    waves = torch.arange(-((least - 1) // 2), (least - 1) // 2 + 1)
    out = torch.zeros(len(x), points, points, x.shape[-1], dtype=z.dtype)
    out[:, waves[:, None], waves] = z[:, waves[:, None], waves]
    return torch.fft.ifft2(out, dim=(1, 2), norm="forward").real


@pytest.mark.parametrize(("n", "points"), [(9, 15), (15, 9), (9, 16), (7, 7)])
def test_other_grids_are_reached_by_the_fourier_series(n, points):
    x = torch.randn(2, n, n, 3, dtype=torch.float64)
    torch.testing.assert_close(resample(x, points), fourier(x, points))


def test_resampling_there_and_back_gives_the_same_field():
    x = torch.randn(1, 11, 11, 2, dtype=torch.float64)
    torch.testing.assert_close(resample(resample(x, 20), 11), x)
    x = torch.randn(1, 12, 12, 2, dtype=torch.float64)
    torch.testing.assert_close(resample(x, 24)[:, ::2, ::2], x)  # it passes through the values


def test_the_wave_of_two_points_along_both_axes_keeps_the_cosine_of_the_sum():
    i = torch.arange(8, dtype=torch.float64)
    j = torch.arange(16, dtype=torch.float64) / 2
    x = torch.cos(math.pi * (i[:, None] + i))[None, ..., None]
    torch.testing.assert_close(resample(x, 16)[0, ..., 0], torch.cos(math.pi * (j[:, None] + j)))


def port(points=(16, 16), scalars=(1,), names=("u", "lead_time")):
    fields = tuple(i for i in range(len(names)) if i not in scalars)
    return Port(fields, scalars, 1, points, (True, True), names)


def test_the_lead_time_goes_to_the_norms_and_other_numbers_are_fields():
    net = rough(
        PoseidonNet(Poseidon(architecture=SMALL), port(scalars=(0, 2), names=("lead_time", "u", "nu")))
    )
    net.begin(Context().log, {"lead_time": (2.0, 1.5), "nu": (1.0, 1.0)})
    assert net.net.embed.weight.shape[1] == 2
    x = torch.randn(2, 16, 16, 3)
    x[..., 0] = torch.tensor([-1.0, 0.5])[:, None, None]
    told = PoseidonNet(
        Poseidon(architecture=SMALL, horizon_time=5.0), port(scalars=(0, 2), names=net_names())
    )
    told.load_state_dict(net.state_dict())
    told.begin(Context().log, {"lead_time": (2.0, 1.5), "nu": (1.0, 1.0)})
    time = (2.0 + 1.5 * torch.tensor([-1.0, 0.5])) / 5.0
    torch.testing.assert_close(told(x), told.net(x[..., 1:], time))


def net_names():
    return ("lead_time", "u", "nu")


def test_without_a_lead_time_the_time_is_one():
    net = rough(PoseidonNet(Poseidon(architecture=SMALL), port(scalars=(), names=("a",))))
    x = torch.randn(2, 16, 16, 1)
    torch.testing.assert_close(net(x), net.net(x, torch.ones(2)))
    assert net(torch.randn(1, 24, 24, 1)).shape == (1, 24, 24, 1)


def test_other_than_square_grids_are_refused():
    with pytest.raises(Invalid, match=r"square grids, these fields have \(16, 32\)"):
        PoseidonNet(Poseidon(architecture=SMALL), port((16, 32)))
    net = PoseidonNet(Poseidon(architecture=SMALL), port())
    with pytest.raises(Invalid, match=r"square grids, these fields have \(16, 8\)"):
        net(torch.randn(1, 16, 8, 2))
    with pytest.raises(Invalid, match="an input besides the lead time"):
        PoseidonNet(Poseidon(architecture=SMALL), port(scalars=(0,), names=("lead_time",)))


@pytest.mark.filterwarnings("ignore")  # torch.export warns about its own internals
def test_it_exports_with_a_free_batch_size():
    net = rough(PoseidonNet(Poseidon(architecture=SMALL), port((12, 12)))).eval()
    x = torch.randn(3, 12, 12, 2)
    program = torch.export.export(net, (x,), dynamic_shapes={"x": {0: torch.export.Dim.AUTO}})
    other = torch.randn(7, 12, 12, 2)
    torch.testing.assert_close(program.module()(other), net(other), rtol=1e-4, atol=1e-5)


def test_it_runs_in_half_precision_where_torch_takes_it():
    net, x = PoseidonNet(Poseidon(architecture=SMALL), port()), torch.randn(2, 16, 16, 2)
    whole = net(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = net(x)
        half.float().square().mean().backward()
    assert (half - whole).norm() < 0.05 * whole.norm()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


# ----------------------------------------------------------------------------------------- as a surrogate


def trajectories(count, levels=4, seed=0):
    """Waves that travel and fade, all pairs of levels."""
    rng = np.random.default_rng(seed)
    x = np.arange(16) / 16
    phase, size = rng.random((count, 2, 1, 1, 1)), 0.5 + rng.random((count, 1, 1, 1))
    t = np.arange(levels)[:, None, None] / levels
    along = np.sin(2 * np.pi * (x + phase[:, 0] - t)) * np.cos(2 * np.pi * (x[:, None] + phase[:, 1]))
    u = (size * np.exp(-t) * along).astype("float32")
    pairs = [(i, j) for i in range(levels) for j in range(i, levels)]
    first, last = (np.concatenate([u[:, p[k]] for p in pairs]) for k in (0, 1))
    lead = np.repeat([3.0 * (j - i) for i, j in pairs], count).astype("float32")
    line = {"y": x, "x": x}
    signature = Signature({"u": FIELD, "lead_time": Field((), "s")}, {"u": FIELD}, line, ("y", "x"))
    return Memory({"u": first, "lead_time": lead}, {"u": last}, signature)


TRAINED = Poseidon(
    architecture=SMALL, epochs=6, batch=16, learning_rate=3e-3, schedule="onecycle", threads=1, device="cpu"
)


def test_a_travelling_wave_is_learned_at_all_lead_times():
    samples, test = trajectories(24), trajectories(10, seed=5)
    model, reports, _ = fit(TRAINED.replace(epochs=8, learning_rate=5e-3), samples)
    apart = np.abs(model.predict(test.x)["u"] - test.y["u"]).mean(axis=(1, 2))
    scale = np.abs(test.y["u"]).mean(axis=(1, 2))
    stay = np.abs(test.x["u"] - test.y["u"]).mean(axis=(1, 2))
    lead = test.x["lead_time"]
    assert (apart / scale).mean() < 0.6
    assert apart[lead > 0].mean() < 0.4 * stay[lead > 0].mean()
    assert reports[-1].metrics["train_loss"] < 0.4 * reports[0].metrics["train_loss"]
    # The longest lead time of the samples counts as one.
    clock = model.state()["net.clock"]
    assert clock * 9 == pytest.approx([lead.mean(), lead.std()], rel=1e-5)


def test_going_on_from_a_checkpoint_gives_the_same_bits_and_the_same_clock():
    samples = trajectories(4)
    config = TRAINED.replace(epochs=3)
    whole, _, checkpoint = fit(config, samples, stop=1)
    resumed, _, _ = fit(config, samples, resume=checkpoint)
    again = config.load(whole.state(), samples.signature)
    for name, values in whole.state().items():
        assert values.tobytes() == resumed.state()[name].tobytes(), name
    assert again.predict(samples.x)["u"].tobytes() == whole.predict(samples.x)["u"].tobytes()


def test_relative_errors_in_the_first_norm_are_those_of_each_field():
    samples = trajectories(4)
    model, _, _ = fit(TRAINED.replace(epochs=1), samples)
    truth = torch.tensor([3.0, -1.0]).expand(2, 4, 4, 2)
    guess = torch.tensor([3.3, -0.5]).expand(2, 4, 4, 2)
    target = dataclasses.replace(model.target, groups=[1, 1], typical=[1.0, 1.0])
    torch.testing.assert_close(RelativeL1()(guess, truth, truth, target), torch.full((2,), (0.1 + 0.5) / 2))
    zero = torch.zeros(1, 4, 4, 2)
    assert RelativeL1()(zero + 1e-3, zero, zero, target) == pytest.approx(1.0)  # a thousandth of its size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": 18}, "multiple of 4"),
        ({"heads": (3, 4)}, "8 channels, which 3 heads"),
        ({"window": 5}, "8 tokens along an axis, which windows of 5"),
        ({"skips": (1,)}, "one number for each stage"),
        ({"depths": (0, 1)}, "a block and a head"),
        ({"expansion": 0.0}, "expansion positive"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(Invalid, match=message):
        dataclasses.replace(SMALL, **change)


def test_configurations_go_to_json_and_back_and_bad_ones_are_refused():
    assert Poseidon.from_json(Poseidon(architecture=SMALL).to_json()) == Poseidon(architecture=SMALL)
    with pytest.raises(Invalid, match="no such setting"):
        Poseidon.from_json({"architecture": {"points": 16, "pach": 2}})
    with pytest.raises(Invalid, match="horizon_time"):
        Poseidon(horizon_time=-1.0)
    with pytest.raises(Invalid, match="embedding_factor"):
        Poseidon(embedding_factor=0.0)
    with pytest.raises(Invalid, match="say which, with weights"):
        Poseidon(sha256="00")
