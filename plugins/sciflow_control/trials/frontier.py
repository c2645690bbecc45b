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

    Notes
    -----
    Between two points, log error is linear in log work, as for a method of some order. Nothing is
    extrapolated but what is certain: more work than that of the last point buys no smaller error than
    that has, and an error larger than that of the first point costs no more than it.
    """

    work: np.ndarray
    error: np.ndarray

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
        return cls(place[kept], height[kept])

    def error_at(self, work: float) -> float:
        """log10 of the error for this work; NaN for less than that of the first point, or without points."""
        if not len(self.work) or not np.log10(work) >= self.work[0] - 1e-12:
            return float("nan")
        return float(np.interp(np.log10(work), self.work, self.error))

    def work_at(self, error: float) -> float:
        """Work for this log10 of an error; NaN for a smaller one than that of the last point."""
        if not len(self.work) or not error >= self.error[-1] - 1e-12:
            return float("nan")
        return float(10 ** np.interp(error, self.error[::-1], self.work[::-1]))
