"""The space of parameters as a model sees it: scaled, and with the bounds of its training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Space:
    """Parameters as the selector takes them, and where the model was trained.

    Attributes
    ----------
    logarithmic : ndarray of bool, shape (parameter,)
        Which are taken by their logarithm.
    mean, spread : ndarray, shape (parameter,)
        Of the training members, after the logarithm.
    low, high : ndarray, shape (parameter,)
        Bounds of the design, in the units of the parameters.
    """

    logarithmic: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, logarithmic: tuple[bool, ...], trained: np.ndarray) -> Space:
        """From the points of a design and those of the training members, shape (member, parameter).

        The bounds are the extreme points, and half the mean distance of the points beyond them.
        """
        logs = np.array(logarithmic or (False,) * points.shape[1], dtype=np.bool_)
        scaled, all_ = (np.where(logs, np.log(np.where(logs, p, 1.0)), p) for p in (trained, points))
        spread = scaled.std(axis=0)
        low, high = all_.min(axis=0), all_.max(axis=0)
        margin = 0.5 * (high - low) / len(points) + 1e-6 * np.abs(high - low)
        low, high = low - margin, high + margin
        low, high = (np.where(logs, np.exp(np.where(logs, v, 0.0)), v) for v in (low, high))
        return cls(logs, scaled.mean(axis=0), np.where(spread > 0, spread, 1.0), low, high)

    def scale(self, points: np.ndarray) -> np.ndarray:
        """Scaled parameters, shape (..., parameter)."""
        values = np.array(points, dtype=np.float64)
        logs = self._logs
        if logs.size:
            values[..., logs] = np.log(np.maximum(values[..., logs], 1e-300))
        return np.asarray((values - self.mean) / self.spread)

    @cached_property
    def _logs(self) -> np.ndarray:
        return np.flatnonzero(self.logarithmic)
