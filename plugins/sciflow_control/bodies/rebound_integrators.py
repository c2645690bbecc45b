"""Integrators of rebound (GPL-3.0, installed by the user): IAS15, Bulirsch-Stoer and Wisdom-Holman."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sciflow.errors import Missing
from sciflow.step_controller import Knob
from sciflow_control.bodies.n_body import Features, NBody

if TYPE_CHECKING:
    import numpy as np

    from sciflow_control.bodies.held import Held
    from sciflow_control.bodies.state import Bodies

NEEDS = ("numba", "rebound")


class _Rebound(NBody):
    """An integrator of rebound; see `foreign.Foreign` for how evaluations are counted."""

    integrator: ClassVar[str]
    settings: ClassVar[Mapping[str, float | None]]

    def stepper(
        self,
        bodies: Bodies,
        held: float,
        features: Features = "physics",
        restart: Mapping[str, np.ndarray] | None = None,
    ) -> Held:
        """See `NBody.stepper`."""
        try:
            from sciflow_control.bodies.foreign import Foreign
        except ImportError as error:
            raise Missing(
                f"{self.name} needs {' and '.join(NEEDS)}: {error}; pip install 'rebound>=5.2' (GPL-3.0)"
            ) from None
        knob = self.knob(held)
        return Foreign(bodies, knob, features, self.most, self.integrator, self.settings, restart)


@dataclass(frozen=True)
class Ias15(_Rebound):
    """Gauss-Radau method of order 15 with its own steps; the knob is its tolerance epsilon.

    Evaluations are counted where they are made: seven for each pass of predictor and corrector over a step,
    and one at its start. Each interval begins without the coefficients of the last one, which costs some
    passes.

    Attributes
    ----------
    low, high : float
        Bounds of epsilon. Steps are proportional to ``epsilon ** (1/7)``; above 1e-3 its corrector does not
        converge in close encounters, and an interval can cost a hundred times as much.
    most : int
        An interval that would take more evaluations has not converged.

    References
    ----------
    H. Rein, D. S. Spiegel, "IAS15: a fast, adaptive, high-order integrator for gravitational dynamics,
    accurate to machine precision over a billion orbits", MNRAS 446 (2015) 1424.
    """

    name: ClassVar[str] = "ias15"
    requires: ClassVar[tuple[str, ...]] = NEEDS
    integrator: ClassVar[str] = "ias15"
    settings: ClassVar[Mapping[str, float | None]] = {"epsilon": None}
    low: float = 1e-9
    high: float = 1e-3
    most: int = 100_000

    def knob(self, held: float) -> Knob:
        """See `NBody.knob`; an error of order 15 in steps that go with the seventh root."""
        return Knob(
            "epsilon", "1", self.low, self.high, order=15 / 7, held=held, effort=1 / 7, iterates=False
        )


@dataclass(frozen=True)
class BulirschStoer(_Rebound):
    """Extrapolated modified midpoint steps of an order that it chooses; the knob is its relative tolerance.

    Evaluations are counted where they are made, those of rejected steps among them. The absolute tolerance
    is the same number, in the units of the bodies, whose lengths and speeds should be of order one to a
    hundred.

    Attributes
    ----------
    low, high : float
        Bounds of the tolerance.
    most : int
        An interval that would take more evaluations has not converged.

    References
    ----------
    E. Hairer, S. P. Norsett, G. Wanner, "Solving ordinary differential equations I", 2nd ed., Springer 1993,
    section II.9.
    """

    name: ClassVar[str] = "bulirsch_stoer"
    requires: ClassVar[tuple[str, ...]] = NEEDS
    integrator: ClassVar[str] = "bs"
    settings: ClassVar[Mapping[str, float | None]] = {"eps_rel": None, "eps_abs": None}
    low: float = 1e-11
    high: float = 1e-3
    most: int = 100_000

    def knob(self, held: float) -> Knob:
        """See `NBody.knob`; the effort is measured, 1e-5 to 1e-9."""
        return Knob("eps_rel", "1", self.low, self.high, order=1.0, held=held, effort=1 / 13, iterates=False)


@dataclass(frozen=True)
class WHFast(_Rebound):
    """The Wisdom-Holman map in Jacobi coordinates; the knob is its step.

    For planets about a star, which comes first: what moves about nothing heavy gains nothing from it. An
    interval is cut into the least number of equal steps that are not longer than the knob's value. One
    evaluation is made a step, and counted there.

    Attributes
    ----------
    low, high : float
        Bounds of dt, in the unit of time of the bodies.
    most : int
        An interval that would take more steps has not converged.

    References
    ----------
    H. Rein, D. Tamayo, "WHFast: a fast and unbiased implementation of a symplectic Wisdom-Holman integrator
    for long-term gravitational simulations", MNRAS 452 (2015) 376.
    """

    name: ClassVar[str] = "whfast"
    requires: ClassVar[tuple[str, ...]] = NEEDS
    integrator: ClassVar[str] = "whfast"
    settings: ClassVar[Mapping[str, float | None]] = {}
    low: float = 1e-6
    high: float = 1e-2
    most: int = 100_000

    def knob(self, held: float) -> Knob:
        """See `NBody.knob`."""
        return Knob("dt", "time", self.low, self.high, order=2.0, held=held, effort=1.0, iterates=False)
