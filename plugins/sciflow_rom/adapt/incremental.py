"""Incremental decomposition: a basis that takes in further snapshots and forgets none of the earlier ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sciflow.errors import Invalid

Inner = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Inner products of the columns of two matrices: (row, n), (row, k) to (n, k), over all ranks."""

SPAN = 1e-12
"""A snapshot of which less than this part is left by a basis lies in its span."""
DRIFT = 1e-14
"""Orthonormality beyond which a basis is made orthonormal again, for each of its modes."""


def euclidean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products of columns, shape (row, column), on one rank and without weights."""
    return np.asarray(a.T @ b)


@dataclass(frozen=True)
class Weighted:
    """An orthonormal basis with the singular values that say how much each mode stands for.

    Attributes
    ----------
    modes : ndarray of float64, shape (row, n)
        Orthonormal in an inner product; this rank's rows.
    sigma : ndarray of float64, shape (n,)
        Singular values of the snapshots so far, decreasing, in the unit of the snapshots.
    lost : float
        Sum of the squares of what truncation left out so far: of all snapshots ``S`` that were taken in,
        ``|S - Psi Psi^T M S|_F^2 <= lost``.
    """

    modes: np.ndarray
    sigma: np.ndarray
    lost: float = 0.0

    @classmethod
    def empty(cls, rows: int) -> Weighted:
        """A basis without modes."""
        return cls(np.zeros((rows, 0)), np.zeros(0))


@dataclass(frozen=True)
class Update:
    """A basis with more snapshots, and how coefficients of the old one are carried over.

    Attributes
    ----------
    basis : Weighted
        The new one.
    carry : ndarray, shape (n old, n new)
        What lies in the old basis with coefficients ``a`` has the coefficients ``a @ carry`` in the new
        one, exactly if nothing was truncated, and else those of its projection.
    coefficients : ndarray, shape (k, n new)
        Of the snapshots that were added.
    """

    basis: Weighted
    carry: np.ndarray
    coefficients: np.ndarray


def add(
    basis: Weighted,
    snapshots: np.ndarray,
    *,
    modes: int | None = None,
    tolerance: float | None = None,
    inner: Inner = euclidean,
) -> Update:
    """Take snapshots into a basis, with their weights.

    Parameters
    ----------
    basis : Weighted
        Of the snapshots so far; not changed.
    snapshots : ndarray, shape (row, k)
        Further ones, each as it counts (scaled to unit norm where those before were).
    modes : int or None
        At most so many.
    tolerance : float or None
        The fewest modes for which ``lost`` does not exceed the square of this part of all snapshots.
    inner : callable
        Inner products; collective where rows are spread over ranks.

    Returns
    -------
    Update
        The same on any order of the snapshots, up to signs and what truncation leaves out.

    Raises
    ------
    Invalid
        If shapes do not fit, a value is not finite, or no mode is left.

    Notes
    -----
    With ``C = Psi^T M S`` and ``S - Psi C = Q R`` (orthonormalised twice, "twice is enough") the old and
    new snapshots are ``[Psi Q] K W^T`` with

        K = [diag(sigma)  C]
            [     0       R]

    and an orthonormal ``W`` that need not be known; ``K = U sigma' V^T`` gives ``Psi' = [Psi Q] U``. What
    is truncated in different updates is orthogonal in the space of the snapshots, so that its squares add
    up to `lost`. Costs ``O(row (n + k)^2)`` operations, one pass over the modes, and for each snapshot
    two sums over the ranks. A basis whose orthonormality has drifted with the products of many updates is
    corrected by the Cholesky factor of its Gram matrix.

    References
    ----------
    M. Brand, "Fast low-rank modifications of the thin singular value decomposition", Linear Algebra and
    its Applications 415 (2006), equations 2 to 4; L. Giraud, J. Langou, M. Rozloznik, "The loss of
    orthogonality in the Gram-Schmidt orthogonalization process", Computers and Mathematics with
    Applications 50 (2005), for the second orthogonalisation.
    """
    columns = np.asarray(snapshots, dtype=np.float64)
    if columns.ndim != 2 or len(columns) != len(basis.modes):
        raise Invalid(f"snapshots have the shape {columns.shape}, the modes {basis.modes.shape}")
    if not np.isfinite(np.diag(inner(columns, columns))).all():
        raise Invalid("a snapshot is not finite; leave it out")
    frame, coefficients = orthonormalised(basis.modes, columns, inner)
    old, total = basis.modes.shape[1], frame.shape[1]
    kernel = np.zeros((total, old + columns.shape[1]))
    kernel[:old, :old] = np.diag(basis.sigma)
    kernel[:, old:] = coefficients
    left, sigma, _ = np.linalg.svd(kernel, full_matrices=False)
    count = _count(sigma, basis.lost, modes, tolerance)
    left = left[:, :count]
    kept = Weighted(
        _corrected(frame @ left, inner), sigma[:count], basis.lost + float(np.square(sigma[count:]).sum())
    )
    return Update(kept, left[:old], coefficients.T @ left)


def orthonormalised(
    modes: np.ndarray, columns: np.ndarray, inner: Inner = euclidean
) -> tuple[np.ndarray, np.ndarray]:
    """Extend an orthonormal basis so that it spans some vectors too.

    Parameters
    ----------
    modes : ndarray, shape (row, n)
        Orthonormal.
    columns : ndarray, shape (row, k)
        Any vectors.
    inner : callable
        Inner products.

    Returns
    -------
    frame : ndarray, shape (row, n + j)
        `modes` and j <= k further ones; vectors in the span so far add none.
    coefficients : ndarray, shape (n + j, k)
        Of the vectors.
    """
    frame = np.asarray(modes, dtype=np.float64)
    found: list[np.ndarray] = []
    for column in columns.T:
        rest = column[:, None].copy()
        size = float(inner(rest, rest)[0, 0]) ** 0.5
        total = np.zeros(frame.shape[1])
        for _ in range(2):
            part = inner(frame, rest)[:, 0]
            rest -= frame @ part[:, None]
            total += part
        left = max(float(inner(rest, rest)[0, 0]), 0.0) ** 0.5
        if left > SPAN * size:
            frame = np.hstack([frame, rest / left])
            total = np.append(total, left)
        found.append(total)
    coefficients = np.zeros((frame.shape[1], len(found)))
    for position, one in enumerate(found):
        coefficients[: len(one), position] = one
    return frame, coefficients


def _count(sigma: np.ndarray, lost: float, modes: int | None, tolerance: float | None) -> int:
    """How many modes are kept."""
    if not len(sigma) or not sigma[0] > 0:
        raise Invalid("the snapshots are zero: they have no modes")
    rounding = float(np.finfo(np.float64).eps) * len(sigma) * float(sigma[0])
    count = int((sigma > rounding).sum())
    if tolerance is not None:
        squares = np.square(sigma)
        tails = np.append(np.cumsum(squares[::-1])[::-1], 0.0) + lost
        enough = tails <= tolerance**2 * (float(squares.sum()) + lost)
        # What was lost before may be more than is allowed now: then nothing further is left out.
        count = min(count, int(np.argmax(enough)) if enough.any() else count)
    if modes is not None:
        count = min(count, modes)
    if count < 1:
        raise Invalid(f"a basis needs at least one mode, at most {modes} were asked for")
    return count


def _corrected(modes: np.ndarray, inner: Inner) -> np.ndarray:
    """Modes that are orthonormal to rounding."""
    gram = inner(modes, modes)
    if np.abs(gram - np.eye(len(gram))).max() <= DRIFT * len(gram):
        return modes
    factor = np.linalg.cholesky(gram)
    return np.asarray(np.linalg.solve(factor, modes.T).T)
