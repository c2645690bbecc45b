"""MovingHeat: a plate that is scanned by a source of heat; configuration and path only."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.errors import Invalid
from sciflow.linear_solver import LinearSolver, TakesSolver
from sciflow.problem import Parameter, ParameterSpace, Problem, State
from sciflow.schema import Field
from sciflow.step_controller import Knob, StepController, TakesSteps
from sciflow_fenics.checks import DOLFINX, FEATURES, check_count, check_mesh, space, step_knob

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Context
    from sciflow.step_controller import Stepper


@dataclass(frozen=True)
class Scan:
    """Where a source is and when it is on: parallel lines to and fro, with a pause before each.

    Attributes
    ----------
    lines : int
        How many.
    length, pitch : float
        Of a line and between two of them, m.
    pause : float
        Without the source before each line, s.
    speed : float
        m s-1.
    offset, turn : float
        Of the lines from the middle, m, and around it, rad.
    side : float
        Of the plate, m.
    """

    lines: int
    length: float
    pitch: float
    pause: float
    speed: float
    offset: float
    turn: float
    side: float

    @property
    def switches(self) -> tuple[float, ...]:
        """When it goes on, off, on ..., s."""
        run = self.length / self.speed
        starts = [self.pause + i * (run + self.pause) for i in range(self.lines)]
        return tuple(t for start in starts for t in (start, start + run))

    def at(self, time: float, after: bool) -> tuple[float, float] | None:
        """Where it is, or None while it is off.

        Parameters
        ----------
        time : float
            s.
        after : bool
            At a switch, whether the time after it counts, else that before it.

        Returns
        -------
        tuple of float or None
            x and y, m.
        """
        switches = self.switches
        count = (bisect_right if after else bisect_left)(switches, time)
        line, on = divmod(count, 2)
        if not on:
            return None
        along = self.speed * (time - switches[2 * line]) - self.length / 2
        along = along if line % 2 == 0 else -along
        across = (line - (self.lines - 1) / 2) * self.pitch + self.offset
        c, s = math.cos(self.turn), math.sin(self.turn)
        return self.side / 2 + c * along - s * across, self.side / 2 + s * along + c * across


@dataclass(frozen=True)
class MovingHeat(TakesSteps, TakesSolver, Problem):
    """Transient heat conduction in a square plate, scanned by a Gaussian source that is then off.

    A laser hardens a steel plate: short lines, then a long time of cooling, so that the step that serves
    changes by orders of magnitude. The unknown is the rise over the ambient temperature, which the edge
    of the plate keeps.

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
        Equal time steps between two stored levels, where no controller chooses them.
    end : float
        Final time, s.
    lines : int
        Lines of the scan.
    length, pitch : float
        Of a line, and between two of them, m.
    pause : float
        Before each line, s.
    scheme : {"euler", "crank_nicolson"}
        Implicit time stepping of order 1 or 2.
    events : bool
        Whether the times are known at which the source goes on and off, and are met by steps; else a step
        may cross them, and only its error shows it.
    dofs : bool
        Also store the degrees of freedom in an order that does not depend on the ranks, and the
        mesh.
    solver : LinearSolver or None
        How the linear systems are solved, for example `Tuned`, which learns across an ensemble; None: GMRES
        with ILU in each rank's block.
    stepping : StepController or None
        Chooses the time steps between the stored levels, for example `PI`; None: `substeps` equal ones.
    """

    name: ClassVar[str] = "moving_heat"
    requires: ClassVar[tuple[str, ...]] = DOLFINX
    parameters: ClassVar[ParameterSpace] = ParameterSpace(
        speed=Parameter(0.015, 0.06, "m s-1", log=True, description="of the source along a line"),
        power=Parameter(2e4, 8e4, "W m-1", description="of the source per thickness of the plate"),
        width=Parameter(0.005, 0.01, "m", description="standard deviation of the source"),
        offset=Parameter(-0.01, 0.01, "m", description="of the lines from the middle"),
        turn=Parameter(0.0, math.pi, "rad", description="of the lines around the middle"),
        beta=Parameter(-2e-3, 4e-3, "K-1", description="relative change of the conductivity per kelvin"),
    )
    cells: int = 32
    degree: Literal[1, 2] = 1
    grid: int = 64
    levels: int = 8
    substeps: int = 80
    end: float = 80.0
    lines: int = 2
    length: float = 0.05
    pitch: float = 0.015
    pause: float = 1.0
    scheme: Literal["euler", "crank_nicolson"] = "crank_nicolson"
    events: bool = True
    dofs: bool = False
    solver: LinearSolver | None = None
    stepping: StepController | None = None

    side: ClassVar[float] = 0.1
    conductivity: ClassVar[float] = 20.0
    capacity: ClassVar[float] = 3.6e6

    def __post_init__(self) -> None:
        check_mesh(self.cells, self.degree, self.grid)
        check_count("levels", self.levels, 1)
        check_count("substeps", self.substeps, 1)
        check_count("lines", self.lines, 1)
        for name, unit in (("end", "s"), ("length", "m"), ("pitch", "m"), ("pause", "s")):
            if not 0 < getattr(self, name) < math.inf:
                raise Invalid(f"{name} must be positive and finite, got {getattr(self, name)} {unit}")
        if self.scheme not in ("euler", "crank_nicolson"):
            raise Invalid(f"scheme {self.scheme!r} is not one of euler, crank_nicolson")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(cells=4, grid=5, levels=2, substeps=4, end=8.0)

    def scan(self, mu: Mapping[str, float]) -> Scan:
        """The path of a member.

        Parameters
        ----------
        mu : mapping of str to float
            With ``speed``, ``offset`` and ``turn``.
        """
        return Scan(
            self.lines,
            self.length,
            self.pitch,
            self.pause,
            mu["speed"],
            mu["offset"],
            mu["turn"],
            self.side,
        )

    def switches(self, mu: Mapping[str, float]) -> tuple[float, ...]:
        """See `TakesSteps.switches`."""
        return tuple(t for t in self.scan(mu).switches if t < self.end)

    @property
    def fields(self) -> Mapping[str, Field]:  # type: ignore[override]
        """Source and temperature on the grid, and the degrees of freedom where they are asked for."""
        axes = ("time", "y", "x")
        found = {
            "source": Field(axes, "W m-3", description="heat source"),
            "temperature": Field(axes, "K", description="rise over the ambient temperature"),
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
            If Newton's method or the linear solver fails, or the conductivity is not positive.
        Invalid
            If the source is not positive in width or speed, or the mesh is too coarse for the ranks.
        """
        from sciflow_fenics.heat_states import solve

        return solve(self, mu, ctx)

    def resume(
        self, mu: Mapping[str, float], ctx: Context, restart: Mapping[str, np.ndarray]
    ) -> Iterator[State]:
        """See `Problem.resume`."""
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
