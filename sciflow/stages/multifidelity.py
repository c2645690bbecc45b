"""Means, variances and quantiles of an expensive quantity from few values of it and many of a cheap one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NOTHING = 1e-300
"""A variance that is none."""


@dataclass(frozen=True)
class Estimate:
    """A number and an interval that holds the truth as often as it says.

    Attributes
    ----------
    value : float
    low, high : float
        Ends of the interval.
    error : float
        Standard error of `value`; NaN where the interval was found otherwise.
    """

    value: float
    low: float
    high: float
    error: float = math.nan

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    def to_json(self) -> dict[str, float | None]:
        """As plain JSON; None for what is not finite."""
        numbers = {"value": self.value, "low": self.low, "high": self.high, "error": self.error}
        return {k: float(v) if math.isfinite(v) else None for k, v in numbers.items()}


@dataclass(frozen=True)
class Correction:
    """Many cheap values, and few expensive ones at places that were drawn by lot among them.

    Attributes
    ----------
    cheap : ndarray, shape (query,)
        Of all queries; finite.
    drawn : ndarray of int, shape (solve,)
        Queries with an expensive value, drawn without regard to either value, without repetition.
    full : ndarray, shape (solve,)
        Those values.
    level : float
        How often intervals shall hold the truth.

    Notes
    -----
    The control variate with the values ``f_i`` of the m queries that were drawn, ``g_j`` of all N,

        1/m sum_i [ f_i + a_i (mean of g over what was not drawn, and i  -  g_i) ] ,

    where ``a_i`` is the regression of f on g over the other drawn queries. Given these, i is any of the
    rest with equal probability, so the bracket has no bias, whatever g is worth. Its variance is about

        (1/m - 1/N) Var(f - a g) + Var(f) / N ;

    for a perfect model that of N expensive values (double sampling, Cochran 1977, section 12.7).
    ``Var(f - a g)`` is the mean square of what the regression over all other drawn queries leaves of each one
    (the jackknife; MacKinnon and White, J. Econometrics 29 (1985) 305-325): the residuals themselves are too
    small where f is no straight line of g. Intervals are those of Student with ``m - 2``.
    """

    cheap: np.ndarray
    drawn: np.ndarray
    full: np.ndarray
    level: float = 0.95

    @property
    def there(self) -> np.ndarray:
        """Cheap values of the queries that were drawn, shape (solve,)."""
        return np.asarray(self.cheap[self.drawn])

    def first(self, count: int) -> Correction:
        """With the first so many of the expensive values alone."""
        return Correction(self.cheap, self.drawn[:count], self.full[:count], self.level)

    def mean(self, *, share: bool = False) -> Estimate:
        """The mean of the expensive quantity.

        Parameters
        ----------
        share : bool
            Whether all values are 0 or 1. Then the variance is at least that of a share of disagreements
            that Wilson's interval allows for: where the models agree on all that was drawn, the residuals
            say nothing of how often they do not.
        """
        f, g, total = self.full, self.there, len(self.cheap)
        count = len(f)
        slope, left = self._left(share)
        others = (self.cheap.sum() - g.sum() + g) / (total - count + 1)
        value = float(np.mean(f + _without_one(f, g) * (others - g)))
        variance = left * (1 / count - 1 / total) + (slope**2 * self.cheap.var() + left) / total
        error = math.sqrt(max(variance, 0.0))
        half = student(self.level, max(count - 2, 1)) * error
        ends = (value - half, value + half)
        if share:
            ends = (min(max(ends[0], 0.0), value), max(min(ends[1], 1.0), value))
        return Estimate(value, *ends, error)

    def _left(self, share: bool) -> tuple[float, float]:
        """Slope of the regression, and the variance that it leaves."""
        f, g = self.full, self.there
        slope, _ = self._regress(f, g)
        apart = f - f.mean() - _without_one(f, g) * (g - g.mean())
        left = float(np.mean(apart**2)) * (len(f) / max(len(f) - 1, 1)) ** 2
        if share:
            left = max(left, _disagreement(np.abs(self.full - self.there) > 0.5, self._normal()))
        return slope, left

    def correlation(self, *, share: bool = False) -> float:
        """Of the two quantities over the queries: what the cheap one explains of the variance, and the sign.

        Parameters
        ----------
        share : bool
            As for `mean`; then a careful value, also where all that was drawn is alike.
        """
        slope, left = self._left(share)
        known = slope**2 * float(self.cheap.var())
        return math.copysign(math.sqrt(known / (known + left)), slope) if known > 0 else 0.0

    def spread(self) -> float:
        """Standard deviation of the expensive quantity: of what the cheap one explains, and of the rest."""
        slope, residual = self._regress(self.full, self.there)
        left = float(residual @ residual) / max(len(residual) - 2, 1)
        return math.sqrt(slope**2 * float(self.cheap.var()) + left)

    def variance(self, *, share: bool = False) -> Estimate:
        """The variance of the expensive quantity: the same correction for squared distances from the mean.

        Parameters
        ----------
        share : bool
            Whether all values are 0 or 1. Then it is ``p (1 - p)`` of the mean p, and as unsure as that.

        Notes
        -----
        The interval is that of the logarithm by the jackknife over the expensive values. It is approximate:
        squares are skewed, and with a bad model and fewer than some 30 values it holds too seldom.
        """
        if share:
            return self._of_share()
        whole, count = self._square(), len(self.full)
        if whole <= NOTHING:
            return Estimate(0.0, 0.0, 0.0)
        logs = np.log([self._without(i)._square() for i in range(count)])
        squares = (self.cheap - self.cheap.mean()) ** 2
        queries = float(np.var(squares)) / max(float(squares.mean()) ** 2, 1e-300) / len(squares)
        error = math.sqrt((count - 1) * float(np.var(logs)) + queries)
        wide = math.exp(min(student(self.level, max(count - 2, 1)) * error, 700.0))
        return Estimate(whole, whole / wide, whole * wide)

    def _of_share(self) -> Estimate:
        mean = self.mean(share=True)
        value, low, high = (min(max(p, 0.0), 1.0) for p in (mean.value, mean.low, mean.high))
        ends = low * (1 - low), high * (1 - high)
        return Estimate(value * (1 - value), min(ends), 0.25 if low < 0.5 < high else max(ends))

    def _square(self) -> float:
        """Variance of the cheap quantity plus the regressed difference at the drawn ones; positive."""
        f = (self.full - self.mean().value) ** 2
        squares = (self.cheap - self.cheap.mean()) ** 2
        g = squares[self.drawn]
        slope, _ = self._regress(f, g)
        value = float(f.mean() + slope * (squares.mean() - g.mean()))
        return max(value, 1e-3 * float(f.mean()), NOTHING)

    def _without(self, one: int) -> Correction:
        rest = np.arange(len(self.full)) != one
        return Correction(self.cheap, self.drawn[rest], self.full[rest], self.level)

    def quantile(self, part: float) -> Estimate:
        """A quantile of the expensive quantity.

        Parameters
        ----------
        part : float
            In (0, 1).

        Notes
        -----
        The distribution of g, plus the mean difference of the indicators ``f <= q`` and ``g <= q`` over what
        was drawn, is one of f without bias; the interval has all q at which it is not significantly
        different from `part`. Differences are allowed the variance of Wilson's share of disagreements.
        """
        f, g, total, count = self.full, self.there, len(self.cheap), len(self.full)
        z = self._normal()
        line = np.unique(np.concatenate([np.quantile(self.cheap, np.linspace(0, 1, 1001)), f]))
        below = np.searchsorted(np.sort(self.cheap), line, side="right") / total
        differ = (f[:, None] <= line).astype(float) - (g[:, None] <= line)
        reached = below + differ.mean(axis=0)
        rate = (np.abs(differ).sum(axis=0) + z * z / 2) / (count + z * z)
        allowed = np.maximum(differ.var(axis=0), rate * (1 - rate))
        error = np.sqrt(allowed * (1 / count - 1 / total) + part * (1 - part) / total)
        place = int(np.argmax(np.maximum.accumulate(reached) >= part - 1e-12))
        inside = np.append(np.flatnonzero(np.abs(reached - part) <= z * error), place)
        # The ends lie before the next values; beyond what any value reaches nothing is known.
        wide = np.concatenate([[-math.inf], line, [math.inf]])
        return Estimate(float(line[place]), float(wide[inside.min()]), float(wide[inside.max() + 2]))

    def _normal(self) -> float:
        from scipy.special import ndtri

        return float(ndtri((1 + self.level) / 2))

    @staticmethod
    def _regress(f: np.ndarray, g: np.ndarray) -> tuple[float, np.ndarray]:
        """Slope, 1 where g is the same everywhere, and what is left of f."""
        x, y = g - g.mean(), f - f.mean()
        size = float(x @ x)
        slope = float(x @ y) / size if size > 0 else 1.0
        return slope, y - slope * x


def plain_mean(values: np.ndarray, level: float, *, share: bool = False) -> Estimate:
    """The mean of independent values.

    Parameters
    ----------
    values : ndarray, shape (n,)
        At least two.
    level : float
        How often the interval shall hold the truth.
    share : bool
        Whether all values are 0 or 1; then the interval is Wilson's.
    """
    count, mean = len(values), float(np.mean(values))
    error = float(np.std(values, ddof=1)) / math.sqrt(count)
    if not share:
        half = student(level, count - 1) * error
        return Estimate(mean, mean - half, mean + half, error)
    from scipy.special import ndtri

    z = float(ndtri((1 + level) / 2))
    centre = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(mean * (1 - mean) / count + z * z / (4 * count * count))
    return Estimate(mean, centre - half, centre + half, error)


def plain_quantiles(values: np.ndarray, parts: Sequence[float], level: float) -> list[Estimate]:
    """Quantiles of independent values, with intervals between two of them by the binomial distribution.

    Parameters
    ----------
    values : ndarray, shape (n,)
    parts : sequence of float
        Which quantiles, in (0, 1).
    level : float
        How often an interval shall hold the truth.
    """
    from scipy.stats import binom

    line, found = np.sort(values), []
    for part in parts:
        low = int(binom.ppf((1 - level) / 2, len(line), part))
        high = int(binom.ppf((1 + level) / 2, len(line), part))
        ends = line[max(low - 1, 0)], line[min(high, len(line) - 1)]
        found.append(Estimate(float(np.quantile(line, part)), float(ends[0]), float(ends[1])))
    return found


def _without_one(f: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Slope of the regression of f on g over all values but one, for each; 1 where these are the same."""
    count = len(f)
    if count < 3:
        return np.ones(count)
    x, y = g - g.mean(), f - f.mean()
    weight = count / (count - 1)
    size, both = x @ x - weight * x * x, x @ y - weight * x * y
    there = size > 1e-14 * (x @ x)
    return np.where(there, both / np.where(there, size, 1.0), 1.0)


def _disagreement(differ: np.ndarray, z: float) -> float:
    """Variance of a difference of indicators that differ as often as the centre of Wilson's interval."""
    rate = (float(differ.sum()) + z * z / 2) / (len(differ) + z * z)
    return rate * (1 - rate)


def student(level: float, freedom: int) -> float:
    """Student's quantile of a two-sided interval."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))
