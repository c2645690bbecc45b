"""Hyper-reduction as components: how the integration points of a reduced model are chosen."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow.component import Component
from sciflow.errors import Invalid

if TYPE_CHECKING:
    import numpy as np

    from sciflow_rom.points.cubature import Cubature


class HyperReduction(Component):
    """Chooses integration points and weights for a reduced model."""

    kind: ClassVar[str] = "hyper_reduction"

    @abstractmethod
    def reduce(self, integrands: np.ndarray, weights: np.ndarray, start: Cubature | None = None) -> Cubature:
        """Choose points of one rank; the others choose theirs by themselves.

        Parameters
        ----------
        integrands : ndarray, shape (point, m)
            Functions whose integrals the reduced model needs, at this rank's integration points; for a
            weak form, ``sum_c E[q, c, i] s[q, c]`` for each mode i and each training state.
        weights : ndarray, shape (point,)
            Of the full quadrature on this rank.
        start : Cubature or None
            An earlier choice to go on from: its points and weights are kept where they are of use.

        Returns
        -------
        Cubature
            Positive weights that integrate constants exactly.

        Raises
        ------
        Invalid
            If shapes do not fit, or a value is not finite.
        """


@dataclass(frozen=True)
class EmpiricalCubature(HyperReduction):
    """Few points by non-negative least squares; see `sciflow_rom.points.cubature.empirical_cubature`.

    Attributes
    ----------
    tolerance : float
        Largest relative error of the integrals, in (0, 1).
    """

    name: ClassVar[str] = "empirical_cubature"
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise Invalid(f"the tolerance of a cubature is in (0, 1), got {self.tolerance}")

    def reduce(self, integrands: np.ndarray, weights: np.ndarray, start: Cubature | None = None) -> Cubature:
        """See `HyperReduction.reduce`."""
        from sciflow_rom.points.cubature import empirical_cubature

        return empirical_cubature(integrands, weights, self.tolerance, start)


@dataclass(frozen=True)
class AllPoints(HyperReduction):
    """No hyper-reduction: every point with its own weight."""

    name: ClassVar[str] = "all_points"

    def reduce(self, integrands: np.ndarray, weights: np.ndarray, start: Cubature | None = None) -> Cubature:
        """See `HyperReduction.reduce`; neither the functions nor the start matter."""
        from sciflow_rom.points.cubature import everything

        return everything(weights)
