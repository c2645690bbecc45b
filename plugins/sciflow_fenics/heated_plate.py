"""HeatedPlate: what the transient heat problems on a square plate share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from sciflow.errors import Invalid
from sciflow.linear_solver import TakesSolver
from sciflow.problem import Problem, State
from sciflow.schema import Field
from sciflow.step_controller import Knob, TakesSteps
from sciflow_fenics.checks import DOLFINX, FEATURES, check_count, check_mesh, space, step_knob

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Context
    from sciflow.step_controller import Stepper
    from sciflow_fenics.heating import Heating


class HeatedPlate(TakesSteps, TakesSolver, Problem):
    """Transient heat conduction in a square plate of steel; the source is the problem's own.

    Attributes
    ----------
    side : float
        Of the plate, m.
    conductivity : float
        At the ambient temperature, W m-1 K-1.
    capacity : float
        Per volume, J m-3 K-1.
    """

    requires: ClassVar[tuple[str, ...]] = DOLFINX
    cells: int
    degree: Literal[1, 2]
    grid: int
    levels: int
    substeps: int
    end: float
    scheme: Literal["euler", "crank_nicolson"]
    dofs: bool

    side: ClassVar[float] = 0.1
    conductivity: ClassVar[float] = 20.0
    capacity: ClassVar[float] = 3.6e6
    source_axes: ClassVar[tuple[str, ...]] = ("y", "x")

    def _check(self) -> None:
        check_mesh(self.cells, self.degree, self.grid)
        check_count("levels", self.levels, 1)
        check_count("substeps", self.substeps, 1)
        if not 0 < self.end < float("inf"):
            raise Invalid(f"end must be positive and finite, got {self.end} s")
        if self.scheme not in ("euler", "crank_nicolson"):
            raise Invalid(f"scheme {self.scheme!r} is not one of euler, crank_nicolson")

    @abstractmethod
    def heating(self, mu: Mapping[str, float]) -> Heating:
        """What heats the plate of one member.

        Parameters
        ----------
        mu : mapping of str to float
            A complete point of the parameters.

        Raises
        ------
        Invalid
            If it cannot be, for example where a source does not move forward.
        """

    @property
    def fields(self) -> Mapping[str, Field]:  # type: ignore[override]
        """Source and temperature on the grid, and the degrees of freedom where they are asked for."""
        found = {
            "source": Field(self.source_axes, "W m-3", description="heat source"),
            "temperature": Field(("time", "y", "x"), "K", description="rise over the ambient temperature"),
        }
        if self.dofs:
            axis, notes = space(self.degree)
            found["temperature_dof"] = Field(("time", axis), "K", "float64", "finite-element solution", notes)
        return found

    def coordinates(self) -> Mapping[str, np.ndarray]:
        """See `Problem.coordinates`."""
        import numpy as np

        points = np.linspace(0.0, self.side, self.grid)
        axes: dict[str, np.ndarray] = {
            "time": self.end * np.arange(1, self.levels + 1) / self.levels,
            "y": points,
            "x": points,
        }
        if self.dofs:
            axes[space(self.degree)[0]] = np.arange((self.cells * self.degree + 1) ** 2)
        return axes

    def axis_units(self) -> Mapping[str, str]:
        """See `Problem.axis_units`."""
        return {"time": "s", "x": "m", "y": "m", "node": "1", "dof": "1"}

    def solve(self, mu: Mapping[str, float], ctx: Context) -> Iterator[State]:
        """See `Problem.solve`.

        Raises
        ------
        Diverged
            If Newton's method or the linear solver fails, the conductivity is not positive, or no step can
            be taken.
        Invalid
            If the source is not positive in width or speed, or the mesh is too coarse for the ranks.
        """
        return self._solve(mu, ctx, None)

    def resume(
        self, mu: Mapping[str, float], ctx: Context, restart: Mapping[str, np.ndarray]
    ) -> Iterator[State]:
        """See `Problem.resume`.

        Raises
        ------
        Invalid
            If it was solved under another controller, or there was one and is none now, or the reverse.
        """
        return self._solve(mu, ctx, restart)

    def _solve(
        self, mu: Mapping[str, float], ctx: Context, restart: Mapping[str, np.ndarray] | None
    ) -> Iterator[State]:
        from sciflow_fenics.heat_states import solve

        return solve(self, mu, ctx, restart)

    def steered(self) -> tuple[Knob, tuple[str, ...]]:
        """See `TakesSteps.steered`."""
        return step_knob(self.end, self.scheme), FEATURES

    def stepper(
        self, mu: Mapping[str, float], ctx: Context, restart: Mapping[str, np.ndarray] | None = None
    ) -> Stepper:
        """See `TakesSteps.stepper`."""
        from sciflow_fenics.heat_states import stepper

        return stepper(self, mu, ctx, restart)

    def constants(self, ctx: Context) -> Mapping[str, tuple[Field, np.ndarray]]:
        """The mesh, where degrees of freedom are stored."""
        if not self.dofs:
            return {}
        from sciflow_fenics.lattice import mesh_arrays

        return mesh_arrays(self.cells, self.degree, self.side, "m")
