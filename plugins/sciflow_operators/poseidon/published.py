"""Weights to and from the layout in which Poseidon's are published: config.json and model.safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sciflow.errors import Invalid, NotFound
from sciflow_operators.poseidon.architecture import Architecture
from sciflow_operators.poseidon.scot import ScOT

CONFIG, WEIGHTS = "config.json", "model.safetensors"
OWN, INSIDE = "model.json", "net.net."
"""Beside the weights of an artifact of ours, and what the names of the network's weights begin with there."""
REPLACED = ("embed.weight", "embed.bias", "recover.weight", "recover.bias", "recover.mix")
"""Weights that depend on the number of channels of the fields."""
DERIVED = ("relative_coords_table", "relative_position_index")
"""Ends of keys of older files that hold no weights: tables that follow from the window."""
FIXED = {
    "use_conditioning": (True, False),
    "residual_model": ("convnext", "convnext"),
    "learn_residual": (False, False),
    "use_absolute_embeddings": (False, False),
    "qkv_bias": (True, True),
    "hidden_act": ("gelu", "gelu"),
    "layer_norm_eps": (1e-5, 1e-5),
}
"""What a file's settings must be, and what they are where it does not say."""


def _norm(ours: str, theirs: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield f"{ours}.constant", (f"{theirs}.weight.bias", f"{theirs}.bias.bias")
    yield f"{ours}.slope", (f"{theirs}.weight.weight", f"{theirs}.bias.weight")


def _linear(ours: str, theirs: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield f"{ours}.weight", (f"{theirs}.weight",)
    yield f"{ours}.bias", (f"{theirs}.bias",)


def _block(ours: str, theirs: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    mine, own = f"{ours}.attention", f"{theirs}.attention.self"
    yield f"{mine}.sharpness", (f"{own}.logit_scale",)
    yield from _linear(f"{mine}.position.0", f"{own}.continuous_position_bias_mlp.0")
    yield f"{mine}.position.2.weight", (f"{own}.continuous_position_bias_mlp.2.weight",)
    yield f"{mine}.weight", (f"{own}.query.weight", f"{own}.key.weight", f"{own}.value.weight")
    yield f"{mine}.bias", (f"{own}.query.bias", f"{own}.value.bias")
    yield from _linear(f"{mine}.out", f"{theirs}.attention.output.dense")
    yield from _norm(f"{ours}.attended", f"{theirs}.layernorm_before")
    yield from _linear(f"{ours}.first", f"{theirs}.intermediate.dense")
    yield from _linear(f"{ours}.second", f"{theirs}.output.dense")
    yield from _norm(f"{ours}.mixed", f"{theirs}.layernorm_after")


def names(size: Architecture) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The name of each of our weights, with the published names of the parts that it consists of.

    Parameters
    ----------
    size : Architecture
        Sizes of the network.

    Notes
    -----
    The parts are equal pieces of our weight along its first axis; a part may have axes of length one
    that ours has not.
    """
    last = len(size.depths) - 1
    yield from _linear("embed", "embeddings.patch_embeddings.projection")
    yield from _norm("embed.norm", "embeddings.norm")
    for stage, depth in enumerate(size.depths):
        here, there = f"encoder.layers.{stage}", f"decoder.layers.{last - stage}"
        for i in range(depth):
            yield from _block(f"down.{stage}.{i}", f"{here}.blocks.{i}")
            yield from _block(f"up.{last - stage}.{i}", f"{there}.blocks.{i}")
        for i in range(size.skips[stage]):
            mine, theirs = f"skips.{stage}.{i}", f"residual_blocks.{stage}.{i}"
            yield f"{mine}.factor", (f"{theirs}.weight",)
            yield from _linear(f"{mine}.spread", f"{theirs}.dwconv")
            yield from _norm(f"{mine}.norm", f"{theirs}.norm")
            yield from _linear(f"{mine}.first", f"{theirs}.pwconv1")
            yield from _linear(f"{mine}.second", f"{theirs}.pwconv2")
        if stage < last:
            yield f"merge.{stage}.weight", (f"{here}.downsample.reduction.weight",)
            yield from _norm(f"merge.{stage}.norm", f"{here}.downsample.norm")
        if stage:
            mine = f"expand.{last - stage}"
            yield f"{mine}.weight", (f"{there}.upsample.upsample.weight",)
            yield from _norm(f"{mine}.norm", f"{there}.upsample.norm")
            yield f"{mine}.mix", (f"{there}.upsample.mixup.weight",)
    yield from _linear("recover", "patch_recovery.projection")
    yield "recover.mix", ("patch_recovery.mixup.weight",)


def _shape(name: str, part: Tensor) -> tuple[int, ...]:
    """The published shape of a part of one of our weights."""
    shape = tuple(part.shape)
    if name.endswith(".slope"):
        return (shape[1], 1)
    if name.endswith(".sharpness"):
        return (*shape, 1, 1)
    # Stacked vectors come apart with an axis of length one in front.
    return shape[1:] if name.endswith((".constant", "attention.bias")) else shape


def to_published(net: ScOT, size: Architecture) -> dict[str, Tensor]:
    """Weights of a network under their published names and in their published shapes."""
    state = net.state_dict()
    found: dict[str, Tensor] = {}
    for name, parts in names(size):
        for theirs, part in zip(parts, state[name].chunk(len(parts)), strict=True):
            found[theirs] = part.reshape(_shape(name, part)).clone()
    return found


def put(net: ScOT, size: Architecture, published: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Give a network published weights.

    Parameters
    ----------
    net : ScOT
        Keeps its own embedding and recovery where its fields have other channels.
    size : Architecture
        Its sizes.
    published : mapping of str to Tensor

    Returns
    -------
    tuple of str
        Weights of `REPLACED` that it kept.

    Raises
    ------
    Invalid
        If weights are missing, have other shapes, belong to nothing, or are not finite.
    """
    state = net.state_dict()
    rest = {k for k in published if not k.endswith(DERIVED)}
    wrong, kept, taken = [], [], {}
    for name, parts in names(size):
        rest -= set(parts)
        pieces = state[name].chunk(len(parts))
        shapes = {theirs: _shape(name, piece) for theirs, piece in zip(parts, pieces, strict=True)}
        fits = {t: t in published and tuple(published[t].shape) == s for t, s in shapes.items()}
        if all(fits.values()):
            values = [published[t].reshape(p.shape) for t, p in zip(parts, pieces, strict=True)]
            taken[name] = torch.cat(values)
            if not torch.isfinite(taken[name]).all():
                wrong.append(f"{' and '.join(parts)} are not finite")
        elif name in REPLACED and all(t in published for t in parts):
            kept.append(name)
        else:
            wrong += [_complaint(t, published, shapes[t]) for t, good in fits.items() if not good]
    wrong += [f"{key} belongs to nothing here" for key in sorted(rest)]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise Invalid(f"these weights are not of this architecture: {'; '.join(wrong[:5])}{more}")
    net.load_state_dict(taken, strict=False)
    bad = [name for name, values in net.state_dict().items() if not torch.isfinite(values).all()]
    if bad:
        raise Invalid(f"these weights are not finite after loading: {', '.join(bad[:5])}")
    return tuple(kept)


def _complaint(key: str, published: Mapping[str, Tensor], wanted: tuple[int, ...]) -> str:
    if key not in published:
        return f"{key} is missing, shape {wanted} is needed"
    return f"{key} has shape {tuple(published[key].shape)}, {wanted} is needed"


def architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a published config.json describes.

    Raises
    ------
    Invalid
        If it lacks something, or describes a variant that is not built here.
    """
    for key, (needed, otherwise) in FIXED.items():
        if config.get(key, otherwise) != needed:
            raise Invalid(f"{CONFIG}: {key} is {config.get(key, otherwise)!r}, only {needed!r} is built here")
    try:
        return Architecture(
            points=int(config["image_size"]),
            patch=int(config["patch_size"]),
            width=int(config["embed_dim"]),
            depths=tuple(map(int, config["depths"])),
            heads=tuple(map(int, config["num_heads"])),
            skips=tuple(map(int, config["skip_connections"])),
            window=int(config["window_size"]),
            expansion=float(config["mlp_ratio"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Invalid(f"{CONFIG} does not describe a scOT: {error!r}") from None


def sha256(directory: str) -> str:
    """Hexadecimal SHA-256 of the weights in a directory.

    Raises
    ------
    NotFound
        If there is no such file.
    """
    total = hashlib.sha256()
    with _file(directory, WEIGHTS).open("rb") as file:
        while chunk := file.read(1 << 22):
            total.update(chunk)
    return total.hexdigest()


def _file(directory: str, name: str) -> Path:
    folder = Path(directory).expanduser()
    # An artifact of ours has its weights one folder deeper.
    path = (folder / "files" if (folder / "files" / OWN).is_file() else folder) / name
    if not path.is_file():
        raise NotFound(
            f"{path} is not there; weights is a local directory with {CONFIG} and {WEIGHTS} (download a "
            "repository such as camlab-ethz/Poseidon-T from the Hugging Face hub)"
        )
    return path


def read(directory: str) -> tuple[Architecture, dict[str, Tensor]]:
    """Architecture and weights in a directory.

    Raises
    ------
    NotFound
        If a file is missing.
    Invalid
        If a file is damaged or describes something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights = _file(directory, WEIGHTS)
    if (own := weights.with_name(OWN)).is_file():
        return _fitted(own, weights)
    file = _file(directory, CONFIG)
    try:
        size = architecture(json.loads(file.read_text()))
    except json.JSONDecodeError as error:
        raise Invalid(f"{file} is not JSON: {error}") from None
    try:
        return size, load_file(weights)
    except SafetensorError as error:
        raise Invalid(f"{weights} is damaged: {error}") from None


def _fitted(own: Path, weights: Path) -> tuple[Architecture, dict[str, Tensor]]:
    """Architecture and weights in the artifact of a fitted model."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from sciflow.registry import registry

    try:
        config = registry().build(json.loads(own.read_text())["surrogate"], kind="surrogate")
        state = {k.removeprefix(INSIDE): v for k, v in load_file(weights).items() if k.startswith(INSIDE)}
    except (json.JSONDecodeError, KeyError, SafetensorError) as error:
        raise Invalid(f"{weights.parent} is damaged: {error!r}") from None
    size = getattr(config, "sizes", None)
    if not isinstance(size, Architecture):
        raise Invalid(f"{weights.parent} holds a {config.name}, no poseidon")
    channels = state["embed.weight"].shape[1], state["recover.weight"].shape[1]
    with torch.random.fork_rng(devices=[]):  # its random weights are replaced
        net = ScOT(*channels, size)
    net.load_state_dict(state)
    return size, to_published(net, size)


def write(net: ScOT, size: Architecture, directory: str) -> None:
    """Store a network in the published layout, so that it can be the start of others.

    Parameters
    ----------
    net : ScOT
    size : Architecture
        Its sizes.
    directory : str
        Made where it is not there.
    """
    from safetensors.torch import save_file

    config = {
        "architectures": ["ScOT"],
        "model_type": "swinv2",
        "image_size": size.points,
        "patch_size": size.patch,
        "num_channels": net.embed.weight.shape[1],
        "num_out_channels": net.recover.weight.shape[1],
        "embed_dim": size.width,
        "depths": list(size.depths),
        "num_heads": list(size.heads),
        "skip_connections": list(size.skips),
        "window_size": size.window,
        "mlp_ratio": size.expansion,
        "drop_path_rate": 0.0,
        **{key: needed for key, (needed, _) in FIXED.items()},
    }
    path = Path(directory).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    save_file(to_published(net, size), path / WEIGHTS, metadata={"format": "pt"})
    (path / CONFIG).write_text(json.dumps(config, indent=1))
