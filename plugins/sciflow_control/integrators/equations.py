"""Episodes of well-known ordinary differential equations, solved by embedded Runge-Kutta methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sciflow.component import check_choices
from sciflow.errors import Invalid
from sciflow_control.steering.episodes import Episodes

if TYPE_CHECKING:
    from sciflow_control.integrators.runge_kutta import RungeKutta


@dataclass(frozen=True)
class Equations(Episodes):
    """Initial value problems of one equation with random parameters and states.

    Attributes
    ----------
    equation : str
        ``van_der_pol``: mu from 0.5 to 20, slow and fast phases, stiff towards 20. ``lotka_volterra``,
        ``pendulum`` and ``arenstorf`` (a satellite that comes close to the moon, started within 0.1 % of two
        periodic orbits) have an invariant; ``brusselator`` and ``fitzhugh_nagumo`` end in a limit cycle;
        ``lorenz`` is chaotic.
    method : str
        The Runge-Kutta method.
    until : float
        Where an episode ends, in the equation's own unit; a period is about 6 for most, 17 or 11 for
        ``arenstorf``, 40 for ``fitzhugh_nagumo``, 2 mu for a large mu.
    shortest, longest : float
        Bounds of the step.

    Raises
    ------
    Invalid
        If `until`, `shortest` or `longest` has a value that it cannot have.
    """

    name: ClassVar[str] = "equations"
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    cost_unit: ClassVar[str] = "right-hand sides"
    equation: Literal[
        "van_der_pol",
        "lotka_volterra",
        "brusselator",
        "arenstorf",
        "fitzhugh_nagumo",
        "pendulum",
        "lorenz",
    ] = "van_der_pol"
    method: Literal[
        "heun_euler", "bogacki_shampine", "fehlberg", "cash_karp", "dormand_prince", "tsitouras"
    ] = "dormand_prince"
    until: float = 20.0
    shortest: float = 1e-10
    longest: float = 1.0

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 < self.until < float("inf"):
            raise Invalid(f"until={self.until} must be positive")
        if not 0 < self.shortest < self.longest:
            raise Invalid(
                f"0 < shortest < longest must hold, got shortest={self.shortest}, longest={self.longest}"
            )

    def begin(self, seed: int) -> RungeKutta:
        """See `Episodes.begin`; the scale of errors is 1 for each number of the state."""
        import numpy as np

        from sciflow_control.integrators.initial_value import InitialValue
        from sciflow_control.integrators.right_hand_sides import EQUATIONS
        from sciflow_control.integrators.runge_kutta import RungeKutta

        equation = EQUATIONS[self.equation]
        parameters, state = equation.draw(np.random.default_rng([seed]))
        of = equation.invariant

        def kept(y: Any) -> float:
            assert of is not None
            return of(parameters, y)

        problem = InitialValue(
            equation.rhs, state, parameters=parameters, invariant=None if of is None else kept
        )
        return RungeKutta(problem, self.method, (self.shortest, self.longest))
