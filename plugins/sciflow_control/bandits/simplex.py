"""Probabilities of Tsallis-INF: the point of the simplex that its regulariser asks for."""

from __future__ import annotations

import math

import numpy as np

STEPS = 64
"""Newton steps at most; ten are many."""
NEAR = 1e-10
"""How much more than one the sum may be before it is divided by."""


def probabilities(losses: np.ndarray, rate: float) -> np.ndarray:
    """The p on the simplex for which ``<p, losses> - (4/rate) sum(sqrt(p))`` is the smallest.

    Parameters
    ----------
    losses : ndarray, shape (arm,)
        Cumulated estimates, finite; a common shift does not matter.
    rate : float
        Learning rate, positive.

    Returns
    -------
    ndarray, shape (arm,)
        Their sum is one up to rounding.

    Notes
    -----
    The minimiser has p_i = 4 / (rate (L_i - x))^2, where x < min L makes the sum one. With
    a_i = rate (L_i - min L) / 2 and u = rate (min L - x) / 2 this is p_i = 1/(a_i + u)^2. At u = 1 the best
    arm has probability one, so the sum is at least one and u = 1 lies left of the root. The power mean
    h(u) = (sum (a_i + u)^-2)^(-1/2) is concave and increases, so that Newton's method for h(u) = 1 goes up
    and never passes the root; with equal losses h is linear and one step is enough. Started elsewhere it may
    step beyond the pole at u = 0.
    """
    a = (losses - losses.min()) * (rate / 2)
    u = 1.0
    for _ in range(STEPS):
        r = np.reciprocal(a + u)
        total = float(r.dot(r))
        if total <= 1 + NEAR:
            break
        # h = total^(-1/2), h' = total^(-3/2) sum(r^3); the step is (1 - h) / h'.
        u += total * (math.sqrt(total) - 1) / float((r * r).dot(r))
    found: np.ndarray = r * r / total
    return found
