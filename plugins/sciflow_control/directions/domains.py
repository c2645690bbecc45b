"""Domains: the cells of a structured grid on which Poisson's equation is solved; configurations only."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow.component import Component
from sciflow.errors import Invalid

if TYPE_CHECKING:
    import numpy as np


class Domain(Component):
    """Some cells of a grid; the solution is zero on all others and outside of the grid.

    Attributes
    ----------
    points : tuple of int
        Cells along each of two or three axes.

    Raises
    ------
    Invalid
        If `points` has a value that it cannot have.
    """

    kind: ClassVar[str] = "domain"
    points: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.points) not in (2, 3) or any(n < 4 for n in self.points):
            raise Invalid(f"a domain has two or three axes of at least 4 cells, got points={self.points}")

    @abstractmethod
    def cells(self) -> np.ndarray:
        """Which cells are inside: bool, shape `points`."""


@dataclass(frozen=True)
class Box(Domain):
    """The whole grid.

    Attributes
    ----------
    points : tuple of int
        Cells along each axis.
    """

    name: ClassVar[str] = "box"
    points: tuple[int, ...] = (32, 32)

    def cells(self) -> np.ndarray:
        """See `Domain.cells`."""
        import numpy as np

        return np.ones(self.points, dtype=bool)


@dataclass(frozen=True)
class Ball(Domain):
    """The inside of the largest ellipse or ellipsoid that fits into the grid.

    Attributes
    ----------
    points : tuple of int
        Cells along each axis.
    """

    name: ClassVar[str] = "ball"
    points: tuple[int, ...] = (32, 32)

    def cells(self) -> np.ndarray:
        """See `Domain.cells`."""
        import numpy as np

        axes = [(np.arange(n) + 0.5) * 2 / n - 1 for n in self.points]
        return np.asarray(sum(x**2 for x in np.meshgrid(*axes, indexing="ij")) < 1)


@dataclass(frozen=True)
class Obstacles(Domain):
    """The grid without some boxes, whose places and sizes are random.

    Attributes
    ----------
    points : tuple of int
        Cells along each axis.
    count : int
        Of obstacles; they may overlap.
    size : float
        Largest edge of one, as a part of the domain's; the smallest is half of it.
    seed : int
        Decides where they are: the same on a finer grid, up to its cells.

    Raises
    ------
    Invalid
        If `count` or `size` has a value that it cannot have.
    """

    name: ClassVar[str] = "obstacles"
    points: tuple[int, ...] = (32, 32)
    count: int = 4
    size: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 0:
            raise Invalid(f"count cannot be negative, got {self.count}")
        if not 0 < self.size < 1:
            raise Invalid(f"size is a part of the domain's edge, between 0 and 1, got {self.size}")

    def cells(self) -> np.ndarray:
        """See `Domain.cells`.

        Raises
        ------
        Invalid
            If the obstacles leave nothing.
        """
        import numpy as np

        rng = np.random.default_rng(self.seed)
        inside = np.ones(self.points, dtype=bool)
        for _ in range(self.count):
            edge = self.size * rng.uniform(0.5, 1.0, len(self.points))
            low = rng.uniform(0.0, 1.0 - edge)
            ends = zip(low, low + edge, self.points, strict=True)
            inside[tuple(slice(round(a * n), max(round(b * n), round(a * n) + 1)) for a, b, n in ends)] = (
                False
            )
        if not inside.any():
            raise Invalid(f"{self.count} obstacles of size {self.size} leave no cell; take fewer or smaller")
        return inside
