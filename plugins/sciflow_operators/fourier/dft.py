"""Truncated discrete Fourier transforms as matrices of real numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def carried(points: int, modes: int, half: bool) -> int:
    """How many modes of an axis are kept.

    Parameters
    ----------
    points : int
        Grid points; a mode that they do not carry is left out.
    modes : int
        Modes to keep, both signs counted.
    half : bool
        Keep the modes 0 to ``modes // 2`` of real data (the last axis), else
        ``-modes // 2`` to ``(modes - 1) // 2``.
    """
    return min(modes // 2, points // 2) + 1 if half else min(modes, points)


def wavenumbers(points: int, modes: int, half: bool, device: torch.device | None = None) -> Tensor:
    """The kept modes of an axis in the order of the weights, shape (k,); see `carried`."""
    count = carried(points, modes, half)
    return torch.arange(count, device=device) - (0 if half else count // 2)


def _waves(points: int, modes: int, half: bool, device: torch.device | None) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines and negative sines, shape (k, points), and the weight of each mode on the way back."""
    k = wavenumbers(points, modes, half, device)[:, None]
    # A mode of real data stands for its conjugate too, except those that are their own.
    weight = torch.where((k == 0) | (2 * k == points), 1.0, 2.0) if half else torch.ones_like(k)
    whole = (k * torch.arange(points, device=device)).remainder(points)
    angle = whole.to(torch.float64) * (2 * math.pi / points)
    return angle.cos(), -angle.sin(), weight.to(torch.float64)


def real_transform(
    points: int, modes: int, half: bool, back: bool, device: torch.device | None = None
) -> Tensor:
    """Transform of one axis of real data, or the way back to real data.

    Parameters
    ----------
    points, modes, half
        See `carried`.
    back : bool
        The way back.
    device : device, optional
        Of the result.

    Returns
    -------
    Tensor of float64
        Shape (2 k, points) with rows (mode, part), the real and the imaginary part of each mode, divided by
        `points`; back, shape (points, 2 k), the real part of the sum over the modes.
    """
    c, s, weight = _waves(points, modes, half, device)
    waves = torch.stack([c, s], dim=1)
    if back:
        return (waves * weight[:, None]).reshape(-1, points).T.contiguous()
    return waves.reshape(-1, points) / points


def complex_transform(
    points: int, modes: int, half: bool, back: bool, device: torch.device | None = None
) -> Tensor:
    """Transform of one axis of complex data, or the way back, as a real block matrix.

    Parameters
    ----------
    points, modes, half, back, device
        See `real_transform`.

    Returns
    -------
    Tensor of float64
        Shape (2 k, 2 points), from (part, point) to (mode, part); back, shape (2 points, 2 k), from (mode,
        part) to (part, point).
    """
    c, s, weight = _waves(points, modes, half, device)  # e^{-i a} = c + i s
    both = torch.stack([torch.cat([c, -s], dim=1), torch.cat([s, c], dim=1)], dim=1)
    if back:
        return (both * weight[:, None]).reshape(-1, 2 * points).T.contiguous()
    return both.reshape(-1, 2 * points) / points


_KEPT: dict[tuple[object, ...], Tensor] = {}
"""Matrices that were made for one grid, dtype and device; a model is asked on few of them."""
MOST = 128
"""Matrices that are kept; the oldest go first."""


def kept(make: Callable[..., Tensor], numbers: tuple[int, ...], like: Tensor) -> Tensor:
    """A matrix with the dtype and device of `like`, kept for the next call.

    Except while a graph is traced, where it is made by the graph: what is made there is no tensor that
    anything else may use, and what was made before is none that the graph owns.

    Parameters
    ----------
    make : callable
        Gives it in double precision from `numbers` and a device.
    numbers : tuple of int
        What it depends on.
    like : Tensor
        Gives dtype and device.
    """
    if torch.compiler.is_compiling():
        return make(*numbers, device=like.device).to(like.dtype)
    key = (make, numbers, like.dtype, like.device)
    found = _KEPT.get(key)
    if found is None:
        with torch.inference_mode(False):  # what is kept may serve a training later
            found = make(*numbers).to(dtype=like.dtype, device=like.device)
        while len(_KEPT) >= MOST:
            del _KEPT[next(iter(_KEPT))]
        _KEPT[key] = found
    return found


def tables(points: Sequence[int], modes: Sequence[int], like: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The transforms of all axes of real data and the ways back, in the order in which they are applied.

    The first meets real data, the others complex; the last keeps half of the modes.

    Parameters
    ----------
    points, modes : sequence of int
        Of each axis.
    like : Tensor
        Gives dtype and device.
    """
    pairs = []
    for axis, (n, m) in enumerate(zip(points, modes, strict=True)):
        make = real_transform if axis == 0 else complex_transform
        half = axis == len(modes) - 1
        pairs.append((kept(make, (n, m, half, False), like), kept(make, (n, m, half, True), like)))
    return pairs
