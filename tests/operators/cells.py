"""A periodic cell with one round fibre, in numpy and scipy: a toy, and an oracle for others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sciflow import Field, Parameter, ParameterSpace, State, hookimpl
from sciflow.homogenisation import CellProblem

RANGE = 0.04


@dataclass(frozen=True)
class Cell(CellProblem):
    """Plane strain, `cells` squares along each side, bilinear, four integration points in each.

    Attributes
    ----------
    cells : int
        Along each side.
    share : float
        Of the fibre.
    matrix : tuple of float
        Of the matrix: bulk modulus, MPa, and a1, a2 of ``a1 / (a2 + |dev e|) dev e``.
    fibre : tuple of float
        Of the fibre: bulk modulus and twice the shear modulus, MPa.
    """

    name: ClassVar[str] = "toy_cell"
    parameters: ClassVar[ParameterSpace] = ParameterSpace(
        exx=Parameter(-RANGE, RANGE, "1"),
        eyy=Parameter(-RANGE, RANGE, "1"),
        gxy=Parameter(-RANGE, RANGE, "1"),
    )
    fields: ClassVar[dict] = {
        "fluctuation": Field(("dof",), "m", "float64"),
        "stress": Field(("point", "component"), "MPa", "float64"),
        "homogenised": Field(("component",), "MPa", "float64"),
    }
    cells: int = 6
    share: float = 0.28
    matrix: tuple[float, float, float] = (4.78e3, 50.0, 0.06)
    fibre: tuple[float, float] = (4.345e4, 2 * 2.9918e4)

    @classmethod
    def example(cls):
        return cls(cells=4)

    def coordinates(self):
        import numpy as np

        sizes = {"dof": 2 * (self.cells + 1) ** 2, "point": 4 * self.cells**2, "component": 3}
        return {axis: np.arange(float(n)) for axis, n in sizes.items()}

    def integrals(self, ctx):
        from tests.operators.cell_solver import Squares

        return Squares(ctx.comm, self.cells)

    def material(self, points):
        from tests.operators.cell_solver import Softening

        return Softening(points, self.share, self.matrix, self.fibre)

    def solve(self, mu, ctx):
        from tests.operators.cell_solver import solve

        fluctuation, stress, mean = solve(self, self.macroscopic(mu))
        yield State(0.0, {"fluctuation": fluctuation, "stress": stress, "homogenised": mean})


@hookimpl
def sciflow_components():
    return [Cell]
