"""Polynomials in the macroscopic strain, and how a strain is scaled for them and for networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import comb

import numpy as np

from sciflow.errors import Invalid

BEYOND = 3
"""Of a random design hardly any point lies further outside of the range of the others, in mean distances."""


@dataclass(frozen=True)
class Box:
    """Strains that a model is made for.

    Attributes
    ----------
    low, high : ndarray, shape (component,)
        Lowest and highest strain, 1.
    """

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, strains: np.ndarray, declared: np.ndarray) -> Box:
        """The range of samples, and up to `BEYOND` mean distances more as far as the bounds allow it.

        Parameters
        ----------
        strains : ndarray, shape (member, component)
        declared : ndarray, shape (component, 2)
            Bounds of the problem's parameters.

        Raises
        ------
        Invalid
            If a component is the same in all samples.
        """
        low, high = strains.min(axis=0), strains.max(axis=0)
        if not (low < high).all():
            raise Invalid(
                "a component of the macroscopic strain is the same in all samples; vary all of them"
            )
        margin = BEYOND * (high - low) / len(strains)
        lowest, highest = np.minimum(low, declared[:, 0]), np.maximum(high, declared[:, 1])
        return cls(np.maximum(low - margin, lowest), np.minimum(high + margin, highest))

    @cached_property
    def half(self) -> np.ndarray:
        """Half widths."""
        return np.asarray((self.high - self.low) / 2)

    def scale(self, strain: np.ndarray) -> np.ndarray:
        """Strains, shape (..., component), as numbers between -1 and 1."""
        return np.asarray((strain - (self.low + self.high) / 2) / self.half)

    def outside(self, strain: np.ndarray) -> np.ndarray:
        """Which components of strains lie outside, shape of `strain`."""
        slack = 1e-6 * self.half  # strains may have been stored in single precision
        return np.asarray((strain < self.low - slack) | (strain > self.high + slack))


@dataclass(frozen=True)
class Trend:
    """A polynomial in scaled strains.

    Attributes
    ----------
    factors : ndarray, shape (1 + component + component^2 + ..., output)
        Of the products of 0, 1, 2 ... components, all orders of a product alike.
    """

    factors: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray, values: np.ndarray, degree: int) -> Trend:
        """Least squares.

        Parameters
        ----------
        x : ndarray, shape (member, component)
            Scaled strains.
        values : ndarray, shape (member, output)
        degree : int
            0 is the mean.

        Raises
        ------
        Invalid
            If there are fewer members than coefficients.
        """
        needed = comb(x.shape[1] + degree, degree)
        if len(x) < needed:
            raise Invalid(
                f"a polynomial of degree {degree} in {x.shape[1]} strains has {needed} coefficients, there "
                f"are {len(x)} samples; lower degree, or solve more cells"
            )
        # The least of all solutions has equal factors for equal products.
        return cls(np.linalg.lstsq(np.hstack(products(x, degree)), values, rcond=1e-10)[0])

    def degree(self, components: int) -> int:
        """Of the polynomial."""
        rows, degree = len(self.factors) - 1, 0
        while rows > 0:
            degree += 1
            rows -= components**degree
        return degree

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Values at scaled strains (n, component), shape (n, output)."""
        return np.asarray(np.hstack(products(x, self.degree(x.shape[1]))) @ self.factors)

    def slope(self, x: np.ndarray) -> np.ndarray:
        """Derivatives with respect to the scaled strains, shape (n, component, output)."""
        count, outputs = x.shape[1], self.factors.shape[1]
        total = np.zeros((len(x), count * outputs))
        first = 1
        for order, product in enumerate(products(x, self.degree(count) - 1), 1):
            block = self.factors[first : first + count**order].reshape(-1, count * outputs)
            total += order * (product @ block)
            first += count**order
        return total.reshape(len(x), count, outputs)


def products(x: np.ndarray, degree: int) -> list[np.ndarray]:
    """Products of 0 to `degree` components in every order, shapes (n, component^k)."""
    found = [np.ones((len(x), 1))]
    for _ in range(degree):
        last = found[-1]
        found.append((last[:, :, None] * x[:, None, :]).reshape(len(x), last.shape[1] * x.shape[1]))
    return found if degree >= 0 else []
