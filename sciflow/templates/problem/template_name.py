"""A rod that cools, as a full-order model for sciflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow import Component, Context, Field, Invalid, Parameter, ParameterSpace, Problem, State, hookimpl

if TYPE_CHECKING:
    import numpy as np

sciflow_api = "1.0"


@dataclass(frozen=True)
class TemplateName(Problem):
    """A rod between cold ends, ``u_t = d u_xx`` on [0, 1], that begins with half a wave.

    Attributes
    ----------
    points : int
        Grid points, both ends among them.
    levels : int
        Times that are stored, the start among them.
    steps : int
        Time steps from one stored time to the next.

    Raises
    ------
    Invalid
        If there are too few points, levels or steps.

    Notes
    -----
    Central differences in space and Crank-Nicolson in time, second order in both. The solution is
    ``amplitude sin(pi x) exp(-pi^2 d t)``.
    """

    name: ClassVar[str] = "template_name"
    parameters: ClassVar[ParameterSpace] = ParameterSpace(
        diffusivity=Parameter(0.1, 1.0, "m2 s-1", log=True, description="d of the equation"),
        amplitude=Parameter(1.0, 10.0, "K", description="of the wave at the start"),
    )
    fields: ClassVar[Mapping[str, Field]] = {
        "u": Field(("time", "x"), "K", description="temperature above that of the ends"),
    }
    points: int = 65
    levels: int = 9
    steps: int = 8

    def __post_init__(self) -> None:
        if self.points < 3 or self.levels < 2 or self.steps < 1:
            raise Invalid(
                "at least 3 points, 2 levels and 1 step are needed, "
                f"got {self.points}, {self.levels} and {self.steps}"
            )

    def coordinates(self) -> Mapping[str, np.ndarray]:
        """See `Problem.coordinates`: times to 0.2 s, and the rod, m."""
        import numpy as np

        return {"time": np.linspace(0.0, 0.2, self.levels), "x": np.linspace(0.0, 1.0, self.points)}

    def solve(self, mu: Mapping[str, float], ctx: Context) -> Iterator[State]:
        """See `Problem.solve`."""
        import numpy as np

        axes = self.coordinates()
        step = self._step(mu["diffusivity"])
        u = mu["amplitude"] * np.sin(np.pi * axes["x"])
        u[0] = u[-1] = 0.0
        for level, time in enumerate(axes["time"]):
            if level:
                for _ in range(self.steps):
                    u[1:-1] = step @ u[1:-1]
            yield State(float(time), {"u": u.copy()})

    def _step(self, diffusivity: float) -> np.ndarray:
        """One time step as a matrix, shape (points - 2, points - 2)."""
        import numpy as np

        axes = self.coordinates()
        inner = self.points - 2
        second = (
            np.diag(np.full(inner - 1, 1.0), 1) + np.diag(np.full(inner - 1, 1.0), -1) - 2 * np.eye(inner)
        )
        half = 0.5 * diffusivity * (axes["time"][1] / self.steps) / axes["x"][1] ** 2 * second
        made: np.ndarray = np.linalg.solve(np.eye(inner) - half, np.eye(inner) + half)
        return made


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Components of this package."""
    return [TemplateName]
