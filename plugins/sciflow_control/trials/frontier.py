"""What fixed values reach: the least error for some work, and the least work for some error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

QUANTILES = ("p50", "p90", "max")


def quantiles(error: np.ndarray) -> np.ndarray:
    """Median, 90 % quantile and maximum, shape (3,).

    Parameters
    ----------
    error : ndarray, shape (seed,)
        log10; infinite where a run failed. Quantiles are values that occur (none is interpolated, which
        would be no number beside a failed run).
    """
    if np.isnan(error).any():
        return np.full(3, np.nan)
    found: np.ndarray = np.quantile(error, [0.5, 0.9, 1.0], method="higher")
    return found


@dataclass(frozen=True)
class Frontier:
    """Points that no other one beats in both work and error, joined by lines in the logarithms.

    Attributes
    ----------
    work : ndarray, shape (point,)
        log10, increasing.
    error : ndarray, shape (point,)
        log10, decreasing.
    reach : float
        log10 of the most work that was measured: up to there more than that of the last point buys nothing.

    Notes
    -----
    Between two points, log error is linear in log work, as for a method of some order. Nothing is
    extrapolated but what is certain: an error larger than that of the first point costs no more than it.
    What a fixed value with more work than any would reach is not known.
    """

    work: np.ndarray
    error: np.ndarray
    reach: float

    @classmethod
    def of(cls, work: Sequence[float] | np.ndarray, error: Sequence[float] | np.ndarray) -> Self:
        """The frontier of some points.

        Parameters
        ----------
        work : array-like, shape (point,)
            Positive.
        error : array-like, shape (point,)
            log10; those that are not finite are left out.
        """
        place = np.log10(np.asarray(work, dtype=float))
        height = np.asarray(error, dtype=float)
        there = np.isfinite(place) & np.isfinite(height)
        place, height = place[there], height[there]
        order = np.lexsort((height, place))
        kept: list[int] = []
        for i in order:
            if not kept or height[i] < height[kept[-1]]:
                kept.append(int(i))
        return cls(place[kept], height[kept], float(place.max(initial=-np.inf)))

    def error_at(self, work: float) -> float:
        """log10 of the error for this work; NaN for less or more than any point has, or without points."""
        if not len(self.work) or not self.work[0] - 1e-12 <= np.log10(work) <= self.reach + 1e-12:
            return float("nan")
        return float(np.interp(np.log10(work), self.work, self.error))

    def work_at(self, error: float) -> float:
        """Work for this log10 of an error; NaN for a smaller one than that of the last point."""
        if not len(self.work) or not error >= self.error[-1] - 1e-12:
            return float("nan")
        return float(10 ** np.interp(error, self.error[::-1], self.work[::-1]))
