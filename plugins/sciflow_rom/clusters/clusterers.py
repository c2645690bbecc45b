"""Configurations of how members are grouped; the numerics are in `medoids`, `baselines` and `refinement`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.component import Component
from sciflow.errors import Invalid
from sciflow_rom.clusters.dissimilarities import (
    Chordal,
    Dissimilarity,
    Euclidean,
    Grassmann,
    MaxAngle,
    Parameters,
    ProjectionError,
    Sine,
)

if TYPE_CHECKING:
    import numpy as np

    from sciflow_rom.coordinates import Coordinates

__all__ = [
    "VQPCA",
    "Chordal",
    "Clusterer",
    "Clustering",
    "Dissimilarity",
    "Euclidean",
    "Grassmann",
    "Hierarchical",
    "KMeans",
    "KMedoids",
    "MaxAngle",
    "Parameters",
    "ProjectionError",
    "Sine",
    "centred",
    "check_clusters",
    "overlapping",
]


@dataclass(frozen=True)
class Clustering:
    """Members in groups, each around one of them.

    Attributes
    ----------
    labels : ndarray of int64, shape (member,)
        The cluster of each member.
    medoids : ndarray of int64, shape (cluster,)
        Row of the member in the middle of each cluster.
    loss : float
        Mean dissimilarity of the members to the medoid of their cluster.
    history : ndarray of float64, shape (step,)
        What the method lowers, at the start and after each of its steps.
    """

    labels: np.ndarray
    medoids: np.ndarray
    loss: float
    history: np.ndarray

    @property
    def clusters(self) -> int:
        """How many clusters there are."""
        return len(self.medoids)

    def members(self, cluster: int) -> np.ndarray:
        """Rows of the members of a cluster."""
        import numpy as np

        return np.flatnonzero(self.labels == cluster)


class Clusterer(Component):
    """How members are grouped.

    Attributes
    ----------
    clusters : int
        How many groups.
    """

    kind: ClassVar[str] = "clusterer"
    clusters: int

    @abstractmethod
    def fit(
        self, coordinates: Coordinates, dissimilarity: Dissimilarity, rng: np.random.Generator
    ) -> Clustering:
        """Group members.

        Parameters
        ----------
        coordinates : Coordinates
            Of the members.
        dissimilarity : Dissimilarity
            What makes them unlike.
        rng : Generator
            Decides every random choice.

        Raises
        ------
        Invalid
            If there are fewer members than clusters.
        """

    def assign(
        self, clustering: Clustering, coordinates: Coordinates, dissimilarity: Dissimilarity, new: Coordinates
    ) -> np.ndarray:
        """Clusters of new members, by what the clusters were made with; the nearest medoid by default.

        Parameters
        ----------
        clustering : Clustering
            Of `coordinates`.
        coordinates : Coordinates
            Of the members that were grouped.
        dissimilarity : Dissimilarity
            As in `fit`.
        new : Coordinates
            Of the new members, in the same ``Q``.

        Returns
        -------
        ndarray of int64, shape (new member,)
        """
        import numpy as np

        return np.asarray(np.argmin(dissimilarity.to(coordinates, clustering.medoids, new), axis=1))


def check_clusters(clusters: int, members: int) -> None:
    """Refuse more clusters than members.

    Raises
    ------
    Invalid
        Saying how many there are.
    """
    if clusters > members:
        raise Invalid(f"{clusters} clusters were asked for of {members} members; ask for 1 to {members}")


@dataclass(frozen=True)
class KMedoids(Clusterer):
    """k-medoids by FasterPAM: the smallest sum of dissimilarities to the nearest medoid.

    Attributes
    ----------
    clusters : int
        How many groups.
    restarts : int
        Random starts, of which the best result counts.

    Raises
    ------
    Invalid
        If `clusters` or `restarts` has a value that it cannot have.
    """

    name: ClassVar[str] = "k_medoids"
    clusters: int
    restarts: int = 5

    @classmethod
    def example(cls) -> Self:
        """Two clusters, for conformance checks."""
        return cls(2)

    def __post_init__(self) -> None:
        if min(self.clusters, self.restarts) < 1:
            raise Invalid(f"clusters and restarts must be at least 1, got {self.clusters}, {self.restarts}")

    def fit(
        self, coordinates: Coordinates, dissimilarity: Dissimilarity, rng: np.random.Generator
    ) -> Clustering:
        """See `Clusterer.fit`."""
        from sciflow_rom.clusters.medoids import faster_pam

        matrix = dissimilarity.matrix(coordinates)
        found = faster_pam(matrix, self.clusters, rng, restarts=self.restarts)
        n = len(matrix)
        return Clustering(found.labels, found.medoids, found.loss / n, found.history / n)


@dataclass(frozen=True)
class KMeans(Clusterer):
    """k-means by scikit-learn: a baseline.

    Attributes
    ----------
    clusters : int
        How many groups.
    of : {"normalised", "snapshots", "parameters"}
        What means are taken of: solutions scaled to unit norm, solutions as they are, or parameters in
        units of their spread. The dissimilarity serves only to find the member in the middle.
    restarts : int
        Random starts, of which the best result counts.

    Raises
    ------
    Invalid
        If `clusters` or `restarts` has a value that it cannot have.
    """

    name: ClassVar[str] = "k_means"
    requires: ClassVar[tuple[str, ...]] = ("sklearn",)
    clusters: int
    of: Literal["normalised", "snapshots", "parameters"] = "normalised"
    restarts: int = 10

    @classmethod
    def example(cls) -> Self:
        """Two clusters, for conformance checks."""
        return cls(2)

    def __post_init__(self) -> None:
        if min(self.clusters, self.restarts) < 1:
            raise Invalid(f"clusters and restarts must be at least 1, got {self.clusters}, {self.restarts}")

    def fit(
        self, coordinates: Coordinates, dissimilarity: Dissimilarity, rng: np.random.Generator
    ) -> Clustering:
        """See `Clusterer.fit`."""
        from sciflow_rom.clusters.baselines import k_means

        check_clusters(self.clusters, len(coordinates.groups))
        rows = self._features(coordinates, coordinates)
        labels, history = k_means(rows, self.clusters, self.restarts, rng)
        return centred(labels, dissimilarity.matrix(coordinates), history)

    def assign(
        self, clustering: Clustering, coordinates: Coordinates, dissimilarity: Dissimilarity, new: Coordinates
    ) -> np.ndarray:
        """See `Clusterer.assign`: the nearest mean."""
        import numpy as np

        from sciflow_rom.clusters.dissimilarity import distance

        rows = self._features(coordinates, coordinates)
        means = np.stack([rows[clustering.members(k)].mean(axis=0) for k in range(clustering.clusters)])
        return np.asarray(np.argmin(distance(self._features(coordinates, new).T, means.T), axis=1))

    def _features(self, reference: Coordinates, other: Coordinates) -> np.ndarray:
        from sciflow_rom.clusters.dissimilarity import directions, scaled_parameters, stacked

        if self.of == "parameters":
            return scaled_parameters(reference, other).T
        return (directions(other) if self.of == "normalised" else stacked(other)).T


@dataclass(frozen=True)
class Hierarchical(Clusterer):
    """Agglomerative clustering of the dissimilarity by scikit-learn: a baseline.

    Attributes
    ----------
    clusters : int
        How many groups.
    linkage : {"average", "complete", "single"}
        Which dissimilarity between groups decides what is merged next.

    Raises
    ------
    Invalid
        If `clusters` has a value that it cannot have.
    """

    name: ClassVar[str] = "hierarchical"
    requires: ClassVar[tuple[str, ...]] = ("sklearn",)
    clusters: int
    linkage: Literal["average", "complete", "single"] = "average"

    @classmethod
    def example(cls) -> Self:
        """Two clusters, for conformance checks."""
        return cls(2)

    def __post_init__(self) -> None:
        if self.clusters < 1:
            raise Invalid(f"clusters must be at least 1, got {self.clusters}")

    def fit(
        self, coordinates: Coordinates, dissimilarity: Dissimilarity, rng: np.random.Generator
    ) -> Clustering:
        """See `Clusterer.fit`; nothing is random."""
        from sciflow_rom.clusters.baselines import agglomerate

        check_clusters(self.clusters, len(coordinates.groups))
        matrix = dissimilarity.matrix(coordinates)
        return centred(agglomerate(matrix, self.clusters, self.linkage), matrix, None)


@dataclass(frozen=True)
class VQPCA(Clusterer):
    """Refines another clustering: each member goes to the local basis that has the smallest error for it.

    Bases and groups are made in turn until nothing changes, so that the mean squared relative error
    falls. New members go to the basis with the smallest error, which needs their solution.

    Attributes
    ----------
    start : Clusterer
        Whose result is refined.
    modes : int
        Of each local basis; fewer for groups that span less.
    rounds : int
        At most so many.
    clusters : int
        Those of `start`.

    Raises
    ------
    Invalid
        If `modes` or `rounds` has a value that it cannot have.

    References
    ----------
    N. Kambhatla and T. K. Leen, "Dimension reduction by local principal component analysis", Neural
    Computation 9 (1997).
    """

    name: ClassVar[str] = "vqpca"
    start: Clusterer
    modes: int = 5
    rounds: int = 50

    @classmethod
    def example(cls) -> Self:
        """Refined k-medoids with two clusters, for conformance checks."""
        return cls(KMedoids(2), modes=1)

    def __post_init__(self) -> None:
        if min(self.modes, self.rounds) < 1:
            raise Invalid(f"modes and rounds must be at least 1, got {self.modes}, {self.rounds}")

    @property
    def clusters(self) -> int:  # type: ignore[override]
        """How many groups."""
        return self.start.clusters

    def fit(
        self, coordinates: Coordinates, dissimilarity: Dissimilarity, rng: np.random.Generator
    ) -> Clustering:
        """See `Clusterer.fit`."""
        from sciflow_rom.clusters.refinement import refine

        begun = self.start.fit(coordinates, dissimilarity, rng)
        labels, history = refine(coordinates, begun.labels, begun.clusters, self.modes, self.rounds)
        return centred(labels, dissimilarity.matrix(coordinates), history)

    def assign(
        self, clustering: Clustering, coordinates: Coordinates, dissimilarity: Dissimilarity, new: Coordinates
    ) -> np.ndarray:
        """See `Clusterer.assign`: the basis with the smallest error."""
        import numpy as np

        from sciflow_rom.bases import local_bases, member_errors

        groups = [clustering.members(k) for k in range(clustering.clusters)]
        bases = local_bases(coordinates, groups, modes=self.modes)
        return np.asarray(np.argmin(np.stack([member_errors(new, basis) for basis in bases]), axis=0))


def centred(labels: np.ndarray, matrix: np.ndarray, history: np.ndarray | None) -> Clustering:
    """Groups with the member in the middle of each: the smallest sum of dissimilarities to the others.

    Parameters
    ----------
    labels : ndarray of int, shape (member,)
        Group of each member, all from 0 on in use.
    matrix : ndarray, shape (member, member)
        Dissimilarities.
    history : ndarray, shape (iteration,), or None
        As in `Clustering`; None: the loss alone.
    """
    import numpy as np

    groups = [np.flatnonzero(labels == k) for k in range(int(labels.max()) + 1)]
    medoids = np.array([g[np.argmin(matrix[np.ix_(g, g)].sum(axis=1))] for g in groups], dtype=np.int64)
    loss = float(matrix[np.arange(len(labels)), medoids[labels]].mean())
    return Clustering(
        labels.astype(np.int64), medoids, loss, np.array([loss]) if history is None else history
    )


def overlapping(clustering: Clustering, to_medoids: np.ndarray, share: float) -> list[np.ndarray]:
    """Members whose snapshots make the basis of each cluster, with some of its neighbours.

    Parameters
    ----------
    clustering : Clustering
        The groups.
    to_medoids : ndarray, shape (member, cluster)
        Dissimilarity of each member to each medoid.
    share : float
        How many of the nearest members of other groups are added, as a fraction of the group.

    Returns
    -------
    list of ndarray of int64
        Increasing rows.
    """
    import numpy as np

    found = []
    for cluster in range(clustering.clusters):
        inside = clustering.members(cluster)
        foreign = np.flatnonzero(clustering.labels != cluster)
        count = min(len(foreign), round(share * len(inside)))
        near = foreign[np.argsort(to_medoids[foreign, cluster], kind="stable")[:count]]
        found.append(np.sort(np.concatenate([inside, near])))
    return found
