"""Hermite's fourth-order method with steps of a part of the shortest time scale of a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow.errors import Invalid
from sciflow.step_controller import Knob
from sciflow_control.bodies.n_body import Features, NBody

if TYPE_CHECKING:
    import numpy as np

    from sciflow_control.bodies.held import Held
    from sciflow_control.bodies.state import Bodies


@dataclass(frozen=True)
class Hermite(NBody):
    """Hermite's method of fourth order with one step for all bodies.

    The knob is mu, ``dt_param`` of AMUSE's Hermite: each step is mu times the shortest time scale tau of a
    pair, the smaller of r/v and sqrt(r^3 / (G (m_1 + m_2))). One evaluation of all accelerations and their
    derivatives is one force evaluation; that at the very start is not counted.

    Attributes
    ----------
    symmetric : bool
        tau is taken in the middle of the step, to first order, which costs nothing; False: at its start.
    corrections : int
        How often a step is evaluated and corrected: 1, as AMUSE does, or 2, for which the error of the
        energy grows less in close encounters.
    low, high : float
        Bounds of mu.
    most : int
        An interval that would take more evaluations has not converged.

    Raises
    ------
    Invalid
        If `corrections` has a value that it cannot have.

    Notes
    -----
    Predicted from x, v, a and the jerk j at t, with a_1 and j_1 evaluated there, a step h ends at::

        v_1 = v + h/2 (a + a_1) + h^2/12 (j - j_1)
        x_1 = x + h/2 (v + v_1) + h^2/12 (a - a_1)

    and is ``mu tau / (1 - mu tau'/2)`` long where it is symmetric, tau' as if the pair were alone. The error
    of the energy over an interval is of order mu^4 until rounding takes over; work is proportional to 1/mu
    and to the square of the number of bodies.

    References
    ----------
    J. Makino, S. J. Aarseth, "On a Hermite integrator with Ahmad-Cohen scheme for gravitational many-body
    problems", PASJ 44 (1992) 141. F. I. Pelupessy, J. Jaenes, S. Portegies Zwart, "N-body
    integrators with individual time steps from Hierarchical splitting", New Astronomy 17 (2012) 711 (the
    symmetric step).
    """

    name: ClassVar[str] = "hermite"
    symmetric: bool = True
    corrections: int = 1
    low: float = 1e-4
    high: float = 0.1
    most: int = 1_000_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.corrections < 1:
            raise Invalid(f"a step is corrected at least once, got corrections={self.corrections}")

    def knob(self, held: float) -> Knob:
        """See `NBody.knob`."""
        return Knob("mu", "1", self.low, self.high, order=4.0, held=held, effort=1.0, iterates=False)

    def stepper(
        self,
        bodies: Bodies,
        held: float,
        features: Features = "physics",
        restart: Mapping[str, np.ndarray] | None = None,
    ) -> Held:
        """See `NBody.stepper`."""
        from sciflow_control.bodies import kernels
        from sciflow_control.bodies.compiled import Compiled

        settings = (self.symmetric, self.corrections)
        return Compiled(bodies, self.knob(held), features, self.most, kernels.hermite, settings, 5, restart)
