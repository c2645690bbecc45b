"""A U-Net whose convolutions know which axes are periodic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  the name torch uses itself
from torch import Tensor, nn

if TYPE_CHECKING:
    from sciflow_operators.fields.port import Port

CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def beyond(
    x: Tensor, amounts: Sequence[tuple[int, int]], periodic: Sequence[bool], replicate: bool
) -> Tensor:
    """A field with more points around it.

    Parameters
    ----------
    x : Tensor, shape (batch, channel, *points)
    amounts : sequence of (int, int)
        Points before and behind, of each axis.
    periodic : sequence of bool
        Axes that go on with their other end.
    replicate : bool
        Whether the others go on with their last value; else with zeros.
    """
    modes = ["circular" if p else "replicate" if replicate else "constant" for p in periodic]
    for mode in dict.fromkeys(modes):
        chosen = [a if m == mode else (0, 0) for a, m in zip(amounts, modes, strict=True)]
        if any(map(any, chosen)):
            x = F.pad(x, [n for pair in reversed(chosen) for n in pair], mode=mode)
    return x


class Conv(nn.Module):
    """A convolution over three points of each axis; its result has as many points, or half as many.

    Parameters
    ----------
    channels_in, channels_out : int
    periodic : sequence of bool
        One for each axis.
    replicate : bool
        See `beyond`.
    stride : int
        1 or 2.
    """

    def __init__(
        self, channels_in: int, channels_out: int, periodic: Sequence[bool], replicate: bool, stride: int = 1
    ) -> None:
        super().__init__()
        self.periodic, self.replicate = tuple(periodic), replicate
        self.plain = not any(periodic) and not replicate
        kind = CONVOLUTIONS[len(periodic)]
        self.conv = kind(channels_in, channels_out, 3, stride=stride, padding=1 if self.plain else 0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channel in, *points) to (batch, channel out, *points / stride)."""
        if not self.plain:
            x = beyond(x, [(1, 1)] * len(self.periodic), self.periodic, self.replicate)
        result: Tensor = self.conv(x)
        return result


class Norm(nn.GroupNorm):
    """A group norm of at most eight groups; one of a single number is its offset.

    Torch refuses such groups for a single sample and takes them for several.

    Parameters
    ----------
    channels : int
    """

    def __init__(self, channels: int) -> None:
        super().__init__(math.gcd(8, channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        """Shift and scale (batch, channel, *points)."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class Residual(nn.Module):
    """Two convolutions, each after a group norm and SiLU, added to what came in.

    Parameters
    ----------
    channels_in, channels_out : int
    periodic : sequence of bool
        One for each axis.
    replicate : bool
        See `beyond`.
    scalars : int
        Numbers that shift and scale the channels between the convolutions.
    """

    def __init__(
        self, channels_in: int, channels_out: int, periodic: Sequence[bool], replicate: bool, scalars: int
    ) -> None:
        super().__init__()
        self.norm = Norm(channels_in)
        self.first = Conv(channels_in, channels_out, periodic, replicate)
        self.between = Norm(channels_out)
        self.second = Conv(channels_out, channels_out, periodic, replicate)
        one = CONVOLUTIONS[len(periodic)]
        self.past = nn.Identity() if channels_in == channels_out else one(channels_in, channels_out, 1)
        self.film = nn.Linear(scalars, 2 * channels_out) if scalars else None
        nn.init.zeros_(self.second.conv.weight)  # type: ignore[arg-type]
        if self.film is not None:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, told: Tensor | None) -> Tensor:
        """Map (batch, channel in, *points) to (batch, channel out, *points)."""
        y = self.between(self.first(F.silu(self.norm(x))))
        if self.film is not None and told is not None:
            gain, offset = self.film(told).view(x.shape[0], -1, *(1,) * (x.ndim - 2)).chunk(2, dim=1)
            y = torch.addcmul(y + offset, y, gain)
        result: Tensor = self.past(x) + self.second(F.silu(y))
        return result


class UNetNet(nn.Module):
    """The network: fields of any size go down to coarser grids and come back.

    Parameters
    ----------
    port : Port
        What goes in and comes out.
    width, halvings, blocks : int
        See `UNet`.
    film : bool
        See `UNet`.
    replicate : bool
        See `beyond`.

    Notes
    -----
    A grid that cannot be halved so often gets more points behind its end, which are cut off again.

    References
    ----------
    O. Ronneberger, P. Fischer and T. Brox, "U-Net", MICCAI 2015, arXiv:1505.04597. Residual blocks and
    conditioning as in J. K. Gupta and J. Brandstetter, "Towards multi-spatiotemporal-scale generalized
    PDE modeling", TMLR 2023, arXiv:2209.15616.
    """

    def __init__(
        self, port: Port, width: int, halvings: int, blocks: int, *, film: bool, replicate: bool
    ) -> None:
        super().__init__()
        self.periodic, self.replicate, self.factor = port.periodic, replicate, 2**halvings
        film = film and bool(port.fields) and bool(port.scalars)
        self.fields = list(port.fields) if film else list(range(port.channels_in))
        self.scalars = list(port.scalars) if film else []
        told = 4 * width if film else 0
        if film:
            self.tell = nn.Sequential(
                nn.Linear(len(self.scalars), told), nn.SiLU(), nn.Linear(told, told), nn.SiLU()
            )
        where = (port.periodic, replicate)
        sizes = [width * 2**i for i in range(halvings + 1)]
        self.lift = Conv(len(self.fields), width, *where)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.coarser, self.finer = nn.ModuleList(), nn.ModuleList()
        for i, size in enumerate(sizes):
            self.down.append(nn.ModuleList(Residual(size, size, *where, told) for _ in range(blocks)))
            if i < halvings:
                self.coarser.append(Conv(size, sizes[i + 1], *where, stride=2))
        for size in reversed(sizes[:-1]):
            self.finer.append(Conv(2 * size, size, *where))
            ends = [(2 * size, size), *[(size, size)] * (blocks - 1)]
            self.up.append(nn.ModuleList(Residual(*pair, *where, told) for pair in ends))
        # No norm at the end: it would take the size of each sample's field away.
        self.project = Conv(width, port.channels_out, *where)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the network.

        Parameters
        ----------
        x : Tensor, shape (batch, *points, channel in)
            On a regular grid of any size.

        Returns
        -------
        Tensor, shape (batch, *points, channel out)
        """
        points = x.shape[1:-1]
        told = self.tell(x.flatten(1, -2)[:, 0, self.scalars]) if self.scalars else None
        x = x[..., self.fields] if self.scalars else x
        x = x.movedim(-1, 1).contiguous()  # convolutions of channels that come last are slower on a CPU
        more = [(0, -n % self.factor) for n in points]
        x = self.lift(self._extend(x, more))
        kept: list[Tensor] = []
        for i, blocks in enumerate(self.down):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, told)
            if i < len(self.coarser):
                kept.append(x)
                x = self.coarser[i](x)
        for finer, blocks in zip(self.finer, self.up, strict=True):
            x = finer(F.interpolate(x, scale_factor=2.0, mode="nearest"))
            x = torch.cat([x, kept.pop()], dim=1)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, told)
        x = self.project(x).movedim(1, -1)
        for axis, n in enumerate(points):
            x = x.narrow(1 + axis, 0, n)
        return x

    def _extend(self, x: Tensor, more: Sequence[tuple[int, int]]) -> Tensor:
        """Points behind the end of axes; a short axis goes round several times."""
        while any(behind for _, behind in more):
            now = [(0, min(behind, n)) for (_, behind), n in zip(more, x.shape[2:], strict=True)]
            x = beyond(x, now, self.periodic, self.replicate)
            more = [(0, behind - got) for (_, behind), (_, got) in zip(more, now, strict=True)]
        return x
