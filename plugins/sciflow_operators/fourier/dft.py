"""Truncated discrete Fourier transforms as matrices of real numbers."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def wavenumbers(points: int, modes: int, half: bool) -> np.ndarray:
    """The kept modes of an axis, in the order of the weights.

    Parameters
    ----------
    points : int
        Grid points; a mode that they do not carry is left out.
    modes : int
        Kept modes, both signs counted.
    half : bool
        Keep the modes 0 to ``modes // 2`` of real data (the last axis), else
        ``-modes // 2`` to ``(modes - 1) // 2``.

    Returns
    -------
    ndarray of int, shape (k,)
    """
    if half:
        return np.arange(min(modes // 2, points // 2) + 1)
    kept = min(modes, points)
    return np.arange(-(kept // 2), kept - kept // 2)


def _waves(points: int, modes: int, half: bool) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and negative sines, shape (k, 2, points), and the weight of each mode on the way back."""
    k = wavenumbers(points, modes, half)
    # A mode of real data stands for its conjugate too, except those that are their own.
    weight = np.where((k == 0) | (2 * k == points), 1.0, 2.0) if half else np.ones(len(k))
    angle = 2 * np.pi * ((k[:, None] * np.arange(points)) % points) / points
    return np.stack([np.cos(angle), -np.sin(angle)], axis=1), weight


@lru_cache(maxsize=64)
def real_transforms(points: int, modes: int, half: bool) -> tuple[np.ndarray, np.ndarray]:
    """Transform of one axis of real data, and the way back to real data.

    Parameters
    ----------
    points, modes, half
        See `wavenumbers`.

    Returns
    -------
    there : ndarray, shape (2 k, points)
        Rows (mode, part): the real and the imaginary part of each mode; divided by `points`.
    back : ndarray, shape (points, 2 k)
        The real part of the sum over the modes.
    """
    waves, weight = _waves(points, modes, half)
    back = (waves * weight[:, None, None]).reshape(-1, points).T
    return (waves / points).reshape(-1, points), back.copy()


@lru_cache(maxsize=64)
def complex_transforms(points: int, modes: int, half: bool) -> tuple[np.ndarray, np.ndarray]:
    """Transform of one axis of complex data, and the way back, as real block matrices.

    Parameters
    ----------
    points, modes, half
        See `wavenumbers`.

    Returns
    -------
    there : ndarray, shape (2 k, 2 points)
        From (part, point) to (mode, part).
    back : ndarray, shape (2 points, 2 k)
        From (mode, part) to (part, point).
    """
    waves, weight = _waves(points, modes, half)
    c, s = waves[:, 0], waves[:, 1]  # e^{-i a} = c + i s
    both = np.stack([np.concatenate([c, -s], axis=1), np.concatenate([s, c], axis=1)], axis=1)
    back = (both * weight[:, None, None]).reshape(-1, 2 * points).T
    return both.reshape(-1, 2 * points) / points, back.copy()


def chain(points: tuple[int, ...], modes: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The transforms of all axes of real data, in the order in which they are applied.

    The first meets real data, the others complex; the last keeps half of the modes.
    """
    last = len(points) - 1
    return [
        (real_transforms if axis == 0 else complex_transforms)(n, m, axis == last)
        for axis, (n, m) in enumerate(zip(points, modes, strict=True))
    ]


_TABLES: dict[tuple[object, ...], list[tuple[Tensor, Tensor]]] = {}
"""What was made for one grid, dtype and device; a model is asked on few of them."""


def tables(points: tuple[int, ...], modes: tuple[int, ...], like: Tensor) -> list[tuple[Tensor, Tensor]]:
    """`chain` with the dtype and device of `like`.

    They are kept for the next call, except while a graph is traced: what is made there is no
    tensor that anything else may use.
    """
    key = (points, modes, like.dtype, like.device)
    found = _TABLES.get(key)
    tracing = torch.compiler.is_compiling()
    if found is None or tracing:
        found = [
            (
                torch.tensor(there, dtype=like.dtype, device=like.device),
                torch.tensor(back, dtype=like.dtype, device=like.device),
            )
            for there, back in chain(points, modes)
        ]
        if not tracing:
            _TABLES[key] = found
    return found
