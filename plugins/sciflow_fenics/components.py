"""Entry point of the plugin: configurations only, dolfinx is imported where a problem is solved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.component import Component
from sciflow.errors import Invalid
from sciflow.guess import Guess, TakesGuess
from sciflow.hooks import hookimpl
from sciflow.linear_solver import LinearSolver, TakesSolver
from sciflow.problem import Parameter, ParameterSpace, State
from sciflow.reduction import Integrals, Law, Reducible
from sciflow.schema import Field
from sciflow.step_controller import StepController
from sciflow.stepping import unsteered
from sciflow_fenics.checks import DOLFINX, check_mesh, space
from sciflow_fenics.heated_plate import HeatedPlate
from sciflow_fenics.moving_heat import MovingHeat
from sciflow_fenics.rve import RVE
from sciflow_fenics.structures import CookMembrane, PerforatedPlate
from sciflow_fenics.two_scale import TwoScale, TwoScaleComparison
from sciflow_fenics.weak_forms import ElastoViscoplastic, SteadyHeat

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow_fenics.heating import Heating


@dataclass(frozen=True)
class Heat(HeatedPlate, Reducible):
    """Transient heat conduction in a square plate, heated by a Gaussian source.

    The unknown is the rise over the ambient temperature; the conductivity may depend on it. It can be reduced
    (`Reducible`) where ``degree`` is 1, ``grid`` is ``cells + 1`` and the parameter ``boundary`` is 0.

    Attributes
    ----------
    cells : int
        Cells along each side; each is cut into two triangles.
    degree : int
        Polynomial degree of the elements, 1 or 2.
    grid : int
        Points along each side of the regular grid that the fields are sampled on.
    levels : int
        Stored time levels, evenly spaced up to `end`.
    substeps : int
        Time steps between two stored levels, where no controller chooses them.
    end : float
        Final time, s.
    scheme : {"euler", "crank_nicolson"}
        Implicit time stepping of order 1 or 2; the second begins with four Euler steps of half the
        length.
    dofs : bool
        Also store the degrees of freedom in an order that does not depend on the ranks, and the
        mesh.
    solver : LinearSolver or None
        How the linear systems are solved, for example `Tuned`, which learns across an ensemble; None: GMRES
        with ILU in each rank's block.
    stepping : StepController or None
        Chooses the time steps between the stored levels, for example `PI`; None: `substeps` equal ones.
    """

    name: ClassVar[str] = "heat"
    parameters: ClassVar[ParameterSpace] = ParameterSpace(
        x=Parameter(0.02, 0.08, "m", description="centre of the source"),
        y=Parameter(0.02, 0.08, "m", description="centre of the source"),
        width=Parameter(0.008, 0.02, "m", description="standard deviation of the source"),
        amplitude=Parameter(2e6, 12e6, "W m-3", description="largest density of the source"),
        beta=Parameter(-2e-3, 4e-3, "K-1", description="relative change of the conductivity per kelvin"),
        boundary=Parameter(-20.0, 20.0, "K", description="rise at the boundary"),
    )
    unknown: ClassVar[str] = "temperature"
    cells: int = 32
    degree: Literal[1, 2] = 1
    grid: int = 64
    levels: int = 8
    substeps: int = 4
    end: float = 60.0
    scheme: Literal["euler", "crank_nicolson"] = "euler"
    dofs: bool = False
    solver: LinearSolver | None = None
    stepping: StepController | None = None

    def __post_init__(self) -> None:
        self._check()

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(cells=4, grid=5, levels=2, substeps=1)

    def heating(self, mu: Mapping[str, float]) -> Heating:
        """See `HeatedPlate.heating`."""
        from sciflow_fenics.heating import standing

        return standing(self, mu)

    def _solve(
        self, mu: Mapping[str, float], ctx: Context, restart: Mapping[str, np.ndarray] | None
    ) -> Iterator[State]:
        if self.stepping is not None:
            return super()._solve(mu, ctx, restart)
        from sciflow_fenics.heat import solve

        if restart is not None:
            unsteered(restart)
        return solve(self, mu, ctx, restart)

    def check_reducible(self, mu: Mapping[str, float] | None = None) -> None:
        """See `Reducible.check_reducible`: the stored field holds the nodes, and vanishes at the boundary."""
        if self.degree != 1 or self.grid != self.cells + 1:
            raise Invalid(
                "heat is reduced where its stored temperature is the unknowns themselves: set degree=1 and "
                f"grid={self.cells + 1} for {self.cells} cells, got degree={self.degree} and grid={self.grid}"
            )
        if mu is not None and mu["boundary"] != 0:
            raise Invalid(
                "heat is reduced where its temperature vanishes at the boundary, got a rise of "
                f"{mu['boundary']:g} K there; give the design fixed={{'boundary': 0.0}}"
            )

    def integrals(self, ctx: Context) -> Integrals:
        """See `Reducible.integrals`: strains are the temperature and its two derivatives.

        Raises
        ------
        Invalid
            As `check_reducible`.
        """
        from sciflow_fenics.heat import integrals

        self.check_reducible()
        return integrals(self, ctx)

    def law(self, points: np.ndarray, mu: Mapping[str, float]) -> Law:
        """See `Reducible.law`: from stored level to stored level, by Euler's steps where these are all.

        Raises
        ------
        Invalid
            As `check_reducible`, and if the source has no width.
        """
        from sciflow_fenics.heat_law import EULER, LEVELS, HeatLaw

        self.check_reducible(mu)
        if mu["width"] <= 0:
            raise Invalid(f"the width of the source must be positive, got {mu['width']} m")
        same = self.scheme == "euler" and self.substeps == 1 and self.stepping is None
        plate, dt = (self.side, self.conductivity, self.capacity), self.end / self.levels
        return HeatLaw(points, mu, self.cells, *plate, dt, EULER if same else LEVELS)

    def start(self, count: int) -> np.ndarray:
        """See `Reducible.start`: the plate has the ambient temperature."""
        import numpy as np

        from sciflow_fenics.heat_law import HISTORY

        return np.zeros((count, HISTORY))


@dataclass(frozen=True)
class Darcy(TakesGuess, TakesSolver):
    """Steady Darcy flow in the unit square through a log-normal random medium.

    Attributes
    ----------
    cells : int
        Cells along each side; each is cut into two triangles.
    degree : int
        Polynomial degree of the pressure, 1 or 2.
    grid : int
        Points along each side of the regular grid that the fields are sampled on.
    dofs : bool
        Also store the permeability at the mesh nodes and the pressure's degrees of freedom, in an
        order that does not depend on the ranks, and the mesh.
    solver : LinearSolver or None
        How the linear systems are solved, for example `Tuned`, which learns across an ensemble; None:
        conjugate gradients with ILU in each rank's block.
    guess : Guess or None
        Where the conjugate gradients begin, for example `FromModel`; the field is interpolated from the grid.
        None: at zero. Another `solver` takes none.

    Raises
    ------
    Invalid
        If both `guess` and `solver` are given, or the mesh or grid cannot be.
    """

    name: ClassVar[str] = "darcy"
    requires: ClassVar[tuple[str, ...]] = DOLFINX
    parameters: ClassVar[ParameterSpace] = ParameterSpace(
        length=Parameter(0.05, 0.3, "1", description="correlation length over the side"),
        variance=Parameter(0.1, 2.0, "1", description="variance of the logarithm of the permeability"),
        source=Parameter(0.5, 2.0, "1", description="inflow per area"),
    )
    guessed: ClassVar[str] = "pressure"
    foreknown: ClassVar[tuple[str, ...]] = ("permeability",)
    cells: int = 48
    degree: Literal[1, 2] = 1
    grid: int = 64
    dofs: bool = False
    solver: LinearSolver | None = None
    guess: Guess | None = None

    def __post_init__(self) -> None:
        check_mesh(self.cells, self.degree, self.grid)
        if self.guess is not None and self.solver is not None:
            raise Invalid(
                f"{self.name} begins from a guess with its own conjugate gradients alone: leave out the "
                "guess or the solver"
            )

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(cells=4, grid=5)

    @property
    def fields(self) -> Mapping[str, Field]:  # type: ignore[override]
        """Permeability and pressure on the grid, and in the FE spaces where they are asked for."""
        found = {
            "permeability": Field(("y", "x"), "1", description="log-normal random field"),
            "pressure": Field(("y", "x"), "1", description="zero on the boundary"),
        }
        if self.dofs:
            axis, notes = space(self.degree)
            found["permeability_node"] = Field(("node",), "1", "float64", "at the mesh nodes", space(1)[1])
            found["pressure_dof"] = Field((axis,), "1", "float64", "finite-element solution", notes)
        return found

    def coordinates(self) -> Mapping[str, np.ndarray]:
        """See `Problem.coordinates`."""
        import numpy as np

        points = np.linspace(0.0, 1.0, self.grid)
        axes: dict[str, np.ndarray] = {"y": points, "x": points}
        if self.dofs:
            axes["node"] = np.arange((self.cells + 1) ** 2)
            axes[space(self.degree)[0]] = np.arange((self.cells * self.degree + 1) ** 2)
        return axes

    def axis_units(self) -> Mapping[str, str]:
        """See `Problem.axis_units`."""
        return dict.fromkeys(("x", "y", "node", "dof"), "1")

    def constants(self, ctx: Context) -> Mapping[str, tuple[Field, np.ndarray]]:
        """The mesh, where degrees of freedom are stored."""
        if not self.dofs:
            return {}
        from sciflow_fenics.lattice import mesh_arrays

        return mesh_arrays(self.cells, self.degree, 1.0, "1")

    def solve(self, mu: Mapping[str, float], ctx: Context) -> Iterator[State]:
        """See `Problem.solve`.

        Raises
        ------
        Diverged
            If the linear solver fails.
        Invalid
            If length or variance are not positive, the mesh is too coarse for the ranks, or the guess fails.
        """
        from sciflow_fenics.darcy import solve

        return solve(self, mu, ctx)


sciflow_api = "1.0"


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Components of this plugin."""
    return [
        *(Heat, MovingHeat, Darcy, SteadyHeat, ElastoViscoplastic, RVE),
        *(CookMembrane, PerforatedPlate, TwoScale, TwoScaleComparison),
    ]


@hookimpl
def sciflow_report(artifact: Artifact) -> list[tuple[str, str]] | None:
    """What a report says of two-scale computations."""
    if not artifact.schema.kind.startswith("two_scale"):
        return None
    from sciflow_fenics.two_scale_report import sections

    return sections(artifact)
