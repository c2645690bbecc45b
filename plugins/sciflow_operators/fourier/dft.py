"""Truncated discrete Fourier transforms as matrices of real numbers."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@lru_cache(maxsize=64)
def transforms(points: int, modes: int, half: bool) -> tuple[np.ndarray, np.ndarray]:
    """Forward and inverse transform of one axis of real data.

    Parameters
    ----------
    points : int
        Grid points.
    modes : int
        Kept modes, both signs counted.
    half : bool
        Keep the modes 0 to ``modes // 2`` of real data (the last axis), else
        ``-modes // 2`` to ``(modes - 1) // 2``.

    Returns
    -------
    forward : ndarray, shape (k, 2, points)
        Rows cos and -sin, divided by `points`.
    inverse : ndarray, shape (points, k, 2)
        Columns cos and -sin, doubled where a mode stands for its conjugate too.
    """
    if half:
        k = np.arange(min(modes // 2, points // 2) + 1)
        weight = np.where((k == 0) | (2 * k == points), 1.0, 2.0)
    else:
        kept = min(modes, points)
        k = np.arange(-(kept // 2), kept - kept // 2)
        weight = np.ones(len(k))
    angle = 2 * np.pi * ((k[:, None] * np.arange(points)) % points) / points
    both = np.stack([np.cos(angle), -np.sin(angle)], axis=1)
    return both / points, (both * weight[:, None, None]).transpose(2, 0, 1).copy()


@lru_cache(maxsize=64)
def complex_transforms(points: int, modes: int) -> tuple[np.ndarray, np.ndarray]:
    """The half transform of the last axis for complex data, as real block matrices.

    Returns
    -------
    forward : ndarray, shape (2 k, 2 points)
        From (re, im) points to (re, im) modes.
    inverse : ndarray, shape (2 points, 2 k)
        Back, doubled where a mode stands for its conjugate too.
    """
    forward, inverse = transforms(points, modes, True)
    c, s = forward[:, 0], forward[:, 1]
    ci, si = inverse[..., 0], inverse[..., 1]
    # e^{+i a} = cos a - i (-sin a): (re, im) -> (re c + im s, im c - re s) with s = -sin.
    return np.block([[c, -s], [s, c]]), np.block([[ci, si], [-si, ci]])


_TABLES: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}


def tables(points: int, modes: int, kind: str, like: Tensor) -> tuple[Tensor, Tensor]:
    """A pair of transforms with the dtype and device of `like`.

    They are kept for the next call, except while a graph is traced: what is made there is no
    tensor that anything else may use.
    """
    key = (points, modes, kind, like.dtype, like.device)
    found = _TABLES.get(key)
    tracing = torch.compiler.is_compiling()
    if found is None or tracing:
        pair = (
            complex_transforms(points, modes)
            if kind == "complex"
            else transforms(points, modes, kind == "half")
        )
        there, back = (torch.tensor(m, dtype=like.dtype, device=like.device) for m in pair)
        found = there, back
        if not tracing:
            _TABLES[key] = found
    return found
