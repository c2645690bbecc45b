"""Regular grids: their coordinates, and coarser grids that are parts of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mesh(points: Sequence[int], periodic: Sequence[bool], like: Tensor) -> Tensor:
    """Coordinates in [0, 1], shape (*points, axis); a periodic axis lacks its end point.

    Parameters
    ----------
    points : sequence of int
        Size of the grid.
    periodic : sequence of bool
        One for each axis.
    like : Tensor
        Gives dtype and device.
    """
    grids = [
        torch.linspace(0, 1 - 1 / n if p else 1, n, dtype=like.dtype, device=like.device)
        for n, p in zip(points, periodic, strict=True)
    ]
    return torch.stack(torch.meshgrid(*grids, indexing="ij"), dim=-1)


def divides(points: Sequence[int], periodic: Sequence[bool], stride: int) -> bool:
    """Whether every `stride`-th point is a grid of the same domain, with at least two points.

    An axis that is not periodic keeps both ends.
    """
    spaces = [n if p else n - 1 for n, p in zip(points, periodic, strict=True)]
    return all(s % stride == 0 and s >= 2 * stride for s in spaces)


def thin(x: Tensor, stride: int) -> Tensor:
    """Every `stride`-th point along all axes of fields of shape (batch, *points, channel)."""
    if stride == 1:
        return x
    return x[(slice(None), *(slice(None, None, stride) for _ in x.shape[1:-1]))]
