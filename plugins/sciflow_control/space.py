"""Spaces: what a tuner chooses from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from sciflow.component import Component
from sciflow.errors import Invalid

Values = Mapping[str, float | str]


class Space(Component):
    """A finite set of settings in a fixed order; an arm is an index into it."""

    kind: ClassVar[str] = "space"

    @property
    @abstractmethod
    def arms(self) -> tuple[Values, ...]:
        """The settings of every arm."""


@dataclass(frozen=True)
class Relaxation(Space):
    """Evenly spaced relaxation parameters of SOR or SSOR.

    Attributes
    ----------
    low, high : float
        Smallest and largest omega, in (0, 2).
    count : int
        How many.
    """

    name: ClassVar[str] = "relaxation"
    low: float = 1.0
    high: float = 1.95
    count: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < 2:
            raise Invalid(f"omega must lie in (0, 2) with low < high, got {self.low} to {self.high}")
        if self.count < 2:
            raise Invalid(f"a choice needs at least two values, got count={self.count}")

    @cached_property
    def arms(self) -> tuple[Values, ...]:
        """``{"omega": w}`` for every w."""
        step = (self.high - self.low) / (self.count - 1)
        return tuple({"omega": self.low + i * step} for i in range(self.count))


@dataclass(frozen=True)
class Solvers(Space):
    """Krylov methods with preconditioners, and direct solvers.

    Attributes
    ----------
    methods : tuple of str
        ``"cg+icc"`` and the like: a method, a plus sign, a preconditioner; ``"cholesky"`` and ``"lu"``
        are direct. With ``sor``, ``ssor`` and ``eisenstat`` there is one arm for each omega.
    omegas : tuple of float
        In (0, 2).
    """

    name: ClassVar[str] = "solvers"
    methods: tuple[str, ...] = ("cg+icc", "cg+ssor", "cg+eisenstat", "cg+jacobi", "cholesky")
    omegas: tuple[float, ...] = (1.0, 1.2, 1.4, 1.6, 1.7, 1.8, 1.9)

    def __post_init__(self) -> None:
        if not self.methods:
            raise Invalid("no methods to choose from")
        if not all(0 < w < 2 for w in self.omegas):
            raise Invalid(f"omegas must lie in (0, 2), got {self.omegas}")

    @cached_property
    def arms(self) -> tuple[Values, ...]:
        """``{"method": m}`` or ``{"method": m, "omega": w}``."""
        found: list[Values] = []
        for method in self.methods:
            if method.partition("+")[2] in ("sor", "ssor", "eisenstat"):
                found += [{"method": method, "omega": w} for w in self.omegas]
            else:
                found.append({"method": method})
        return tuple(found)
