"""Weights to and from the FNO and TFNO of neuraloperator 2.0, whose layer is the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sciflow.errors import Invalid
from sciflow_operators.fourier.layers import FNONet

PLAIN = {"fcs.0": "first", "fcs.1": "second"}
"""The layers of a perceptron, theirs and ours."""


def network(state: Mapping[str, Any], periodic: Sequence[bool], coordinates: bool = True) -> FNONet:
    """The network of a neuraloperator 2.0 ``FNO`` or ``TFNO``, with its weights.

    Parameters
    ----------
    state : mapping of str to Tensor
        Its ``state_dict``: one to three axes, dense, Tucker, CP or TT weights, linear skip, channel
        perceptron with a soft gate.
    periodic : sequence of bool
        Whether the domain is periodic along each axis. Theirs takes every domain for periodic and gives
        every axis coordinates without an end point: with ``True`` outputs are equal.
    coordinates : bool
        Whether it has a grid embedding, which its weights do not say.

    Returns
    -------
    FNONet
        Without padding, as theirs.

    Raises
    ------
    Invalid
        If it has something that has no counterpart here.

    Notes
    -----
    On a grid with an odd number of points along any axis but the last, neuraloperator 2.0.0 applies
    ``fftshift`` where its inverse is needed: outputs differ there.
    """
    layers = len({m[1] for k in state if (m := re.match(r"fno_blocks\.convs\.(\d+)\.", k))})
    ours = from_neuraloperator(state, layers)
    parts = [v for k, v in ours.items() if k.startswith("blocks.0.conv.parts.")]
    kind, rank, kept = _factorisation(state, parts)
    if len(kept) != len(periodic):
        raise Invalid(f"this network has {len(kept)} axes, periodic is given for {len(periodic)}")
    width, channels = ours["lift.second.weight"].shape[0], ours["lift.first.weight"].shape[1]
    modes = [*kept[:-1], 2 * (kept[-1] - 1)]
    net = FNONet(
        channels - len(kept) * coordinates,
        ours["project.second.weight"].shape[0],
        width,
        modes,
        layers,
        periodic,
        coordinates=coordinates,
        factorisation=kind,
        rank=rank,
    )
    wrong = [k for k, v in net.state_dict().items() if k not in ours or ours[k].shape != v.shape]
    if wrong:
        raise Invalid(f"these weights of the network have no counterpart or another shape here: {wrong}")
    net.load_state_dict(ours)
    return net


def _factorisation(
    state: Mapping[str, Any], parts: Sequence[Tensor]
) -> tuple[str, tuple[int, ...] | float, tuple[int, ...]]:
    """Kind, ranks and kept modes of the first layer."""
    names = {
        k.removeprefix("fno_blocks.convs.0.weight"): v for k, v in state.items() if "convs.0.weight" in k
    }
    if ".core" in names:
        return "tucker", tuple(parts[0].shape[:-1]), tuple(p.shape[0] for p in parts[3:])
    if ".weights" in names:
        return "cp", (parts[0].shape[0],), tuple(p.shape[0] for p in parts[3:])
    if parts:
        return "tt", tuple(p.shape[2] for p in parts[:-1]), tuple(p.shape[1] for p in parts[2:])
    return "dense", 1.0, tuple(next(iter(names.values())).shape[2:])


def from_neuraloperator(state: Mapping[str, Any], layers: int) -> dict[str, Tensor]:
    """Weights of a neuraloperator 2.0 ``FNO`` or ``TFNO`` as ours; see `network`.

    Parameters
    ----------
    state : mapping of str to Tensor
        Its ``state_dict``.
    layers : int
        Number of Fourier layers.

    Returns
    -------
    dict of str to Tensor
        For `FNONet.load_state_dict`.

    Raises
    ------
    Invalid
        If there are weights without counterpart here, or some of ours have none there.

    Notes
    -----
    Theirs: (in, out, *modes) complex, the modes of all axes but the last in the order of
    ``fftshift``. Ours: (mode, in, re out | im out); factors with a last axis (re, im).
    """
    ours = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):  # its metadata
            continue
        key = _our_name(name, layers, state)
        if key.endswith("conv.weight"):
            bias = state.get(f"fno_blocks.convs.{key.split('.')[1]}.bias")
            axes = value.ndim - 2 if bias is None else bias.ndim - 1  # without one it is refused below
            if value.ndim != axes + 2:
                raise Invalid(
                    f"{name} has shape {tuple(value.shape)} for fields with {axes} axes, matrices for "
                    f"each mode have {axes + 2}; is the network separable?"
                )
            w = value.flatten(2).permute(2, 0, 1)
            ours[key] = torch.cat([w.real, w.imag], dim=2)
        elif ".conv.parts." in key:
            ours[key] = torch.view_as_real(value)
        else:
            flat = key.endswith(("bias", "gate"))
            ours[key] = value.flatten() if flat else value.flatten(1)
    expected = {
        "lift.first.weight",
        "project.second.weight",
        *(f"blocks.{i}.mlp.first.weight" for i in range(layers)),
    }
    expected |= {f"blocks.{i}.{k}" for i in range(layers) for k in ("skip.weight", "skip.bias", "gate")}
    missing = sorted(expected - set(ours))
    if missing or not layers:
        raise Invalid(
            f"the network has nothing for {missing or 'any Fourier layer'}; what is made here has a "
            f"perceptron before and behind the layers and in each of them, a linear skip and a soft gate"
        )
    return {k: v.detach().clone().contiguous() for k, v in ours.items()}


def to_neuraloperator(ours: Mapping[str, Tensor], like: Mapping[str, Any], layers: int) -> dict[str, Tensor]:
    """Our weights as the ``state_dict`` of a neuraloperator 2.0 ``FNO`` or ``TFNO``.

    Parameters
    ----------
    ours : mapping of str to Tensor
        A `FNONet` state.
    like : mapping of str to Tensor
        The target's ``state_dict``, for names and shapes.
    layers : int
        Number of Fourier layers.

    Raises
    ------
    Invalid
        If the target has weights without counterpart here, or of another shape.
    """
    theirs = dict(like)
    for name, value in like.items():
        if not isinstance(value, Tensor):  # its metadata
            continue
        key = _our_name(name, layers, like)
        found = ours.get(key)
        size = value.numel() * (2 if value.is_complex() else 1)
        if found is None or found.numel() != size:
            what = "nothing" if found is None else f"shape {tuple(found.shape)}"
            raise Invalid(
                f"{name} has shape {tuple(value.shape)}, here {key} is {what}; is it the same network?"
            )
        if key.endswith("conv.weight"):
            w = found
            n = w.shape[2] // 2
            z = torch.complex(w[..., :n].contiguous(), w[..., n:].contiguous())
            theirs[name] = z.permute(1, 2, 0).reshape(value.shape)
        elif ".conv.parts." in key:
            theirs[name] = torch.view_as_complex(found.contiguous())
        else:
            theirs[name] = found.reshape(value.shape)
    return theirs


def _our_name(name: str, layers: int, state: Mapping[str, Any]) -> str:
    """Our name of one of their weights."""
    if m := re.fullmatch(r"(lifting|projection)\.(fcs\.[01])\.(weight|bias)", name):
        return f"{'lift' if m[1] == 'lifting' else 'project'}.{PLAIN[m[2]]}.{m[3]}"
    m = re.fullmatch(r"fno_blocks\.(convs|fno_skips|channel_mlp_skips|channel_mlp)\.(\d+)\.(.+)", name)
    if m and int(m[2]) < layers:
        block, rest = f"blocks.{m[2]}", m[3]
        if m[1] == "channel_mlp" and (inner := re.fullmatch(r"(fcs\.[01])\.(weight|bias)", rest)):
            return f"{block}.mlp.{PLAIN[inner[1]]}.{inner[2]}"
        table = {
            "convs.bias": "skip.bias",
            "convs.weight": "conv.weight",
            "convs.weight.tensor": "conv.weight",
            "convs.weight.core": "conv.parts.0",
            "convs.weight.weights": "conv.parts.0",
            "fno_skips.conv.weight": "skip.weight",
            "channel_mlp_skips.weight": "gate",
        }
        if found := table.get(f"{m[1]}.{rest}"):
            return f"{block}.{found}"
        if m[1] == "convs" and (factor := re.fullmatch(r"weight\.factors\.factor_(\d+)", rest)):
            prefix = f"fno_blocks.convs.{m[2]}.weight"
            first = f"{prefix}.core" in state or f"{prefix}.weights" in state
            return f"{block}.conv.parts.{int(factor[1]) + first}"
    raise Invalid(
        f"{name} of neuraloperator's network has no counterpart here: it takes FNO and TFNO with dense, "
        f"Tucker, CP or TT weights, linear skips, channel perceptrons with soft gates and no normalisation"
    )
