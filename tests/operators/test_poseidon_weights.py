"""Published weights: the layout both ways, what is refused, and what a model says of its beginning."""

import asyncio
import hashlib
import json
import logging

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file

from sciflow import Invalid, NotFound, run
from sciflow.sections import model as section
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train, load_model
from sciflow_operators.components import FNO, Conditioned, Poseidon
from sciflow_operators.poseidon import published
from sciflow_operators.poseidon.blocks import Attention, TimeNorm
from sciflow_operators.poseidon.scot import Embed, Recover, ScOT
from sciflow_spectral.components import NavierStokes
from tests.operators.test_poseidon import SMALL, TRAINED, trajectories
from tests.operators.test_training import fit


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def layout(size, channels_in, channels_out):
    """Names and shapes of the published files, written down from one that upstream's code made."""
    shapes = {}

    def linear(name, out, into, bias=True):
        shapes[f"{name}.weight"] = (out, into)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def norm(name, width):
        linear(f"{name}.weight", width, 1)
        linear(f"{name}.bias", width, 1)

    def blocks(where, stage):
        width, heads = size.channels(stage), size.heads[stage]
        for i in range(size.depths[stage]):
            block = f"{where}.blocks.{i}"
            own = f"{block}.attention.self"
            shapes[f"{own}.logit_scale"] = (heads, 1, 1)
            linear(f"{own}.continuous_position_bias_mlp.0", 512, 2)
            linear(f"{own}.continuous_position_bias_mlp.2", heads, 512, bias=False)
            linear(f"{own}.query", width, width)
            linear(f"{own}.key", width, width, bias=False)
            linear(f"{own}.value", width, width)
            linear(f"{block}.attention.output.dense", width, width)
            linear(f"{block}.intermediate.dense", int(size.expansion * width), width)
            linear(f"{block}.output.dense", width, int(size.expansion * width))
            norm(f"{block}.layernorm_before", width)
            norm(f"{block}.layernorm_after", width)

    p, last = size.patch, len(size.depths) - 1
    shapes["embeddings.patch_embeddings.projection.weight"] = (size.width, channels_in, p, p)
    shapes["embeddings.patch_embeddings.projection.bias"] = (size.width,)
    norm("embeddings.norm", size.width)
    for stage in range(last + 1):
        width = size.channels(stage)
        blocks(f"encoder.layers.{stage}", stage)
        blocks(f"decoder.layers.{last - stage}", stage)
        if stage < last:
            linear(f"encoder.layers.{stage}.downsample.reduction", 2 * width, 4 * width, bias=False)
            norm(f"encoder.layers.{stage}.downsample.norm", 2 * width)
        if stage:
            up = f"decoder.layers.{last - stage}.upsample"
            linear(f"{up}.upsample", 2 * width, width, bias=False)
            linear(f"{up}.mixup", width // 2, width // 2, bias=False)
            norm(f"{up}.norm", width // 2)
        for i in range(size.skips[stage]):
            skip = f"residual_blocks.{stage}.{i}"
            shapes[f"{skip}.weight"] = (width,)
            shapes[f"{skip}.dwconv.weight"] = (width, 1, 7, 7)
            shapes[f"{skip}.dwconv.bias"] = (width,)
            norm(f"{skip}.norm", width)
            linear(f"{skip}.pwconv1", 4 * width, width)
            linear(f"{skip}.pwconv2", width, 4 * width)
    shapes["patch_recovery.projection.weight"] = (size.width, channels_out, p, p)
    shapes["patch_recovery.projection.bias"] = (channels_out,)
    shapes["patch_recovery.mixup.weight"] = (channels_out, channels_out, 5, 5)
    return shapes


CONFIG = {
    "architectures": ["ScOT"],
    "model_type": "swinv2",
    "image_size": 16,
    "patch_size": 2,
    "num_channels": 1,
    "num_out_channels": 1,
    "embed_dim": 8,
    "depths": [2, 1],
    "num_heads": [2, 4],
    "skip_connections": [1, 0],
    "window_size": 4,
    "mlp_ratio": 4.0,
    "use_conditioning": True,
    "residual_model": "convnext",
    "learn_residual": False,
    "drop_path_rate": 0.0,
}


@pytest.fixture
def weights(tmp_path):
    """A directory in the published layout, of one channel."""
    return make(tmp_path / "published")


def make(path, channels=1, change=None, config=None):
    path.mkdir(exist_ok=True)
    values = {k: 0.3 * torch.randn(s) for k, s in layout(SMALL, channels, channels).items()}
    save_file(change(values) if change else values, path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(config or CONFIG))
    return str(path)


def test_every_published_weight_has_its_place_and_comes_back(weights, tmp_path):
    size, values = published.read(weights)
    assert size == SMALL
    net = ScOT(1, 1, size)
    assert published.put(net, size, values) == ()
    back = published.to_published(net, size)
    assert set(back) == set(values)
    for name, value in values.items():
        torch.testing.assert_close(back[name], value, rtol=0, atol=0)
    assert sum(v.numel() for v in values.values()) == sum(p.numel() for p in net.parameters())
    published.write(net, size, str(tmp_path / "again"))
    size, again = published.read(str(tmp_path / "again"))
    assert size == SMALL
    assert all(torch.equal(again[k], v) for k, v in values.items())


def test_parts_of_one_weight_do_not_change_places(weights):
    _, values = published.read(weights)
    net = ScOT(1, 1, SMALL)
    published.put(net, SMALL, values)
    block, there = net.down[0][1], "encoder.layers.0.blocks.1"
    query, key, value = (
        values[f"{there}.attention.self.{n}.weight"] @ torch.arange(8.0) for n in ("query", "key", "value")
    )
    got = block.attention.weight @ torch.arange(8.0)
    torch.testing.assert_close(got, torch.cat([query, key, value]))
    t = 0.7
    gain = values[f"{there}.layernorm_after.weight.weight"][:, 0] * t
    gain = gain + values[f"{there}.layernorm_after.weight.bias"]
    x = torch.randn(1, 1, 1, 8)
    offset = values[f"{there}.layernorm_after.bias.weight"][:, 0] * t
    offset = offset + values[f"{there}.layernorm_after.bias.bias"]
    expected = torch.nn.functional.layer_norm(x, (8,), gain, offset)
    torch.testing.assert_close(block.mixed(x, torch.tensor([t])), expected)
    assert net.up[1][0].second.weight.equal(values["decoder.layers.1.blocks.0.output.dense.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v: {k: w for k, w in v.items() if k != "embeddings.norm.bias.weight"},
            "embeddings.norm.bias.weight is missing",
        ),
        (
            lambda v: {**v, "residual_blocks.0.0.weight": torch.ones(4)},
            r"residual_blocks.0.0.weight has shape \(4,\), \(8,\) is needed",
        ),
        (lambda v: {**v, "classifier.weight": torch.ones(4)}, "classifier.weight belongs to nothing here"),
        (
            lambda v: {
                **v,
                "encoder.layers.0.blocks.0.attention.self.key.weight": torch.full((8, 8), np.nan),
            },
            "self.key.weight .* are not finite",
        ),
        (
            lambda v: {k: w for k, w in v.items() if k != "patch_recovery.mixup.weight"},
            "patch_recovery.mixup.weight is missing",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, change, message):
    size, values = published.read(make(tmp_path / "broken", change=change))
    with pytest.raises(Invalid, match=message):
        published.put(ScOT(1, 1, size), size, values)


def test_tables_that_follow_from_the_window_are_not_missed_and_not_minded(tmp_path):
    table = {"encoder.layers.0.blocks.0.attention.self.relative_coords_table": torch.zeros(1, 7, 7, 2)}
    size, values = published.read(make(tmp_path / "old", change=lambda v: {**v, **table}))
    assert published.put(ScOT(1, 1, size), size, values) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_conditioning": False}, "use_conditioning is False, only True"),
        ({"residual_model": "resnet"}, "residual_model is 'resnet'"),
        ({"learn_residual": True}, "learn_residual is True"),
        ({"layer_norm_eps": 1e-12}, "layer_norm_eps is 1e-12, only 1e-05"),
        ({"depths": None}, "does not describe a scOT"),
        ({"image_size": 18}, "multiple of 4"),
    ],
)
def test_variants_that_are_not_built_are_refused(change, message):
    with pytest.raises(Invalid, match=message):
        published.architecture({**CONFIG, **change})


def test_damaged_and_missing_files_are_refused(tmp_path, weights):
    with pytest.raises(NotFound, match=r"model.safetensors is not there; weights is a local directory"):
        Poseidon(weights=str(tmp_path))
    (tmp_path / "published" / "config.json").write_text("{")
    with pytest.raises(Invalid, match="config.json is not JSON"):
        published.read(weights)
    (tmp_path / "published" / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "published" / "model.safetensors").write_bytes(b"PK\x03\x04 a pickle")
    with pytest.raises(Invalid, match="model.safetensors is damaged"):
        published.read(weights)


def tuned(weights, **changes):
    return TRAINED.replace(weights=weights, sha256="", epochs=1, learning_rate=1e-9, **changes)


def test_training_begins_with_the_weights_and_says_whose_they_are(weights, caplog):
    samples = trajectories(2)
    with caplog.at_level(logging.INFO):
        model, _, _ = fit(tuned(weights), samples)
    _, values = published.read(weights)
    for name, parts in published.names(SMALL):
        got = torch.from_numpy(model.state()[f"net.net.{name}"])
        expected = torch.cat([values[p].reshape(-1) for p in parts])
        torch.testing.assert_close(got.reshape(-1), expected, rtol=1e-5, atol=1e-6)
    digest = hashlib.sha256((published.Path(weights) / "model.safetensors").read_bytes()).hexdigest()
    assert model.notes() == {
        "weights": weights,
        "weights_sha256": digest,
        "licence": "CC-BY-NC-4.0 (non-commercial)",
    }
    assert "licence of these weights and of all that is trained from them: CC-BY-NC-4.0" in caplog.text
    assert digest in caplog.text
    assert fit(TRAINED.replace(epochs=1), samples)[0].notes() == {}


def test_other_channels_get_an_embedding_and_a_recovery_of_their_own(tmp_path, caplog):
    four = make(tmp_path / "four", channels=4, config={**CONFIG, "num_channels": 4, "num_out_channels": 4})
    with caplog.at_level(logging.INFO):
        model, _, _ = fit(tuned(four), trajectories(2))
    assert "new, because the fields have other channels: embed.weight, recover.weight" in caplog.text
    state = model.state()
    _, values = published.read(four)
    assert all(np.isfinite(v).all() for v in state.values())
    assert state["net.net.embed.weight"].shape == (8, 1, 2, 2)
    assert state["net.net.embed.weight"].std() > 1e-3
    assert np.isfinite(model.predict(trajectories(2).x)["u"]).all()
    kept = "encoder.layers.0.downsample.reduction.weight"
    np.testing.assert_allclose(state["net.net.merge.0.weight"], values[kept], rtol=1e-5, atol=1e-6)


def test_a_network_around_it_begins_with_the_weights_too(weights):
    inner = Poseidon(architecture=SMALL, weights=weights)
    around = Conditioned(inner=inner, modes=4, epochs=1, learning_rate=1e-9, threads=1, device="cpu")
    model, _, _ = fit(around, trajectories(2))
    assert model.notes()["weights_sha256"] == inner.sha256
    _, values = published.read(weights)
    state = {k.split("net.", 2)[-1]: v for k, v in model.state().items() if k.endswith("merge.0.weight")}
    expected = values["encoder.layers.0.downsample.reduction.weight"]
    np.testing.assert_allclose(next(iter(state.values())), expected, rtol=1e-5, atol=1e-6)


def test_changed_weights_are_another_configuration_and_are_not_loaded_by_mistake(weights):
    before = Poseidon(architecture=SMALL, weights=weights)
    file = published.Path(weights) / "model.safetensors"
    values = load_file(file)
    values["residual_blocks.0.0.weight"] += 1
    save_file(values, file)
    after = Poseidon(architecture=SMALL, weights=weights)
    assert before.digest() != after.digest()
    with pytest.raises(Invalid, match="have the SHA-256 .*leave sha256 out"):
        fit(before.replace(threads=1, device="cpu", epochs=1), trajectories(2))
    with pytest.raises(Invalid, match="the configuration is Architecture"):
        fit(after.replace(architecture=None, threads=1, device="cpu"), trajectories(2))


def test_a_fitted_model_does_not_need_the_weights_again(weights):
    samples = trajectories(2)
    config = tuned(weights)
    model, _, checkpoint = fit(config.replace(epochs=2), samples, stop=1)
    (published.Path(weights) / "model.safetensors").unlink()
    again = Poseidon.from_json(json.loads(json.dumps(config.to_json())))
    assert again == config
    loaded = again.load(model.state(), samples.signature)
    assert loaded.predict(samples.x)["u"].tobytes() == model.predict(samples.x)["u"].tobytes()
    assert loaded.notes() == model.notes()
    resumed, _, _ = fit(config.replace(epochs=2), samples, resume=checkpoint)
    assert resumed.predict(samples.x)["u"].tobytes() == model.predict(samples.x)["u"].tobytes()
    with pytest.raises(NotFound, match="is not there"):
        fit(config, samples)


def test_what_is_new_and_what_knows_the_time_learns_faster_and_little_decays(weights):
    net = ScOT(1, 1, SMALL)
    config = Poseidon(architecture=SMALL, weights=weights, embedding_factor=10.0, norm_factor=5.0)
    found = {id(p): (factor, decay) for ps, factor, decay in config.groups(net) for p in ps}
    assert len(found) == len(list(net.parameters())) == sum(len(ps) for ps, _, _ in config.groups(net))
    for part in net.modules():
        for p in part.parameters(recurse=False):
            if isinstance(part, TimeNorm):
                at_the_end = part is net.embed.norm
                assert found[id(p)] == (10.0 if at_the_end else 5.0, 0.0)
            elif isinstance(part, Embed | Recover):
                assert found[id(p)] == (10.0, float(p.ndim > 1))
            else:
                bias = isinstance(part, Attention) and p is part.bias
                assert found[id(p)] == (1.0, float(p.ndim > 1 and not bias))
    plain = config.replace(weights="", sha256="").groups(net)
    assert {factor for _, factor, _ in plain} == {1.0}


def test_an_artifact_keeps_licence_and_digest_and_the_report_shows_them(plain, weights):
    problem = NavierStokes(points=16, levels=4, end=0.75, steps=30)

    async def flow():
        data = await run(Simulate(problem, seed=1), design=await run(Design(problem=problem, count=6)))
        stage = Train(
            tuned(weights), ("vorticity", "lead_time"), ("vorticity",), pairs=(1, 4), train=0.5, valid=0.2
        )
        return await run(stage, ensemble=data)

    model = asyncio.run(flow())
    notes = model.attributes["notes"]
    assert notes["licence"].startswith("CC-BY-NC-4.0")
    assert notes["weights_sha256"] == published.sha256(weights)
    assert "licence" in json.loads(model.file("model.json").read_text())["notes"]
    assert "CC-BY-NC-4.0" in section.section(model).body
    fitted = load_model(model)
    # The longest lead time of the pairs, 3/4 s, counts as one.
    lead = np.array([0] * 4 + [0.25] * 3 + [0.5] * 2 + [0.75])
    assert fitted.state()["net.clock"] * 0.75 == pytest.approx([lead.mean(), lead.std()], rel=1e-5)


def test_training_begins_with_a_fitted_model_and_its_price_is_paid(plain):
    from sciflow.stages.costs import offline_seconds

    problem = NavierStokes(points=16, levels=4, end=0.75, steps=30)
    names, how = (("vorticity", "lead_time"), ("vorticity",)), {"pairs": (1, 4), "train": 0.5, "valid": 0.2}
    net = TRAINED.replace(epochs=1)

    async def flow():
        data = await run(Simulate(problem, seed=1), design=await run(Design(problem=problem, count=6)))
        other = await run(Simulate(problem, seed=2), design=await run(Design(problem=problem, count=6)))
        first = await run(Train(net, *names, **how), ensemble=other)
        frozen = Train(net.replace(learning_rate=1e-9), *names, **how)
        second = await run(frozen, ensemble=data, start=first)
        with pytest.raises(Invalid, match="fno cannot begin with the weights of a model"):
            await run(Train(FNO.example(), *names, **how), ensemble=data, start=first)
        with pytest.raises(Invalid, match="two sets of weights"):
            net.replace(weights=str(first.path), sha256="0").starting_from(first)
        return first, second, await run(frozen, ensemble=data)

    first, second, without = asyncio.run(flow())
    a, b, c = (load_model(one).state() for one in (first, second, without))
    moved = [k for k in a if k.startswith("net.net.") and not np.allclose(a[k], b[k], rtol=1e-5, atol=1e-6)]
    assert moved == []
    assert not np.allclose(a["net.net.embed.weight"], c["net.net.embed.weight"], atol=1e-3)
    assert second.attributes["notes"]["weights_sha256"] == published.sha256(str(first.path))
    assert second.provenance["inputs"]["start"]["digest"] == first.digest
    assert offline_seconds(second) > offline_seconds(first)
    # The configuration names no weights: the same in any store.
    assert second.attributes["surrogate"]["weights"] == ""
