"""Streaming moments: mean and spread of what is seen once."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


class Moments:
    r"""Mean and standard deviation of named arrays that are seen once, in any order and split.

    Each array has one mean and one standard deviation, over all its values.

    Notes
    -----
    Counts, means and sums of squared deviations of two parts are merged by

    .. math::
        n = n_a + n_b, \quad d = m_b - m_a, \quad m = m_a + d n_b / n, \quad
        S = S_a + S_b + d^2 n_a n_b / n,

    which does not lose digits where the mean is far larger than the deviation; means are kept
    relative to the first value seen, so that the order does not show in their rounding either.

    References
    ----------
    T. F. Chan, G. H. Golub and R. J. LeVeque, "Updating formulae and a pairwise algorithm for
    computing sample variances", COMPSTAT 1982, equations 2.1.
    """

    def __init__(self) -> None:
        self._parts: dict[str, tuple[float, float, float, float]] = {}

    def update(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take in some values.

        Parameters
        ----------
        arrays : mapping of str to ndarray, shape (batch, ...)
            In the unit that `mean` and `std` then have.
        """
        for name, array in arrays.items():
            values = np.asarray(array, np.float64)
            if values.size:
                origin = float(values.flat[0])
                apart = values - origin
                mean = float(apart.mean())
                squares = float(np.square(apart - mean).sum())
                self._merge(name, origin, float(values.size), mean, squares)

    def merge(self, other: Moments) -> None:
        """Take in what another one, for example that of another rank, has seen."""
        for name, part in other._parts.items():
            self._merge(name, *part)

    def _merge(self, name: str, origin: float, count: float, mean: float, squares: float) -> None:
        first, n, m, s = self._parts.get(name, (origin, 0.0, 0.0, 0.0))
        total, apart = n + count, (origin - first) + (mean - m)
        between = apart * apart * (n * count / total)
        self._parts[name] = (first, total, m + apart * (count / total), s + squares + between)

    @property
    def count(self) -> dict[str, int]:
        """Values seen of each array."""
        return {k: int(n) for k, (_, n, _, _) in self._parts.items()}

    @property
    def mean(self) -> dict[str, float]:
        """Mean of each array, in its unit."""
        return {k: first + m for k, (first, _, m, _) in self._parts.items()}

    @property
    def std(self) -> dict[str, float]:
        """Standard deviation of each array (divided by the count), in its unit."""
        return {k: math.sqrt(s / n) for k, (_, n, _, s) in self._parts.items()}

    def state(self) -> dict[str, np.ndarray]:
        """By name, first value, count, mean less first value and sum of squared deviations, shape (4,)."""
        return {k: np.array(part) for k, part in self._parts.items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take what `state` gave instead of what was seen so far."""
        self._parts = {k: (float(v[0]), float(v[1]), float(v[2]), float(v[3])) for k, v in state.items()}
