"""Local bases: proper orthogonal decomposition of some snapshots, and the errors of projecting on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sciflow.errors import Invalid
from sciflow_rom.coordinates import Coordinates


@dataclass(frozen=True)
class LocalBasis:
    """Modes ``Psi = S[:, columns] @ weights`` of some snapshots, orthonormal in the product of ``S``.

    Attributes
    ----------
    columns : ndarray of int64, shape (k,)
        The columns of the `Coordinates` that the modes are made of.
    weights : ndarray of float64, shape (k, n)
        What the modes are made with; in one over the unit of the snapshots.
    coordinates : ndarray of float64, shape (rank, n)
        ``R[:, columns] @ weights``, with orthonormal columns: the modes in the basis ``Q`` of ``S = Q R``.
    sigma : ndarray of float64, shape (k,)
        All singular values of the snapshots, after their scaling where they were `normalised`; those
        that cannot be told from noise are in it too.
    """

    columns: np.ndarray
    weights: np.ndarray
    coordinates: np.ndarray
    sigma: np.ndarray

    @property
    def modes(self) -> int:
        """How many modes there are."""
        return int(self.weights.shape[1])


def pod(
    coordinates: Coordinates,
    columns: np.ndarray,
    *,
    modes: int | None = None,
    tolerance: float | None = None,
    normalised: bool = False,
) -> LocalBasis:
    """Proper orthogonal decomposition of some snapshots.

    Parameters
    ----------
    coordinates : Coordinates
        Of all snapshots.
    columns : ndarray of int, shape (k,)
        The snapshots to take.
    modes : int or None
        How many modes; with a tolerance at most so many.
    tolerance : float or None
        The fewest modes that leave this much of the snapshots: ``|S - Psi Psi^T S| <= tolerance |S|`` in
        the Frobenius norm of the product. Neither: all modes that are not noise.
    normalised : bool
        Scale snapshots so that each member has unit norm, all its levels together, and counts alike; zero
        ones do not count.

    Returns
    -------
    LocalBasis

    Raises
    ------
    Invalid
        If there is no column, none that is more than noise, or if more modes are asked for, directly or
        by the tolerance, than the snapshots span.

    Notes
    -----
    With the singular value decomposition ``R[:, columns] D = U diag(sigma) V^T`` (``D`` scales
    members to unit norm or is the identity) the modes have the coordinates ``U[:, :n]`` and the weights
    ``D V[:, :n] / sigma[:n]``. No other n-dimensional space leaves less of the (scaled) snapshots in the
    Frobenius norm. Costs ``O(rank k min(rank, k))`` operations and never touches the snapshots.

    References
    ----------
    L. Sirovich, "Turbulence and the dynamics of coherent structures", Quarterly of Applied Mathematics
    45 (1987); C. Eckart and G. Young, Psychometrika 1 (1936), for the minimality.
    """
    columns = np.asarray(columns, dtype=np.int64)
    left, sigma, right, scales, rank = _decompose(coordinates, columns, normalised)
    count = rank if modes is None else modes
    if tolerance is not None:
        count = min(count, _fewest(sigma, rank, tolerance))
    elif count > rank:
        raise Invalid(
            f"{modes} modes were asked for; these {len(columns)} snapshots span {rank}, what is beyond "
            f"cannot be told from noise (floor {coordinates.floor:.1e}). Ask for at most {rank} modes, or "
            "compress with a smaller tolerance if the snapshots are alike"
        )
    if count < 1:
        raise Invalid(f"a basis needs at least one mode, {count} were asked for")
    weights = scales[:, None] * right[:count].T / sigma[:count]
    return LocalBasis(columns, weights, np.ascontiguousarray(left[:, :count]), sigma)


def numerical_rank(coordinates: Coordinates, columns: np.ndarray, *, normalised: bool = False) -> int:
    """How many modes `pod` gives at most for some snapshots.

    Parameters
    ----------
    coordinates : Coordinates
        Of all snapshots.
    columns : ndarray of int, shape (k,)
        The snapshots to take.
    normalised : bool
        As for `pod`.

    Raises
    ------
    Invalid
        If there is no column, or none that is more than noise.
    """
    return _decompose(coordinates, np.asarray(columns, dtype=np.int64), normalised)[4]


def local_bases(
    coordinates: Coordinates,
    clusters: Sequence[np.ndarray],
    *,
    modes: int | None = None,
    tolerance: float | None = None,
    normalised: bool = True,
) -> list[LocalBasis]:
    """One basis for each cluster of members; a cluster that spans less than `modes` gets fewer.

    Parameters
    ----------
    coordinates : Coordinates
        Of all snapshots.
    clusters : sequence of ndarray of int
        Rows of the members of each cluster, as numbered by ``coordinates.groups``.
    modes, tolerance, normalised
        As for `pod`; a single snapshot gives one mode.

    Raises
    ------
    Invalid
        As `pod`, but for the number of modes.
    """
    bases = []
    for members in clusters:
        columns = columns_of(coordinates, members)
        most = modes
        if modes is not None and tolerance is None:
            most = min(modes, numerical_rank(coordinates, columns, normalised=normalised))
        bases.append(pod(coordinates, columns, modes=most, tolerance=tolerance, normalised=normalised))
    return bases


def columns_of(coordinates: Coordinates, members: np.ndarray) -> np.ndarray:
    """Columns of some members, shape (member,), given by their rows in ``coordinates.groups``.

    Raises
    ------
    Invalid
        If there are no members.
    """
    groups = coordinates.groups
    if len(members) == 0:
        raise Invalid("a cluster without members has no basis")
    return np.concatenate([groups[int(m)] for m in members])


def projection_errors(coordinates: Coordinates, basis: LocalBasis) -> np.ndarray:
    """Relative error of projecting each snapshot on a basis.

    Parameters
    ----------
    coordinates : Coordinates
        Any snapshots with the same ``Q`` as those of the basis.
    basis : LocalBasis
        What to project on.

    Returns
    -------
    ndarray, shape (column,)
        ``|u - Psi Psi^T u| / |u|`` in the norm of the product, 0 for ``u = 0``.
    """
    left = basis.coordinates
    rest = coordinates.triangle - left @ (left.T @ coordinates.triangle)
    return _ratio(np.linalg.norm(rest, axis=0), coordinates.norms)


def error_curves(coordinates: Coordinates, basis: LocalBasis) -> np.ndarray:
    """Relative error of each member for the first 0, 1, .. n modes at once.

    Parameters
    ----------
    coordinates : Coordinates
        Any snapshots with the same ``Q`` as those of the basis.
    basis : LocalBasis
        Its modes in their order.

    Returns
    -------
    ndarray, shape (n + 1, member)
        Over all levels of a member together: ``sqrt(sum_t |u_t - P u_t|^2 / sum_t |u_t|^2)``; 1 for no
        modes, 0 for a member that is zero.

    Notes
    -----
    The squared errors are sums of squared coefficients from the back, on top of what lies outside the
    span of all modes, so that nothing cancels: errors are right down to rounding. One product of
    ``(n, rank)`` with ``(rank, column)``.
    """
    left = basis.coordinates
    coefficients = left.T @ coordinates.triangle
    rest = np.square(coordinates.triangle - left @ coefficients).sum(axis=0)
    squares = np.vstack([np.square(coefficients), rest])
    squares = _by_member(coordinates, np.cumsum(squares[::-1], axis=0)[::-1])
    return _ratio(np.sqrt(squares), np.sqrt(squares[0]))


def member_errors(coordinates: Coordinates, basis: LocalBasis) -> np.ndarray:
    """Relative error of each member, all its levels together; the last row of `error_curves`."""
    left = basis.coordinates
    rest = coordinates.triangle - left @ (left.T @ coordinates.triangle)
    squares = _by_member(coordinates, np.stack([np.square(rest).sum(axis=0), np.square(coordinates.norms)]))
    return _ratio(np.sqrt(squares[0]), np.sqrt(squares[1]))


def dictionary_curves(
    coordinates: Coordinates, bases: Sequence[LocalBasis], labels: np.ndarray, modes: int
) -> np.ndarray:
    """Relative error of each member on the basis of its cluster, for 0, 1, .. `modes` modes.

    Parameters
    ----------
    coordinates : Coordinates
        Any snapshots with the same ``Q`` as those of the bases.
    bases : sequence of LocalBasis
        One for each cluster; what one has fewer modes than `modes` keeps the error of its last.
    labels : ndarray of int, shape (member,)
        The cluster of each member.
    modes : int
        Up to how many.

    Returns
    -------
    ndarray, shape (modes + 1, member)
        Its maximum over the members estimates the width of the set at each number of modes, from above:
        the width is the smallest error of the worst member over all choices of bases.
    """
    names = coordinates.members[[g[0] for g in coordinates.groups]]
    curves = np.empty((modes + 1, len(labels)))
    for cluster, basis in enumerate(bases):
        inside = np.flatnonzero(labels == cluster)
        if len(inside):
            found = error_curves(coordinates.of(names[inside]), basis)[: modes + 1]
            curves[:, inside] = found[np.minimum(np.arange(modes + 1), len(found) - 1)]
    return curves


def _decompose(
    coordinates: Coordinates, columns: np.ndarray, normalised: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """Singular value decomposition of scaled columns, their scales, and how many values are no noise."""
    if columns.size == 0:
        raise Invalid("a basis needs at least one snapshot")
    block = coordinates.triangle[:, columns]
    norms = coordinates.norms[columns]
    if not np.isfinite(norms).all():
        bad = np.unique(coordinates.members[columns[~np.isfinite(norms)]])
        raise Invalid(f"snapshots of the members {bad[:5].tolist()} are not finite; leave these out")
    noise = coordinates.floor * float(coordinates.norms.max())
    if normalised:
        which = np.unique(coordinates.members[columns], return_inverse=True)[1].reshape(-1)
        norms = np.sqrt(np.bincount(which, np.square(norms)))[which]
    loud = norms > noise
    if not loud.any():
        raise Invalid(
            f"{len(columns)} snapshots are zero, or smaller than what the compression resolves "
            f"({noise:.1e}): they have no modes"
        )
    scales = np.ones(len(columns))
    if normalised:
        scales = np.divide(1.0, norms, out=np.zeros(len(columns)), where=loud)
        noise /= float(norms[loud].min())
    left, sigma, right = np.linalg.svd(block * scales, full_matrices=False)
    rounding = float(np.finfo(np.float64).eps) * max(block.shape) * float(sigma[0])
    rank = max(1, int((sigma > max(noise, rounding)).sum()))
    return left, sigma, right, scales, rank


def _fewest(sigma: np.ndarray, rank: int, tolerance: float) -> int:
    """Fewest modes with ``sqrt(sum of the squares behind them) <= tolerance |sigma|``."""
    squares = np.cumsum(np.square(sigma[::-1]))[::-1]
    tail = np.sqrt(np.append(squares, 0.0) / squares[0])
    count = max(1, int(np.argmax(tail <= tolerance)))
    if tolerance < 0 or count > rank:
        raise Invalid(
            f"no basis of these snapshots is known to leave {tolerance:g} of them: beyond {rank} modes, "
            f"which leave {tail[rank]:.1e}, they cannot be told from noise. Compress with a smaller "
            "tolerance, or ask for less"
        )
    return count


def _by_member(coordinates: Coordinates, values: np.ndarray) -> np.ndarray:
    """Sums of (k, column) values over the columns of each member, shape (k, member)."""
    groups = coordinates.groups
    if all(len(g) == 1 for g in groups):
        return values[:, np.concatenate(groups)]
    return np.stack([values[:, g].sum(axis=1) for g in groups], axis=1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole > 0)
