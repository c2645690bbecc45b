"""The problem: a string that is plucked and let go, solved with scipy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow import Context, Diverged, Field, Invalid, Parameter, ParameterSpace, Problem, State

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class String(Problem):
    """A string between two fixed ends, ``u_tt + 2 damping u_t = speed^2 u_xx``, let go at rest.

    Attributes
    ----------
    points : int
        Grid points, both ends among them.
    length : float
        Of the string, m.
    speed : float
        Of waves along it, m s-1.
    damping : float
        Rate at which tones fade, s-1.
    end : float
        Last stored time, s.
    levels : int
        Stored times, the start among them.
    tolerance : float
        Relative, of the integrator in time.

    Raises
    ------
    Invalid
        If there are too few points or levels, or a number is not positive.

    Notes
    -----
    Central differences in space, second order; Dormand and Prince's method of order 8 in time, whose steps
    scipy chooses. Cost: about ``30 points end speed / length`` evaluations of ``points`` numbers.

    References
    ----------
    N. H. Fletcher and T. D. Rossing, "The Physics of Musical Instruments", 2nd ed., 1998, chapter 2.
    """

    name: ClassVar[str] = "string"
    requires: ClassVar[tuple[str, ...]] = ("scipy",)
    parameters: ClassVar[ParameterSpace] = ParameterSpace(
        place=Parameter(0.3, 0.7, "1", description="where it is plucked, over its length"),
        width=Parameter(0.06, 0.1, "1", log=True, description="of what plucks it, over its length"),
        height=Parameter(1e-3, 5e-3, "m", description="of the string there, before it is let go"),
    )
    fields: ClassVar[Mapping[str, Field]] = {
        "u": Field(("time", "x"), "m", "float64", description="displacement"),
        "v": Field(("time", "x"), "m s-1", "float64", description="velocity"),
    }
    points: int = 65
    length: float = 1.0
    speed: float = 1.0
    damping: float = 0.2
    end: float = 4.0
    levels: int = 101
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if self.points < 3 or self.levels < 2:
            raise Invalid(f"at least 3 points and 2 levels are needed, got {self.points} and {self.levels}")
        for name in ("length", "speed", "end", "tolerance"):
            if not 0 < getattr(self, name) < math.inf:
                raise Invalid(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.damping < math.inf:
            raise Invalid(f"damping cannot be negative, got {self.damping}")

    def coordinates(self) -> Mapping[str, np.ndarray]:
        """See `Problem.coordinates`: times, s, and the string, m."""
        import numpy as np

        return {
            "time": np.linspace(0.0, self.end, self.levels),
            "x": np.linspace(0.0, self.length, self.points),
        }

    def start(self, mu: Mapping[str, float]) -> np.ndarray:
        """The string before it is let go.

        Parameters
        ----------
        mu : mapping of str to float
            A point of `parameters`.

        Returns
        -------
        ndarray, shape (points,)
            Displacement, m.
        """
        import numpy as np

        x = self.coordinates()["x"] / self.length
        bump = np.exp(-0.5 * ((x - mu["place"]) / mu["width"]) ** 2) * np.sin(np.pi * x)
        bump[0] = bump[-1] = 0.0
        shape: np.ndarray = mu["height"] * bump / np.sin(np.pi * mu["place"])
        return shape

    def tones(self, count: int) -> np.ndarray:
        """Angular frequencies of the grid's own tones, lowest first.

        Parameters
        ----------
        count : int
            How many, below ``points - 1``.

        Returns
        -------
        ndarray, shape (count,)
            rad s-1; those of a string without a grid are ``pi k speed / length``, less what damping takes.
        """
        import numpy as np

        step = self.length / (self.points - 1)
        waves = np.pi * np.arange(1, count + 1) / self.length
        undamped = 2 * self.speed / step * np.sin(waves * step / 2)
        found: np.ndarray = np.sqrt(undamped**2 - self.damping**2)
        return found

    def solve(self, mu: Mapping[str, float], ctx: Context) -> Iterator[State]:
        """See `Problem.solve`.

        Raises
        ------
        Diverged
            If the integrator gives up.
        """
        import numpy as np
        from scipy.integrate import solve_ivp

        axes = self.coordinates()
        stiffness = (self.speed / axes["x"][1]) ** 2

        def rate(time: float, y: Any) -> Any:
            u, v = y[: self.points], y[self.points :]
            pull = np.zeros_like(u)
            pull[1:-1] = stiffness * (u[:-2] - 2 * u[1:-1] + u[2:])
            return np.concatenate([v, pull - 2 * self.damping * v])

        y = np.concatenate([self.start(mu), np.zeros(self.points)])
        small = self.tolerance * mu["height"]
        for level, time in enumerate(axes["time"]):
            done = None
            if level:
                span = (axes["time"][level - 1], time)
                done = solve_ivp(rate, span, y, method="DOP853", rtol=self.tolerance, atol=small)
                if not done.success:
                    raise Diverged(f"the integrator stopped at time {done.t[-1]:g}: {done.message}")
                y = done.y[:, -1]
            evaluations = {"evaluations": float(done.nfev if done else 0)}
            yield State(float(time), {"u": y[: self.points], "v": y[self.points :]}, evaluations)
