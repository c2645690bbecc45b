"""Predictions corrected to satisfy linear constraints: conditioning of a Gaussian, in double precision.

A prediction ``mu`` with covariance ``S`` and constraints ``G u = b + e``, ``e ~ N(0, s^2)``, give ::

    mu' = mu - S G^T (s^2 I + G S G^T)^-1 (G mu - b)
    S'  = S - S G^T (s^2 I + G S G^T)^-1 G S

With ``s = 0`` the constraint holds exactly and ``mu'`` is the point of the constrained set that is
nearest to ``mu`` in the norm of ``S^-1``: the distance to every other point of the set, the truth among
them, does not grow (Pythagoras).

References
----------
D. Hansen, D. C. Maddix, S. Alizadeh, G. Gupta and M. W. Mahoney, "Learning physical models that can
respect conservation laws", ICML 2023, arXiv:2302.11002, equations 9 and 10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from sciflow.errors import Invalid
from sciflow.surrogate import Arrays, Model, Size
from sciflow_operators.uncertainty.probconserv import grid

if TYPE_CHECKING:
    from sciflow.samples import Signature
    from sciflow_operators.uncertainty.probconserv import Conserved

LEAST = 1e-6
"""Smallest spread that counts, as a part of the root mean square of the sample's spread."""


def correct(
    mean: np.ndarray, variance: np.ndarray, rows: Any, values: np.ndarray, noise: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Condition independent Gaussians on linear constraints.

    Parameters
    ----------
    mean : ndarray, shape (batch, point)
        Any unit.
    variance : ndarray, shape (point,) or (batch, point)
        In the square of that unit, positive.
    rows : sparse matrix or ndarray, shape (constraint, point)
        ``G``; linearly independent rows if `noise` is 0.
    values : ndarray, shape (batch, constraint)
        ``b``.
    noise : float
        ``s``, in the unit of `values`.

    Returns
    -------
    mean, variance : ndarray of float64, shape (batch, point)
        Of the Gaussians that are left; the variance is the diagonal of their covariance.

    Raises
    ------
    Invalid
        If the constraints contradict each other or say the same twice.

    Notes
    -----
    Cost for each sample: O(entries of G) for one constraint, else ``O(points m^2 + m^3)`` for m.
    """
    mean = np.asarray(mean, dtype=np.float64)
    variance = np.broadcast_to(np.asarray(variance, dtype=np.float64), mean.shape)
    matrix = sparse.csr_array(np.atleast_2d(rows) if isinstance(rows, np.ndarray) else rows, dtype=np.float64)
    new, left = np.empty_like(mean), np.empty_like(mean)
    for i, (mu, s) in enumerate(zip(mean, variance, strict=True)):
        scaled = matrix * s[None, :]  # G S
        inner = np.asarray((scaled @ matrix.T).todense()) + noise**2 * np.eye(matrix.shape[0])
        if _dependent(inner):
            raise Invalid("the constraints are linearly dependent; leave some out, or give them noise")
        both = np.linalg.solve(inner, np.column_stack([matrix @ mu - values[i], np.eye(len(inner))]))
        new[i] = mu - scaled.T @ both[:, 0]
        half = sparse.csr_array(both[:, 1:]) @ scaled
        left[i] = s - np.asarray((half * scaled).sum(axis=0)).ravel()
    return new, np.maximum(left, 0.0)


def _dependent(gram: np.ndarray) -> bool:
    """Whether a matrix of scalar products is singular up to round-off, whatever the size of its rows."""
    size = np.sqrt(gram.diagonal())
    if not size.all():
        return True
    smallest = np.linalg.eigvalsh(gram / np.outer(size, size))[0]
    return bool(smallest < 16 * len(gram) * np.finfo(np.float64).eps)


def weights(signature: Signature, axes: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Quadrature weights of a grid: the trapezoidal rule, which on periodic axes is a sum.

    Parameters
    ----------
    signature : Signature
        Coordinates, and which axes are periodic (evenly spaced, without the end point).
    axes : tuple of str
        Spatial axes.
    shape : tuple of int
        Points along each; another number than in `signature` is a finer or coarser even grid of the same
        extent.

    Returns
    -------
    ndarray of float64, shape `shape`
        In the product of the axes' units.

    Raises
    ------
    Invalid
        If an axis has a single point, or a periodic one is not evenly spaced.
    """
    total = np.ones(())
    for axis, n in zip(axes, shape, strict=True):
        x = np.asarray(signature.coordinates[axis], dtype=np.float64)
        if len(x) < 2 or n < 2:
            raise Invalid(f"the axis {axis!r} has a single point: there is nothing to integrate")
        if axis in signature.periodic:
            steps = np.diff(x)
            if np.ptp(steps) > 1e-5 * abs(steps.mean()):
                raise Invalid(f"the periodic axis {axis!r} is not evenly spaced: its length is unknown")
            line = np.full(n, steps.mean() * len(x) / n)
        else:
            steps = np.diff(x if n == len(x) else np.linspace(x[0], x[-1], n))
            line = (np.append(steps, 0.0) + np.append(0.0, steps)) / 2
        total = np.multiply.outer(total, line)
    return total


def differences(shape: tuple[int, ...], periodic: tuple[bool, ...]) -> Any:
    """Second differences along every axis, as one sparse matrix of shape (difference, point)."""
    blocks = []
    for axis, (n, around) in enumerate(zip(shape, periodic, strict=True)):
        line = sparse.lil_array((n if around else max(n - 2, 0), n))
        for row in range(line.shape[0]):
            for place, value in ((row, 1.0), (row + 1, -2.0), (row + 2, 1.0)):
                line[row, place % n] += value
        before, after = (
            sparse.eye(math.prod(shape[:axis])),
            sparse.eye(math.prod(shape[axis + 1 :])),
        )
        blocks.append(sparse.kron(sparse.kron(before, line), after))
    return sparse.csr_array(sparse.vstack(blocks))


class Integral:
    """The correction of fields on one grid to given integrals.

    Parameters
    ----------
    weights : ndarray, shape (*space)
        Of the quadrature.
    periodic : tuple of bool
        One for each axis.
    noise, smoothing : float
        See `Conserved`.

    Notes
    -----
    Errors at two points are taken as independent, and larger where a point stands for less space:
    ``S_ii = s_i^2 w_mean / w_i`` with the spread ``s``. The correction ::

        mu_i' = mu_i - s_i^2 (w.mu - b) / (noise^2 / w_mean + w.s^2)

    is then a function of space and not of the grid: for equal spreads it is one constant, at the ends of
    an axis too. Each sample costs O(points).

    With smoothing ``l`` the values minimise
    ``sum_i (u_i - mu_i)^2 / S_ii + l |D u|^2 / s_rms^2``, with D the second differences, under the same
    constraint; a sparse factorisation for each distinct spread.
    """

    def __init__(
        self, weights: np.ndarray, periodic: tuple[bool, ...], noise: float = 0.0, smoothing: float = 0.0
    ) -> None:
        self.weights = weights.ravel()
        self.noise = noise
        self.penalty: Any = None
        if smoothing:
            matrix = differences(weights.shape, periodic)
            self.penalty = smoothing * (matrix.T @ matrix)

    def __call__(
        self, mean: np.ndarray, spread: np.ndarray | None, values: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Correct.

        Parameters
        ----------
        mean : ndarray, shape (batch, point)
        spread : ndarray, shape (batch, point), or None
            Standard deviations; None counts as 1 everywhere.
        values : ndarray, shape (batch,)
            The integrals.

        Returns
        -------
        mean, spread : ndarray of float64, shape (batch, point)
        """
        mean = np.asarray(mean, dtype=np.float64)
        w = self.weights
        if spread is None:
            spread = np.ones((1, mean.shape[1]))
        spread = np.asarray(spread, dtype=np.float64)
        size = np.sqrt((spread**2).mean(axis=1, keepdims=True))
        # A model that is sure of everything (all its parts agree) is corrected as if it were sure of nothing.
        spread = np.where(size > 0, np.maximum(spread, LEAST * size), 1.0)
        variance = spread**2 * w.mean() / w
        if self.penalty is None:
            gain = spread**2 * w.mean()
            total = self.noise**2 + gain @ w
            new = mean - gain * ((mean @ w - values) / total)[:, None]
            left = spread * np.sqrt(np.maximum(1 - gain * w / total[:, None], 0.0))
            return new, np.broadcast_to(left, mean.shape)
        return self._smooth(mean, spread, variance, values)

    def _smooth(
        self, mean: np.ndarray, spread: np.ndarray, variance: np.ndarray, values: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same with the penalty; the spread is that before it, which bounds it from above."""
        w, new = self.weights, np.empty_like(mean)
        solve, last = None, None
        for i, mu in enumerate(mean):
            row = i % len(variance)
            if solve is None or last is None or not np.array_equal(variance[row], last):
                last = variance[row]
                size = float((spread[row] ** 2).mean())
                solve = splu(sparse.csc_array(sparse.diags(1 / last) + self.penalty / size)).solve
                gain = solve(w)
            free = solve(mu / last)
            new[i] = free - gain * (free @ w - values[i]) / (self.noise**2 + gain @ w)
        return new, np.broadcast_to(spread, mean.shape)


class ConservedModel(Model):
    """A fitted model with the correction behind it.

    Parameters
    ----------
    config : Conserved
        What is conserved.
    inner : Model
        What predicts.
    """

    def __init__(self, config: Conserved, inner: Model) -> None:
        self.config, self.inner = config, inner
        self.signature = inner.signature

    def predict(self, x: Arrays) -> dict[str, np.ndarray]:
        """See `Model.predict`; the integral is exact to the round-off of the values' type."""
        predicted = self.inner.predict(x)
        spread = self.inner.spread(x)
        name = self.config.field
        mean, _ = self._corrected(x, predicted[name], None if spread is None else spread[name])
        return {**predicted, name: mean}

    def spread(self, x: Arrays) -> dict[str, np.ndarray] | None:
        """See `Model.spread`; what is left of it once the integral is known."""
        spread = self.inner.spread(x)
        if spread is None:
            return None
        name = self.config.field
        _, left = self._corrected(x, self.inner.predict(x)[name], spread[name])
        return {**spread, name: left}

    def state(self) -> Arrays:
        """See `Model.state`; the correction has nothing to keep."""
        return self.inner.state()

    def notes(self) -> Mapping[str, Any]:
        """See `Model.notes`."""
        return self.inner.notes()

    def size(self, x: Arrays) -> Size:
        """See `Model.size`; the correction is not counted."""
        return self.inner.size(x)

    def integrals(self, name: str, values: np.ndarray, field_axes: tuple[str, ...]) -> np.ndarray:
        """Integrals of a field, shape (batch,) or (batch, level), in units of field and axes."""
        space = grid(field_axes)
        points = values.shape[-len(space) :]
        w = weights(self.signature, space, points)
        total = np.asarray(values, dtype=np.float64).reshape(*values.shape[: -len(space)], -1) @ w.ravel()
        return np.asarray(total)

    def _corrected(
        self, x: Mapping[str, np.ndarray], values: np.ndarray, spread: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The corrected field and its spread, in the shape and type of the field."""
        config, signature = self.config, self.signature
        space = grid(signature.outputs[config.field].axes)
        points = values.shape[-len(space) :]
        apply = Integral(
            weights(signature, space, points),
            tuple(a in signature.periodic for a in space),
            config.noise,
            config.smoothing,
        )
        levels = values.size // max(1, len(values) * math.prod(points))
        rows = (len(values) * levels, math.prod(points))
        totals = np.repeat(self._totals(x, len(values)), levels)
        flat = None if spread is None else spread.reshape(rows)
        mean, left = apply(values.reshape(rows), flat, totals)
        return mean.astype(values.dtype).reshape(values.shape), left.astype(values.dtype).reshape(
            values.shape
        )

    def _totals(self, x: Mapping[str, np.ndarray], count: int) -> np.ndarray:
        """The integral that each sample must have, shape (batch,)."""
        config = self.config
        if config.value is not None:
            return np.full(count, config.value)
        name = config.total or config.field
        axes = self.signature.inputs[name].axes
        values = np.asarray(x[name], dtype=np.float64)
        if not axes:
            return values.reshape(count)
        found = self.integrals(name, values, axes)
        return found if found.ndim == 1 else found[:, -1]
