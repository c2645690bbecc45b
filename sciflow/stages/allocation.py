"""How many values of an expensive and of a cheap quantity a budget should buy."""

from __future__ import annotations

import math


def best_ratio(full: float, cheap: float, correlation: float) -> float:
    """Cheap values for each expensive one, so that the mean costs least.

    Parameters
    ----------
    full, cheap : float
        Cost of one value of each, in one unit; positive.
    correlation : float
        Of the two.

    Returns
    -------
    float
        Infinite for a perfect correlation; below 1 where the cheap model is not worth being asked.

    Notes
    -----
    ``r = sqrt(w_1 rho^2 / (w_2 (1 - rho^2)))``.

    References
    ----------
    B. Peherstorfer, K. Willcox and M. Gunzburger, "Optimal model management for multifidelity Monte Carlo
    estimation", SIAM J. Sci. Comput. 38 (2016) A3163-A3194, theorem 3.4 with two models.
    """
    square = min(correlation * correlation, 1.0)
    return math.inf if square >= 1 else math.sqrt(full * square / (cheap * (1 - square)))


def allocation(budget: float, full: float, cheap: float, correlation: float) -> tuple[float, float]:
    """How many values of each model a budget buys, so that the variance of the mean is least.

    Parameters
    ----------
    budget : float
        In the unit of the costs.
    full, cheap, correlation
        As for `best_ratio`.

    Returns
    -------
    tuple of float
        Expensive and cheap values, not rounded. Where the cheap model is not worth it, the budget goes
        into expensive values, and there are as many cheap ones as those.
    """
    ratio = best_ratio(full, cheap, correlation)
    if math.isinf(ratio):
        return 0.0, budget / cheap
    if ratio <= 1:
        return budget / full, budget / full
    count = budget / (full + cheap * ratio)
    return count, count * ratio


def variance_ratio(full: float, cheap: float, correlation: float) -> float:
    """Variance of the mean with the best allocation over that of expensive values alone, at equal cost.

    Notes
    -----
    ``(sqrt(1 - rho^2) + sqrt(w_2 rho^2 / w_1))^2``, as in corollary 3.5 there; 1 where the cheap model is
    not worth being asked.
    """
    square = min(correlation * correlation, 1.0)
    if best_ratio(full, cheap, correlation) <= 1:
        return 1.0
    return float((math.sqrt(1 - square) + math.sqrt(cheap * square / full)) ** 2)
