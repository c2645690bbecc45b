"""Rankings of local models for a query, with numpy alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from sciflow.errors import Invalid
from sciflow_rom.regress.regression import Regression, checked, exponents, monomials, scaling


class Ranker(ABC):
    """What a `Selector` has learned."""

    @abstractmethod
    def rank(self, features: np.ndarray) -> np.ndarray:
        """Score all local models for one query; made to take less than 50 microseconds.

        Parameters
        ----------
        features : ndarray, shape (feature,)
            In the units of the training.

        Returns
        -------
        ndarray, shape (cluster,)
            Lower is better.
        """

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """The arrays that `Selector.load` needs."""


def log_errors(errors: np.ndarray) -> np.ndarray:
    """Logarithms of errors as a selector learns them.

    Parameters
    ----------
    errors : ndarray, shape (member, cluster)
        Not negative; infinite where a model failed.

    Returns
    -------
    ndarray, shape (member, cluster)
        Decadic. Failures count as ten times the largest error. Errors below a hundredth of the median
        of the members' least ones are not told apart.

    Raises
    ------
    Invalid
        If it is no matrix, an error is negative or NaN, or all are infinite.
    """
    values = np.asarray(errors, dtype=np.float64)
    if values.ndim != 2 or not values.size or not (values >= 0).all():
        raise Invalid(f"errors are (member, cluster), not negative and not NaN; the shape is {values.shape}")
    finite = np.isfinite(values)
    if not finite.any():
        raise Invalid("no local model answers for any member: all errors are infinite")
    values = np.where(finite, values, 10 * (values[finite].max() or 1.0))
    floor = 1e-2 * np.median(values.min(axis=1)) or 1e-12 * values.max() or 1.0
    return np.asarray(np.log10(np.maximum(values, floor)))


class ErrorRanker(Ranker):
    """Ranks by predicted logarithms of the errors.

    Parameters
    ----------
    regression : Regression
        Features to the logarithms of all local models' errors.
    """

    def __init__(self, regression: Regression) -> None:
        self.regression = regression

    def rank(self, features: np.ndarray) -> np.ndarray:
        """See `Ranker.rank`; predicted decadic logarithms of the errors."""
        return np.asarray(self.regression.predict(features[None])[0])

    def state(self) -> dict[str, np.ndarray]:
        """See `Ranker.state`."""
        return self.regression.state()


class _Arrays(Ranker):
    """A ranker that is made of named arrays."""

    names: tuple[str, ...]

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        missing = [n for n in self.names if n not in arrays]
        if missing:
            raise Invalid(f"{type(self).__name__} misses the arrays {', '.join(missing)}")
        self.arrays = {n: np.asarray(arrays[n], order="C") for n in self.names}

    def state(self) -> dict[str, np.ndarray]:
        """See `Ranker.state`."""
        return dict(self.arrays)


class LogisticRanker(_Arrays):
    """Ranks by probabilities that are linear in monomials of the features, but for the exponential."""

    names = ("mean", "spread", "powers", "weights")

    def rank(self, features: np.ndarray) -> np.ndarray:
        """See `Ranker.rank`; negative logarithms of the probabilities, up to a constant."""
        a = self.arrays
        x = ((features - a["mean"]) / a["spread"])[None]
        return np.asarray(-(monomials(x, a["powers"])[0] @ a["weights"]))


def fit_logistic(
    features: np.ndarray, errors: np.ndarray, degree: int, sharpness: float, penalty: float
) -> LogisticRanker:
    """Fit multinomial logistic regression by L-BFGS.

    Parameters
    ----------
    features : ndarray, shape (member, feature)
    errors : ndarray, shape (member, cluster)
    degree, sharpness, penalty
        See `sciflow_rom.regress.selectors.Logistic`.

    Raises
    ------
    Invalid
        See `Selector.train`.

    Notes
    -----
    Minimises the cross entropy of ``softmax(W^T p(x))`` and the votes plus ``penalty |W|^2 / 2``, which is
    convex. Cost: O(member monomial cluster) per iteration.
    """
    from scipy.optimize import minimize

    x, logs = checked(features, log_errors(errors))
    mean, spread = scaling(x)
    powers = exponents(x.shape[1], degree)
    basis = monomials((x - mean) / spread, powers)
    votes = _softmax(-sharpness * np.log(10.0) * logs)
    shape = (len(powers), logs.shape[1])

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(shape)
        raw = basis @ weights
        raw -= raw.max(axis=1, keepdims=True)
        total = np.log(np.exp(raw).sum(axis=1, keepdims=True))
        value = -(votes * (raw - total)).sum() / len(x) + 0.5 * penalty * (flat @ flat)
        slope = basis.T @ (np.exp(raw - total) - votes) / len(x) + penalty * weights
        return float(value), slope.ravel()

    found = minimize(objective, np.zeros(np.prod(shape)), method="L-BFGS-B", jac=True)
    return LogisticRanker(
        {"mean": mean, "spread": spread, "powers": powers, "weights": found.x.reshape(shape)}
    )


def _softmax(scores: np.ndarray) -> np.ndarray:
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


class NeighbourRanker(_Arrays):
    """Ranks by the errors of the nearest members."""

    names = ("mean", "spread", "members", "logs", "count")

    def rank(self, features: np.ndarray) -> np.ndarray:
        """See `Ranker.rank`; mean decadic logarithm of the neighbours' errors."""
        a = self.arrays
        gaps = a["members"] - (features - a["mean"]) / a["spread"]
        squares = np.einsum("ij,ij->i", gaps, gaps)
        count = min(int(a["count"]), len(squares))
        near = np.argpartition(squares, count - 1)[:count] if count < len(squares) else slice(None)
        shares = 1.0 / (np.sqrt(squares[near]) + 1e-9)
        return np.asarray((shares @ a["logs"][near]) / shares.sum())


def fit_neighbours(features: np.ndarray, errors: np.ndarray, count: int) -> NeighbourRanker:
    """Keep the members and the logarithms of their errors.

    Parameters
    ----------
    features : ndarray, shape (member, feature)
    errors : ndarray, shape (member, cluster)
    count : int
        How many neighbours decide.

    Raises
    ------
    Invalid
        See `Selector.train`.
    """
    x, logs = checked(features, log_errors(errors))
    mean, spread = scaling(x)
    return NeighbourRanker(
        {
            "mean": mean,
            "spread": spread,
            "members": (x - mean) / spread,
            "logs": logs,
            "count": np.array(count),
        }
    )
