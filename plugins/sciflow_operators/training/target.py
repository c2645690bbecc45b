"""What a loss may know of the outputs, and the plain losses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

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
    """

    signature: Signature
    layout: Channels
    groups: list[int]
    typical: list[float]
    spread: Tensor


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
