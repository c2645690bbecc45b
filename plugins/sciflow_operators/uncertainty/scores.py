"""Proper scores of predictions with a spread, as if errors were Gaussian."""

from __future__ import annotations

import numpy as np
from scipy.special import erf


def crps(mean: np.ndarray, spread: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of every value; smaller is better.

    Parameters
    ----------
    mean, spread, truth : ndarray of one shape
        In one unit; where the spread is 0 the score is the absolute error.

    Returns
    -------
    ndarray
        In that unit.

    Notes
    -----
    ``s (z (2 Phi(z) - 1) + 2 phi(z) - 1/sqrt(pi))`` with ``z = (truth - mean)/s``.

    References
    ----------
    T. Gneiting and A. E. Raftery, "Strictly proper scoring rules, prediction, and estimation", J. Am.
    Stat. Assoc. 102, 2007, equation 21.
    """
    apart = np.asarray(truth, dtype=np.float64) - mean
    s = np.where(spread > 0, np.asarray(spread, dtype=np.float64), 1.0)
    z = apart / s
    score = s * (z * erf(z / np.sqrt(2)) + np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) - 1 / np.sqrt(np.pi))
    return np.where(spread > 0, score, np.abs(apart))


def log_likelihood(mean: np.ndarray, spread: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Logarithm of the density of the truth, of every value; larger is better.

    Parameters
    ----------
    mean, spread, truth : ndarray of one shape
        In one unit, the spread positive.
    """
    s = np.asarray(spread, dtype=np.float64)
    z = (np.asarray(truth, dtype=np.float64) - mean) / s
    return np.asarray(-(z**2) / 2 - np.log(s) - np.log(2 * np.pi) / 2)
