"""Macroscopic structures of a two-scale computation: a lattice of nodes, supports and one load."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.component import Component
from sciflow.errors import Invalid
from sciflow_fenics.checks import DOLFINX, check_count

if TYPE_CHECKING:
    import numpy as np


class Structure(Component):
    """A plane body, one millimetre thick, on a lattice of triangles with quadratic displacements.

    Attributes
    ----------
    cells : int
        Along each side of the lattice, even; each is cut into two triangles with three points.
    """

    kind: ClassVar[str] = "structure"
    requires: ClassVar[tuple[str, ...]] = DOLFINX
    cells: int

    @abstractmethod
    def corners(self) -> np.ndarray:
        """Nodes of the lattice, shape (cells + 1, cells + 1, 2), mm."""

    @abstractmethod
    def fixed(self) -> np.ndarray:
        """Which displacements vanish, by node of the quadratic lattice and direction.

        Returns
        -------
        ndarray of bool, shape (2 * (2 * cells + 1)**2,)
        """

    @abstractmethod
    def load(self) -> np.ndarray:
        """Forces at the same nodes for a force of one in all.

        Returns
        -------
        ndarray, shape (2 * (2 * cells + 1)**2,)
            They sum to one: their product with displacements is the mean displacement of the loaded
            edge, that which the force does its work on.
        """


def _check_cells(cells: int) -> None:
    check_count("cells", cells, 2)
    if cells % 2:
        raise Invalid(f"cells must be even, got {cells}")


@dataclass(frozen=True)
class CookMembrane(Structure):
    """Cook's membrane: clamped on the left, lifted by a uniform traction on the right edge.

    Attributes
    ----------
    cells : int
        Along each edge, even.
    """

    name: ClassVar[str] = "cook_membrane"
    cells: int = 6

    def __post_init__(self) -> None:
        _check_cells(self.cells)

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(cells=2)

    def corners(self) -> np.ndarray:
        """See `Structure.corners`."""
        from sciflow_fenics.membrane import nodes

        return nodes(self.cells)

    def fixed(self) -> np.ndarray:
        """See `Structure.fixed`."""
        from sciflow_fenics.membrane import supports

        return supports(self.cells)

    def load(self) -> np.ndarray:
        """See `Structure.load`."""
        from sciflow_fenics.membrane import lift

        return lift(self.cells)


@dataclass(frozen=True)
class PerforatedPlate(Structure):
    """A quarter of a square plate with a round hole, pulled along x.

    Attributes
    ----------
    cells : int
        Around the hole and as many away from it, even.
    side, hole : float
        Length of the quarter and radius of the hole, mm.

    Raises
    ------
    Invalid
        If `hole` or `side` has a value that it cannot have.
    """

    name: ClassVar[str] = "perforated_plate"
    cells: int = 8
    side: float = 50.0
    hole: float = 10.0

    def __post_init__(self) -> None:
        _check_cells(self.cells)
        if not 0 < self.hole < self.side < float("inf"):
            raise Invalid(f"the hole must fit into the plate, got {self.hole} and {self.side} mm")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(cells=2)

    def corners(self) -> np.ndarray:
        """See `Structure.corners`."""
        from sciflow_fenics.plate import nodes

        return nodes(self.cells, self.side, self.hole)

    def fixed(self) -> np.ndarray:
        """See `Structure.fixed`."""
        from sciflow_fenics.plate import supports

        return supports(self.cells)

    def load(self) -> np.ndarray:
        """See `Structure.load`."""
        from sciflow_fenics.plate import pull

        return pull(self.cells, self.side) / self.side
