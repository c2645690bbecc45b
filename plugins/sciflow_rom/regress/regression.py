"""Fitted regressions, evaluated with numpy alone: polynomials, radial functions, small networks."""

from __future__ import annotations

import itertools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from sciflow.errors import Invalid


class Regression(ABC):
    """Numbers as functions of features.

    Attributes
    ----------
    arrays : dict of str to ndarray
        All that it consists of.
    names : tuple of str
        Of the arrays.

    Raises
    ------
    Invalid
        If an array is missing.
    """

    names: tuple[str, ...]

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        missing = [n for n in self.names if n not in arrays]
        if missing:
            raise Invalid(f"{type(self).__name__} misses the arrays {', '.join(missing)}")
        self.arrays = {n: np.asarray(arrays[n], order="C") for n in self.names}

    @abstractmethod
    def predict(self, features: np.ndarray) -> np.ndarray:
        """Evaluate.

        Parameters
        ----------
        features : ndarray, shape (batch, feature)
            In the units of the training.

        Returns
        -------
        ndarray, shape (batch, n)
            In the units of the training.
        """

    def state(self) -> dict[str, np.ndarray]:
        """Its arrays, for `Regressor.load`."""
        return dict(self.arrays)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        """Build it from `state`."""
        return cls(state)


def checked(features: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features and values, shape (member, ...), as float64.

    Raises
    ------
    Invalid
        If they are not two matrices with as many rows, at least one, or a number is not finite.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
        raise Invalid(f"features and values are (member, ...), got {x.shape} and {y.shape}")
    for what, array in (("features", x), ("values", y)):
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if len(bad):
            raise Invalid(f"the {what} of {len(bad)} members are not finite, the first is row {bad[0]}")
    return x, y


def scaling(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread of each column of the shape (member, ...); a spread of 1 where all values are equal."""
    mean, spread = values.mean(axis=0), values.std(axis=0)
    # Below the rounding of the mean there is no spread.
    flat = spread <= 1e-13 * np.abs(values).max(axis=0, initial=0.0)
    return mean, np.where(flat, 1.0, spread)


def exponents(features: int, degree: int) -> np.ndarray:
    """Exponents of all monomials up to a degree, shape (monomial, feature), lowest first."""
    rows = [
        np.bincount(pick, minlength=features) if pick else np.zeros(features, dtype=np.int64)
        for d in range(degree + 1)
        for pick in itertools.combinations_with_replacement(range(features), d)
    ]
    return np.array(rows, dtype=np.int64).reshape(len(rows), features)


def monomials(x: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """Monomials of scaled features, shape (batch, monomial)."""
    out = np.ones((len(x), len(powers)))
    for column in range(x.shape[1]):
        out *= x[:, column, None] ** powers[:, column]
    return out


class Monomials(Regression):
    """A polynomial of scaled features."""

    names = ("mean", "spread", "powers", "weights")

    def predict(self, features: np.ndarray) -> np.ndarray:
        """See `Regression.predict`."""
        a = self.arrays
        return np.asarray(monomials((features - a["mean"]) / a["spread"], a["powers"]) @ a["weights"])


def fit_polynomial(features: np.ndarray, values: np.ndarray, degree: int) -> Monomials:
    """Fit a polynomial by ridge regression.

    Parameters
    ----------
    features : ndarray, shape (member, feature)
    values : ndarray, shape (member, n)
    degree : int
        Largest total degree.

    Raises
    ------
    Invalid
        See `checked`.

    Notes
    -----
    With monomials ``P = U S V^T`` (the constant among them, not penalised beyond the rest) the residual of a
    member left out is ``(y - H y)_i / (1 - H_ii)``, ``H = U S^2 / (S^2 + p) U^T``; the penalty ``p`` that
    makes its mean square least is taken for each column. Cost: one SVD, O(member monomial^2).
    """
    x, y = checked(features, values)
    mean, spread = scaling(x)
    while degree > 0 and math.comb(x.shape[1] + degree, degree) > len(x):
        degree -= 1
    powers = exponents(x.shape[1], degree)
    basis = monomials((x - mean) / spread, powers)
    left, sizes, right = np.linalg.svd(basis, full_matrices=False)
    offset = y.mean(axis=0)
    inner = left.T @ (y - offset)
    best = np.full(y.shape[1], np.inf)
    weights = np.zeros((len(powers), y.shape[1]))
    for penalty in sizes[0] ** 2 * 10.0 ** np.arange(-14, 1):
        filters = sizes**2 / (sizes**2 + penalty)
        hat = np.einsum("ij,j,ij->i", left, filters, left)
        gaps = (y - offset - left @ (filters[:, None] * inner)) / np.maximum(1 - hat, 1e-12)[:, None]
        score = (gaps * gaps).mean(axis=0)
        better = score < best
        found = right.T @ ((filters / sizes.clip(1e-300))[:, None] * inner)
        weights[:, better], best[better] = found[:, better], score[better]
    weights[0] += offset
    return Monomials({"mean": mean, "spread": spread, "powers": powers, "weights": weights})


class Radial(Regression):
    """Cubic radial functions about the members and a polynomial of first degree."""

    names = ("mean", "spread", "centres", "weights", "tail")

    def predict(self, features: np.ndarray) -> np.ndarray:
        """See `Regression.predict`."""
        a = self.arrays
        x = (features - a["mean"]) / a["spread"]
        out = distances(x, a["centres"]) ** 3 @ a["weights"]
        return np.asarray(out + a["tail"][0] + x @ a["tail"][1:])


def distances(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Euclidean distances, shape (batch, centre); by differences, so that near points stay apart."""
    squares = np.zeros((len(x), len(centres)))
    for column in range(x.shape[1]):
        squares += np.subtract.outer(x[:, column], centres[:, column]) ** 2
    return np.asarray(np.sqrt(squares))


def fit_radial(features: np.ndarray, values: np.ndarray, smoothing: float = 0.0) -> Radial:
    """Interpolate with cubic radial functions.

    Parameters
    ----------
    features : ndarray, shape (member, feature)
        Members with equal features are averaged.
    values : ndarray, shape (member, n)
    smoothing : float
        Added to the diagonal, as in ``scipy.interpolate.RBFInterpolator``.

    Raises
    ------
    Invalid
        See `checked`.

    Notes
    -----
    ``s(x) = sum_i w_i |x - x_i|^3 + p(x)`` with ``sum_i w_i q(x_i) = 0`` for all polynomials q of first
    degree. Least squares of the bordered system (so that members on a plane are no fault): O(member^3)
    once, O(member n) per evaluation.
    """
    x, y = checked(features, values)
    mean, spread = scaling(x)
    x, places = np.unique((x - mean) / spread, axis=0, return_inverse=True)
    sums = np.zeros((len(x), y.shape[1]))
    np.add.at(sums, places.reshape(-1), y)
    y = sums / np.bincount(places.reshape(-1))[:, None]
    count, tail = len(x), x.shape[1] + 1
    matrix = np.zeros((count + tail, count + tail))
    matrix[:count, :count] = distances(x, x) ** 3 + smoothing * np.eye(count)
    matrix[:count, count:] = np.hstack([np.ones((count, 1)), x])
    matrix[count:, :count] = matrix[:count, count:].T
    found = np.linalg.lstsq(matrix, np.vstack([y, np.zeros((tail, y.shape[1]))]), rcond=None)[0]
    return Radial(
        {"mean": mean, "spread": spread, "centres": x, "weights": found[:count], "tail": found[count:]}
    )


class Networks(Regression):
    """The mean of fully connected networks with two hidden layers of hyperbolic tangents."""

    names = ("mean", "spread", "w0", "b0", "w1", "b1", "w2", "b2")

    def predict(self, features: np.ndarray) -> np.ndarray:
        """See `Regression.predict`."""
        a = self.arrays
        x = np.tanh(((features - a["mean"]) / a["spread"]) @ a["w0"] + a["b0"])
        # One block per network, (network, batch, width); the last layer takes all of them at once.
        hidden = x.reshape(len(x), len(a["w1"]), -1).swapaxes(0, 1)
        hidden = np.tanh(hidden @ a["w1"] + a["b1"])
        return np.asarray(hidden.swapaxes(0, 1).reshape(len(x), -1) @ a["w2"] + a["b2"])


def fit_networks(
    features: np.ndarray,
    values: np.ndarray,
    rng: np.random.Generator,
    width: int,
    networks: int,
    penalty: float,
    steps: int,
) -> Networks:
    """Fit small networks with scikit-learn and put them together; see `Perceptrons`.

    Parameters
    ----------
    features : ndarray, shape (member, feature)
    values : ndarray, shape (member, n)
    rng : numpy.random.Generator
        Gives the seeds of the networks.
    width, networks, penalty, steps
        See `Perceptrons`.

    Raises
    ------
    Invalid
        See `checked`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    x, y = checked(features, values)
    mean, spread = scaling(x)
    offset, size = scaling(y)
    fits = []
    for seed in rng.integers(0, 2**31, networks):
        net = MLPRegressor(
            hidden_layer_sizes=(width, width), activation="tanh", solver="lbfgs", alpha=penalty,
            max_iter=steps, random_state=int(seed),
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of steps is a setting
            scaled = (y - offset) / size
            fits.append(net.fit((x - mean) / spread, scaled[:, 0] if y.shape[1] == 1 else scaled))
    return Networks(
        {
            "mean": mean,
            "spread": spread,
            "w0": np.hstack([f.coefs_[0] for f in fits]),
            "b0": np.hstack([f.intercepts_[0] for f in fits]),
            "w1": np.stack([f.coefs_[1] for f in fits]),
            "b1": np.stack([f.intercepts_[1] for f in fits])[:, None],
            "w2": np.vstack([f.coefs_[2] for f in fits]) * size / networks,
            "b2": np.mean([f.intercepts_[2] for f in fits], axis=0) * size + offset,
        }
    )
