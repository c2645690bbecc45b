"""Quantity: a number made of a field, such as its mean, that many queries ask for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from sciflow.component import Component

if TYPE_CHECKING:
    import numpy as np

    from sciflow.schema import Field


@dataclass(frozen=True)
class Grid:
    """Where the values of one time level of a field lie.

    Attributes
    ----------
    axes : tuple of str
        Of space and components, in storage order.
    coordinates : mapping of str to ndarray, shape (n_axis,)
        Increasing, of every axis.
    units : mapping of str to str
        Of the coordinates.
    periodic : tuple of str
        Axes along which the domain is periodic.
    """

    axes: tuple[str, ...]
    coordinates: Mapping[str, np.ndarray]
    units: Mapping[str, str] = field(default_factory=dict)
    periodic: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Values along each axis."""
        return tuple(len(self.coordinates[axis]) for axis in self.axes)


class Quantity(Component):
    """A quantity of interest: one number for each solution of a problem.

    Attributes
    ----------
    probability : bool
        Whether it is 0 or 1, so that its mean is a probability.
    """

    kind: ClassVar[str] = "quantity"
    probability: ClassVar[bool] = False

    @property
    @abstractmethod
    def source(self) -> tuple[str, int]:
        """The field that it is made of, and the time level; negative ones count from the end."""

    @abstractmethod
    def of(self, values: np.ndarray, grid: Grid) -> np.ndarray:
        """The quantity of some solutions.

        Parameters
        ----------
        values : ndarray, shape (batch, *grid.shape)
            One time level of the field, in its unit.
        grid : Grid
            Of the field.

        Returns
        -------
        ndarray of float64, shape (batch,)
            In `unit`; NaN where a value that counts is NaN.
        """

    @abstractmethod
    def change(self, values: np.ndarray, errors: np.ndarray, grid: Grid) -> np.ndarray:
        """How far the quantity can be off where the field is wrong.

        Parameters
        ----------
        values : ndarray, shape (batch, *grid.shape)
            As for `of`.
        errors : ndarray, shape (batch,)
            Bounds of the Euclidean norm of the errors of the values, in the unit of the field.
        grid : Grid
            Of the field.

        Returns
        -------
        ndarray of float64, shape (batch,)
            Bounds of the error of the quantity, in `unit`.
        """

    def check(self, grid: Grid) -> None:
        """Refuse a field that this quantity cannot be made of.

        Raises
        ------
        Invalid
            Saying why.
        """

    def unit(self, source: Field, grid: Grid) -> str:
        """Unit of the quantity, which is that of the field unless overridden."""
        return source.unit

    @abstractmethod
    def words(self) -> str:
        """What it is, in a few words for a report."""
