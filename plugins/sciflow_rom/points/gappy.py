"""Gappy proper orthogonal decomposition: a field from its values at a few points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sciflow.errors import Invalid
from sciflow_rom.points.interpolation import checked_modes, pivots


@dataclass(frozen=True)
class Gappy:
    """Least squares for the coefficients of modes, from values at a few points.

    Attributes
    ----------
    points : ndarray of int64, shape (k,)
        Integration points, at least as many values as modes.
    modes : ndarray of float64, shape (k, component, n)
        The modes at the points.
    inverse : ndarray of float64, shape (n, k * component)
        Pseudo-inverse of the modes there.
    condition : float
        Ratio of the largest to the smallest singular value of the modes there.
    growth : float
        Norm of the pseudo-inverse: how much an error of the values may grow in the coefficients.
    """

    points: np.ndarray
    modes: np.ndarray
    inverse: np.ndarray
    condition: float
    growth: float

    def coefficients(self, values: np.ndarray) -> np.ndarray:
        """Coefficients that fit values best.

        Parameters
        ----------
        values : ndarray, shape (..., k, component), or (..., k) for one component
            At `points`; leading axes such as time.

        Returns
        -------
        ndarray, shape (..., n)
        """
        return np.asarray(self._flat(values) @ self.inverse.T)

    def indicator(self, values: np.ndarray) -> np.ndarray:
        """What the modes cannot follow of the values, ``|B z - q| / |q|``: a sign of a wrong model.

        Parameters
        ----------
        values : ndarray, shape (..., k, component), or (..., k) for one component
            At `points`.

        Returns
        -------
        ndarray, shape (...)
            Between 0 and 1; 0 where all values are zero.

        Notes
        -----
        Zero for whatever the modes can give, and for all values where there are no more of them than
        modes: add points to see more.
        """
        flat = self._flat(values)
        matrix = self.modes.reshape(-1, self.modes.shape[2])
        rest = np.linalg.norm(flat - (flat @ self.inverse.T) @ matrix.T, axis=-1)
        size = np.linalg.norm(flat, axis=-1)
        return np.asarray(np.divide(rest, size, out=np.zeros_like(size), where=size > 0))

    def reconstruct(self, modes: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The field, or any part of it, from its values at the points.

        Parameters
        ----------
        modes : ndarray, shape (row, n)
            The modes wherever the field is wanted.
        values : ndarray, shape (..., k, component), or (..., k) for one component
            At `points`.

        Returns
        -------
        ndarray, shape (..., row)
        """
        return np.asarray(self.coefficients(values) @ modes.T)

    def _flat(self, values: np.ndarray) -> np.ndarray:
        array = np.asarray(values, dtype=np.float64)
        expected = self.modes.shape[:2]
        if expected[1] == 1 and array.shape[-1:] == expected[:1]:
            return array
        if array.shape[-2:] != expected:
            raise Invalid(
                f"values at the points have the shape (..., {expected[0]}, {expected[1]}), got {array.shape}"
            )
        return array.reshape(*array.shape[:-2], -1)


def gappy(modes: np.ndarray, points: np.ndarray) -> Gappy:
    """Least squares at given points.

    Parameters
    ----------
    modes : ndarray, shape (point, component, n) or (point, n)
        Of a quantity at all integration points.
    points : ndarray of int, shape (k,)
        Where it will be known.

    Raises
    ------
    Invalid
        If the values there do not determine the coefficients: `completed` adds the points that are missing.

    Notes
    -----
    ``z = argmin |B z - q|`` with the modes ``B`` at the points. For orthonormal modes the error of the
    reconstruction is at most ``sqrt(1 + growth^2)`` times that of the best approximation.

    References
    ----------
    R. Everson, L. Sirovich, "Karhunen-Loeve procedure for gappy data", J. Opt. Soc. Am. A 12, 1995, (14).
    """
    whole = _three(modes)
    at = whole[np.asarray(points, dtype=np.int64)]
    matrix = at.reshape(-1, whole.shape[2])
    sizes = np.linalg.svd(matrix, compute_uv=False) if matrix.size else np.zeros(1)
    if len(matrix) < whole.shape[2] or sizes[-1] <= 1e-10 * sizes[0]:
        raise Invalid(
            f"{len(at)} points do not determine {whole.shape[2]} modes: at them the modes span "
            f"{int((sizes > 1e-10 * max(sizes[0], 1e-300)).sum())}. Add points with `completed`"
        )
    return Gappy(
        np.asarray(points, dtype=np.int64),
        at,
        np.linalg.pinv(matrix),
        float(sizes[0] / sizes[-1]),
        float(1 / sizes[-1]),
    )


def completed(modes: np.ndarray, points: np.ndarray, spare: int = 0) -> np.ndarray:
    """Add to some points what `gappy` needs to be well posed.

    Parameters
    ----------
    modes : ndarray, shape (point, component, n) or (point, n)
        Of a quantity at all integration points, linearly independent.
    points : ndarray of int, shape (k,)
        Points that are known anyway: those of a cubature.
    spare : int
        How many points more than that; with too few of them `Gappy.indicator` sees nothing.

    Returns
    -------
    ndarray of int64, shape (k or more,)
        Those of Q-DEIM for these modes, n at most, behind the given ones; none twice.

    Raises
    ------
    Invalid
        If the modes are linearly dependent.
    """
    whole = _three(modes)
    rows = checked_modes(whole.reshape(-1, whole.shape[2]))
    given = np.asarray(points, dtype=np.int64)
    new = pivots(rows) // whole.shape[1]
    merged = _without_repeats(np.concatenate([given, new]))
    while spare > 0 and len(merged) < len(whole):
        # The value that is least certain from those at the points so far: the largest leverage.
        inverse = np.linalg.pinv(whole[merged].reshape(-1, whole.shape[2]))
        gains = np.linalg.norm(rows @ inverse, axis=1).reshape(len(whole), -1).max(axis=1)
        gains[merged] = -1.0
        merged, spare = np.append(merged, np.argmax(gains)), spare - 1
    return merged


def _three(modes: np.ndarray) -> np.ndarray:
    array = np.asarray(modes, dtype=np.float64)
    return array[:, None, :] if array.ndim == 2 else array


def _without_repeats(points: np.ndarray) -> np.ndarray:
    return np.asarray(points[np.sort(np.unique(points, return_index=True)[1])])
