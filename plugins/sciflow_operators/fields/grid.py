"""Coordinates of regular grids."""

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
