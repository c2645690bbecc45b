"""Derivatives and spectra of fields on a regular grid, as torch operations; every result is real."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sciflow.errors import Invalid


def derivative(values: Tensor, axis: int, spacing: float, periodic: bool) -> Tensor:
    """First derivative along one axis.

    Parameters
    ----------
    values : Tensor, shape (batch, *points, channel)
        Any unit.
    axis : int
        Of the tensor.
    spacing : float
        Distance of neighbours.
    periodic : bool
        Fourier series; otherwise finite differences.

    Returns
    -------
    Tensor, shape (batch, *points, channel)
        In the unit of the values over that of the spacing.

    Raises
    ------
    Invalid
        If an axis that is not periodic has fewer than three points.

    Notes
    -----
    Along a periodic axis, exact for all waves that the grid can carry; the derivative of the wave that
    changes sign at every point is zero there and left out. Otherwise central differences, and one-sided
    ones of three points at the two ends: second order everywhere. Cost ``O(n log n)`` and ``O(n)``.
    """
    n = values.shape[axis]
    if not periodic:
        return _differences(values, axis, spacing)
    wave = 2 * math.pi / (n * spacing) * torch.arange(n // 2 + 1, dtype=values.dtype, device=values.device)
    if n % 2 == 0:
        wave = wave * (torch.arange(n // 2 + 1, device=values.device) < n // 2)
    parts = torch.view_as_real(torch.fft.rfft(values, dim=axis))
    shape = [1] * values.ndim
    shape[axis] = n // 2 + 1
    wave = wave.view(shape)
    turned = torch.stack([-wave * parts[..., 1], wave * parts[..., 0]], dim=-1)
    result: Tensor = torch.fft.irfft(torch.view_as_complex(turned), n=n, dim=axis)
    return result


def _differences(values: Tensor, axis: int, spacing: float) -> Tensor:
    """Central differences with one-sided ends, second order."""
    n = values.shape[axis]
    if n < 3:
        raise Invalid(f"a derivative by finite differences needs three points along an axis, there are {n}")

    def at(start: int, count: int) -> Tensor:
        return values.narrow(axis, start, count)

    inner = at(2, n - 2) - at(0, n - 2)
    first = -3 * at(0, 1) + 4 * at(1, 1) - at(2, 1)
    last = 3 * at(n - 1, 1) - 4 * at(n - 2, 1) + at(n - 3, 1)
    return torch.cat([first, inner, last], dim=axis) / (2 * spacing)


def power(values: Tensor, periodic: Sequence[bool]) -> Tensor:
    """Share of each wave in the mean square of a field.

    Parameters
    ----------
    values : Tensor, shape (batch, *points, channel)
        Any unit.
    periodic : sequence of bool
        One for each axis of the grid.

    Returns
    -------
    Tensor, shape (batch, *waves, channel)
        In the unit's square; the sum over all waves is the mean square over the points (Parseval). The
        waves are those of `wavenumbers`.

    Notes
    -----
    Fourier waves along periodic axes, cosines ``cos(pi k (j + 1/2) / n)`` along the others: the
    transform of the field and its mirror image behind it, whose coefficients are the cosine
    transform's up to a factor of modulus one. Cost ``O(n log n)``.
    """
    dims = list(range(1, values.ndim - 1))
    for dim, around in zip(dims, periodic, strict=True):
        if not around:
            values = torch.cat([values, values.flip(dim)], dim=dim)
    parts = torch.view_as_real(torch.fft.rfftn(values, dim=dims, norm="forward"))
    squares = parts.square().sum(dim=-1)
    last, n = dims[-1], values.shape[dims[-1]]
    # Waves of the last axis stand for their conjugates too.
    shape = [1] * squares.ndim
    shape[last] = squares.shape[last]
    place = torch.arange(squares.shape[last], device=values.device)
    double = 1.0 + ((place > 0) & (2 * place != n)).to(values.dtype)
    return squares * double.view(shape)


def wavenumbers(
    points: Sequence[int], periodic: Sequence[bool], lengths: Sequence[float], like: Tensor
) -> Tensor:
    """Length of the wavevector of each entry of `power`.

    Parameters
    ----------
    points : sequence of int
        Size of the grid.
    periodic : sequence of bool
    lengths : sequence of float
        What ``points`` spacings measure along each axis.
    like : Tensor
        Gives dtype and device.

    Returns
    -------
    Tensor, shape waves
        In radians over the unit of the lengths.
    """
    squares = torch.zeros((1,) * len(points), dtype=like.dtype, device=like.device)
    for axis, (count, around, length) in enumerate(zip(points, periodic, lengths, strict=True)):
        n, whole = (count, length) if around else (2 * count, 2 * length)
        k = torch.arange(n // 2 + 1 if axis == len(points) - 1 else n, device=like.device)
        k = torch.where(2 * k > n, k - n, k).to(like.dtype) * (2 * math.pi / whole)
        shape = [1] * len(points)
        shape[axis] = len(k)
        squares = squares + k.view(shape) ** 2
    return squares.sqrt()
