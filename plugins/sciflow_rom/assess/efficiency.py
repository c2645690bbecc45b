"""What a dictionary of local bases would reach and cost, from the training snapshots alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sciflow.errors import Invalid
from sciflow_rom.bases import dictionary_curves, local_bases
from sciflow_rom.clusters.clusterers import Dissimilarity
from sciflow_rom.clusters.medoids import faster_pam
from sciflow_rom.coordinates import Coordinates

MOST = 300
"""Modes of a global basis that are looked at, at most."""


@dataclass(frozen=True)
class Errors:
    """Predicted errors of dictionaries.

    Attributes
    ----------
    clusters : ndarray of int64, shape (candidate,)
        Numbers of clusters, the first is 1.
    error : ndarray, shape (candidate, n + 1)
        Mean relative projection error of members that were held out, for 0, 1, .. n modes.
    worst : ndarray, shape (candidate, n + 1)
        Largest such error.
    width : ndarray, shape (candidate, n + 1)
        Largest error of a member that takes part, with all members: an estimate, from above, of the width
        of the set of solutions inside its clusters.
    beyond : ndarray, shape (m + 1,)
        `error` of a global basis for 0, 1, .. m modes; two snapshots for each mode set the limit.
    sizes : list of ndarray of int64
        Members of each cluster, largest first, with all members.
    loss, silhouette : ndarray, shape (candidate,)
        Mean dissimilarity to the medoid; mean of one less the ratio of those to the nearest and the second
        nearest medoid (NaN for one cluster).
    levels : float
        Snapshots of each member.
    """

    clusters: np.ndarray
    error: np.ndarray
    worst: np.ndarray
    width: np.ndarray
    beyond: np.ndarray
    sizes: list[np.ndarray]
    loss: np.ndarray
    silhouette: np.ndarray
    levels: float = 1.0

    def supported(self, row: int) -> int:
        """Modes for which half of the clusters of a candidate have two snapshots each; at least one."""
        most = int(float(np.median(self.sizes[row])) * self.levels / 2)
        return max(1, min(most, self.error.shape[1] - 1))

    def fewest(self, error: float) -> int | None:
        """Modes that a global basis needs for an error; None if so many are not there."""
        good = np.flatnonzero(self.beyond <= error)
        return int(good[0]) if len(good) else None


def predict_errors(
    coordinates: Coordinates,
    dissimilarity: Dissimilarity,
    clusters: Sequence[int],
    modes: int,
    *,
    folds: int = 10,
    restarts: int = 3,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Errors:
    """Cross-validated errors of dictionaries of local bases, for all numbers of clusters and modes.

    Parameters
    ----------
    coordinates : Coordinates
        Of the training members.
    dissimilarity : Dissimilarity
        What they are grouped by.
    clusters : sequence of int
        Numbers of clusters; 1 is added.
    modes : int
        Largest number of modes.
    folds : int
        Parts of the members; each is held out once.
    restarts, seed : int
        Of the clustering, and of all that is random.
    progress : callable
        Is told how many of how many clusterings are done.

    Raises
    ------
    Invalid
        If fewer members are left without a fold than clusters are asked for, or nothing can be held out.

    Notes
    -----
    The members outside a fold are grouped by k-medoids, a basis of each group is made of its members
    scaled to unit norm, and each member of the fold is projected on the basis of the nearest medoid. No
    selector is trained, no simulation run and no snapshot read. Bases are made of fewer members than in the
    end, so that errors come out too large where clusters are small: by 14 % with five folds and 4 % with ten
    for 300 members in 20 clusters of the most sensitive of five families. Cost per fold and candidate: a
    clustering of N points and singular value decompositions of ``(rank, N / K)`` for each of K clusters;
    all numbers of modes come from one of these.
    """
    candidates = np.array(sorted({1, *clusters}), dtype=np.int64)
    n, most = len(coordinates.groups), int(candidates[-1])
    if not 2 <= folds <= n:
        raise Invalid(f"{n} members cannot be parted into {folds} folds; at least 2, at most one per member")
    left = n - -(-n // folds)
    if most > left:
        raise Invalid(
            f"{most} clusters were asked for, but {left} of the {n} members are left when one of {folds} "
            "folds is held out; ask for fewer clusters, or compute more members"
        )
    if min(candidates) < 1 or modes < 1:
        raise Invalid("numbers of clusters and modes must be at least 1")
    matrix = dissimilarity.matrix(coordinates)
    names = coordinates.members[[g[0] for g in coordinates.groups]]
    fold_of = np.random.default_rng([seed, 0]).permutation(n) % folds
    held = np.full((len(candidates), modes + 1, n), np.nan)
    beyond: list[np.ndarray] = []
    for fold in range(folds):
        inside, out = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        known, new = coordinates.of(names[inside]), coordinates.of(names[out])
        for row, k in enumerate(candidates.tolist()):
            rng = np.random.default_rng([seed, 1, fold, k])
            groups = faster_pam(matrix[np.ix_(inside, inside)], k, rng, restarts=restarts)
            labels = np.argmin(matrix[np.ix_(out, inside[groups.medoids])], axis=1)
            curves = _curves(known, groups.labels, k, new, labels, modes if k > 1 else max(modes, MOST))
            held[row][:, out] = curves[: modes + 1]
            if k == 1:
                beyond.append(curves[: max(1, len(coordinates.members) // 2) + 1].sum(axis=1))
            progress(fold * len(candidates) + row + 1, (folds + 1) * len(candidates))
    whole = np.sum(beyond, axis=0) / n
    found = _insample(coordinates, matrix, candidates, modes, restarts, seed)
    progress((folds + 1) * len(candidates), (folds + 1) * len(candidates))
    levels = len(coordinates.members) / n
    return Errors(candidates, held.mean(axis=2), held.max(axis=2), found[0], whole, *found[1:], levels=levels)


def _curves(
    known: Coordinates, groups: np.ndarray, k: int, new: Coordinates, labels: np.ndarray, modes: int
) -> np.ndarray:
    """Error curves of new members on local bases of known ones, shape (modes + 1, new member)."""
    members = [np.flatnonzero(groups == cluster) for cluster in range(k)]
    bases = local_bases(known, members, modes=modes)
    return dictionary_curves(new, bases, labels, modes)


def _insample(
    coordinates: Coordinates,
    matrix: np.ndarray,
    candidates: np.ndarray,
    modes: int,
    restarts: int,
    seed: int,
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
    """Widths, sizes, losses and silhouettes with all members."""
    widths = np.empty((len(candidates), modes + 1))
    sizes, losses, silhouettes = [], [], []
    for row, k in enumerate(candidates.tolist()):
        rng = np.random.default_rng([seed, 2, k])
        groups = faster_pam(matrix, k, rng, restarts=restarts)
        curves = _curves(coordinates, groups.labels, k, coordinates, groups.labels, modes)
        widths[row] = curves.max(axis=1)
        sizes.append(np.sort(np.bincount(groups.labels, minlength=k))[::-1])
        losses.append(groups.loss / len(matrix))
        silhouettes.append(silhouette(matrix[:, groups.medoids]))
    return widths, sizes, np.array(losses), np.array(silhouettes)


def silhouette(to_medoids: np.ndarray) -> float:
    """Mean of ``1 - d1 / d2`` over the members, with the dissimilarities to the two nearest medoids.

    Parameters
    ----------
    to_medoids : ndarray, shape (member, cluster)
        Dissimilarities; NaN comes back for a single cluster.

    References
    ----------
    L. Lenssen and E. Schubert, "Medoid silhouette clustering with automatic cluster number selection",
    Information Systems 120 (2024).
    """
    if to_medoids.shape[1] < 2:
        return float("nan")
    two = np.partition(to_medoids, 1, axis=1)[:, :2].astype(np.float64)
    ratio = np.divide(two[:, 0], two[:, 1], out=np.zeros(len(two)), where=two[:, 1] > 0)
    return float(np.mean(1.0 - ratio))
