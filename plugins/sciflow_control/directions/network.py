"""The network that turns a residual into a search direction, and what it is trained to lower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from sciflow_control.directions.poisson import Poisson


class Stack(nn.Module):
    """Convolutions with ReLU, every second one added to what the one before it took.

    Parameters
    ----------
    dimension, width, count : int
        Axes of the grid, channels, convolutions.
    """

    def __init__(self, dimension: int, width: int, count: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(_convolution(dimension, width, width) for _ in range(count))

    def forward(self, a: Tensor) -> Tensor:
        """Channels to channels, shape (batch, width, grid)."""
        b = a
        for number, step in enumerate(self.steps):
            if number % 2 == 0:
                b = torch.relu(step(a))
            else:
                a = torch.relu(step(b)) + a
                b = a
        return b


class Directions(nn.Module):
    """Residual to direction, on a grid of any size with two or three axes.

    Parameters
    ----------
    dimension : int
        2 or 3 axes.
    width : int
        Channels.
    layers : sequence of three int
        Convolutions on the grid before the coarse branch, in each level of it, and after it.
    levels : int
        Levels of the coarse branch, each on a grid of half the points.

    Notes
    -----
    f(r) = net(r / rms(r)), with the root of the mean square over the cells inside: f(c r) = f(r) for
    c > 0. On one grid that is r / |r| up to a constant, as published; on a finer grid r / |r| would be
    smaller in every cell, and the network would see something that it was not trained on.

    A first linear convolution, a stack on the grid, the mean over 2^d cells, a stack on the coarse grid,
    each of its values copied to 2^d cells and added to what was there, a stack, and a linear combination
    of the channels. A coarse level may hold another in the same way. A value reaches as far as the
    convolutions: with the published layers and one level some 20 cells.

    References
    ----------
    Kaneda et al., A Deep Conjugate Direction Method for Iteratively Solving Linear Systems, ICML 2023,
    figure 2.
    """

    def __init__(self, dimension: int, width: int, layers: Sequence[int], levels: int) -> None:
        super().__init__()
        before, coarse, after = layers
        self.dimension = dimension
        self.first = _convolution(dimension, 1, width)
        self.before = Stack(dimension, width, before)
        self.coarse = nn.ModuleList(Stack(dimension, width, coarse) for _ in range(levels))
        self.after = Stack(dimension, width, after)
        self.last = nn.Linear(width, 1)

    def forward(self, r: Tensor, mask: Tensor) -> Tensor:
        """The direction for every residual.

        Parameters
        ----------
        r : Tensor, shape (batch, 1, grid)
            Zero outside.
        mask : Tensor, shape (1, 1, grid)
            1 inside, 0 outside.

        Returns
        -------
        Tensor, shape (batch, 1, grid)
            Zero outside. Its length means nothing.
        """
        axes = tuple(range(1, r.ndim))
        size = (r.square().sum(axes, keepdim=True) / mask.sum()).sqrt()
        x = self.before(self.first(r / size.clamp_min(torch.finfo(r.dtype).tiny)))
        x = self.after(x + self._below(x, 0))
        q: Tensor = self.last(x.movedim(1, -1)).movedim(-1, 1)
        return mask * q

    def _below(self, x: Tensor, level: int) -> Tensor:
        """The coarse branch from a level on, on the grid of `x`."""
        pool = nn.functional.avg_pool2d if self.dimension == 2 else nn.functional.avg_pool3d
        y = self.coarse[level](pool(x, 2, ceil_mode=True))
        if level + 1 < len(self.coarse) and min(y.shape[2:]) > 1:
            y = y + self._below(y, level + 1)
        up = nn.functional.interpolate(y, scale_factor=2, mode="nearest")
        for axis, size in enumerate(x.shape[2:], 2):
            up = up.narrow(axis, 0, size)
        return up


def _convolution(dimension: int, before: int, after: int) -> nn.Module:
    kind = nn.Conv2d if dimension == 2 else nn.Conv3d
    return kind(before, after, 3, padding=1)


def losses(operator: Poisson, b: Tensor, q: Tensor) -> Tensor:
    """What is left of each right-hand side after the best step along its direction.

    Parameters
    ----------
    operator : Poisson
        A.
    b, q : Tensor, shape (batch, 1, grid)
        Right-hand sides of norm one, and directions.

    Returns
    -------
    Tensor, shape (batch,)
        | b - A q (q.b) / (q.A q) |^2; 1 or so for a useless direction, 0 for A^-1 b of any length.
    """
    axes = tuple(range(1, b.ndim))
    product = operator.product(q)
    curvature = (q * product).sum(axes, keepdim=True).clamp_min(torch.finfo(q.dtype).tiny)
    step = (q * b).sum(axes, keepdim=True) / curvature
    return (b - step * product).square().sum(axes)
