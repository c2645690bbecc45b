"""Gaussian process regression with one length for each feature, by the marginal likelihood."""

from __future__ import annotations

import numpy as np

from sciflow_rom.regress.regression import Regression, checked, scaling

_ROOT5 = float(np.sqrt(5.0))
_BOUNDS = (-3.0, 4.6)
_NOISE = (-23.0, 2.3)
_MOST = 500


class Gaussian(Regression):
    """The mean of Gaussian processes, one or one per column of the values."""

    names = ("mean", "spread", "lengths", "centres", "weights", "offset", "analytic")

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__(arrays)
        a = self.arrays
        # Centres over the lengths of each process, and their squares: (process, member, feature).
        self._scaled = a["centres"] / a["lengths"][:, None]
        self._squares = np.einsum("gij,gij->gi", self._scaled, self._scaled)
        self._factors = 1.0 / (a["spread"] * a["lengths"])

    def predict(self, features: np.ndarray) -> np.ndarray:
        """See `Regression.predict`."""
        a = self.arrays
        shifted = features - a["mean"]
        if len(self._scaled) == 1:
            return np.asarray(self._kernels(shifted, 0) @ a["weights"] + a["offset"])
        columns = [self._kernels(shifted, g) @ a["weights"][:, g] for g in range(len(self._scaled))]
        return np.asarray(np.stack(columns, axis=1) + a["offset"])

    def _kernels(self, shifted: np.ndarray, process: int) -> np.ndarray:
        x = shifted * self._factors[process]
        squares = (x @ self._scaled[process].T) * -2.0
        squares += self._squares[process]
        squares += np.einsum("ij,ij->i", x, x)[:, None]
        return _kernel(np.maximum(squares, 0.0, out=squares), bool(self.arrays["analytic"]))[0]


def _kernel(squares: np.ndarray, analytic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Kernel of squared scaled distances, and minus twice its derivative by them."""
    if analytic:
        values = np.exp(-0.5 * squares)
        return values, values
    root = _ROOT5 * np.sqrt(squares)
    decay = np.exp(-root)
    return (1 + root + root * root / 3) * decay, (5 / 3) * (1 + root) * decay


def fit_gaussian(
    features: np.ndarray, values: np.ndarray, rng: np.random.Generator, kernel: str, shared: bool
) -> Gaussian:
    r"""Fit lengths and noise by the marginal likelihood, and the mean with them.

    Parameters
    ----------
    features : ndarray, shape (member, feature)
    values : ndarray, shape (member, n)
    rng : numpy.random.Generator
        Chooses the 500 members from which lengths are learned where there are more.
    kernel : {"matern", "squared_exponential"}
        Of the squared distance ``r^2 = sum_j (x_j - x'_j)^2 / l_j^2``.
    shared : bool
        Whether all columns have the same lengths and noise.

    Raises
    ------
    Invalid
        See `sciflow_rom.regress.regression.checked`.

    Notes
    -----
    For each process with columns :math:`y_i` (centred and scaled) and :math:`K = k + \lambda I` the
    variance is eliminated, which leaves

    .. math:: \sum_i \tfrac{N}{2} \log (y_i^T K^{-1} y_i) + \tfrac{n}{2} \log |K|

    to be minimised over the logarithms of lengths and noise; its gradient costs two further products.
    A weak prior keeps lengths near 3 spreads of the feature. Cost: O(member^3) for each of about 40 steps; an
    evaluation O(member (feature + n)) where the lengths are shared, n times that of one column else.

    References
    ----------
    C. E. Rasmussen, C. K. I. Williams, *Gaussian Processes for Machine Learning*, 2006, (5.8), (5.9), (4.17).
    """
    x, y = checked(features, values)
    mean, spread = scaling(x)
    offset, size = scaling(y)
    x, y = (x - mean) / spread, (y - offset) / size
    analytic = kernel == "squared_exponential"
    groups = [slice(0, y.shape[1])] if shared else [slice(i, i + 1) for i in range(y.shape[1])]
    few = np.sort(rng.permutation(len(x))[:_MOST])
    lengths = np.ones((len(groups), x.shape[1]))
    weights = np.zeros(y.shape)
    for number, group in enumerate(groups):
        lengths[number], noise = _learn(x[few], y[few, group], analytic)
        matrix = _kernel(_squares(x / lengths[number]), analytic)[0] + noise * np.eye(len(x))
        weights[:, group] = np.linalg.solve(matrix, y[:, group])
    return Gaussian(
        {
            "mean": mean,
            "spread": spread,
            "lengths": lengths,
            "centres": x,
            "weights": weights * size,
            "offset": offset,
            "analytic": np.array(analytic),
        }
    )


def _squares(x: np.ndarray) -> np.ndarray:
    own = np.einsum("ij,ij->i", x, x)
    found = own[:, None] + own - 2 * (x @ x.T)
    np.fill_diagonal(found, 0.0)
    return np.asarray(np.maximum(found, 0.0))


def _learn(x: np.ndarray, y: np.ndarray, analytic: bool) -> tuple[np.ndarray, float]:
    """Lengths and noise that make the marginal likelihood, times a weak prior, largest."""
    from scipy.optimize import minimize

    count = x.shape[1]
    if len(x) < 3 or not np.any(y):
        return np.full(count, 3.0), 1e-6
    bounds = [_BOUNDS] * count + [_NOISE]
    best = None
    for length in (1.0, 3.0):
        begin = np.append(np.full(count, np.log(length) + 0.25 * np.log(count)), np.log(1e-4))
        run = minimize(
            _objective, begin, (x, y, analytic), "L-BFGS-B", jac=True, bounds=bounds,
            options={"maxiter": 60},
        )  # fmt: skip
        if best is None or run.fun < best.fun:
            best = run
    assert best is not None
    return np.exp(best.x[:-1]), float(np.exp(best.x[-1]))


def _objective(theta: np.ndarray, x: np.ndarray, y: np.ndarray, analytic: bool) -> tuple[float, np.ndarray]:
    members, columns = y.shape
    scaled = x / np.exp(theta[:-1])
    values, slopes = _kernel(_squares(scaled), analytic)
    noise = np.exp(theta[-1])
    matrix = values + noise * np.eye(members)
    try:
        factor = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return 1e25, np.zeros_like(theta)
    inverse = np.linalg.inv(matrix)
    found = inverse @ y
    sizes = np.maximum(np.einsum("ij,ij->j", y, found), 1e-300)
    prior = theta[:-1] - np.log(3.0)
    value = (
        0.5 * members * np.log(sizes).sum()
        + columns * np.log(factor.diagonal()).sum()
        + 0.25 * columns * (prior @ prior)
    )
    core = 0.5 * columns * inverse - 0.5 * members * (found / sizes) @ found.T
    # d K / d log l_j = slope (x_j - x'_j)^2 / l_j^2, summed against `core` without a matrix for each j.
    pulls = core * slopes
    rows = pulls.sum(axis=1)
    gradient = 2 * (rows @ (scaled * scaled) - np.einsum("ij,ij->j", scaled, pulls @ scaled))
    return float(value), np.append(gradient + 0.5 * columns * prior, noise * core.trace())
