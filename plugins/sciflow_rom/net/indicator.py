"""The error of a reduced solution, estimated from its residual, and how far such estimates can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sciflow.reduction import Law
from sciflow_rom.net.galerkin import Load, Response, Tables


@dataclass(frozen=True)
class Probe:
    """Tests the residual of a local model with modes that it does not have.

    Attributes
    ----------
    strains : ndarray, shape (point, component, mode)
        Of the local modes, at the points of a cubature of its own.
    test : Tables
        Of the test modes at the same points: the first modes of all training snapshots, orthonormal.
    """

    strains: np.ndarray
    test: Tables

    @cached_property
    def matrix(self) -> np.ndarray:
        """`strains` as shape (point * component, mode)."""
        return np.ascontiguousarray(self.strains.reshape(-1, self.strains.shape[2]))


def indicate(
    probe: Probe, law: Law, response: Response, history: np.ndarray | None = None, load: Load | None = None
) -> float:
    """Size of what a solution lacks, relative to the solution.

    Parameters
    ----------
    probe : Probe
        Of the local model.
    law : Law
        At the points of the probe.
    response : Response
        Of the local model.
    history : ndarray, shape (point, variable), or None
        At the points of the probe, before the first step.
    load : callable or None
        As for `galerkin.solve`.

    Returns
    -------
    float
        Not calibrated; infinite where it is not defined.

    Notes
    -----
    With the orthonormal test modes V, the residual ``r = V^T r(Psi a)`` and the tangent
    ``K = V^T K(Psi a) V`` of each step, both by the cubature of the probe, one step of Newton would add
    ``V d`` with ``K d = -r``: the part of the error that V can show. The indicator is
    ``sqrt(sum_t |d_t|^2 / sum_t |a_t|^2)``: a number without unit, comparable between local models, since
    all are tested with the same modes. Each step costs the law at the points, two products with
    (point component, test) matrices and a solve of test^3 / 3.
    """
    test = probe.test
    state = np.zeros((len(test.weights), 0)) if history is None else history
    shape = probe.strains.shape[:2]
    lacks, size = 0.0, 0.0
    for step, a in enumerate(response.coefficients):
        stress, tangent, state = law((probe.matrix @ a).reshape(shape), state, step)
        residual = test.weighted @ stress.reshape(-1)
        if load is not None:
            residual -= load(step) @ test.loads
        moved = np.matmul(tangent, test.strains).reshape(-1, test.strains.shape[2])
        try:
            gap = np.linalg.solve(test.weighted @ moved, residual)
        except np.linalg.LinAlgError:
            return np.inf
        lacks += float(gap @ gap)
        size += float(a @ a)
    if not np.isfinite(lacks):
        return np.inf
    return (lacks / size) ** 0.5 if size > 0 else (np.inf if lacks > 0 else 0.0)


@dataclass(frozen=True)
class Calibration:
    """Turns an indicator into an estimate and an upper bound of the relative error.

    Attributes
    ----------
    factor : float
        Median of error over indicator.
    bound : float
        A quantile of error over indicator; infinite where there were too few members for it.
    coverage : float
        The probability with which the bound holds for a new member of the same distribution, at least.
    members : int
        How many members it was made with.
    """

    factor: float
    bound: float
    coverage: float
    members: int

    def __call__(self, indicator: float) -> tuple[float, float]:
        """Estimate and upper bound of the relative error; NaN for NaN."""
        known = np.isfinite(self.bound) or np.isnan(indicator)
        return self.factor * indicator, self.bound * indicator if known else np.inf


def calibrate(indicators: np.ndarray, errors: np.ndarray, coverage: float) -> Calibration:
    """Calibrate with members whose errors are known and whose snapshots made no basis.

    Parameters
    ----------
    indicators, errors : ndarray, shape (member,)
        What `indicate` gave, and the true relative errors.
    coverage : float
        In (0, 1).

    Returns
    -------
    Calibration

    Notes
    -----
    Split conformal prediction with the score ``error / indicator``: the bound is the
    ``ceil((m + 1) coverage)``-th smallest of m scores. If the new member and those m are exchangeable, its
    score is at most the bound with a probability of at least `coverage`, whatever the distribution, and at
    most ``coverage + 1 / (m + 1)`` where there are no ties. It takes ``m >= coverage / (1 - coverage)``.

    References
    ----------
    H. Papadopoulos, K. Proedrou, V. Vovk, A. Gammerman, "Inductive confidence machines for regression",
    ECML 2002; J. Lei, M. G'Sell, A. Rinaldo, R. J. Tibshirani, L. Wasserman, JASA 113, 2018, theorem 2.
    """
    usable = np.isfinite(indicators) & (indicators > 0)
    scores = np.sort(np.where(usable, errors / np.where(usable, indicators, 1.0), np.inf))
    if len(scores) == 0:
        return Calibration(1.0, np.inf, coverage, 0)
    rank = int(np.ceil((len(scores) + 1) * coverage - 1e-9))
    bound = float(scores[rank - 1]) if rank <= len(scores) else np.inf
    factor = float(np.median(scores))
    return Calibration(factor if np.isfinite(factor) else 1.0, bound, coverage, len(scores))


def covered(uppers: np.ndarray, errors: np.ndarray) -> float:
    """The fraction of members whose error is not above its bound, both of shape (member,); NaN for none."""
    return float(np.mean(errors <= uppers)) if len(errors) else np.nan


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of two lists, shape (n,), without regard to ties."""
    ranks: Callable[[np.ndarray], np.ndarray] = lambda v: np.argsort(np.argsort(v)).astype(np.float64)  # noqa: E731
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])
