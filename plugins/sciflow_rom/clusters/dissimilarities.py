"""Configurations of what makes members unlike; the numerics are in `dissimilarity`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sciflow.component import Component
from sciflow.errors import Invalid

if TYPE_CHECKING:
    import numpy as np

    from sciflow_rom.coordinates import Coordinates


class Dissimilarity(Component):
    """What makes two members unlike."""

    kind: ClassVar[str] = "dissimilarity"

    @abstractmethod
    def between(self, reference: Coordinates, other: Coordinates) -> np.ndarray:
        """Dissimilarity of each member of `other` to each of `reference`.

        Parameters
        ----------
        reference, other : Coordinates
            In the same ``Q``.

        Returns
        -------
        ndarray of float64, shape (member of other, member of reference)
            Not negative; 0 for equal members.

        Raises
        ------
        Invalid
            If it is not defined for a member, which is named.
        """

    def matrix(self, coordinates: Coordinates) -> np.ndarray:
        """All dissimilarities of some members to each other.

        Parameters
        ----------
        coordinates : Coordinates
            Of the members.

        Returns
        -------
        ndarray of float64, shape (member, member)
            Symmetric, zero on the diagonal.
        """
        from sciflow_rom.clusters.dissimilarity import symmetric

        return symmetric(self.between(coordinates, coordinates))

    def to(self, coordinates: Coordinates, rows: np.ndarray, new: Coordinates) -> np.ndarray:
        """Dissimilarity of new members to some known ones.

        Parameters
        ----------
        coordinates : Coordinates
            Of the known members.
        rows : ndarray of int, shape (k,)
            Which of them.
        new : Coordinates
            Of the new members, in the same ``Q``.

        Returns
        -------
        ndarray of float64, shape (new member, k)
        """
        return self.between(chosen(coordinates, rows), new)


def chosen(coordinates: Coordinates, rows: np.ndarray) -> Coordinates:
    """The members at some rows, shape (n,), in the order of the rows."""
    import numpy as np

    groups = coordinates.groups
    return coordinates.take(np.concatenate([groups[int(r)] for r in rows]))


@dataclass(frozen=True)
class Sine(Dissimilarity):
    """Sine of the angle between two solutions, all levels of each taken as one vector.

    It is the relative error of projecting one on the other, whatever their size and sign, and a bound for
    every basis whose span holds the other.

    Notes
    -----
    ``sqrt(1 - <u, v>^2 / (|u|^2 |v|^2))`` in the inner product of the compression: one product of
    ``(member, rank)`` matrices for all pairs.

    References
    ----------
    T. Daniel, F. Casenave, N. Akkari, A. Ketata and D. Ryckelynck, "Physics-informed cluster analysis and
    a priori efficiency criterion for the construction of local reduced-order bases", arXiv 2103.13683.
    """

    name: ClassVar[str] = "sine"

    def between(self, reference: Coordinates, other: Coordinates) -> np.ndarray:
        """See `Dissimilarity.between`."""
        from sciflow_rom.clusters.dissimilarity import directions, sine

        return sine(directions(other), directions(reference))


@dataclass(frozen=True)
class _Subspaces(Dissimilarity):
    """Between the spans of the levels of each member: the order of the levels does not matter.

    Attributes
    ----------
    modes : int
        Dimension of each span, at most; all spans get the same. A member with one level has one mode.
    """

    modes: int = 3

    def __post_init__(self) -> None:
        if self.modes < 1:
            raise Invalid(f"modes must be at least 1, got {self.modes}")

    def between(self, reference: Coordinates, other: Coordinates) -> np.ndarray:
        """See `Dissimilarity.between`."""
        from sciflow_rom.clusters.dissimilarity import angles, spans

        ours, theirs = spans(other, self.modes), spans(reference, self.modes)
        n = min(ours.shape[2], theirs.shape[2])
        return self._measure(angles(ours[:, :, :n], theirs[:, :, :n]))

    @abstractmethod
    def _measure(self, angles: np.ndarray) -> np.ndarray:
        """From principal angles, shape (p, q, n), rad."""


@dataclass(frozen=True)
class MaxAngle(_Subspaces):
    """Sine of the largest principal angle between the spans of two members.

    Attributes
    ----------
    modes : int
        Dimension of each span, at most.

    References
    ----------
    A. Bjorck and G. H. Golub, "Numerical methods for computing angles between linear subspaces", Math. Comp.
    27 (1973), 579-594.
    """

    name: ClassVar[str] = "max_angle"

    def _measure(self, angles: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.asarray(np.sin(angles[:, :, -1]))


@dataclass(frozen=True)
class Grassmann(_Subspaces):
    """Length of the geodesic between the spans of two members on the Grassmann manifold, rad.

    Attributes
    ----------
    modes : int
        Dimension of each span, at most.

    References
    ----------
    A. Edelman, T. A. Arias and S. T. Smith, "The geometry of algorithms with orthogonality constraints", SIAM
    J. Matrix Anal. Appl. 20 (1998), section 4.3.
    """

    name: ClassVar[str] = "grassmann"

    def _measure(self, angles: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.asarray(np.sqrt(np.square(angles).sum(axis=2)))


@dataclass(frozen=True)
class Chordal(_Subspaces):
    """Chordal distance: the root of the sum of the squared sines of the principal angles.

    Attributes
    ----------
    modes : int
        Dimension of each span, at most.

    References
    ----------
    A. Edelman, T. A. Arias and S. T. Smith, "The geometry of algorithms with orthogonality constraints", SIAM
    J. Matrix Anal. Appl. 20 (1998), section 4.3.
    """

    name: ClassVar[str] = "chordal"

    def _measure(self, angles: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.asarray(np.sqrt(np.square(np.sin(angles)).sum(axis=2)))


@dataclass(frozen=True)
class ProjectionError(Dissimilarity):
    """Relative error of projecting one member on the span of another, both ways.

    What is projected is the part of a member's levels in its own span, so that equal members have none. With
    one level per member it is that of `Sine`.

    Attributes
    ----------
    modes : int
        Dimension of the spans, at most.
    combine : {"max", "mean", "min"}
        How the two directions are combined; the smaller one is small already where one span holds the
        other.

    Raises
    ------
    Invalid
        If `modes` has a value that it cannot have.
    """

    name: ClassVar[str] = "projection_error"
    modes: int = 3
    combine: Literal["max", "mean", "min"] = "max"

    def __post_init__(self) -> None:
        if self.modes < 1:
            raise Invalid(f"modes must be at least 1, got {self.modes}")

    def between(self, reference: Coordinates, other: Coordinates) -> np.ndarray:
        """See `Dissimilarity.between`."""
        from sciflow_rom.clusters.dissimilarity import combined, outside, spans, within_spans

        ours, theirs = spans(other, self.modes), spans(reference, self.modes)
        first = outside(within_spans(other, ours), theirs)
        return combined(first, outside(within_spans(reference, theirs), ours).T, self.combine)


@dataclass(frozen=True)
class Euclidean(Dissimilarity):
    """Norm of the difference of two solutions, in the unit of the field and the product.

    Attributes
    ----------
    normalised : bool
        Scale solutions to unit norm first.
    """

    name: ClassVar[str] = "euclidean"
    normalised: bool = False

    def between(self, reference: Coordinates, other: Coordinates) -> np.ndarray:
        """See `Dissimilarity.between`."""
        from sciflow_rom.clusters.dissimilarity import directions, distance, stacked

        of = directions if self.normalised else stacked
        return distance(of(other), of(reference))


@dataclass(frozen=True)
class Parameters(Dissimilarity):
    """Distance of the parameters, each in units of its spread, logarithms where they are spread so."""

    name: ClassVar[str] = "parameters"

    def between(self, reference: Coordinates, other: Coordinates) -> np.ndarray:
        """See `Dissimilarity.between`; the spread is that of `reference`."""
        from sciflow_rom.clusters.dissimilarity import distance, scaled_parameters

        return distance(scaled_parameters(reference, other), scaled_parameters(reference, reference))

    def to(self, coordinates: Coordinates, rows: np.ndarray, new: Coordinates) -> np.ndarray:
        """See `Dissimilarity.to`; the spread is that of all known members."""
        from sciflow_rom.clusters.dissimilarity import distance, scaled_parameters

        known = scaled_parameters(coordinates, coordinates)[:, rows]
        return distance(scaled_parameters(coordinates, new), known)
