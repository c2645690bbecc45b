"""What a policy may choose: values of a solver's knob, a few levels or all of a range."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow.component import Component
from sciflow.errors import Invalid

if TYPE_CHECKING:
    from sciflow.step_controller import Knob


class Actions(Component):
    """Values of a knob between two bounds, even in the logarithm.

    Attributes
    ----------
    low, high : float or None
        Bounds of the values, in the unit of the knob; None: the knob's own.

    Raises
    ------
    Invalid
        If `low` or `high` has a value that it cannot have.
    """

    kind: ClassVar[str] = "actions"
    low: float | None
    high: float | None

    def __post_init__(self) -> None:
        low, high = 0.0 if self.low is None else self.low, math.inf if self.high is None else self.high
        if not 0 <= low < high or self.low == 0 or self.high == math.inf:
            raise Invalid(
                f"{self.name}: low and high are positive and in order, got {self.low} and {self.high}"
            )

    def bounds(self, knob: Knob) -> tuple[float, float]:
        """Smallest and largest value.

        Raises
        ------
        Invalid
            If they are not in order or not within those of the knob.
        """
        low = knob.low if self.low is None else self.low
        high = knob.high if self.high is None else self.high
        # An end written as 0.1 and one computed as 10 ** -1.0 are the same.
        near = 1e-12
        if not knob.low * (1 - near) <= low < high <= knob.high * (1 + near):
            raise Invalid(
                f"{knob.name} is to be chosen from {low:g} to {high:g}{knob.suffix}, the solver takes "
                f"{knob.low:g} to {knob.high:g}"
            )
        return max(low, knob.low), min(high, knob.high)

    @abstractmethod
    def values(self, knob: Knob) -> tuple[float, ...]:
        """The levels, or the two ends of a range.

        Raises
        ------
        Invalid
            See `bounds`.
        """

    @abstractmethod
    def space(self) -> Any:
        """What gymnasium calls the space of actions."""


@dataclass(frozen=True)
class Levels(Actions):
    """A few values, evenly spaced in the logarithm.

    Attributes
    ----------
    count : int
        How many, at least 2.
    low, high : float or None
        The first and the last, in the unit of the knob; None: the knob's own bounds.

    Raises
    ------
    Invalid
        If `count` has a value that it cannot have.
    """

    name: ClassVar[str] = "levels"
    count: int = 10
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 2:
            raise Invalid(f"there must be at least 2 levels to choose from, got {self.count}")

    def values(self, knob: Knob) -> tuple[float, ...]:
        """See `Actions.values`."""
        low, high = self.bounds(knob)
        step = math.log(high / low) / (self.count - 1)
        inner = (low * math.exp(step * i) for i in range(1, self.count - 1))
        return (low, *inner, high)

    def space(self) -> Any:
        """The numbers of the levels."""
        from gymnasium.spaces import Discrete

        return Discrete(self.count)


@dataclass(frozen=True)
class LogRange(Actions):
    """Any value of a range; an action from -1 to 1 is its place in the logarithm.

    Attributes
    ----------
    low, high : float or None
        The ends, in the unit of the knob; None: the knob's own bounds.
    """

    name: ClassVar[str] = "log_range"
    low: float | None = None
    high: float | None = None

    def values(self, knob: Knob) -> tuple[float, ...]:
        """See `Actions.values`."""
        return self.bounds(knob)

    def space(self) -> Any:
        """One number from -1 to 1."""
        import numpy as np
        from gymnasium.spaces import Box

        return Box(-1.0, 1.0, (1,), np.float32)
