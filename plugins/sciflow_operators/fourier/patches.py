"""Overlapping patches of a grid, with coarser views of what surrounds them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sciflow_operators.fields.grid import mesh

Edge = Literal["reflect", "replicate"]
"""What stands beyond the ends of an axis that is not periodic."""


def inside(index: Tensor, points: int, edge: str) -> Tensor:
    """Points of an axis for indices that may lie beyond its ends.

    Parameters
    ----------
    index : Tensor of int, any shape
    points : int
        Of the axis.
    edge : {"circular", "reflect", "replicate"}
        The axis is periodic, mirrored at its end points, or its end points are repeated.
    """
    if edge == "circular":
        return index.remainder(points)
    if edge == "replicate" or points == 1:
        return index.clamp(0, points - 1)
    folded = index.remainder(2 * (points - 1))
    return torch.minimum(folded, 2 * (points - 1) - folded)


def windows(
    points: int, count: int, halo: int, level: int, edge: str, device: torch.device | None = None
) -> Tensor:
    """Points of the windows of an axis, shape (count, size + 2 * halo) with ``size = ceil(points / count)``.

    Parameters
    ----------
    points : int
        Of the axis.
    count : int
        Windows side by side; where they do not divide the axis, the last one reaches beyond its end.
    halo : int
        Points added on both sides.
    level : int
        The window takes every ``2**level``-th point around the same centre.
    edge : str
        See `inside`.
    device : device, optional
        Of the result.
    """
    size, step = -(-points // count), 2**level
    first = starts(points, count, halo, level, device)
    return inside(first[:, None] + step * torch.arange(size + 2 * halo, device=device), points, edge)


def starts(points: int, count: int, halo: int, level: int, device: torch.device | None = None) -> Tensor:
    """Where the windows of an axis begin, before anything is folded back into it.

    The centres of all levels are the same, up to one and a half points of the coarser view; for patches that
    every view divides they are those of neuraloperator.
    """
    size, step = -(-points // count), 2**level
    before = math.ceil(size * (1 - 1 / step) / 2) + halo
    first: Tensor = torch.arange(count, device=device) * size - before * step
    return first


def split(x: Tensor, count: int, halos: Sequence[int], edges: Sequence[str], levels: int) -> Tensor:
    """Patches of a grid.

    Parameters
    ----------
    x : Tensor, shape (batch, *points, channel)
    count : int
        Patches along each axis.
    halos : sequence of int
        Points added on both sides of each axis.
    edges : sequence of str
        What stands beyond the ends of each axis, see `inside`.
    levels : int
        Coarser views beside the patch itself, each twice as coarse as the one before.

    Returns
    -------
    Tensor, shape (batch * count**axes, *window, channel * (levels + 1))
        Patches of a sample one after the other in row-major order; channels from the finest view to the
        coarsest.
    """
    views = []
    axes = range(len(halos))
    batch, channels = x.shape[0], x.shape[-1]
    for level in range(levels + 1):
        view, shape = x, []
        for axis in axes:
            index = windows(x.shape[1 + axis], count, halos[axis], level, edges[axis], x.device)
            view = view.index_select(1 + axis, index.flatten())
            shape += list(index.shape)
        order = (0, *(1 + 2 * a for a in axes), *(2 + 2 * a for a in axes), 1 + 2 * len(axes))
        parts = view.reshape(batch, *shape, channels).permute(order)
        views.append(parts.reshape(batch * count ** len(axes), *shape[1::2], channels))
    return torch.cat(views, dim=-1)


def stitch(patches: Tensor, points: Sequence[int], count: int, halos: Sequence[int]) -> Tensor:
    """The grid of which these are the patches: the inverse of `split` without coarser views.

    Parameters
    ----------
    patches : Tensor, shape (batch * count**axes, *window, channel)
    points : sequence of int
        Of the grid.
    count : int
        Patches along each axis.
    halos : sequence of int
        Points that are cut from both sides of each axis.

    Returns
    -------
    Tensor, shape (batch, *points, channel)
    """
    axes = range(len(points))
    sizes = [-(-n // count) for n in points]
    for axis in axes:
        patches = patches.narrow(1 + axis, halos[axis], sizes[axis])
    batch = patches.shape[0] // count ** len(points)
    grid = patches.reshape(batch, *(count for _ in axes), *sizes, patches.shape[-1])
    order = (0, *(p for a in axes for p in (1 + a, 1 + len(points) + a)), 1 + 2 * len(points))
    whole = grid.permute(order).reshape(batch, *(count * s for s in sizes), patches.shape[-1])
    for axis, n in enumerate(points):
        whole = whole.narrow(1 + axis, 0, n)
    return whole


class Patched(nn.Module):
    """A network that sees one patch of the grid at a time, and coarser views of what surrounds it.

    Parameters
    ----------
    inner : Module
        The network of a patch: channels of all views, (batch, *window, channel), to output channels.
    levels : int
        ``2**levels`` patches along each axis, and as many coarser views.
    padding : float
        Points added on both sides of a patch, as a fraction of the whole axis.
    periodic : sequence of bool
        Whether the domain is periodic along each axis.
    edge : {"reflect", "replicate"}
        What stands beyond the ends of the others.
    coordinates : bool
        Append the coordinates in the whole domain to the input channels.
    """

    def __init__(
        self,
        inner: nn.Module,
        levels: int,
        padding: float,
        periodic: Sequence[bool],
        edge: Edge = "reflect",
        coordinates: bool = True,
    ) -> None:
        super().__init__()
        self.inner, self.levels, self.padding = inner, levels, padding
        self.periodic, self.coordinates = tuple(periodic), coordinates
        self.edges = ["circular" if p else edge for p in periodic]

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
        points = list(x.shape[1:-1])
        if self.coordinates:
            grid = mesh(points, self.periodic, x)
            x = torch.cat([x, grid.expand(x.shape[0], *grid.shape)], dim=-1)
        count, halos = 2**self.levels, [round(n * self.padding) for n in points]
        patches = self.inner(split(x, count, halos, self.edges, self.levels))
        return stitch(patches, points, count, halos)


def window(points: Sequence[int], levels: int, padding: float) -> tuple[int, ...]:
    """Size of the patches with their halo."""
    return tuple(-(-n // 2**levels) + 2 * round(n * padding) for n in points)
