"""Bayesian linear regression on products of Chebyshev polynomials, from sums."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg.lapack import dtrtri

from sciflow_control.bandits.chebyshev import gram2, polynomials
from sciflow_control.bandits.contextual import position
from sciflow_control.bandits.tuner import SCALE
from sciflow_control.space import Values

NOISE, DOUBT = 0.1, 4.0
"""Standard deviation of a log cost before anything was seen, and how many outcomes that is worth."""
SPREAD, DECAY = 1.0, 0.7
"""Standard deviation of the first coefficient, about the mean log cost, and its decay with either degree."""
BEYOND = 1.0
"""How much a log cost is above its lower bound on average."""
_ABSENT = 1e12
"""Precision of a coefficient that a family does not have."""


class Design(NamedTuple):
    """What the model knows of the arms.

    Attributes
    ----------
    family : ndarray of int, shape (arm,)
        Which family an arm is in.
    action : ndarray, shape (arm, 2 k - 1)
        Chebyshev polynomials of its setting, k of them with a coefficient.
    precision : ndarray, shape (family, m k)
        Of the prior of every coefficient, relative to that of an outcome.
    """

    family: np.ndarray
    action: np.ndarray
    precision: np.ndarray


def design(arms: Sequence[Values], families: Sequence[Sequence[int]], degree: int, action: int) -> Design:
    """The design of a space, with polynomials up to `degree` in the feature and `action` in the setting."""
    k = min(action, max(map(len, families)) - 1) + 1
    family, values = np.zeros(len(arms), dtype=int), np.zeros((len(arms), 2 * k - 1))
    order = np.add.outer(np.arange(degree + 1), np.arange(k))
    precision = np.full((len(families), *order.shape), _ABSENT)
    for f, members in enumerate(families):
        own = min(k, len(members))
        precision[f, :, :own] = (NOISE / SPREAD) ** 2 * DECAY ** (-2.0 * order[:, :own])
        for arm, v in zip(members, _settings([arms[i] for i in members]), strict=True):
            family[arm], values[arm] = f, polynomials(v, 2 * k - 1)
    return Design(family, values, precision.reshape(len(families), -1))


def _settings(arms: Sequence[Values]) -> list[float]:
    """The number in which the arms of a family differ, scaled to -1 to 1; omega as -log(2 - omega)."""
    numbers = [k for k, v in arms[0].items() if not isinstance(v, str)]
    along = max(numbers, key=lambda k: len({arm[k] for arm in arms}), default="")
    if len(arms) == 1 or not along:
        return [0.0] * len(arms)
    values = [float(arm[along]) for arm in arms]
    if along == "omega":
        values = [-math.log(2 - w) for w in values]
    return [position(v, values[0], values[-1]) for v in values]


class Posterior(NamedTuple):
    """Coefficients given the outcomes: normal with mean `mean` and covariance ``root root^T``.

    Attributes
    ----------
    mean : ndarray, shape (family, m k)
    root : ndarray, shape (family, m k, m k)
    """

    mean: np.ndarray
    root: np.ndarray


def posterior(sums: Mapping[str, Any], design: Design) -> Posterior:
    """The posterior of the coefficients, about the mean log cost.

    Parameters
    ----------
    sums : mapping
        See `BayesChebyshev.empty`.
    design : Design
        Of the arms.

    Notes
    -----
    With the prior N(0, s^2 / P) of the coefficients and inverse gamma of s^2, ``A = Phi^T Phi + P``, ``mean
    = A^-1 Phi^T y``, and ``s^2 = (4 s0^2 + y^T y - mean^T Phi^T y) / (4 + n)``. Families share nothing but
    the mean log cost and s. An outcome that failed has the log cost 1 + max(b, w), where b is the mean of
    their log costs and w the mean plus the standard deviation of those of the others.

    Cost O(families (m k)^3).
    """
    families, size = design.precision.shape
    n, lost = sums["count"], sums["lost"]
    level = sums["total"] / SCALE / n if n else 0.0
    scatter = max(sums["squares"] / SCALE - n * level**2, 0.0)
    m, k = sums["costs"].shape[1:]
    phi = sums["moments"][:, :m, :k].reshape(families, size) / SCALE
    failed = sums["failed"].reshape(families, size) / SCALE
    beyond = 0.0
    if lost:
        bound = sums["bounds"] / SCALE / lost
        level = level if n else bound
        beyond = BEYOND + max(bound - level, math.sqrt(scatter / n) if n else 0.0)
    vector = sums["costs"].reshape(families, size) / SCALE - level * (phi - failed) + beyond * failed
    matrix = gram2(sums["moments"] / SCALE, m, k)
    places = np.arange(size)
    matrix[:, places, places] += design.precision
    inverse = np.stack([dtrtri(lower, lower=1)[0] for lower in np.linalg.cholesky(matrix)])
    half = (inverse @ vector[..., None])[..., 0]
    back = np.swapaxes(inverse, 1, 2)
    rest = scatter + lost * beyond**2 - float((half * half).sum())
    variance = (DOUBT * NOISE**2 + max(rest, 0.0)) / (DOUBT + n + lost)
    return Posterior((back @ half[..., None])[..., 0], back * math.sqrt(variance))
