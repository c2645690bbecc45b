"""Conformal prediction: how wide a band must be to hold the truth as often as it says."""

from __future__ import annotations

import math

import numpy as np

from sciflow.errors import Invalid

SLACK = 1e-9
"""Round-off of summed weights."""
FLOOR = 0.1
"""Part of a sample's root mean square spread that is added (in quadrature) to the spread of every value."""


def least(alpha: float) -> int:
    """Fewest members with which a share of ``1 - alpha`` can be promised."""
    return math.ceil(1 / alpha - 1 - SLACK)


def quantile(scores: np.ndarray, members: np.ndarray, alpha: float) -> np.ndarray:
    """The bound that a new sample of a new member exceeds with probability `alpha` at most.

    Parameters
    ----------
    scores : ndarray, shape (sample, ...)
        Any unit; ``inf`` where there is none. NaN counts as ``inf``.
    members : ndarray of int, shape (sample,)
        Which member each is of. Members must be exchangeable, samples of one need not.
    alpha : float
        Between 0 and 1.

    Returns
    -------
    ndarray of float64, shape (...)
        ``inf`` where no finite bound will do.

    Raises
    ------
    Invalid
        If there are fewer members than `least`.

    Notes
    -----
    The smallest ``q`` with ``sum_k n_k^-1 #{scores of member k <= q} / (K + 1) >= 1 - alpha`` for K members
    with ``n_k`` samples each. With one sample for each member this is the ``ceil((K + 1)(1 - alpha))``-th
    smallest score. Costs a sort.

    References
    ----------
    V. Vovk, A. Gammerman and G. Shafer, "Algorithmic learning in a random world", 2005; Y. Lee,
    R. F. Barber and R. Willett, "Distribution-free inference with hierarchical data", arXiv:2306.06342,
    section 3 (members with several samples).
    """
    _, owner, counts = np.unique(members, return_inverse=True, return_counts=True)
    needed = least(alpha)
    if len(counts) < needed:
        raise Invalid(
            f"{len(counts)} members cannot promise that {100 * (1 - alpha):g} % of new ones are inside; "
            f"{needed} are needed. Give more members to the calibration, or a larger alpha"
        )
    scores = np.where(np.isnan(scores), np.inf, np.asarray(scores, dtype=np.float64))
    order = np.argsort(scores, axis=0, kind="stable")
    weight = 1 / counts[owner] / (len(counts) + 1)
    reached = np.cumsum(weight[order], axis=0) >= 1 - alpha - SLACK
    reached[-1] = True  # all members together are enough, whatever the round-off of a long sum says
    first = np.argmax(reached, axis=0)[None]
    return np.asarray(np.take_along_axis(scores, np.take_along_axis(order, first, axis=0), axis=0)[0])


def mean_over_members(values: np.ndarray, members: np.ndarray) -> float:
    """Mean over members of the mean over each one's samples.

    Parameters
    ----------
    values : ndarray, shape (sample,)
    members : ndarray of int, shape (sample,)
    """
    _, owner, counts = np.unique(members, return_inverse=True, return_counts=True)
    return float(np.sum(values / counts[owner]) / len(counts))


def scale(spread: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    """What residuals are divided by: 1, or the model's spread with a floor.

    Parameters
    ----------
    spread : ndarray, shape (sample, ...), or None
        In the field's unit.
    like : ndarray, shape (sample, ...)
        Gives the shape.

    Returns
    -------
    ndarray of float64, shape (sample, ...)
    """
    if spread is None:
        return np.ones(like.shape)
    flat = np.asarray(spread, dtype=np.float64).reshape(len(spread), -1)
    size = (flat**2).mean(axis=1, keepdims=True)
    return np.asarray(np.sqrt(flat**2 + FLOOR**2 * size).reshape(like.shape))


def ratios(residual: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Size of each residual in units of its scale, shape (sample, ...); ``0 / 0`` is 0."""
    size = np.abs(np.asarray(residual, dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(size == 0, 0.0, size / scales)


def all_but(ratio: np.ndarray, delta: float) -> np.ndarray:
    """The smallest bound that a share ``1 - delta`` of each sample's values keeps.

    Parameters
    ----------
    ratio : ndarray, shape (sample, ...)
    delta : float
        0 asks for all values.

    Returns
    -------
    ndarray, shape (sample,)
    """
    flat = np.where(np.isnan(ratio), np.inf, ratio).reshape(len(ratio), -1)
    place = max(1, math.ceil((1 - delta) * flat.shape[1] - SLACK)) - 1
    return np.asarray(np.partition(flat, place, axis=1)[:, place])
