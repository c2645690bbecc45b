"""Vector quantisation by local principal components: groups and bases in turn."""

from __future__ import annotations

import numpy as np

from sciflow_rom.bases import local_bases, member_errors
from sciflow_rom.coordinates import Coordinates


def refine(
    coordinates: Coordinates, labels: np.ndarray, clusters: int, modes: int, rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Move members to the local basis with the smallest error until none moves.

    Parameters
    ----------
    coordinates : Coordinates
        Of the members.
    labels : ndarray of int, shape (member,)
        Where to begin; every cluster has a member.
    clusters : int
        How many there are; none gets lost.
    modes : int
        Of each basis, at most.
    rounds : int
        At most so many.

    Returns
    -------
    labels : ndarray of int64, shape (member,)
        The groups with the smallest error that were seen.
    history : ndarray, shape (round + 1,)
        Mean squared relative error of the members on their cluster's basis, at the start and after each
        round; decreasing where members have one level each.

    Notes
    -----
    Local bases minimise the sum of squared relative errors for given groups, groups do so for given
    bases. A member that is the last of its cluster stays. Each round costs one singular value
    decomposition per cluster and ``O(rank n member)`` for the errors.
    """
    labels = np.asarray(labels, dtype=np.int64).copy()
    best = labels.copy()
    history: list[float] = []
    for round_ in range(rounds + 1):
        groups = [np.flatnonzero(labels == k) for k in range(clusters)]
        bases = local_bases(coordinates, groups, modes=modes)
        errors = np.stack([member_errors(coordinates, basis) for basis in bases], axis=1)
        now = float(np.square(errors[np.arange(len(labels)), labels]).mean())
        if history and now >= history[-1]:
            break
        history.append(now)
        best = labels.copy()
        if round_ == rounds or not _move(labels, errors):
            break
    return best, np.array(history)


def _move(labels: np.ndarray, errors: np.ndarray) -> bool:
    """Give members to the cluster with the smallest error, in place; whether any moved."""
    sizes = np.bincount(labels, minlength=errors.shape[1])
    moved = False
    for member in np.flatnonzero(errors.min(axis=1) < errors[np.arange(len(labels)), labels]):
        old, new = labels[member], int(np.argmin(errors[member]))
        if sizes[old] > 1:
            labels[member] = new
            sizes[old] -= 1
            sizes[new] += 1
            moved = True
    return moved
