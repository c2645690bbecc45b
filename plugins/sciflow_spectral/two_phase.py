"""Configuration of the steady flow through a medium of two phases; numpy is imported where it is solved."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.errors import Invalid
from sciflow.problem import Parameter, ParameterSpace, Problem, State
from sciflow.schema import Field

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Context

Faces = Literal["harmonic", "arithmetic"]


@dataclass(frozen=True)
class TwoPhaseDarcy(Problem):
    """Steady Darcy flow through a random medium of two phases, as in the paper on Fourier operators.

    ``-div(a grad u) = f`` in the unit square, u = 0 on its boundary; a is 12 where a Gaussian field
    ``N(0, (-D + 9 I)^-2)`` with Neumann conditions is positive, else 3. Everything is dimensionless.

    Attributes
    ----------
    points : int
        Grid points along each side that are stored, the boundary included.
    solve_points : int
        Grid points of the solver; ``solve_points - 1`` is a multiple of ``points - 1``.
    modes : int
        Cosine waves along each side. With one seed and one number of modes the medium is the same
        function on every grid.
    high, low : float
        Permeability of the two phases.
    faces : {"harmonic", "arithmetic"}
        Mean of two grid points' permeabilities between them; the paper's data have the arithmetic one.

    Raises
    ------
    Invalid
        If the numbers of points do not fit each other, or a permeability is not positive.

    Notes
    -----
    Five-point finite volumes and a sparse direct solve, O(n^1.5) for n = ``solve_points**2``. First order
    in the grid size, since a jumps between the points (second where it is smooth).

    References
    ----------
    Z. Li et al., "Fourier neural operator for parametric partial differential equations", ICLR
    2021, section 5.2; the page ``docs/methods/two-phase-darcy.md`` for the method.
    """

    name: ClassVar[str] = "two_phase_darcy"
    parameters: ClassVar[ParameterSpace] = ParameterSpace(
        source=Parameter(0.5, 2.0, "1", description="the right-hand side"),
    )
    fields: ClassVar[Mapping[str, Field]] = {
        "permeability": Field(("y", "x"), "1"),
        "pressure": Field(("y", "x"), "1"),
    }
    points: int = 43
    solve_points: int = 169
    modes: int = 128
    high: float = 12.0
    low: float = 3.0
    faces: Faces = "harmonic"

    def __post_init__(self) -> None:
        if self.points < 3:
            raise Invalid(f"points must be at least 3, got {self.points}")
        if self.solve_points < self.points or (self.solve_points - 1) % (self.points - 1):
            raise Invalid(
                f"solve_points - 1 ({self.solve_points - 1}) must be a multiple of points - 1 "
                f"({self.points - 1}), so that the stored points are points of the solver"
            )
        if self.modes < 2:
            raise Invalid(f"modes must be at least 2, got {self.modes}")
        if not all(0 < value < math.inf for value in (self.high, self.low)):
            raise Invalid(f"permeabilities must be positive and finite, got {self.high} and {self.low}")
        if self.faces not in ("harmonic", "arithmetic"):
            raise Invalid(f"faces {self.faces!r} is not one of harmonic, arithmetic")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(points=9, solve_points=17, modes=8)

    def coordinates(self) -> Mapping[str, np.ndarray]:
        """See `Problem.coordinates`."""
        import numpy as np

        return {axis: np.linspace(0, 1, self.points) for axis in ("y", "x")}

    def axis_units(self) -> Mapping[str, str]:
        """Everything is dimensionless."""
        return dict.fromkeys(("time", "x", "y"), "1")

    def solve(self, mu: Mapping[str, float], ctx: Context) -> Iterator[State]:
        """See `Problem.solve`."""
        import numpy as np

        from sciflow_spectral.darcy import gaussian, pressure

        medium = gaussian(self.modes, self.solve_points, ctx.rng(0))
        a = np.where(medium >= 0, self.high, self.low)
        u = pressure(a, np.full(a.shape, mu["source"]), self.faces)
        every = (self.solve_points - 1) // (self.points - 1)
        yield State(0.0, {"permeability": a[::every, ::every], "pressure": u[::every, ::every]})
