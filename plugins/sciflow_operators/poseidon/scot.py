"""The scalable operator transformer: a U-shaped tower of window attention between two grids of tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812  the name torch uses itself
from torch import Tensor, nn

from sciflow_operators.poseidon.architecture import Architecture
from sciflow_operators.poseidon.blocks import SPREAD, Block, ConvNeXt, TimeNorm


class Embed(nn.Module):
    """Patches of the fields become tokens.

    Parameters
    ----------
    channels, width, patch : int
        Channels of the fields, channels of a token, points of a patch along each axis.
    """

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.weight = nn.Parameter(torch.empty(width, channels, patch, patch))
        self.bias = nn.Parameter(torch.zeros(width))
        self.norm = TimeNorm(width)
        nn.init.normal_(self.weight, std=SPREAD)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (batch, y, x, channel) to (batch, y / patch, x / patch, width)."""
        batch, n, _, channels = x.shape
        p = self.patch
        x = (
            x.reshape(batch, n // p, p, n // p, p, channels)
            .transpose(2, 3)
            .reshape(batch, n // p, n // p, -1)
        )
        x = F.linear(x, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)
        result: Tensor = self.norm(x, time)
        return result


class Recover(nn.Module):
    """Tokens become patches of the fields, which a 5 x 5 convolution joins.

    Parameters
    ----------
    width, channels, patch : int
        See `Embed`.
    """

    def __init__(self, width: int, channels: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.weight = nn.Parameter(torch.empty(width, channels, patch, patch))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.mix = nn.Parameter(torch.empty(channels, channels, 5, 5))
        nn.init.normal_(self.weight, std=1 / math.sqrt(width))
        nn.init.normal_(self.mix, std=SPREAD)
        with torch.no_grad():  # so that the untrained convolution passes the patches on
            self.mix[:, :, 2, 2] += torch.eye(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, y, x, width) to (batch, y * patch, x * patch, channel)."""
        x = F.conv_transpose2d(x.permute(0, 3, 1, 2), self.weight, self.bias, stride=self.patch)
        result: Tensor = F.conv2d(x, self.mix, padding=2).permute(0, 2, 3, 1)
        return result


class Merge(nn.Module):
    """Four tokens become one of twice the width.

    Parameters
    ----------
    width : int
        Channels of the tokens that come in.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2 * width, 4 * width))
        self.norm = TimeNorm(2 * width)
        nn.init.normal_(self.weight, std=SPREAD)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (batch, y, x, width) to (batch, y / 2, x / 2, 2 width)."""
        batch, n, _, width = x.shape
        # Of the four tokens the one below comes second, the one to the right third.
        x = x.reshape(batch, n // 2, 2, n // 2, 2, width).permute(0, 1, 3, 4, 2, 5)
        x = F.linear(x.reshape(batch, n // 2, n // 2, 4 * width), self.weight)
        result: Tensor = self.norm(x, time)
        return result


class Expand(nn.Module):
    """One token becomes four of half the width.

    Parameters
    ----------
    width : int
        Channels of the tokens that come in.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2 * width, width))
        self.norm = TimeNorm(width // 2)
        self.mix = nn.Parameter(torch.empty(width // 2, width // 2))
        nn.init.normal_(self.weight, std=SPREAD)
        nn.init.normal_(self.mix, std=SPREAD)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (batch, y, x, width) to (batch, 2 y, 2 x, width / 2)."""
        batch, n, _, width = x.shape
        x = F.linear(x, self.weight).view(batch, n, n, 2, 2, width // 2).transpose(2, 3)
        return F.linear(self.norm(x.reshape(batch, 2 * n, 2 * n, width // 2), time), self.mix)


def _blocks(size: Architecture, stage: int, *, first: int) -> nn.ModuleList:
    """The blocks of half a stage; windows of every other one are moved, beginning with `first`."""
    tokens, width = size.tokens(stage), size.channels(stage)
    window = min(size.window, tokens)
    shift = size.window // 2 if tokens > window else 0
    return nn.ModuleList(
        Block(
            width,
            size.heads[stage],
            tokens,
            window,
            shift if (first + i) % 2 else 0,
            int(size.expansion * width),
        )
        for i in range(size.depths[stage])
    )


class ScOT(nn.Module):
    """The network between fields on its own grid.

    Parameters
    ----------
    channels_in, channels_out : int
        Fields that come in and go out.
    size : Architecture
        Its sizes.

    Notes
    -----
    An encoder of stages (blocks, then `Merge` of what came in plus what came out), a decoder of the
    same stages in reverse (blocks, then `Expand`), and between the halves of each stage `ConvNeXt`
    blocks, whose result is added in the decoder.

    References
    ----------
    M. Herde et al., "Poseidon: efficient foundation models for PDEs", NeurIPS 2024, arXiv:2405.19101,
    section 2 and appendix A.
    """

    def __init__(self, channels_in: int, channels_out: int, size: Architecture) -> None:
        super().__init__()
        stages = range(len(size.depths))
        self.embed = Embed(channels_in, size.width, size.patch)
        self.down = nn.ModuleList(_blocks(size, s, first=0) for s in stages)
        self.merge = nn.ModuleList(Merge(size.channels(s)) for s in stages[:-1])
        self.skips = nn.ModuleList(
            nn.ModuleList(ConvNeXt(size.channels(s)) for _ in range(size.skips[s])) for s in stages
        )
        # The last block of the decoder's half of a stage has windows that are not moved.
        self.up = nn.ModuleList(_blocks(size, s, first=size.depths[s] - 1) for s in reversed(stages))
        self.expand = nn.ModuleList(Expand(size.channels(s)) for s in reversed(stages[1:]))
        self.recover = Recover(size.width, channels_out, size.patch)
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                nn.init.normal_(part.weight, std=SPREAD)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Apply the network.

        Parameters
        ----------
        x : Tensor, shape (batch, points, points, channel in)
        time : Tensor, shape (batch,)
            Lead time over the longest one.

        Returns
        -------
        Tensor, shape (batch, points, points, channel out)
        """
        x = self.embed(x, time)
        kept: list[Tensor] = []
        for stage, blocks in enumerate(self.down):
            before = x
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, time)
            kept.append(x)
            if stage < len(self.merge):
                x = self.merge[stage](x + before, time)
        for stage, blocks in enumerate(self.skips):
            for block in blocks:  # type: ignore[attr-defined]
                kept[stage] = block(kept[stage], time)
        x = kept.pop()
        for stage, blocks in enumerate(self.up):
            if stage:
                x = x + kept.pop()
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, time)
            if stage < len(self.expand):
                x = self.expand[stage](x, time)
        result: Tensor = self.recover(x)
        return result


def resample(x: Tensor, points: int) -> Tensor:
    """Fields on a square periodic grid on another one, by their Fourier series.

    Parameters
    ----------
    x : Tensor, shape (batch, n, n, channel)
    points : int
        Of the other grid, along each axis.

    Returns
    -------
    Tensor, shape (batch, points, points, channel)

    Notes
    -----
    Waves that the coarser of the two grids cannot hold are left out. Of a wave of two points of the
    coarser grid, which is its own conjugate, the cosine is kept; of the wave that has two points along
    both axes, the cosine of the sum of its angles, which is what Poseidon's own transform keeps. As a
    product with a small matrix for each axis: ``O(n**2 points + n points**2)`` for each channel.
    """
    n = x.shape[1]
    if n == points:
        return x
    least = min(n, points)
    waves = torch.arange(least // 2 + 1, dtype=torch.float64, device=x.device)
    single = (waves == 0) | (2 * waves == least)
    weight = torch.where(single, 1.0, 2.0).to(torch.float64) / n
    near, far = (
        2 * math.pi * torch.arange(m, dtype=torch.float64, device=x.device)[:, None] * waves / m
        for m in (n, points)
    )
    matrix = ((far.cos() * weight) @ near.cos().t() + (far.sin() * weight) @ near.sin().t()).to(x.dtype)
    result = torch.einsum("pm,bnmc->bnpc", matrix, torch.einsum("pn,bnmc->bpmc", matrix, x))
    if least % 2:
        return result
    # On the coarser grid the sine of its last wave is zero everywhere.
    into, out = (near[:, -1].cos(), far[:, -1].sin()) if n < points else (near[:, -1].sin(), far[:, -1].cos())
    into, out = (into / n).to(x.dtype), out.to(x.dtype)
    corner = torch.einsum("n,m,bnmc->bc", into, into, x)
    return result - torch.einsum("p,q,bc->bpqc", out, out, corner)
