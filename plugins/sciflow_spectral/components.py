"""Entry point of the plugin: configurations only, numpy is imported where a problem is solved."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sciflow.component import Component
from sciflow.errors import Diverged, Invalid
from sciflow.hooks import hookimpl
from sciflow.problem import Parameter, ParameterSpace, Problem, State
from sciflow.schema import Field
from sciflow.step_controller import Knob, StepController, TakesSteps
from sciflow.stepping import unsteered
from sciflow_spectral.two_phase import TwoPhaseDarcy

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Context
    from sciflow_spectral.equations import System
    from sciflow_spectral.stepping import SpectralSteps

Backend = Literal["numpy", "torch"]


class Spectral(TakesSteps, Problem):
    """What the periodic problems of this plugin share: blocks of members, numpy or torch, steps.

    Attributes
    ----------
    block : int
        How many members are solved at once where their steps are fixed.
    """

    block: ClassVar[int]
    end: float
    steps: int
    backend: Backend
    device: str
    stepping: StepController | None

    @property
    def batch(self) -> int:  # type: ignore[override]
        """See `Problem.batch`; members with steps of their own are solved one by one."""
        return self.block if self.stepping is None else 1

    def solve(self, mu: Mapping[str, float], ctx: Context) -> Iterator[State]:
        """See `Problem.solve`; a block of one member, or steps under the controller.

        Raises
        ------
        Diverged
            If the solution leaves the finite numbers, or the controller finds no step.
        """
        import numpy as np

        if self.stepping is not None:
            yield from self._stepped(mu, ctx)
            return
        for state in self._march({k: np.array([v]) for k, v in mu.items()}, [ctx.rng(0)]):
            yield State(state.time, self._finite(state))

    def resume(
        self, mu: Mapping[str, float], ctx: Context, restart: Mapping[str, np.ndarray]
    ) -> Iterator[State]:
        """See `Problem.resume`; only under a controller there is a restart point.

        Raises
        ------
        Invalid
            If there is no controller, or it is another one than before.
        """
        if self.stepping is None:
            unsteered(restart)
        yield from self._stepped(mu, ctx, restart)

    def steered(self) -> tuple[Knob, tuple[str, ...]]:
        """See `TakesSteps.steered`."""
        from sciflow_spectral.stepping import SpectralSteps, step_knob

        return step_knob(self.end), SpectralSteps.features

    def stepper(
        self, mu: Mapping[str, float], ctx: Context, restart: Mapping[str, np.ndarray] | None = None
    ) -> SpectralSteps:
        """See `TakesSteps.stepper`; its cost is counted in evaluations of the nonlinear term."""
        import numpy as np

        from sciflow_spectral.stepping import SpectralSteps

        point = {k: np.array([v]) for k, v in mu.items()}
        return SpectralSteps(self._system(point, [ctx.rng(0)], spin_up=restart is None), self.end, restart)

    def _stepped(
        self, mu: Mapping[str, float], ctx: Context, restart: Mapping[str, np.ndarray] | None = None
    ) -> Iterator[State]:
        from sciflow_spectral.stepping import stepped

        assert self.stepping is not None
        times = self.coordinates()["time"]
        for state in stepped(self.stepper(mu, ctx, restart), self.stepping, times, ctx, restart):
            yield State(state.time, self._finite(state), state.metrics, state.restart)

    @staticmethod
    def _finite(state: State) -> dict[str, np.ndarray]:
        """The fields of the only member, which is all NaN if it blew up (see `march`)."""
        import numpy as np

        fields = {k: np.asarray(v)[0] for k, v in state.fields.items()}
        for name, values in fields.items():
            if not np.all(np.isfinite(values)):
                raise Diverged(f"field {name!r} is not finite at time {state.time:g}")
        return fields

    def solve_batch(self, mu: Mapping[str, np.ndarray], ctx: Context) -> Iterator[State]:
        """See `Problem.solve_batch`; with fixed steps."""
        import numpy as np

        from sciflow.problem import member_seed

        rngs = [np.random.default_rng([member_seed(ctx.seed, int(m)), 0]) for m in mu["member"]]
        yield from self._march(mu, rngs)

    def _march(self, mu: Mapping[str, np.ndarray], rngs: list[np.random.Generator]) -> Iterator[State]:
        from sciflow_spectral.equations import marched

        return marched(self, self._system(mu, rngs))

    def _system(
        self, mu: Mapping[str, np.ndarray], rngs: list[np.random.Generator], spin_up: bool = True
    ) -> System:
        """The equations of some members, and where time begins."""
        raise NotImplementedError

    def axis_units(self) -> Mapping[str, str]:
        """Everything is dimensionless."""
        return dict.fromkeys(("time", "x", "y"), "1")

    def _check(self, points: int, levels: int, end: float, steps: int) -> None:
        if points < 8 or points % 2:
            raise Invalid(f"points must be even and at least 8, got {points}")
        if levels < 2:
            raise Invalid(f"levels must be at least 2 (the first is the initial state), got {levels}")
        if not 0 < end < math.inf:
            raise Invalid(f"end must be positive, got {end}")
        if steps < 1 or (self.stepping is None and steps % (levels - 1)):
            raise Invalid(f"steps ({steps}) must be a multiple of levels - 1 ({levels - 1})")
        if self.backend not in ("numpy", "torch"):
            raise Invalid(f"backend {self.backend!r} is not one of numpy, torch")

    @staticmethod
    def _solved(points: int, solve_points: int | None) -> None:
        if solve_points is not None and (solve_points < points or solve_points % points):
            raise Invalid(f"solve_points ({solve_points}) must be a multiple of points ({points})")


@dataclass(frozen=True)
class Burgers(Spectral):
    """Viscous Burgers' equation, periodic on [0, 1), from a Gaussian random field.

    ``u_t + u u_x = nu u_xx``, ``u(x, 0) ~ N(0, 625 (-D + 25)^-2)``; everything is dimensionless.

    Attributes
    ----------
    points : int
        Grid points that are stored.
    solve_points : int
        Grid points of the solver; a multiple of `points`.
    levels : int
        Stored time levels, the initial state included.
    end : float
        Final time.
    steps : int
        Time steps in all; a multiple of ``levels - 1``.
    backend : {"numpy", "torch"}
        Array library.
    device : str
        For torch: ``cpu`` or ``cuda``.
    stepping : StepController or None
        Chooses the steps of each member for itself, by the embedded method of `SpectralSteps`; then
        `steps` is not used and `batch` is 1. None: `steps` of equal length.

    Raises
    ------
    Invalid
        If the numbers of points, steps and levels do not fit each other.

    Notes
    -----
    Fourier pseudo-spectral with the 2/3 rule, ETDRK4 in time: fourth order, O(N log N) a step for
    N = ``solve_points``. The default is accurate to 1e-8; 1200 members take about 9 s on one core.

    References
    ----------
    Z. Li et al., "Fourier neural operator for parametric partial differential equations", ICLR
    2021, section 5.1 (the initial states); the page ``docs/methods/burgers.md`` for the method.
    """

    name: ClassVar[str] = "burgers"
    block: ClassVar[int] = 64
    periodic: ClassVar[tuple[str, ...]] = ("x",)
    parameters: ClassVar[ParameterSpace] = ParameterSpace(
        viscosity=Parameter(0.01, 0.5, "1", log=True, description="over length times velocity"),
    )
    fields: ClassVar[Mapping[str, Field]] = {"u": Field(("time", "x"), "1", description="velocity")}
    points: int = 256
    solve_points: int = 1024
    levels: int = 2
    end: float = 1.0
    steps: int = 200
    backend: Backend = "numpy"
    device: str = "cpu"
    stepping: StepController | None = None

    def __post_init__(self) -> None:
        self._check(self.points, self.levels, self.end, self.steps)
        if self.solve_points % self.points:
            raise Invalid(f"solve_points ({self.solve_points}) must be a multiple of points ({self.points})")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(points=16, solve_points=64, levels=3, steps=20)

    def coordinates(self) -> Mapping[str, np.ndarray]:
        """See `Problem.coordinates`."""
        import numpy as np

        return {"time": np.linspace(0, self.end, self.levels), "x": np.arange(self.points) / self.points}

    def _system(
        self, mu: Mapping[str, np.ndarray], rngs: list[np.random.Generator], spin_up: bool = True
    ) -> System:
        from sciflow_spectral.equations import burgers, burgers_start

        return burgers(self, mu["viscosity"], burgers_start(self, rngs))


@dataclass(frozen=True)
class KuramotoSivashinsky(Spectral):
    """Kuramoto-Sivashinsky equation, periodic on [0, length), from small random waves.

    ``u_t + u u_x + u_xx + u_xxxx = 0``; everything is dimensionless.

    Attributes
    ----------
    points : int
        Grid points that are stored.
    solve_points : int or None
        Grid points of the solver, a multiple of `points`; ``None`` takes `points` themselves.
    length : float
        Of the domain.
    levels : int
        Stored time levels, the initial state included.
    end : float
        Final time.
    steps : int
        Time steps in all; a multiple of ``levels - 1``.
    spin_up : int
        Time steps before the first level, so that the waves have become chaotic when time begins.
    backend : {"numpy", "torch"}
        Array library.
    device : str
        For torch: ``cpu`` or ``cuda``.
    stepping : StepController or None
        Chooses the steps of each member for itself, by the embedded method of `SpectralSteps`; then
        `steps` is used for the spin-up alone and `batch` is 1. None: `steps` of equal length.

    Raises
    ------
    Invalid
        If the numbers of points, steps and levels do not fit each other.

    Notes
    -----
    As `Burgers`; the initial state is ``amplitude`` times eight waves with normal coefficients. The
    flow is chaotic: an error of 1e-5 at the end of the default run is that of the step.

    References
    ----------
    A.-K. Kassam and L. N. Trefethen, "Fourth-order time-stepping for stiff PDEs", SIAM J. Sci.
    Comput. 26 (2005), section 4.
    """

    name: ClassVar[str] = "kuramoto_sivashinsky"
    block: ClassVar[int] = 32
    periodic: ClassVar[tuple[str, ...]] = ("x",)
    parameters: ClassVar[ParameterSpace] = ParameterSpace(
        amplitude=Parameter(0.05, 0.5, "1", description="of the initial waves"),
    )
    fields: ClassVar[Mapping[str, Field]] = {
        "u": Field(("time", "x"), "1", description="velocity of the flame front")
    }
    points: int = 256
    solve_points: int | None = None
    length: float = 64.0
    levels: int = 141
    end: float = 28.0
    steps: int = 560
    spin_up: int = 0
    backend: Backend = "numpy"
    device: str = "cpu"
    stepping: StepController | None = None

    def __post_init__(self) -> None:
        self._check(self.points, self.levels, self.end, self.steps)
        self._solved(self.points, self.solve_points)
        if self.spin_up < 0:
            raise Invalid(f"spin_up cannot be negative, got {self.spin_up}")
        if not self.length > 0:
            raise Invalid(f"length must be positive, got {self.length}")

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(points=32, length=22.0, levels=3, end=1.0, steps=20)

    def coordinates(self) -> Mapping[str, np.ndarray]:
        """See `Problem.coordinates`."""
        import numpy as np

        x = self.length * np.arange(self.points) / self.points
        return {"time": np.linspace(0, self.end, self.levels), "x": x}

    def _system(
        self, mu: Mapping[str, np.ndarray], rngs: list[np.random.Generator], spin_up: bool = True
    ) -> System:
        from sciflow_spectral.equations import flame_start, kuramoto_sivashinsky

        problem = self if spin_up else self.replace(spin_up=0)
        return kuramoto_sivashinsky(problem, flame_start(self, mu["amplitude"], rngs))


@dataclass(frozen=True)
class NavierStokes(Spectral):
    """Vorticity of a two-dimensional flow, periodic on the unit square, with a steady force.

    ``w_t + u . grad w = nu lap w + a (sin + cos)(2 pi (x + y))``, ``w(x, y, 0) ~
    N(0, 7^1.5 (-D + 49)^-2.5)``; everything is dimensionless.

    Attributes
    ----------
    points : int
        Grid points along each side that are stored.
    solve_points : int or None
        Grid points of the solver along each side, a multiple of `points`; ``None`` takes `points` themselves.
    levels : int
        Stored time levels, the initial state included.
    end : float
        Final time.
    steps : int
        Time steps in all; a multiple of ``levels - 1``.
    backend : {"numpy", "torch"}
        Array library.
    device : str
        For torch: ``cpu`` or ``cuda``.
    stepping : StepController or None
        Chooses the steps of each member for itself, by the embedded method of `SpectralSteps`; then
        `steps` is not used and `batch` is 1. None: `steps` of equal length.

    Raises
    ------
    Invalid
        If the numbers of points, steps and levels do not fit each other.

    Notes
    -----
    Fourier pseudo-spectral with the 2/3 rule, ETDRK4 in time: fourth order, twenty transforms of
    ``solve_points**2`` a step. The part of advection is explicit: keep the Courant number below one.

    References
    ----------
    Z. Li et al., "Fourier neural operator for parametric partial differential equations", ICLR
    2021, section 5.3 (force and initial states).
    """

    name: ClassVar[str] = "navier_stokes_vorticity"
    block: ClassVar[int] = 16
    periodic: ClassVar[tuple[str, ...]] = ("y", "x")
    parameters: ClassVar[ParameterSpace] = ParameterSpace(
        viscosity=Parameter(1e-4, 1e-2, "1", log=True, description="over length times velocity"),
        force=Parameter(0.05, 0.2, "1", description="amplitude of the force"),
    )
    fields: ClassVar[Mapping[str, Field]] = {"vorticity": Field(("time", "y", "x"), "1")}
    points: int = 64
    solve_points: int | None = None
    levels: int = 11
    end: float = 10.0
    steps: int = 1000
    backend: Backend = "numpy"
    device: str = "cpu"
    stepping: StepController | None = None

    def __post_init__(self) -> None:
        self._check(self.points, self.levels, self.end, self.steps)
        self._solved(self.points, self.solve_points)

    @classmethod
    def example(cls) -> Self:
        """A small one for conformance checks."""
        return cls(points=16, levels=3, end=0.2, steps=20)

    def coordinates(self) -> Mapping[str, np.ndarray]:
        """See `Problem.coordinates`."""
        import numpy as np

        line = np.arange(self.points) / self.points
        return {"time": np.linspace(0, self.end, self.levels), "y": line, "x": line}

    def _system(
        self, mu: Mapping[str, np.ndarray], rngs: list[np.random.Generator], spin_up: bool = True
    ) -> System:
        from sciflow_spectral.equations import navier_stokes, vorticity_start

        return navier_stokes(self, mu["viscosity"], mu["force"], vorticity_start(self, rngs))


sciflow_api = "1.0"


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Components of this plugin."""
    return [Burgers, KuramotoSivashinsky, NavierStokes, TwoPhaseDarcy]
