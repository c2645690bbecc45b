"""Configurations of the problems that offer their weak form; dolfinx is imported where one is solved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.problem import Parameter, ParameterSpace, State
from sciflow.reduction import Integrals, Law, Reducible
from sciflow.schema import Field
from sciflow_fenics.checks import DOLFINX, check_count

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Context


@dataclass(frozen=True)
class SteadyHeat(Reducible):
    """Steady heat conduction in the unit square, conductivity ``1 + u^2``, heated by a Gaussian source.

    Attributes
    ----------
    cells : int
        Cells along each side; each is cut into two triangles. Both fields are on the ``cells + 1``
        by ``cells + 1`` nodes.
    """

    name: ClassVar[str] = "steady_heat"
    requires: ClassVar[tuple[str, ...]] = DOLFINX
    parameters: ClassVar[ParameterSpace] = ParameterSpace(
        x=Parameter(0.1, 0.9, "1", description="centre of the source over the side"),
        y=Parameter(0.1, 0.9, "1", description="centre of the source over the side"),
        amplitude=Parameter(1.0, 1000.0, "1", log=True, description="largest density of the source"),
    )
    fields: ClassVar[Mapping[str, Field]] = {
        "source": Field(("y", "x"), "1", "float64", "heat source"),
        "temperature": Field(("y", "x"), "1", "float64", "zero on the boundary"),
    }
    unknown: ClassVar[str] = "temperature"
    cells: int = 64

    def __post_init__(self) -> None:
        check_count("cells", self.cells, 2)

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(cells=6)

    def coordinates(self) -> Mapping[str, np.ndarray]:
        """See `Problem.coordinates`."""
        import numpy as np

        points = np.linspace(0.0, 1.0, self.cells + 1)
        return {"y": points, "x": points}

    def axis_units(self) -> Mapping[str, str]:
        """See `Problem.axis_units`."""
        return {"y": "1", "x": "1"}

    def solve(self, mu: Mapping[str, float], ctx: Context) -> Iterator[State]:
        """See `Problem.solve`.

        Raises
        ------
        Diverged
            If Newton's method or the linear solver fails.
        Invalid
            If the mesh is too coarse for the ranks.
        """
        from sciflow_fenics.steady_heat import solve

        return solve(self, mu, ctx)

    def integrals(self, ctx: Context) -> Integrals:
        """See `Reducible.integrals`: strains are the temperature and its two derivatives."""
        from sciflow_fenics.steady_heat import integrals

        return integrals(self, ctx)

    def law(self, points: np.ndarray, mu: Mapping[str, float]) -> Law:
        """See `Reducible.law`."""
        from sciflow_fenics.laws import ConductionLaw

        return ConductionLaw(points, mu)
