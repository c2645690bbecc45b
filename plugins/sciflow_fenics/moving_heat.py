"""MovingHeat: a plate that is scanned by a source of heat; configuration and path only."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.errors import Invalid
from sciflow.linear_solver import LinearSolver
from sciflow.problem import Parameter, ParameterSpace
from sciflow.step_controller import StepController
from sciflow_fenics.checks import check_count
from sciflow_fenics.heated_plate import HeatedPlate

if TYPE_CHECKING:
    from sciflow_fenics.heating import Heating


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
class MovingHeat(HeatedPlate):
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

    Raises
    ------
    Invalid
        If `length`, `side`, `pitch` or `pause` has a value that it cannot have.
    """

    name: ClassVar[str] = "moving_heat"
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

    source_axes: ClassVar[tuple[str, ...]] = ("time", "y", "x")

    def __post_init__(self) -> None:
        self._check()
        check_count("lines", self.lines, 1)
        for name, unit in (("length", "m"), ("pitch", "m"), ("pause", "s")):
            if not 0 < getattr(self, name) < math.inf:
                raise Invalid(f"{name} must be positive and finite, got {getattr(self, name)} {unit}")
        across = (self.lines - 1) * self.pitch
        if max(self.length, across) > self.side:
            raise Invalid(
                f"{self.lines} lines of {self.length:g} m, {across:g} m from the first to the last, leave "
                f"the plate of {self.side:g} m; shorten length or pitch"
            )

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

    def heating(self, mu: Mapping[str, float]) -> Heating:
        """See `HeatedPlate.heating`."""
        from sciflow_fenics.heating import moving

        return moving(self, mu)

    def switches(self, mu: Mapping[str, float]) -> tuple[float, ...]:
        """See `TakesSteps.switches`."""
        return tuple(t for t in self.scan(mu).switches if t < self.end)
