"""The fitted networks in plain numpy: values and derivatives for many strains at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sciflow_operators.equino.trend import Trend


@dataclass(frozen=True)
class Perceptron:
    """Linear layers with SiLU between, in double precision.

    Attributes
    ----------
    weights : tuple of ndarray, shape (out, in)
    biases : tuple of ndarray, shape (out,)
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Values for (n, in), shape (n, out)."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            z = x @ weight.T
            z += bias
            x = z * sigmoid(z)
        return np.asarray(x @ self.weights[-1].T + self.biases[-1])

    def with_slope(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values and derivatives.

        Parameters
        ----------
        x : ndarray, shape (n, in)

        Returns
        -------
        value : ndarray, shape (n, out)
        slope : ndarray, shape (n, in, out)

        Notes
        -----
        Forward: each layer takes the value and the derivative in each of the `in` directions through one
        product, 2 n (1 + in) w^2 operations.
        """
        n, directions = x.shape
        # Rows of value and derivatives lie in one matrix, so that a layer is one product.
        rows = np.concatenate([(x @ self.weights[0].T)[None], _spread(self.weights[0].T, n)])
        for weight, bias in zip(self.weights[1:], self.biases[:-1], strict=True):
            z = rows[0]
            z += bias
            s = sigmoid(z)
            h = z * s
            # (z s)' = s + z s (1 - s) = s (1 + z - z s)
            z -= h
            z += 1.0
            z *= s
            rows[1:] *= z
            rows[0] = h
            rows = (rows.reshape(-1, rows.shape[2]) @ weight.T).reshape(directions + 1, n, len(weight))
        return rows[0] + self.biases[-1], rows[1:].transpose(1, 0, 2)


def _spread(slopes: np.ndarray, count: int) -> np.ndarray:
    """The same derivatives for `count` points, shape (in, count, out)."""
    return np.broadcast_to(slopes[:, None], (len(slopes), count, slopes.shape[1]))


def sigmoid(z: np.ndarray) -> np.ndarray:
    """``1 / (1 + exp(-z))``, any shape; of the smallest numbers 0."""
    s = np.exp(np.minimum(-z, 700.0))
    s += 1.0
    return np.asarray(np.reciprocal(s, out=s))


@dataclass(frozen=True)
class Coefficients:
    """Coefficients of modes as a function of the scaled strain: a polynomial, and perhaps a network.

    Attributes
    ----------
    trend : Trend
    spread : ndarray, shape (mode,)
        What the network's result is multiplied with.
    net : Perceptron or None
    """

    trend: Trend
    spread: np.ndarray
    net: Perceptron | None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Coefficients for (n, component), shape (n, mode)."""
        value = self.trend(x)
        return value if self.net is None else value + self.spread * self.net(x)

    def with_slope(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients, and their derivatives in the scaled strain, shape (n, component, mode)."""
        value, slope = self.trend(x), self.trend.slope(x)
        if self.net is None:
            return value, slope
        more, steeper = self.net.with_slope(x)
        return value + self.spread * more, slope + self.spread * steeper

    def through(self, matrix: np.ndarray) -> Coefficients:
        """What a matrix, shape (out, mode), makes of the coefficients; costs no more than they do."""
        trend = Trend(self.trend.factors @ matrix.T)
        ones = np.ones(len(matrix))
        if self.net is None:
            return Coefficients(trend, ones, None)
        last = matrix * self.spread
        weights = (*self.net.weights[:-1], last @ self.net.weights[-1])
        biases = (*self.net.biases[:-1], last @ self.net.biases[-1])
        return Coefficients(trend, ones, Perceptron(weights, biases))
