"""Weights to and from the FNO of neuraloperator 2.0, whose layer is the same."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def from_neuraloperator(state: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Weights of a neuraloperator 2.0 ``FNO`` (dense, linear skip, grid embedding) as ours.

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

    Notes
    -----
    Theirs: (in, out, *modes) complex, the modes of all axes but the last in the order of
    ``fftshift``. Ours: (mode, in, re out | im out).
    """

    def linear(prefix: str) -> dict[str, Tensor]:
        return {
            "first.weight": state[f"{prefix}.fcs.0.weight"].flatten(1),
            "first.bias": state[f"{prefix}.fcs.0.bias"],
            "second.weight": state[f"{prefix}.fcs.1.weight"].flatten(1),
            "second.bias": state[f"{prefix}.fcs.1.bias"],
        }

    ours = {f"lift.{k}": v for k, v in linear("lifting").items()}
    ours |= {f"project.{k}": v for k, v in linear("projection").items()}
    for i in range(layers):
        spectral = next(v for k, v in state.items() if k.startswith(f"fno_blocks.convs.{i}.weight"))
        w = spectral.flatten(2).permute(2, 0, 1)
        ours[f"blocks.{i}.conv.weight"] = torch.cat([w.real, w.imag], dim=2).contiguous()
        ours[f"blocks.{i}.skip.bias"] = state[f"fno_blocks.convs.{i}.bias"].flatten()
        ours[f"blocks.{i}.skip.weight"] = state[f"fno_blocks.fno_skips.{i}.conv.weight"].flatten(1)
        ours[f"blocks.{i}.gate"] = state[f"fno_blocks.channel_mlp_skips.{i}.weight"].flatten()
        ours |= {f"blocks.{i}.mlp.{k}": v for k, v in linear(f"fno_blocks.channel_mlp.{i}").items()}
    return {k: v.detach().clone() for k, v in ours.items()}


def to_neuraloperator(
    ours: Mapping[str, Tensor], like: Mapping[str, Tensor], layers: int
) -> dict[str, Tensor]:
    """Our weights as the ``state_dict`` of a neuraloperator 2.0 ``FNO``.

    Parameters
    ----------
    ours : mapping of str to Tensor
        A `FNONet` state.
    like : mapping of str to Tensor
        The target's ``state_dict``, for names and shapes.
    layers : int
        Number of Fourier layers.
    """
    theirs = dict(like)
    for name, value in like.items():
        key = _our_name(name, layers)
        if key is None:  # its metadata
            continue
        if key.endswith("conv.weight"):
            w = ours[key]
            n = w.shape[2] // 2
            z = torch.complex(w[..., :n].contiguous(), w[..., n:].contiguous())
            theirs[name] = z.permute(1, 2, 0).reshape(value.shape)
        else:
            theirs[name] = ours[key].reshape(value.shape)
    return theirs


def _our_name(name: str, layers: int) -> str | None:
    plain = {"fcs.0": "first", "fcs.1": "second"}
    for prefix, mine in (("lifting", "lift"), ("projection", "project")):
        if name.startswith(prefix + "."):
            part, kind = name.removeprefix(prefix + ".").rsplit(".", 1)
            return f"{mine}.{plain[part]}.{kind}"
    for i in range(layers):
        table = {
            f"fno_blocks.convs.{i}.weight": f"blocks.{i}.conv.weight",
            f"fno_blocks.convs.{i}.bias": f"blocks.{i}.skip.bias",
            f"fno_blocks.fno_skips.{i}.conv.weight": f"blocks.{i}.skip.weight",
            f"fno_blocks.channel_mlp_skips.{i}.weight": f"blocks.{i}.gate",
        }
        for theirs, mine in table.items():
            if name.startswith(theirs):
                return mine
        prefix = f"fno_blocks.channel_mlp.{i}."
        if name.startswith(prefix):
            part, kind = name.removeprefix(prefix).rsplit(".", 1)
            return f"blocks.{i}.mlp.{plain[part]}.{kind}"
    return None
