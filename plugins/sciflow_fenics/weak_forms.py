"""Configurations of the problems that offer their weak form; dolfinx is imported where one is solved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sciflow.errors import Invalid, NotFound, nearest
from sciflow.guess import Guess, TakesGuess
from sciflow.linear_solver import LinearSolver, TakesSolver
from sciflow.problem import Parameter, ParameterSpace, State
from sciflow.reduction import Integrals, Law, Reducible
from sciflow.schema import Field
from sciflow_fenics.checks import DOLFINX, check_count

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Context


@dataclass(frozen=True)
class SteadyHeat(TakesGuess, TakesSolver, Reducible):
    """Steady heat conduction in the unit square, conductivity ``1 + u^2``, heated by a Gaussian source.

    Attributes
    ----------
    cells : int
        Cells along each side; each is cut into two triangles. Both fields are on the ``cells + 1``
        by ``cells + 1`` nodes.
    solver : LinearSolver or None
        How the linear systems are solved, for example `Tuned`, which learns across an ensemble; None:
        a sparse LU where PETSc has one for these ranks.
    guess : Guess or None
        Where Newton's method begins, for example `FromModel`; None: at zero.
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
    guessed: ClassVar[str] = "temperature"
    foreknown: ClassVar[tuple[str, ...]] = ("source",)
    cells: int = 64
    solver: LinearSolver | None = None
    guess: Guess | None = None

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
            If the mesh is too coarse for the ranks, or the guess fails.
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


@dataclass(frozen=True)
class ElastoViscoplastic(Reducible):
    """A plate with a hole under cyclic traction, in plane strain; a quarter of it by symmetry.

    The traction ``mean + amplitude * sin(2 pi t / period)`` acts along x. The metal flows viscously
    above its yield stress and hardens: ``laws.METAL``, ``laws.ViscoplasticLaw``.

    Attributes
    ----------
    cells : int
        Cells around the hole and as many away from it, even; each is cut into two triangles with
        quadratic displacements.
    cycles : int
        How often the load comes back; neither mesh nor steps depend on it.
    steps_per_cycle : int
        Implicit Euler steps in a cycle; all of them are stored.
    period : float
        Length of a cycle, s.

    Raises
    ------
    Invalid
        If `cells` or `period` has a value that it cannot have.
    """

    name: ClassVar[str] = "elasto_viscoplastic"
    requires: ClassVar[tuple[str, ...]] = DOLFINX
    parameters: ClassVar[ParameterSpace] = ParameterSpace(
        amplitude=Parameter(80e6, 120e6, "Pa", description="amplitude of the traction"),
        mean=Parameter(0.0, 30e6, "Pa", description="mean of the traction"),
        yield_stress=Parameter(100e6, 150e6, "Pa", description="yield stress before hardening"),
        drag=Parameter(20e6, 200e6, "Pa", log=True, description="overstress at a rate of one per second"),
    )
    fields: ClassVar[Mapping[str, Field]] = {
        "displacement": Field(("time", "dof"), "m", "float64", "by node and direction", {"mesh": "mesh"}),
        "cumulated": Field(("time", "point"), "1", "float64", "cumulated plastic strain"),
        "stress": Field(("time", "point", "component"), "Pa", "float64", "xx, yy, zz, xy"),
    }
    unknown: ClassVar[str] = "displacement"
    dual: ClassVar[tuple[str, ...]] = ("cumulated", "stress")
    cells: int = 20
    cycles: int = 4
    steps_per_cycle: int = 20
    period: float = 20.0

    side: ClassVar[float] = 0.05
    hole: ClassVar[float] = 0.01

    def __post_init__(self) -> None:
        check_count("cells", self.cells, 2)
        check_count("cycles", self.cycles, 1)
        check_count("steps_per_cycle", self.steps_per_cycle, 4)
        if self.cells % 2:
            raise Invalid(f"cells must be even, the corner of the plate is a node; got {self.cells}")
        if not 0 < self.period < float("inf"):
            raise Invalid(f"period must be positive and finite, got {self.period} s")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(cells=4, cycles=1, steps_per_cycle=8)

    def coordinates(self) -> Mapping[str, np.ndarray]:
        """See `Problem.coordinates`."""
        import numpy as np

        steps = np.arange(1, self.cycles * self.steps_per_cycle + 1)
        return {
            "time": self.period * steps / self.steps_per_cycle,
            "dof": np.arange(2 * (2 * self.cells + 1) ** 2),
            "point": np.arange(6 * self.cells**2),
            "component": np.arange(4),
        }

    def axis_units(self) -> Mapping[str, str]:
        """See `Problem.axis_units`."""
        one = ("dof", "point", "component", "node", "face", "corner")
        return {"time": "s", **dict.fromkeys(one, "1")}

    def checked(self, mu: Mapping[str, float]) -> dict[str, float]:
        """A parameter point that the law can be evaluated for.

        Raises
        ------
        Invalid
            If yield stress or drag are not positive, or the amplitude is negative.
        """
        point = self.parameters.checked(mu)
        for name in ("yield_stress", "drag"):
            if point[name] <= 0:
                raise Invalid(f"{name} must be positive, got {point[name]} Pa")
        if point["amplitude"] < 0:
            raise Invalid(f"amplitude must not be negative, got {point['amplitude']} Pa")
        return point

    def solve(self, mu: Mapping[str, float], ctx: Context) -> Iterator[State]:
        """See `Problem.solve`.

        Raises
        ------
        Diverged
            If Newton's method, the law or the linear solver fails.
        Invalid
            As `checked`, and if the mesh is too coarse for the ranks.
        """
        from sciflow_fenics.viscoplastic import solve

        return solve(self, mu, ctx)

    def resume(
        self, mu: Mapping[str, float], ctx: Context, restart: Mapping[str, np.ndarray]
    ) -> Iterator[State]:
        """See `Problem.resume`."""
        from sciflow_fenics.viscoplastic import solve

        return solve(self, mu, ctx, restart)

    def integrals(self, ctx: Context) -> Integrals:
        """See `Reducible.integrals`: strains are xx, yy and twice xy; the one load is a unit traction."""
        from sciflow_fenics.viscoplastic import integrals

        return integrals(self, ctx)

    def law(self, points: np.ndarray, mu: Mapping[str, float]) -> Law:
        """See `Reducible.law`."""
        from sciflow_fenics.laws import METAL, ViscoplasticLaw

        point = self.checked(mu)
        return ViscoplasticLaw(
            METAL, point["yield_stress"], point["drag"], self.period / self.steps_per_cycle
        )

    def start(self, count: int) -> np.ndarray:
        """See `Reducible.start`: plastic strain, back stress and cumulated plastic strain are zero."""
        import numpy as np

        from sciflow_fenics.laws import HISTORY

        return np.zeros((count, HISTORY))

    def load(self, mu: Mapping[str, float], step: int) -> np.ndarray:
        """See `Reducible.load`: the traction, Pa."""
        import numpy as np

        phase = 2 * np.pi * ((step + 1) % self.steps_per_cycle) / self.steps_per_cycle
        return np.array([mu["mean"] + mu["amplitude"] * np.sin(phase)])

    def observe(self, name: str, stress: np.ndarray, history: np.ndarray) -> np.ndarray:
        """See `Reducible.observe`.

        Raises
        ------
        NotFound
            If there is no such dual field.
        """
        from sciflow_fenics.laws import CUMULATED, METAL, full_stress

        if name == "cumulated":
            return history[:, CUMULATED]
        if name == "stress":
            return full_stress(METAL, stress, history)
        raise NotFound(f"{self.name} has no dual field {name!r}. {nearest(name, self.dual)}")

    def constants(self, ctx: Context) -> Mapping[str, tuple[Field, np.ndarray]]:
        """The mesh, and where displacements and integration points are."""
        import numpy as np

        from sciflow_fenics.viscoplastic import mesh

        found = mesh(self)
        topology = {
            "cf_role": "mesh_topology",
            "topology_dimension": 2,
            "node_coordinates": "node_x node_y",
            "face_node_connectivity": "triangles",
        }
        role = {"cf_role": "face_node_connectivity", "start_index": 0}
        triangles = Field(("face", "corner"), "1", "int64", "nodes of each triangle", role)
        lines = {
            f"{axis}_{d}": (Field((axis,), "m", "float64", f"{d} of each {axis}"), found[axis][:, i].copy())
            for axis in ("node", "dof", "point")
            for i, d in enumerate("xy")
        }
        return {
            "mesh": (Field((), "1", "int32", "topology of the mesh", topology), np.zeros((), np.int32)),
            "triangles": (triangles, found["triangles"]),
            **lines,
        }
