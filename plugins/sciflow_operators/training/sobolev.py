"""Losses that weigh how a field varies: Sobolev norms, and errors by bands of wavenumbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sciflow_operators.training.derivatives import derivative, power, wavenumbers
from sciflow_operators.training.target import Target


def _each(
    predicted: Tensor,
    truth: Tensor,
    target: Target,
    measure: Callable[[Tensor, Tensor, float], Tensor],
) -> Tensor:
    """The mean of a measure of (error, truth, typical size) over the output fields, shape (batch,)."""
    if not len(truth):
        # A rank may have no sample of its own in a batch; there is no transform of nothing.
        return predicted.flatten(1).sum(dim=1)
    parts = zip(
        torch.split(predicted - truth, target.groups, -1),
        torch.split(truth, target.groups, -1),
        target.typical,
        strict=True,
    )
    return torch.stack([measure(error, field, size) for error, field, size in parts]).mean(dim=0)


def sobolev(
    predicted: Tensor, truth: Tensor, target: Target, order: int, length: float, floor: float
) -> Tensor:
    """Relative error in a Sobolev norm; see `Sobolev`.

    Returns
    -------
    Tensor, shape (batch,)
    """
    spacings = target.spacings(truth)
    scales = [length or whole / (2 * math.pi) for whole in target.lengths]

    def square(values: Tensor) -> Tensor:
        """Mean square over points and channels, of the values and all their derivatives."""
        fields = [values]
        total = values.square().flatten(1).mean(dim=1)
        for _ in range(order):
            fields = [
                scale * derivative(f, 1 + axis, h, around)
                for f in fields
                for axis, (scale, h, around) in enumerate(zip(scales, spacings, target.periodic, strict=True))
            ]
            total = total + torch.stack([f.square().flatten(1).mean(dim=1) for f in fields]).sum(dim=0)
        return total

    def relative(error: Tensor, field: Tensor, typical: float) -> Tensor:
        least = max((floor * typical) ** 2, torch.finfo(field.dtype).tiny)
        return _root(square(error) / square(field).clamp_min(least))

    return _each(predicted, truth, target, relative)


def spectral(predicted: Tensor, truth: Tensor, target: Target, bands: int, floor: float) -> Tensor:
    """Mean over octaves of wavenumbers of the relative error; see `Spectral`.

    Returns
    -------
    Tensor, shape (batch,)
    """
    spacings = target.spacings(truth)
    points = truth.shape[1:-1]
    wholes = [n * h for n, h in zip(points, spacings, strict=True)]
    waves = wavenumbers(points, target.periodic, wholes, truth).flatten()
    top = min(math.pi / h for h in spacings)
    edges = [top / 2**octave for octave in range(bands - 1, 0, -1)]
    member = torch.bucketize(waves, waves.new_tensor(edges), right=True) if edges else torch.zeros_like(waves)
    inside = (member[:, None] == torch.arange(bands, device=waves.device)).to(truth.dtype)

    def energies(values: Tensor) -> Tensor:
        """Mean square of the part in each band, shape (batch, band)."""
        return power(values, target.periodic).mean(dim=-1).flatten(1) @ inside

    def relative(error: Tensor, field: Tensor, typical: float) -> Tensor:
        least = max((floor * typical) ** 2, torch.finfo(field.dtype).tiny)
        return _root(energies(error) / energies(field).clamp_min(least)).mean(dim=1)

    return _each(predicted, truth, target, relative)


def _root(values: Tensor) -> Tensor:
    """Square root whose gradient at zero is zero."""
    return values.clamp_min(torch.finfo(values.dtype).tiny).sqrt()
