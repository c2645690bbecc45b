"""Clusterings by scikit-learn, for comparison."""

from __future__ import annotations

from typing import Literal

import numpy as np


def k_means(
    rows: np.ndarray, clusters: int, restarts: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """k-means of some points.

    Parameters
    ----------
    rows : ndarray, shape (n, dim)
        The points.
    clusters, restarts : int
        Groups, and random starts.
    rng : Generator
        Gives the seed.

    Returns
    -------
    labels : ndarray of int64, shape (n,)
        Numbered without gaps, also where points coincide.
    history : ndarray, shape (1,)
        Mean squared distance to the mean of the group.
    """
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    # Distances do not change under an isometry: the triangle of a QR factorisation is smaller.
    if rows.shape[1] > rows.shape[0]:
        triangle: np.ndarray = np.linalg.qr(rows.T)[1]
        rows = np.ascontiguousarray(triangle.T)
    seed = int(rng.integers(2**31))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different points than clusters
        found = KMeans(clusters, n_init=restarts, random_state=seed).fit(rows)
    labels = np.unique(found.labels_, return_inverse=True)[1].reshape(-1)
    return labels.astype(np.int64), np.array([found.inertia_ / len(rows)])


def agglomerate(
    matrix: np.ndarray, clusters: int, linkage: Literal["average", "complete", "single"]
) -> np.ndarray:
    """Merge the two nearest groups until so many are left.

    Parameters
    ----------
    matrix : ndarray, shape (n, n)
        Dissimilarities.
    clusters : int
        Groups that are left.
    linkage : {"average", "complete", "single"}
        Of all dissimilarities between members of two groups.

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    from sklearn.cluster import AgglomerativeClustering

    if len(matrix) == 1:
        return np.zeros(1, dtype=np.int64)
    found = AgglomerativeClustering(n_clusters=clusters, metric="precomputed", linkage=linkage).fit(matrix)
    return np.asarray(found.labels_, dtype=np.int64)
