"""Empirical cubature: few points with non-negative weights that integrate given functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sciflow.errors import Diverged, Invalid
from sciflow_rom.points.active_set import ActiveSet

_NOISE = 1e-13


@dataclass(frozen=True)
class Cubature:
    """Points with weights, in the place of all integration points of one rank.

    Attributes
    ----------
    points : ndarray of int64, shape (k,)
        Positions among the integration points, increasing.
    weights : ndarray of float64, shape (k,)
        Positive, in the unit of the measure; their sum is that of all weights.
    error : float
        Relative error of the integrals that it was made for; see `empirical_cubature`.
    """

    points: np.ndarray
    weights: np.ndarray
    error: float


def everything(weights: np.ndarray) -> Cubature:
    """All points that have a weight, as they are.

    Parameters
    ----------
    weights : ndarray, shape (point,)
        Of the full quadrature.

    Raises
    ------
    Invalid
        If a weight is negative or not finite.
    """
    checked = _checked_weights(weights)
    points = np.flatnonzero(checked > 0)
    return Cubature(points.astype(np.int64), checked[points], 0.0)


def empirical_cubature(
    integrands: np.ndarray,
    weights: np.ndarray,
    tolerance: float = 1e-3,
    start: Cubature | None = None,
) -> Cubature:
    r"""Choose points and non-negative weights that integrate some functions, and constants exactly.

    Parameters
    ----------
    integrands : ndarray, shape (point, m)
        Values of each function at the points of the full quadrature, in any unit, also one for each.
    weights : ndarray, shape (point,)
        Of the full quadrature, not negative, with the measure.
    tolerance : float
        Largest relative error, in (0, 1).
    start : Cubature or None
        An earlier cubature of the same points: returned as it is where it is good enough; else its
        points are those to begin with, and each stays unless its weight becomes zero.

    Returns
    -------
    Cubature
        Deterministic; its points do not depend on the units of the functions nor, but for ties, on the
        order of points and functions.

    Raises
    ------
    Invalid
        If shapes do not fit, a value is not finite, a weight is negative or all of them are zero.
    Diverged
        If rounding keeps the error above the tolerance.

    Notes
    -----
    With :math:`V = \sum_q w_q`, functions scaled to :math:`V \sum_q w_q g_j(q)^2 = 1` (so that no
    integral :math:`b_j` exceeds 1) and shares :math:`y = x / V`, it seeks a sparse :math:`y \ge 0` with

    .. math:: \sum_q y_q = 1, \qquad
              \Big| \sum_q y_q (V g(q) - b) \Big| \le \varepsilon \sqrt{1 + |b|^2} ,

    which is the error of the integrals, the constant 1 among them, relative to their size. The
    constraint costs nothing: non-negative least squares for the columns :math:`(V g(q) - b, \lambda)` and
    the right-hand side :math:`(0, \lambda)` has, up to a factor, the same solution as the problem with the
    constraint, for any :math:`\lambda`. It is solved by the active set method of Lawson and Hanson,
    stopped early; then points are taken out again while the tolerance allows.

    The point that enters is the one whose column, divided by its length, has the largest product with
    the residual. Products with all points are taken again only when the best of the `pool` points that
    had the largest ones has lost half of what the best had then, about every fifth time.

    Cost: O(point m) for each of these passes and O(m k) for a point that enters the k chosen ones.
    Nothing of the size of `integrands` is copied.

    References
    ----------
    C. L. Lawson, R. J. Hanson, *Solving Least Squares Problems*, 1974, algorithm NNLS (23.10).
    C. Farhat, T. Chapman, P. Avery, "Structure-preserving, stability, and accuracy properties of the
    energy-conserving sampling and weighting method", IJNME 102, 2015: early stop.
    J. A. Hernandez, M. A. Caicedo, A. Ferrer, "Dimensional hyper-reduction of nonlinear finite element
    models via empirical cubature", CMAME 313, 2017: the cubature problem with the volume.
    """
    moments = Moments.of(integrands, weights)
    if not 0 < tolerance < 1:
        raise Invalid(f"the tolerance of a cubature is in (0, 1), got {tolerance}")
    if start is not None:
        _check_start(start, len(moments.weights))
        error = moments.error(start.points, start.weights)
        if error <= tolerance and (start.weights > 0).all():
            return Cubature(start.points, start.weights, error)
    active = _begin(moments, start)
    # The squared residual of the problem without the constraint for which the error is the tolerance.
    bound, height = (moments.size * tolerance) ** 2, moments.height**2
    enough = height * bound / (height + bound)
    _descend(active, moments, enough)
    active.thin(enough, () if start is None else start.points)
    order = np.argsort(active.chosen)
    points = np.asarray(active.chosen, dtype=np.int64)[order]
    found = active.values[order] * (moments.volume / active.values.sum())
    error = moments.error(points, found)
    if error > tolerance * (1 + 1e-6):
        raise Diverged(
            f"the cubature reached {error:.1e} with {len(points)} points, not {tolerance:.1e}: rounding "
            "does not allow for less. Ask for a larger tolerance"
        )
    return Cubature(points, found, error)


class Moments:
    """The integrals that a cubature has to meet, as columns of the problem that `empirical_cubature` states.

    Parameters
    ----------
    integrands : ndarray, shape (point, m)
        As given.
    weights : ndarray, shape (point,)
        Of the full quadrature.
    scales : ndarray, shape (m,)
        Each function is divided by its scale; 0 for functions that vanish, which are left out.

    Attributes
    ----------
    volume : float
        Sum of the weights.
    targets : ndarray, shape (m,)
        Integrals of the scaled functions.
    size : float
        What errors are relative to.
    height : float
        Last entry of each column: the typical length of the rest.
    lengths : ndarray, shape (point,)
        Of the columns; infinite for points without weight, which are never chosen.
    """

    def __init__(self, integrands: np.ndarray, weights: np.ndarray, scales: np.ndarray) -> None:
        self.integrands, self.weights = integrands, weights
        self.volume = float(weights.sum())
        self._factors = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales > 0)
        self.targets = (weights @ integrands) * self._factors
        self.size = float(np.sqrt(1 + self.targets @ self.targets))
        squares = np.empty(len(weights))
        for rows in _slices(len(weights)):
            part = self._scaled(rows)
            squares[rows] = np.einsum("qj,qj->q", part, part)
        self.height = float(np.sqrt(weights @ squares / self.volume)) or 1.0
        self.lengths = np.where(weights > 0, np.sqrt(squares + self.height**2), np.inf)

    @classmethod
    def of(cls, integrands: np.ndarray, weights: np.ndarray) -> Moments:
        """Check and scale; see `empirical_cubature`."""
        measure = _checked_weights(weights)
        values = np.asarray(integrands, dtype=np.float64)
        if values.ndim != 2 or len(values) != len(measure):
            raise Invalid(
                f"integrands have the shape (point, m), got {values.shape} with {len(measure)} weights"
            )
        squares = np.zeros(values.shape[1])
        for rows in _slices(len(values)):
            squares += measure[rows] @ (values[rows] * values[rows])
        if not np.isfinite(squares).all():
            bad = np.flatnonzero(~np.isfinite(squares))
            raise Invalid(f"{len(bad)} of {len(squares)} integrands are not finite, the first is {bad[0]}")
        return cls(values, measure, np.sqrt(measure.sum() * squares))

    def _scaled(self, rows: slice | np.ndarray) -> np.ndarray:
        part = self.integrands[rows] * (self.volume * self._factors)
        part -= self.targets
        return np.asarray(part)

    def columns(self, points: np.ndarray) -> np.ndarray:
        """Columns of some points, shape (len(points), m + 1)."""
        return np.hstack([self._scaled(points), np.full((len(points), 1), self.height)])

    def products(self, residual: np.ndarray) -> np.ndarray:
        """Product of every point's column with a residual, over the column's length, shape (point,)."""
        head = residual[:-1]
        ahead = self.integrands @ (head * self._factors * self.volume)
        return np.asarray((ahead - self.targets @ head + self.height * residual[-1]) / self.lengths)

    def error(self, points: np.ndarray, weights: np.ndarray) -> float:
        """Relative error of all integrals and the volume for some points and weights, shape (n,)."""
        gaps = (weights @ self.integrands[points]) * self._factors - self.targets
        return float(np.hypot(np.linalg.norm(gaps), weights.sum() / self.volume - 1) / self.size)


def _slices(count: int, size: int = 1024) -> list[slice]:
    return [slice(i, i + size) for i in range(0, count, size)]


def _checked_weights(weights: np.ndarray) -> np.ndarray:
    measure = np.asarray(weights, dtype=np.float64)
    if measure.ndim != 1 or not np.isfinite(measure).all() or (measure < 0).any() or not measure.any():
        raise Invalid(
            "the weights of a quadrature are finite, not negative and not all zero; "
            f"got the shape {measure.shape} with the least {measure.min(initial=np.inf)}"
        )
    return measure


def _check_start(start: Cubature, count: int) -> None:
    outside = (start.points < 0) | (start.points >= count)
    if outside.any():
        raise Invalid(f"the cubature to start from has the point {start.points[outside][0]} of {count}")
    if start.points.shape != start.weights.shape or not (start.weights >= 0).all():
        raise Invalid("the cubature to start from needs one weight for each point, none of them negative")


def _begin(moments: Moments, start: Cubature | None) -> ActiveSet:
    """The points to start from with their weights, or the one whose values are nearest to the means."""
    target = np.zeros(len(moments.targets) + 1)
    target[-1] = moments.height
    active = ActiveSet(target)
    if start is None or not len(start.points):
        first = np.array([np.argmin(moments.lengths)])
        active.append(int(first[0]), moments.columns(first)[0])
    else:
        total = start.weights.sum() or 1.0
        columns = moments.columns(start.points)
        for point, column, weight in zip(start.points.tolist(), columns, start.weights, strict=True):
            if np.isfinite(moments.lengths[point]):
                active.append(point, column, weight / total)
    active.settle()
    return active


def _descend(active: ActiveSet, moments: Moments, enough: float, pool: int = 1024) -> None:
    """Let points enter until the squared residual is at most `enough`, or none lowers it any more."""
    keep = min(pool, len(moments.lengths))
    limit = 3 * len(active.target) + 100
    for _ in range(limit):
        residual = active.residual()
        if residual @ residual <= enough:
            return
        products = moments.products(residual)
        products[active.chosen] = -np.inf
        near = np.sort(np.argpartition(-products, keep - 1)[:keep])
        columns, lengths = moments.columns(near), moments.lengths[near]
        if not _enter(active, near, columns, lengths, enough):
            return


def _enter(
    active: ActiveSet, points: np.ndarray, columns: np.ndarray, lengths: np.ndarray, enough: float
) -> bool:
    """Let points of a pool enter while they are worth half as much as the first; False if none could."""
    first = 0.0
    barred = np.zeros(len(points), dtype=bool)
    while True:
        residual = active.residual()
        left = float(residual @ residual)
        if left <= enough:
            return True
        products = (columns @ residual) / lengths
        products[barred | np.isin(points, active.chosen)] = -np.inf
        best = int(np.argmax(products))
        gain = float(products[best]) / float(np.sqrt(left))
        if gain <= _NOISE or gain < 0.5 * first:
            return first > 0
        if active.append(int(points[best]), columns[best]):
            first = first or gain
            active.settle()
        else:
            barred[best] = True
