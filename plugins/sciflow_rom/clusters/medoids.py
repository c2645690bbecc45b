"""k-medoids by FasterPAM: eager swaps that each lower the sum of distances to the nearest medoid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sciflow.errors import Invalid

BLOCK = 32
"""Candidates that are looked at together."""


@dataclass(frozen=True)
class Medoids:
    """A choice of medoids that no single swap improves.

    Attributes
    ----------
    medoids : ndarray of int64, shape (k,)
        Increasing positions.
    labels : ndarray of int64, shape (n,)
        The nearest medoid of each point, as a position in `medoids`; every medoid is its own.
    loss : float
        Sum of the distances to the nearest medoid.
    history : ndarray of float64, shape (swap + 1,)
        The loss at the start and after each swap; decreasing.
    """

    medoids: np.ndarray
    labels: np.ndarray
    loss: float
    history: np.ndarray


def faster_pam(
    distances: np.ndarray,
    k: int,
    rng: np.random.Generator,
    *,
    restarts: int = 5,
    start: np.ndarray | None = None,
) -> Medoids:
    """Choose `k` of `n` points so that the sum of distances to the nearest of them is small.

    Parameters
    ----------
    distances : ndarray, shape (n, n)
        Symmetric, not negative, zero diagonal; the triangle inequality is not needed.
    k : int
        Medoids.
    rng : Generator
        Decides the starting points and the order of candidates; equal generators, equal results.
    restarts : int
        Random starts, of which the best result counts.
    start : ndarray of int, shape (k,), or None
        Begin here, once.

    Returns
    -------
    Medoids

    Raises
    ------
    Invalid
        If `k` is not between 1 and n, or a distance is negative or not finite.

    Notes
    -----
    For point o with distances ``d1 <= d2`` to its two nearest medoids, exchanging medoid i for candidate
    c changes the loss by

        sum_o min(d(o, c) - d1, 0) + sum_{o of i} (clip(d(o, c), d1, d2) - d1).

    The first sum is shared by all i and the second is a product of a matrix with the indicator of the
    clusters, so that one pass over the points gives the change for all k medoids at once. Candidates are
    looked at in blocks and the best swap of a block is made at once; it ends when all candidates have
    been seen since the last swap. One round costs ``O(n^2 k)`` operations inside matrix products and
    ``O(n^2)`` outside; memory ``O(n k)`` beside the distances.

    References
    ----------
    E. Schubert and P. J. Rousseeuw, "Fast and eager k-medoids clustering: O(k) runtime improvement of the
    PAM, CLARA, and CLARANS algorithms", Information Systems 101 (2021), section 4.
    """
    distances = check_distances(distances)
    n = len(distances)
    if not 1 <= k <= n:
        raise Invalid(f"{k} clusters were asked for of {n} members; ask for 1 to {n}")
    if restarts < 1:
        raise Invalid(f"restarts must be at least 1, got {restarts}")
    if start is not None:
        return _descend(distances, np.asarray(start, dtype=np.int64), rng)
    best: Medoids | None = None
    for _ in range(restarts):
        found = _descend(distances, rng.choice(n, size=k, replace=False), rng)
        if best is None or found.loss < best.loss * (1 - 1e-12):
            best = found
    assert best is not None
    return best


def check_distances(distances: np.ndarray) -> np.ndarray:
    """The matrix, shape (member, member), as float64.

    Raises
    ------
    Invalid
        If it is not square, or an entry is negative or not finite.
    """
    distances = np.ascontiguousarray(distances, dtype=np.float64)
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1] or not len(distances):
        raise Invalid(f"distances must be a square matrix, got the shape {distances.shape}")
    if not np.isfinite(distances).all() or distances.min() < 0:
        raise Invalid("a dissimilarity is negative or not finite; look for members that are not finite")
    return distances


def changes(distances: np.ndarray, medoids: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Change of the loss for every exchange of a medoid with a candidate.

    Parameters
    ----------
    distances : ndarray, shape (n, n)
        See `faster_pam`.
    medoids : ndarray of int, shape (k,)
        The present choice.
    candidates : ndarray of int, shape (c,)
        Points that might take a place.

    Returns
    -------
    ndarray, shape (c, k)
    """
    return _State(distances, medoids).changes(candidates)


class _State:
    """Nearest and second nearest medoid of every point."""

    def __init__(self, distances: np.ndarray, medoids: np.ndarray) -> None:
        self.distances, self.medoids = distances, medoids.copy()
        self.update()

    def update(self) -> None:
        n, k = len(self.distances), len(self.medoids)
        points = np.arange(n)
        to = self.distances[self.medoids]
        self.nearest = np.argmin(to, axis=0)
        self.first = to[self.nearest, points]
        to[self.nearest, points] = np.inf
        self.second = to.min(axis=0)
        self.inside = np.zeros((n, k))
        self.inside[points, self.nearest] = 1.0
        self.loss = float(self.first.sum())

    def changes(self, candidates: np.ndarray) -> np.ndarray:
        to = self.distances[candidates]
        gains = np.minimum(to - self.first, 0.0).sum(axis=1)
        np.clip(to, self.first, self.second, out=to)
        to -= self.first
        return np.asarray(gains[:, None] + to @ self.inside)


def _descend(distances: np.ndarray, start: np.ndarray, rng: np.random.Generator) -> Medoids:
    """Swap until no swap lowers the loss."""
    n = len(distances)
    state = _State(distances, start)
    history, order = [state.loss], rng.permutation(n)
    at, unseen = 0, n
    while unseen > 0:
        block = order[at : at + BLOCK]
        at = at + BLOCK if at + BLOCK < n else 0
        change = state.changes(block)  # not negative for a candidate that is a medoid
        place, medoid = np.unravel_index(np.argmin(change), change.shape)
        unseen -= len(block)
        if change[place, medoid] < -1e-12 * history[0]:
            state.medoids[medoid] = block[place]
            state.update()
            history.append(state.loss)
            unseen = n
    medoids = np.sort(state.medoids)
    labels = np.argmin(distances[medoids], axis=0)
    labels[medoids] = np.arange(len(medoids))
    return Medoids(medoids, labels, state.loss, np.array(history))
