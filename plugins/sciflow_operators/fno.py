"""Fourier neural operator, real-valued and channels last: transforms are matrix products.

Only a few modes of each transform are kept, so multiplying with a thin matrix costs less than a
fast transform of everything followed by a cut, and no complex number is ever stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  the name torch uses itself
from torch import Tensor, nn


@lru_cache(maxsize=64)
def _matrices(points: int, modes: int, half: bool, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Forward and inverse transform of one axis.

    Parameters
    ----------
    points : int
        Grid points.
    modes : int
        Kept modes, both signs counted.
    half : bool
        Keep the modes 0 to ``modes // 2`` of real data (the last axis), else
        ``-modes // 2`` to ``(modes - 1) // 2``.

    Returns
    -------
    forward : Tensor, shape (k, 2, points)
        Rows cos and -sin, divided by `points`.
    inverse : Tensor, shape (points, k, 2)
        Columns cos and -sin, doubled where a mode stands for its conjugate too.
    """
    if half:
        k = np.arange(min(modes // 2, points // 2) + 1)
        weight = np.where((k == 0) | (2 * k == points), 1.0, 2.0)
    else:
        kept = min(modes, points)
        k = np.arange(-(kept // 2), kept - kept // 2)
        weight = np.ones(len(k))
    angle = 2 * np.pi * ((k[:, None] * np.arange(points)) % points) / points
    both = np.stack([np.cos(angle), -np.sin(angle)], axis=1)
    forward = torch.tensor(both / points, dtype=dtype, device=device)
    inverse = torch.tensor((both * weight[:, None, None]).transpose(2, 0, 1).copy(), dtype=dtype, device=device)
    return forward, inverse


@lru_cache(maxsize=64)
def _complex_matrices(
    points: int, modes: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor]:
    """The half transform of the last axis applied to complex data, as real block matrices.

    Returns
    -------
    forward : Tensor, shape (2 k, 2 points)
        From (re, im) points to (re, im) modes.
    inverse : Tensor, shape (2 points, 2 k)
        Back, doubled where a mode stands for its conjugate too.
    """
    forward, inverse = _matrices(points, modes, True, dtype, device)
    c, s = forward[:, 0], forward[:, 1]
    there = torch.cat([torch.cat([c, -s], dim=1), torch.cat([s, c], dim=1)], dim=0)
    ci, si = inverse[..., 0], inverse[..., 1]
    # e^{+i a} = cos a - i (-sin a): (re, im) -> (re c + im s, im c - re s) with s = -sin.
    back = torch.cat([torch.cat([ci, si], dim=1), torch.cat([-si, ci], dim=1)], dim=0)
    return there.contiguous(), back.contiguous()


class SpectralConv(nn.Module):
    """Multiplies the lowest Fourier modes with a matrix each.

    Parameters
    ----------
    channels_in, channels_out : int
        Channels.
    modes : sequence of int
        Kept modes of each axis, both signs counted; the last axis keeps ``m // 2 + 1`` of them.

    Notes
    -----
    The weight is real, shape (mode, channel in, 2 * channel out): real parts left, imaginary parts
    right. A step costs ``O(points * modes)`` per axis instead of ``O(points * log points)``, less
    for the few modes that are kept.
    """

    def __init__(self, channels_in: int, channels_out: int, modes: Sequence[int]) -> None:
        super().__init__()
        self.modes = tuple(modes)
        self.kept = (*self.modes[:-1], self.modes[-1] // 2 + 1)
        self.channels_out = channels_out
        scale = math.sqrt(2 / (channels_in + channels_out)) / math.sqrt(2)
        count = math.prod(self.kept)
        self.weight = nn.Parameter(scale * torch.randn(count, channels_in, 2 * channels_out))
        self.bias = nn.Parameter(torch.zeros(channels_out))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Convolve and add.

        Parameters
        ----------
        x : Tensor, shape (batch, *points, channel in)
        skip : Tensor, shape (batch, *points, channel out)
            Added to the result in the last matrix product.

        Returns
        -------
        Tensor, shape (batch, *points, channel out)
        """
        return self._two(x, skip) if len(self.modes) == 2 else self._one(x, skip)

    def _mix(self, z: Tensor, kept: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Per mode: (mode, 2 * batch, in) -> real and imaginary parts (mode, batch, out)."""
        weight = self.weight
        if kept != self.kept:
            weight = self._cut(kept)
        batch = z.shape[1] // 2
        product = torch.bmm(z, weight)
        n = self.channels_out
        re = product[:, :batch, :n] - product[:, batch:, n:]
        im = product[:, :batch, n:] + product[:, batch:, :n]
        return re, im

    def _cut(self, kept: tuple[int, ...]) -> Tensor:
        """Weights of the modes that a coarser grid can carry."""
        weight = self.weight.view(*self.kept, *self.weight.shape[1:])
        for axis, (have, want) in enumerate(zip(self.kept, kept, strict=True)):
            last = axis == len(kept) - 1
            start = 0 if last else have // 2 - want // 2
            weight = weight.narrow(axis, start, want)
        return weight.reshape(-1, *self.weight.shape[1:])

    def _one(self, x: Tensor, skip: Tensor) -> Tensor:
        batch, points, channels = x.shape
        forward, inverse = _matrices(points, self.modes[0], True, x.dtype, str(x.device))
        k = forward.shape[0]
        z = torch.matmul(forward.reshape(2 * k, points), x)
        z = z.view(batch, k, 2, channels).permute(1, 2, 0, 3).reshape(k, 2 * batch, channels)
        re, im = self._mix(z, (k,))
        out = torch.stack([re, im], dim=1).permute(2, 0, 1, 3).reshape(batch, 2 * k, self.channels_out)
        return torch.baddbmm(skip + self.bias, inverse.reshape(1, points, 2 * k).expand(batch, -1, -1), out)

    def _two(self, x: Tensor, skip: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        n = self.channels_out
        g, gi = _matrices(height, self.modes[0], False, x.dtype, str(x.device))
        f, fi = _complex_matrices(width, self.modes[1], x.dtype, str(x.device))
        k, q = g.shape[0], f.shape[0] // 2
        a = torch.matmul(g.reshape(2 * k, height), x.reshape(batch, height, width * channels))
        a = torch.matmul(f, a.view(batch * k, 2 * width, channels))
        z = a.view(batch, k, 2, q, channels).permute(1, 3, 2, 0, 4).reshape(k * q, 2 * batch, channels)
        re, im = self._mix(z, (k, q))
        out = torch.stack([re, im]).view(2, k, q, batch, n).permute(3, 1, 0, 2, 4).reshape(batch * k, 2 * q, n)
        b = torch.matmul(fi, out).view(batch, 2 * k, width * n)
        rows = gi.reshape(1, height, 2 * k).expand(batch, -1, -1)
        base = (skip + self.bias).view(batch, height, width * n)
        return torch.baddbmm(base, rows, b).view(batch, height, width, n)


class Perceptron(nn.Module):
    """Two linear layers with GELU between, applied at every point.

    Parameters
    ----------
    channels_in, hidden, channels_out : int
        Channels.
    """

    def __init__(self, channels_in: int, hidden: int, channels_out: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels_in, hidden)
        self.second = nn.Linear(hidden, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map channels (the last axis)."""
        result: Tensor = self.second(F.gelu(self.first(x)))
        return result


class Block(nn.Module):
    """One Fourier layer: ``z = P(y) + g x`` with ``y = gelu(K x + W x + b)``.

    Parameters
    ----------
    width : int
        Channels.
    modes : sequence of int
        See `SpectralConv`.
    last : bool
        The last layer has no activation.
    """

    def __init__(self, width: int, modes: Sequence[int], last: bool) -> None:
        super().__init__()
        self.conv = SpectralConv(width, width, modes)
        self.skip = nn.Linear(width, width, bias=False)
        self.gate = nn.Parameter(torch.ones(width))
        self.mlp = Perceptron(width, max(1, width // 2), width)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, *points, channel) to the same shape."""
        y = self.conv(x, self.skip(x))
        if not self.last:
            y = F.gelu(y)
        z = torch.addcmul(self.mlp(y), x, self.gate)
        return z if self.last else F.gelu(z)


class FNONet(nn.Module):
    """The network: lift, Fourier layers, project; grid coordinates are added to the input.

    Parameters
    ----------
    channels_in, channels_out : int
        Channels without the coordinates.
    width, layers : int
        See `FNO`.
    modes : sequence of int
        One number for each axis.
    padding : sequence of float
        Fraction of the domain added at the end of each axis; 0 for a periodic axis.

    References
    ----------
    Z. Li et al., "Fourier neural operator for parametric partial differential equations", ICLR
    2021. The layer is the one of neuraloperator 2.0, so that weights can be exchanged.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        width: int,
        modes: Sequence[int],
        layers: int,
        padding: Sequence[float],
    ) -> None:
        super().__init__()
        self.padding = tuple(padding)
        self.lift = Perceptron(channels_in + len(modes), 2 * width, width)
        self.blocks = nn.ModuleList(Block(width, modes, i == layers - 1) for i in range(layers))
        self.project = Perceptron(width, 2 * width, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the operator.

        Parameters
        ----------
        x : Tensor, shape (batch, *points, channel in)
            On a regular grid of any size.

        Returns
        -------
        Tensor, shape (batch, *points, channel out)
        """
        points = x.shape[1:-1]
        grids = [
            _coordinate(n, periodic=p == 0, dtype=x.dtype, device=str(x.device))
            for n, p in zip(points, self.padding, strict=True)
        ]
        mesh = torch.stack(torch.meshgrid(*grids, indexing="ij"), dim=-1)
        x = torch.cat([x, mesh.expand(x.shape[0], *mesh.shape)], dim=-1)
        x = self.lift(x)
        extra = [round(p * n) for p, n in zip(self.padding, points, strict=True)]
        if any(extra):
            x = F.pad(x, [0, 0, *(v for e in reversed(extra) for v in (0, e))])
        for block in self.blocks:
            x = block(x)
        for axis, n in enumerate(points):
            x = x.narrow(1 + axis, 0, n)
        result: Tensor = self.project(x)
        return result


def _coordinate(points: int, *, periodic: bool, dtype: torch.dtype, device: str) -> Tensor:
    """Grid coordinates in [0, 1], without the end point on a periodic axis."""
    last = 1 - 1 / points if periodic else 1.0
    return torch.linspace(0, last, points, dtype=dtype, device=device)


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
        ours[f"blocks.{i}.conv.bias"] = state[f"fno_blocks.convs.{i}.bias"].flatten()
        ours[f"blocks.{i}.skip.weight"] = state[f"fno_blocks.fno_skips.{i}.conv.weight"].flatten(1)
        ours[f"blocks.{i}.gate"] = state[f"fno_blocks.channel_mlp_skips.{i}.weight"].flatten()
        ours |= {f"blocks.{i}.mlp.{k}": v for k, v in linear(f"fno_blocks.channel_mlp.{i}").items()}
    return {k: v.detach().clone() for k, v in ours.items()}


def to_neuraloperator(ours: Mapping[str, Tensor], like: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
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
    theirs = {k: v for k, v in like.items()}
    for name, value in like.items():
        if not isinstance(value, Tensor):
            continue
        key = _our_name(name, layers)
        if key is None:
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
            f"fno_blocks.convs.{i}.bias": f"blocks.{i}.conv.bias",
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
