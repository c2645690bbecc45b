"""Quantities of interest of the core: means, integrals, extremes, values at a place, probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as _field
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid, nearest
from sciflow.quantity import Grid, Quantity

if TYPE_CHECKING:
    import numpy as np

    from sciflow.schema import Field

SPACE = ("x", "y", "z")
"""Axes that have a length; along others all values count alike."""


@dataclass(frozen=True)
class _OfField(Quantity):
    """What has a field and a time level."""

    field: str
    level: int = -1

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls("u")

    @property
    def source(self) -> tuple[str, int]:
        """See `Quantity.source`."""
        return self.field, self.level


class _Linear(_OfField):
    """A weighted sum of the values."""

    def weights(self, grid: Grid) -> np.ndarray:
        """Weight of each value, of the shape of the grid.

        Raises
        ------
        Invalid
            If the grid does not have what this needs.
        """
        raise NotImplementedError

    def of(self, values: np.ndarray, grid: Grid) -> np.ndarray:
        """See `Quantity.of`."""
        import numpy as np

        weights = self.weights(grid).reshape(-1)
        used = weights != 0
        flat = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
        return np.asarray(flat[:, used] @ weights[used])

    def change(self, values: np.ndarray, errors: np.ndarray, grid: Grid) -> np.ndarray:
        """See `Quantity.change`: ``|w . e| <= |w| |e|``."""
        import numpy as np

        return np.asarray(np.linalg.norm(self.weights(grid)) * errors)

    def check(self, grid: Grid) -> None:
        """See `Quantity.check`."""
        self.weights(grid)


@dataclass(frozen=True)
class Integral(_Linear):
    """The integral of a field over the domain or a box in it.

    Attributes
    ----------
    field : str
        Of the problem.
    level : int
        Time level, negative ones from the end; without meaning for a field without time.
    low, high : mapping of str to float
        Ends of the box along some axes, in their units; the whole domain along the others.

    Notes
    -----
    Exact for the function that is linear between the values along each axis (the trapezoidal rule).
    Along a periodic axis the last value is joined with the first.
    """

    name: ClassVar[str] = "integral"
    low: Mapping[str, float] = _field(default_factory=dict)
    high: Mapping[str, float] = _field(default_factory=dict)

    def weights(self, grid: Grid) -> np.ndarray:
        """See `_Linear.weights`."""
        import numpy as np

        for axis in (*self.low, *self.high):
            if axis not in grid.axes:
                raise Invalid(f"{self.name} of {self.field!r}: no axis {axis!r}. {nearest(axis, grid.axes)}")
        weights = np.ones(())
        for axis in grid.axes:
            line, low, high = grid.coordinates[axis], self.low.get(axis), self.high.get(axis)
            if axis in SPACE and len(line) > 1:
                row = segment(line, low, high, axis in grid.periodic)
            elif low is None and high is None:
                row = self._alike(axis, len(line))
            else:
                raise Invalid(
                    f"{self.name} of {self.field!r}: the axis {axis!r} has no length to cut a box of"
                )
            weights = np.multiply.outer(weights, row)
        return weights

    def _alike(self, axis: str, count: int) -> np.ndarray:
        raise Invalid(
            f"an integral of {self.field!r} needs lengths, the axis {axis!r} has none; take its mean"
        )

    def unit(self, source: Field, grid: Grid) -> str:
        """See `Quantity.unit`."""
        units = [u for u in (source.unit, *(grid.units.get(a, "1") for a in grid.axes)) if u != "1"]
        return " ".join(units) or "1"

    def words(self) -> str:
        """See `Quantity.words`."""
        return f"{self.name} of {self.field}{_box(self.low, self.high)}"


@dataclass(frozen=True)
class Mean(Integral):
    """The mean of a field over the domain or a box in it.

    Attributes
    ----------
    field, level, low, high
        As of `Integral`. Along axes that are none of x, y, z all values count alike.
    """

    name: ClassVar[str] = "mean"

    def weights(self, grid: Grid) -> np.ndarray:
        """See `_Linear.weights`."""
        import numpy as np

        weights = super().weights(grid)
        return np.asarray(weights / weights.sum())

    def _alike(self, axis: str, count: int) -> np.ndarray:
        import numpy as np

        return np.full(count, 1 / count)

    def unit(self, source: Field, grid: Grid) -> str:
        """See `Quantity.unit`."""
        return source.unit


@dataclass(frozen=True)
class At(_Linear):
    """The value of a field at a place, linear between the values along each axis.

    Attributes
    ----------
    field, level
        As of `Integral`.
    position : mapping of str to float
        Along every axis of the field, in its unit.
    """

    name: ClassVar[str] = "at"
    position: Mapping[str, float] = _field(default_factory=dict)

    def weights(self, grid: Grid) -> np.ndarray:
        """See `_Linear.weights`."""
        import numpy as np

        if set(self.position) != set(grid.axes):
            raise Invalid(
                f"a position in {self.field!r} names each of the axes {list(grid.axes)}, got "
                f"{dict(self.position)}"
            )
        weights = np.ones(())
        for axis in grid.axes:
            line, place = grid.coordinates[axis], self.position[axis]
            if not line[0] <= place <= line[-1]:
                raise Invalid(f"{axis} = {place} is outside of the domain, {line[0]:g} to {line[-1]:g}")
            row = np.array([np.interp(place, line, one) for one in np.eye(len(line))])
            weights = np.multiply.outer(weights, row)
        return weights

    def words(self) -> str:
        """See `Quantity.words`."""
        return f"{self.field} at {', '.join(f'{a} = {v:g}' for a, v in self.position.items())}"


@dataclass(frozen=True)
class Maximum(_OfField):
    """The largest value of a field.

    Attributes
    ----------
    field, level
        As of `Integral`.
    """

    name: ClassVar[str] = "maximum"

    def of(self, values: np.ndarray, grid: Grid) -> np.ndarray:
        """See `Quantity.of`."""
        import numpy as np

        return np.asarray(np.max(np.asarray(values, dtype=np.float64).reshape(len(values), -1), axis=1))

    def change(self, values: np.ndarray, errors: np.ndarray, grid: Grid) -> np.ndarray:
        """See `Quantity.change`: no value is off by more than the norm of all."""
        return errors

    def words(self) -> str:
        """See `Quantity.words`."""
        return f"maximum of {self.field}"


@dataclass(frozen=True)
class Exceeds(Quantity):
    """Whether another quantity is above a threshold; its mean is the probability of that.

    Attributes
    ----------
    quantity : Quantity
        Such as ``Maximum("temperature")``.
    threshold : float
        In the unit of that quantity.

    Raises
    ------
    Invalid
        If `threshold` or `quantity` has a value that it cannot have.
    """

    name: ClassVar[str] = "exceeds"
    probability: ClassVar[bool] = True
    quantity: Quantity
    threshold: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise Invalid(f"a threshold is a number, got {self.threshold}")
        if self.quantity.probability:
            raise Invalid("the quantity that exceeds a threshold cannot be 0 or 1 itself")

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        return cls(Maximum("u"), 1.0)

    @property
    def source(self) -> tuple[str, int]:
        """See `Quantity.source`."""
        return self.quantity.source

    def of(self, values: np.ndarray, grid: Grid) -> np.ndarray:
        """See `Quantity.of`."""
        import numpy as np

        inner = self.quantity.of(values, grid)
        return np.where(np.isnan(inner), np.nan, inner > self.threshold)

    def change(self, values: np.ndarray, errors: np.ndarray, grid: Grid) -> np.ndarray:
        """See `Quantity.change`: 1 where the error can carry the quantity across the threshold."""
        import numpy as np

        gap = np.abs(self.quantity.of(values, grid) - self.threshold)
        return np.where(gap > self.quantity.change(values, errors, grid), 0.0, 1.0)

    def check(self, grid: Grid) -> None:
        """See `Quantity.check`."""
        self.quantity.check(grid)

    def unit(self, source: Field, grid: Grid) -> str:
        """See `Quantity.unit`."""
        return "1"

    def words(self) -> str:
        """See `Quantity.words`."""
        return f"{self.quantity.words()} above {self.threshold:g}"


def segment(line: np.ndarray, low: float | None, high: float | None, periodic: bool = False) -> np.ndarray:
    """Weights of values on a line with which their sum is the integral between two ends.

    Parameters
    ----------
    line : ndarray, shape (n,)
        Coordinates, increasing, at least two.
    low, high : float or None
        Ends; None takes the end of the domain.
    periodic : bool
        The domain goes on for one more step, of the length of the last, to the first value again.

    Returns
    -------
    ndarray, shape (n,)
        In the unit of the coordinates.

    Raises
    ------
    Invalid
        If the ends are not within the domain, or not in order.
    """
    import numpy as np

    nodes = np.append(line, 2 * line[-1] - line[-2]) if periodic else np.asarray(line, dtype=np.float64)
    first, last = (nodes[0] if low is None else low), (nodes[-1] if high is None else high)
    if not nodes[0] <= first < last <= nodes[-1]:
        raise Invalid(f"[{first:g}, {last:g}] is no part of the domain, {nodes[0]:g} to {nodes[-1]:g}")
    a, b = np.clip(nodes[:-1], first, last), np.clip(nodes[1:], first, last)
    step = np.diff(nodes)
    # The integral of the line through two values from a to b is (b - a) times its value in the middle.
    right = (b - a) * ((a + b) / 2 - nodes[:-1]) / step
    weights = np.zeros(len(nodes))
    weights[1:] += right
    weights[:-1] += (b - a) - right
    if periodic:
        weights[0] += weights[-1]
        weights = weights[:-1]
    return weights


def _box(low: Mapping[str, float], high: Mapping[str, float]) -> str:
    axes = dict.fromkeys((*low, *high))
    ends = [f"{a} in [{low.get(a, '')}, {high.get(a, '')}]" for a in axes]
    return f" over {', '.join(ends)}" if ends else ""
