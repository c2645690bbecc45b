"""Configuration of the representative volume element: fibres in a matrix, in plane strain."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid
from sciflow.homogenisation import CellProblem, Homogenised
from sciflow.problem import Parameter, ParameterSpace, State
from sciflow.reduction import Integrals, Law
from sciflow.schema import Field
from sciflow_fenics.checks import check_count

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Context


def _strain(description: str) -> Parameter:
    return Parameter(-0.04, 0.04, "1", description=description)


@dataclass(frozen=True)
class RVE(CellProblem):
    """A periodic unit cell of a fibre composite under a mean strain, small strains in plane strain.

    Linear elastic fibres (`composite.FIBRE`) run along z through a matrix that softens with the strain
    (`composite.MATRIX`). Lengths are over the side of the cell, stresses in MPa.

    Attributes
    ----------
    cells : int
        Bilinear quadrilaterals along each side, with four points each; a point is in a fibre or not.
    fibres : tuple of (float, float, float), or None
        Centre and radius of each; a fibre goes on across the sides. ``()`` is the matrix alone.
        ``None``: `inclusions` equal ones that fill `volume_fraction`.
    inclusions : int
        How many, if `fibres` does not say: one is in the middle, more are at random places.
    volume_fraction : float
        Of the area, if `fibres` does not say.
    packing_seed : int
        Decides the random places.

    Raises
    ------
    Invalid
        If `volume_fraction` or `fibres` has a value that it cannot have.
    """

    name: ClassVar[str] = "rve"
    requires: ClassVar[tuple[str, ...]] = ("scipy",)
    parameters: ClassVar[ParameterSpace] = ParameterSpace(
        exx=_strain("mean strain along x"),
        eyy=_strain("mean strain along y"),
        gxy=_strain("mean engineering shear strain"),
    )
    fields: ClassVar[Mapping[str, Field]] = {
        "fluctuation": Field(("dof",), "1", "float64", "over the side, by node and direction"),
        "stress": Field(("point", "component"), "MPa", "float64", "xx, yy, xy at the integration points"),
        "homogenised": Field(("component",), "MPa", "float64", "mean stress: xx, yy, xy"),
    }
    cells: int = 48
    fibres: tuple[tuple[float, float, float], ...] | None = None
    inclusions: int = 1
    volume_fraction: float = 0.28
    packing_seed: int = 0

    def __post_init__(self) -> None:
        check_count("cells", self.cells, 2)
        check_count("inclusions", self.inclusions, 1)
        check_count("packing_seed", self.packing_seed, 0)
        if not 0 < self.volume_fraction < 1:
            raise Invalid(f"volume_fraction is between 0 and 1, got {self.volume_fraction}")
        for number, fibre in enumerate(self.fibres or ()):
            if len(fibre) != 3 or not all(math.isfinite(v) for v in fibre) or not 0 < fibre[2] < 1:
                raise Invalid(
                    f"fibre {number} must be x, y and a radius between 0 and 1, over the side; got {fibre}"
                )

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(cells=6)

    def coordinates(self) -> Mapping[str, np.ndarray]:
        """See `Problem.coordinates`."""
        import numpy as np

        sizes = {"dof": 2 * (self.cells + 1) ** 2, "point": 4 * self.cells**2, "component": 3}
        return {axis: np.arange(size) for axis, size in sizes.items()}

    def axis_units(self) -> Mapping[str, str]:
        """See `Problem.axis_units`."""
        return dict.fromkeys(("dof", "point", "component", "node", "face", "corner"), "1")

    def placed(self) -> np.ndarray:
        """Centre and radius of every fibre, shape (fibre, 3), over the side.

        Raises
        ------
        Invalid
            If the random packing finds no room.
        """
        import numpy as np

        if self.fibres is not None:
            return np.array(self.fibres, dtype=np.float64).reshape(-1, 3)
        from sciflow_fenics.composite import packing

        return packing(self.inclusions, self.volume_fraction, self.packing_seed)

    def material(self, points: np.ndarray) -> Law:
        """See `CellProblem.material`."""
        from sciflow_fenics.composite import Composite, inside

        return Composite(inside(points, self.placed()))

    def solve(self, mu: Mapping[str, float], ctx: Context) -> Iterator[State]:
        """See `Problem.solve`.

        Raises
        ------
        Diverged
            If Newton's method fails.
        Invalid
            On several ranks: a cell is small and solved on one, an ensemble has many of them.
        """
        from sciflow_fenics.direct import solve

        return solve(self, mu, ctx)

    def integrals(self, ctx: Context) -> Integrals:
        """See `Reducible.integrals`: strains are xx, yy and twice xy; there are no loads.

        Raises
        ------
        Invalid
            On several ranks.
        """
        from sciflow_fenics.direct import integrals

        return integrals(self, ctx)

    def direct(self) -> Homogenised:
        """See `CellProblem.direct`."""
        from sciflow_fenics.direct import Direct

        return Direct(self)

    def constants(self, ctx: Context) -> Mapping[str, tuple[Field, np.ndarray]]:
        """Mesh, integration points with their weights, and which of them are in a fibre."""
        import numpy as np

        from sciflow_fenics.cell import cell
        from sciflow_fenics.composite import inside

        grid = cell(self.cells)
        topology = {
            "cf_role": "mesh_topology",
            "topology_dimension": 2,
            "node_coordinates": "node_x node_y",
            "face_node_connectivity": "quadrilaterals",
        }
        role = {"cf_role": "face_node_connectivity", "start_index": 0}
        corners = Field(("face", "corner"), "1", "int64", "nodes of each quadrilateral, anticlockwise", role)
        places = {"node": grid.nodes, "point": grid.points}
        lines = {
            f"{axis}_{d}": (Field((axis,), "1", "float64", f"{d} of each {axis}"), found[:, i].copy())
            for axis, found in places.items()
            for i, d in enumerate("xy")
        }
        fibre = inside(grid.points, self.placed()).astype(np.uint8)
        return {
            "mesh": (Field((), "1", "int32", "topology of the mesh", topology), np.zeros((), np.int32)),
            "quadrilaterals": (corners, grid.corners[:, [0, 1, 3, 2]]),
            **lines,
            "weight": (Field(("point",), "1", "float64", "of each point; they sum to one"), grid.weights),
            "fibre": (Field(("point",), "1", "uint8", "1 in a fibre"), fibre),
        }
