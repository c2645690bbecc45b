"""A fine grid split into coarse ones and put together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sciflow.errors import Invalid
from sciflow_operators.fields.port import Port

if TYPE_CHECKING:
    from sciflow_operators.training.trained import Gridded

MARGIN = 2
"""Coarse points by which a periodic axis that does not divide is continued at each end."""


def split(x: Tensor, factor: int) -> Tensor:
    """Every `factor`-th point along each axis, for all shifts.

    Parameters
    ----------
    x : Tensor, shape (batch, *points, channel)
        All numbers of points multiples of `factor`.
    factor : int

    Returns
    -------
    Tensor, shape (batch, *coarse points, shift, channel)
        ``factor ** axes`` shifts, that of the last axis fastest.
    """
    batch, *points, channels = x.shape
    d = len(points)
    x = x.reshape(batch, *(m for n in points for m in (n // factor, factor)), channels)
    x = x.permute(0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), 2 * d + 1)
    return x.reshape(batch, *(n // factor for n in points), factor**d, channels)


def join(x: Tensor, factor: int) -> Tensor:
    """The inverse of `split`.

    Parameters
    ----------
    x : Tensor, shape (batch, *coarse points, shift, channel)
    factor : int

    Returns
    -------
    Tensor, shape (batch, *points, channel)
    """
    batch, *coarse, _, channels = x.shape
    d = len(coarse)
    x = x.reshape(batch, *coarse, *[factor] * d, channels)
    x = x.permute(0, *(i for axis in range(d) for i in (1 + axis, 1 + d + axis)), 2 * d + 1)
    return x.reshape(batch, *(n * factor for n in coarse), channels)


class StaggerNet(nn.Module):
    """A network on coarse grids as one on the fine grid.

    Parameters
    ----------
    inner : Gridded
        Gives the network, or the networks.
    port : Port
        Of the fine grid.
    factor : int
        See `Stagger`.
    joint : bool
        See `Stagger`.

    Notes
    -----
    An axis whose number of points is no multiple of `factor` is continued to the next one: by its last
    value, or around where it is periodic. In the second case the coarse axis has another period than the
    fine one; it is continued by `MARGIN` coarse points at both ends, and the inner network takes it as not
    periodic.
    """

    def __init__(self, inner: Gridded, port: Port, factor: int, joint: bool) -> None:
        super().__init__()
        self.factor, self.joint = factor, joint
        self.fields, self.scalars = list(port.fields), list(port.scalars)
        self.channels_out = port.channels_out
        self.around = port.periodic
        whole = [n % factor == 0 for n in port.points]
        self.periodic = tuple(p and w for p, w in zip(port.periodic, whole, strict=True))
        coarse = tuple(sum(self._added(axis, n)) + n for axis, n in enumerate(port.points))
        copies = factor ** len(coarse) if joint else 1
        first = copies * len(self.fields)
        names = [port.names[i] for i in self.fields] * copies + [port.names[i] for i in self.scalars]
        mine = Port(
            tuple(range(first)),
            tuple(range(first, first + len(self.scalars))),
            copies * port.channels_out,
            tuple(n // factor for n in coarse),
            self.periodic,
            tuple(names),
        )
        self.nets = nn.ModuleList(inner.module(mine) for _ in range(factor ** len(coarse) // copies))

    def _added(self, axis: int, points: int) -> tuple[int, int]:
        """Points added before and after an axis."""
        rest = -points % self.factor
        if self.periodic[axis] and rest:
            raise Invalid(
                f"this network was made for a periodic axis of {self.factor} n points, got {points}"
            )
        if self.periodic[axis] or not self.around[axis]:
            return 0, rest
        return MARGIN * self.factor, MARGIN * self.factor + rest

    def _continued(self, x: Tensor, added: Sequence[tuple[int, int]]) -> Tensor:
        for axis, (before, after) in enumerate(added):
            if before or after:
                n = x.shape[1 + axis]
                place = torch.arange(-before, n + after, device=x.device)
                place = place % n if self.around[axis] else place.clamp(0, n - 1)
                x = x.index_select(1 + axis, place)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Apply the networks.

        Parameters
        ----------
        x : Tensor, shape (batch, *points, channel in)

        Returns
        -------
        Tensor, shape (batch, *points, channel out)
        """
        points = x.shape[1:-1]
        added = [self._added(axis, n) for axis, n in enumerate(points)]
        x = self._continued(x, added)
        parts = split(x[..., self.fields], self.factor)
        coarse, shifts = parts.shape[1:-2], parts.shape[-2]
        theta = x[..., self.scalars]
        for axis, n in enumerate(coarse):
            theta = theta.narrow(1 + axis, 0, n)
        given = [parts.flatten(-2)] if self.joint else parts.unbind(-2)
        found = [net(torch.cat([part, theta], dim=-1)) for net, part in zip(self.nets, given, strict=True)]
        shape = (x.shape[0], *coarse, shifts, self.channels_out)
        result = join(found[0].view(shape) if self.joint else torch.stack(found, dim=-2), self.factor)
        for axis, n in enumerate(points):
            result = result.narrow(1 + axis, added[axis][0], n)
        return result
