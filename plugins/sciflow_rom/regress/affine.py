"""Affine bases of one field: a mean and modes about it, of the fields or of their shapes."""

from __future__ import annotations

import numpy as np

from sciflow.surrogate import Arrays
from sciflow_rom.regress.regression import fit_radial


class Affine:
    """A mean and modes about it, of one field.

    Attributes
    ----------
    mean : ndarray, shape (dof,)
    modes : ndarray, shape (dof, n)
        Orthonormal up to the rounding of the field's type, which they have.
    normalised : bool
        They are those of fields divided by their norm, whose logarithm is one more coefficient.
    """

    def __init__(self, mean: np.ndarray, modes: np.ndarray, normalised: bool = False) -> None:
        self.mean, self.modes, self.normalised = mean, modes, normalised

    @property
    def count(self) -> int:
        """How many coefficients there are."""
        return self.modes.shape[1] + self.normalised

    def project(self, rows: np.ndarray) -> np.ndarray:
        """Coefficients of fields, shape (batch, count)."""
        if not self.normalised:
            return np.asarray((rows - self.mean) @ self.modes)
        sizes = _sizes(rows)
        return np.column_stack([(rows / sizes - self.mean) @ self.modes, np.log(sizes)])

    def lift(self, coefficients: np.ndarray) -> np.ndarray:
        """Fields of coefficients, shape (batch, dof)."""
        last = self.modes.shape[1]
        fields = coefficients[:, :last].astype(self.modes.dtype) @ self.modes.T + self.mean
        return np.asarray(fields * np.exp(coefficients[:, last:]) if self.normalised else fields)


def _sizes(rows: np.ndarray) -> np.ndarray:
    """Norms of fields, shape (member, 1); those of nearly nothing count as 1e-8 of the largest."""
    sizes = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(np.maximum(sizes, 1e-8 * sizes.max(initial=0.0) or 1.0))


def affine(rows: np.ndarray, most: int, tolerance: float, normalised: bool = False) -> Affine:
    """Mean and modes of some fields.

    Parameters
    ----------
    rows : ndarray, shape (member, dof)
        One field of each member.
    most : int
        Largest number of modes.
    tolerance : float
        What may be left of the variation about the mean, relative in the Frobenius norm.
    normalised : bool
        See `Affine`.

    Notes
    -----
    By the eigenvectors of the members' Gram matrix: singular values below 1e-7 of the largest are noise and
    never taken. Where nothing varies, the one mode is zero. Cost: O(member^2 dof).
    """
    rows = rows if rows.dtype.kind == "f" else rows.astype(np.float64)
    if normalised:
        rows = (rows / _sizes(rows)).astype(rows.dtype)
    mean = rows.mean(axis=0, dtype=np.float64)
    gram = np.zeros((len(rows), len(rows)))
    for begin in range(0, rows.shape[1], 8192):
        part = rows[:, begin : begin + 8192] - mean[begin : begin + 8192]
        gram += part @ part.T
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    real = int((values > 1e-14 * values[0]).sum()) if values[0] > 0 else 0
    tails = np.append(np.cumsum(values[::-1])[::-1], 0.0)
    enough = int(np.argmax(tails <= tolerance**2 * tails[0]))
    count = min(most, real, enough)
    if not count:
        return Affine(mean.astype(rows.dtype), np.zeros((rows.shape[1], 1), dtype=rows.dtype), normalised)
    weights = vectors[:, :count] / np.sqrt(values[:count])
    # Centred weights: rows.T @ w needs no centred copy of the rows.
    modes = rows.T @ (weights - weights.mean(axis=0)).astype(rows.dtype)
    return Affine(mean.astype(rows.dtype), np.ascontiguousarray(modes), normalised)


def better_normalised(rows: np.ndarray, features: np.ndarray, most: int, tolerance: float) -> bool:
    """Whether fields, shape (member, dof), are predicted better with their norm as a coefficient of its own.

    Every fifth member is left out and predicted both ways, by radial functions.
    """
    out = np.arange(len(rows)) % 5 == 4
    if len(rows) < 10:
        return False
    errors = []
    for normalised in (False, True):
        basis = affine(rows[~out], most, tolerance, normalised)
        fitted = fit_radial(features[~out], basis.project(rows[~out]))
        found = basis.lift(fitted.predict(features[out]))
        errors.append(relative_errors({"": found}, {"": rows[out]}).mean())
    return bool(errors[1] < errors[0])


def relative_errors(found: Arrays, y: Arrays) -> np.ndarray:
    """Relative error of each member, the mean square over the outputs, shape (member,)."""
    total = np.zeros(len(next(iter(y.values()))))
    for name, rows in y.items():
        gaps = np.linalg.norm(flattened(found[name]).astype(np.float64) - rows, axis=1)
        sizes = np.linalg.norm(rows.astype(np.float64), axis=1)
        total += np.square(np.divide(gaps, sizes, out=np.minimum(gaps, 1.0), where=sizes > 0))
    return np.asarray(np.sqrt(total / len(y)))


def flattened(values: np.ndarray) -> np.ndarray:
    """One row per member, from the shape (member, ...)."""
    array = np.asarray(values)
    return array.reshape(len(array), -1)
