"""What is believed of the cost of every arm, from sums of logarithms.

A table holds the sums, a view what follows from them; a view is updated where an outcome changes it, to the
same bits as one that is made anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from sciflow_control.bandits.tuner import SCALE

PULLS, SUM, SQUARES, CENSORED, CENSORED_SUM, FAILED, FAILED_SUM = range(7)
"""Rows of a table: outcomes, their log costs and the squares; outcomes given up, and their log costs."""
MEAN, DEVIATION, COMPLETE = range(3)
"""Rows of a view: logarithm of the mean cost, its deviation; the former from complete outcomes alone."""
VARIANCE, WEIGHT = 0.1, 2.0
"""The variance of a log cost before anything was seen, and how many outcomes that is worth."""
BEYOND = 1.0
"""How much a log cost is above its lower bound on average: one over the index of a Pareto tail."""
APART = 1.0
"""The deviation of an arm that was never tried from one as far away as its family is long."""
SMALLEST, LARGEST = 1e-30, 1e30
"""Costs beyond count as these."""

Lines = tuple[tuple[int, ...], ...]
"""See `sciflow_control.space.Space.families`."""


def empty(arms: int) -> np.ndarray:
    """A table of int64, shape (7, arms)."""
    return np.zeros((7, arms), dtype=np.int64)


def logarithm(cost: float) -> float:
    """Of a cost between `SMALLEST` and `LARGEST`."""
    return math.log(min(max(cost, SMALLEST), LARGEST))


def note(table: np.ndarray, arm: int, cost: float, status: str) -> np.ndarray:
    """The table, shape (row, arm), with one more outcome; the given one stays as it is."""
    after = table.copy()
    y = logarithm(cost)
    if status == "ok":
        after[PULLS, arm] += 1
        after[SUM, arm] += round(y * SCALE)
        after[SQUARES, arm] += round(y * y * SCALE)
        return after
    row = CENSORED if status == "censored" else FAILED
    after[row, arm] += 1
    after[row + 1, arm] += round(y * SCALE)
    return after


def lost(table: np.ndarray) -> list[int]:
    """Arms some of whose outcomes are lower bounds in a table of shape (row, arm), in their order."""
    return list((table[CENSORED] + table[FAILED]).nonzero()[0].tolist())


def belief(pulls: float, total: float, squares: float) -> tuple[float, float]:
    """Logarithm of the mean cost of an arm, and the standard deviation of that.

    Parameters
    ----------
    pulls, total, squares : float
        Number, sum and sum of squares of log costs, the latter two in fixed point.

    Returns
    -------
    tuple of float
        Both NaN without a pull.

    Notes
    -----
    With mean m and sum of squares S about it of n log costs, the variance is believed to be
    v = (k v0 + S) / (k + n). The mean of a log-normal cost is exp(m + v/2), and m is known to sqrt(v/n).
    """
    if pulls == 0:
        return math.nan, math.nan
    mean = total / SCALE / pulls
    scatter = max(squares / SCALE - pulls * mean * mean, 0.0)
    variance = (WEIGHT * VARIANCE + scatter) / (WEIGHT + pulls)
    return mean + variance / 2, math.sqrt(variance / pulls)


def with_bounds(column: Sequence[float], worst: float) -> tuple[float, float]:
    """`belief` of an arm some of whose outcomes are lower bounds.

    Parameters
    ----------
    column : sequence of float
        Of a table.
    worst : float
        The largest log of a mean cost among all arms, from complete outcomes; -inf if there are none.

    Notes
    -----
    A log cost y beyond a bound b has, with an exponential tail (a Pareto tail of the cost), the mean b + 1/a.
    An outcome that was censored counts as max(b, m) + 1/a, where b is the mean bound and m the mean log cost
    of the arm; one that failed as max(b, w) + 1/a, where w is that of the worst arm: a solver that breaks
    down at once was not fast. As this is worked out from sums, the order of the outcomes does not matter.
    """
    n, total, squares, cut, cut_sum, lost, lost_sum = column
    own = total / SCALE / n if n else -math.inf
    if cut:
        n, total, squares = _more(n, total, squares, cut, max(cut_sum / SCALE / cut, own) + BEYOND)
    if lost:
        n, total, squares = _more(n, total, squares, lost, max(lost_sum / SCALE / lost, worst) + BEYOND)
    return belief(n, total, squares)


def _more(n: float, total: float, squares: float, count: float, level: float) -> tuple[float, float, float]:
    return n + count, total + count * level * SCALE, squares + count * level * level * SCALE


def view(table: np.ndarray, bounded: list[int], lines: Lines) -> np.ndarray:
    """What is believed of every arm, shape (3, arms); NaN in a family of which no arm was tried.

    Parameters
    ----------
    table : ndarray, shape (7, arms)
        Sums.
    bounded : list of int
        See `lost`.
    lines : tuple of tuple of int
        The families.
    """
    found = np.full((3, table.shape[1]), np.nan)
    pulled = table[PULLS].nonzero()[0].tolist()
    for arm in pulled:
        _set_complete(found, table, arm)
    _settle(found, table, {*pulled, *bounded}, bounded, _worst(found), lines)
    return found


def refreshed(
    before: np.ndarray, table: np.ndarray, arm: int, bounded: list[int], lines: Lines
) -> np.ndarray:
    """The view of a table in which the outcomes of one arm changed; the given one stays as it is.

    Parameters
    ----------
    before : ndarray, shape (3, arms)
        Of the table as it was.
    table, bounded, lines
        As for `view`.
    arm : int
        Whose outcomes changed.
    """
    found = before.copy()
    if table[PULLS, arm]:
        _set_complete(found, table, arm)
    arms, worst = {arm}, math.nan
    if bounded:
        worst, was, now = _worst(before), float(before[COMPLETE, arm]), float(found[COMPLETE, arm])
        # Failures are measured by the worst arm.
        if now != was and (was == worst or now > worst):
            arms.update(bounded)
            worst = _worst(found)
    _settle(found, table, arms, bounded, worst, lines)
    return found


def strangers(found: np.ndarray, lines: Lines) -> list[int]:
    """The middle arm of every family of which no arm was tried, in estimates of shape (row, arm)."""
    return [line[len(line) // 2] for line in lines if math.isnan(found[MEAN, line[0]])]


def _worst(found: np.ndarray) -> float:
    """The largest mean from complete outcomes, -inf if there are none."""
    return float(np.fmax.reduce(found[COMPLETE], initial=-math.inf))


def _set_complete(found: np.ndarray, table: np.ndarray, arm: int) -> None:
    mean, deviation = belief(*table[: SQUARES + 1, arm].tolist())
    found[MEAN, arm] = found[COMPLETE, arm] = mean
    found[DEVIATION, arm] = deviation


@lru_cache(maxsize=64)
def _places(lines: tuple[tuple[int, ...], ...]) -> dict[int, tuple[tuple[int, ...], int]]:
    """The family of each arm, and where in it that is."""
    return {arm: (line, k) for line in lines for k, arm in enumerate(line)}


def _settle(
    found: np.ndarray, table: np.ndarray, arms: set[int], bounded: list[int], worst: float, lines: Lines
) -> None:
    """Beliefs of arms with bounds, and guesses beside all that changed."""
    for arm in arms.intersection(bounded):
        found[MEAN, arm], found[DEVIATION, arm] = with_bounds(table[:, arm].tolist(), worst)
    places = _places(lines)
    for arm in arms:
        line, k = places[arm]
        beside = (k > 0 and _new(found, bounded, line[k - 1])) or (
            k + 1 < len(line) and _new(found, bounded, line[k + 1])
        )
        if beside:
            _guess(found, bounded, line, k)


def _new(found: np.ndarray, bounded: list[int], arm: int) -> bool:
    """Whether an arm was never tried."""
    return math.isnan(found[COMPLETE, arm]) and arm not in bounded


def _guess(found: np.ndarray, bounded: list[int], line: Sequence[int], k: int) -> None:
    """Beliefs of the arms around the k-th of a family that were never tried.

    Between two tried arms the mean is interpolated, beyond it stays; the deviation grows with the square root
    of the distance to the nearer one, relative to the length of the family.
    """
    for step in (-1, 1):
        gap: list[int] = []
        at = k + step
        while 0 <= at < len(line) and _new(found, bounded, line[at]):
            gap.append(line[at])
            at += step
        if not gap:
            continue
        here = float(found[MEAN, line[k]])
        closed = 0 <= at < len(line)
        there = float(found[MEAN, line[at]]) if closed else here
        # Always from the lower end to the upper one, so that both ends give the same bits.
        low, high, inner = (here, there, gap) if step > 0 else (there, here, gap[::-1])
        size = len(inner)
        for i, arm in enumerate(inner, 1):
            found[MEAN, arm] = (low * (size + 1 - i) + high * i) / (size + 1)
            near = min(i, size + 1 - i) if closed else (i if step > 0 else size + 1 - i)
            found[DEVIATION, arm] = APART * math.sqrt(near / len(line))
