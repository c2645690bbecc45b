"""The leapfrog, with equal steps or with steps of a part of the shortest time scale of a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from sciflow.step_controller import Knob
from sciflow_control.bodies.n_body import Features, NBody

if TYPE_CHECKING:
    import numpy as np

    from sciflow_control.bodies.held import Held
    from sciflow_control.bodies.state import Bodies

BOUNDS = {"fixed": (1e-6, 1e-2), "adaptive": (1e-4, 0.1)}
"""Of the knob, unless others are given: dt in years for three bodies, and mu."""


@dataclass(frozen=True)
class Leapfrog(NBody):
    """The leapfrog of second order: half a kick, a drift, half a kick.

    Angular and linear momentum are kept to rounding whatever the steps are. With equal steps the way back
    is the way there, and the energy has no trend as long as the step resolves the closest pair; it blows up
    in an encounter that it does not. One evaluation of all accelerations is one force evaluation.

    Attributes
    ----------
    step : {"adaptive", "fixed"}
        The knob is mu, as `Hermite`'s; or it is dt, and an interval is cut into the least number of equal
        steps that are not longer.
    symmetric : bool
        An adaptive step takes the time scale in its middle, to first order; False: at its start.
    low, high : float or None
        Bounds of the knob; None: 1e-4 and 0.1 for mu, 1e-6 and 1e-2 of the unit of time for dt.
    most : int
        An interval that would take more evaluations has not converged.

    Notes
    -----
    With tau the time scale and tau' its derivative as if the pair were alone, a step that is the mean of
    what both its ends ask for is, to first order, ``h = mu tau / (1 - mu tau'/2)``. It costs no
    evaluation, and an eccentric orbit keeps its energy for longer than with ``h = mu tau``.
    The error of the energy over an interval is of order mu^2.

    References
    ----------
    F. I. Pelupessy, J. Jaenes, S. Portegies Zwart, "N-body integrators with individual time steps from
    Hierarchical splitting", New Astronomy 17 (2012) 711.
    """

    name: ClassVar[str] = "leapfrog"
    step: Literal["adaptive", "fixed"] = "adaptive"
    symmetric: bool = True
    low: float | None = None
    high: float | None = None
    most: int = 1_000_000

    def knob(self, held: float) -> Knob:
        """See `NBody.knob`."""
        name, unit = ("mu", "1") if self.step == "adaptive" else ("dt", "time")
        least, greatest = BOUNDS[self.step]
        low = least if self.low is None else self.low
        high = greatest if self.high is None else self.high
        return Knob(name, unit, low, high, order=2.0, held=held, effort=1.0, iterates=False)

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

        knob, most = self.knob(held), self.most
        if self.step == "fixed":
            return Compiled(bodies, knob, features, most, kernels.leapfrog, (), 4, restart)
        return Compiled(
            bodies, knob, features, most, kernels.adaptive_leapfrog, (self.symmetric,), 4, restart
        )
