"""What a loss may know of the outputs, and the plain losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sciflow.errors import Invalid, NotFound, nearest
from sciflow_operators.fields.channels import Layout

if TYPE_CHECKING:
    from sciflow.samples import Signature
    from sciflow_operators.fields.channels import Channels


@dataclass(frozen=True)
class Target:
    """What is known of the fields that a network gives.

    Attributes
    ----------
    signature : Signature
        Names, axes, units, coordinates, periodic axes.
    layout : Channels
        Which channel is what.
    groups : list of int
        Channels of each output field, in order.
    typical : list of float
        Root mean square of each output field over the training samples, in its unit.
    spread : Tensor, shape (channel out,)
        Of what the network gives, in the fields' units.
    space : tuple of str
        Axes of the grid, in the order of a tensor's; empty where there is no grid.
    periodic : tuple of bool
        Whether the domain is periodic along each of them.
    lengths : tuple of float
        Of the domain along each of them, in the unit of its coordinates: the period, or the distance of
        the end points. NaN where the points are not equally far apart.
    """

    signature: Signature
    layout: Channels
    groups: list[int]
    typical: list[float]
    spread: Tensor
    space: tuple[str, ...] = field(init=False)
    periodic: tuple[bool, ...] = field(init=False)
    lengths: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        space = self.layout.space if isinstance(self.layout, Layout) else ()
        periodic = tuple(axis in self.signature.periodic for axis in space)
        lines = [self.signature.coordinates[axis] for axis in space]
        # Once, and as plain numbers: a loss that is compiled then finds constants.
        object.__setattr__(self, "space", space)
        object.__setattr__(self, "periodic", periodic)
        lengths = tuple(_length(line, p) for line, p in zip(lines, periodic, strict=True))
        object.__setattr__(self, "lengths", lengths)

    def spacings(self, values: Tensor) -> list[float]:
        """Distance of neighbours along each axis of a tensor's grid.

        The grid of the tensor may be finer or coarser than that of the training samples: the domain is
        the same.

        Parameters
        ----------
        values : Tensor, shape (batch, *points, channel)

        Returns
        -------
        list of float
            In the units of the coordinates.

        Raises
        ------
        Invalid
            If there is no grid, or its points are not equally far apart.
        """
        if not self.space:
            raise Invalid(
                "this loss takes derivatives or spectra of fields on a grid; the network gives all numbers "
                "in one row. Choose relative_l2 or squared, or a network of a grid"
            )
        for axis, length in zip(self.space, self.lengths, strict=True):
            if math.isnan(length):
                raise Invalid(
                    f"this loss needs equally spaced points; the coordinates of {axis!r} are not, or are "
                    "fewer than two"
                )
        counts = [n if p else n - 1 for n, p in zip(values.shape[1:-1], self.periodic, strict=True)]
        return [length / n for length, n in zip(self.lengths, counts, strict=True)]

    def output(self, values: Tensor, name: str) -> Tensor:
        """The channels of one output field.

        Parameters
        ----------
        values : Tensor, shape (batch, *points, channel out)
        name : str

        Returns
        -------
        Tensor, shape (batch, *points, level)

        Raises
        ------
        NotFound
            If there is no such output.
        """
        return _named(values, name, self.layout.outputs, "output")

    def input(self, x: Tensor, name: str) -> Tensor:
        """The channels of one input field; see `output`. A scalar is constant in space."""
        return _named(x, name, self.layout.inputs, "input")


def _length(line: Sequence[float] | np.ndarray, periodic: bool) -> float:
    """Period or distance of the ends; NaN where the points are not equally far apart."""
    points = np.asarray(line, dtype=np.float64)
    if len(points) < 2:
        return math.nan
    steps = np.diff(points)
    mean = float(steps.mean())
    # Coordinates may have been stored in single precision.
    if mean <= 0 or np.abs(steps - mean).max() > 1e-4 * mean + 1e-6 * float(np.abs(points).max()):
        return math.nan
    return mean * (len(points) if periodic else len(points) - 1)


def _named(values: Tensor, name: str, which: Mapping[str, int], what: str) -> Tensor:
    """Channels of a field among those of all fields."""
    first = 0
    for found, n in which.items():
        count = max(1, n)
        if found == name:
            return values[..., first : first + count]
        first += count
    raise NotFound(f"the loss asks for the {what} {name!r}. {nearest(name, which)}")


FLOOR = 1e-3
"""A field smaller than this part of its typical size is measured against this part."""


def relative_l2(predicted: Tensor, truth: Tensor, groups: list[int], typical: list[float]) -> Tensor:
    """Relative L2 error of each sample, averaged over the output fields.

    Parameters
    ----------
    predicted, truth : Tensor, shape (batch, *points, channel)
        In the fields' units.
    groups : list of int
        Channels of each field.
    typical : list of float
        Root mean square of each field over the training samples, in its unit. A sample below
        `FLOOR` times this (a field that is zero, say) is divided by that bound instead.

    Returns
    -------
    Tensor, shape (batch,)
    """
    total = torch.zeros(len(truth), device=truth.device, dtype=truth.dtype)
    parts = zip(torch.split(predicted, groups, -1), torch.split(truth, groups, -1), typical, strict=True)
    for a, b, size in parts:
        least = max(FLOOR * size, torch.finfo(b.dtype).tiny) * math.sqrt(b[0].numel())
        total = total + (a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1).clamp_min(least)
    return total / len(groups)


def squared(predicted: Tensor, truth: Tensor, parts: list[int], spread: Tensor) -> Tensor:
    """Mean square of the error over the spread, of each sample, averaged over the output fields.

    Parameters
    ----------
    predicted, truth : Tensor, shape (batch, *points, channel)
        In the fields' units.
    parts : list of int
        Channels of each field.
    spread : Tensor, shape (channel,)
        Of what the network gives, in the fields' units; a constant channel (0) counts in its unit.

    Returns
    -------
    Tensor, shape (batch,)
    """
    error = ((predicted - truth) / torch.where(spread > 0, spread, 1.0)) ** 2
    return torch.stack([e.flatten(1).mean(dim=1) for e in torch.split(error, parts, -1)]).mean(dim=0)


def balance(residual: Tensor, terms: Sequence[Tensor]) -> Tensor:
    """Norm of a residual over that of the terms that should balance, of each sample.

    Parameters
    ----------
    residual : Tensor, shape (batch, ...)
    terms : sequence of Tensor, shape (batch, ...)
        For the true fields, in the unit of the residual. Where they are below `FLOOR` times their root
        mean square over the batch, they are replaced by that.

    Returns
    -------
    Tensor, shape (batch,)
    """
    squares = torch.stack([t.square().flatten(1).mean(dim=1) for t in terms]).sum(dim=0)
    least = (FLOOR**2 * squares.mean()).clamp_min(torch.finfo(squares.dtype).tiny)
    ratio = residual.square().flatten(1).mean(dim=1) / squares.clamp_min(least)
    return ratio.clamp_min(torch.finfo(ratio.dtype).tiny).sqrt()
