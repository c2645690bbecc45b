"""ThreeBody: three stars that meet at random, the episodes of the published set-up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from sciflow.component import check_choices, check_parts
from sciflow.errors import Invalid
from sciflow_control.bodies.hermite import Hermite
from sciflow_control.bodies.n_body import Features, NBody
from sciflow_control.steering.episodes import Episodes

if TYPE_CHECKING:
    from sciflow.step_controller import Stepper
    from sciflow_control.bodies.state import Bodies

PLACES = {"x2": (5.0, 20.0), "y2": (0.0, 10.0), "x3": (-10.0, 0.0), "y3": (5.0, 20.0)}
"""Between which the second and the third star start, au."""


def stars(x2: float, y2: float, x3: float, y3: float) -> Bodies:
    """Three stars of one solar mass in a plane, seen from their centre of mass; au, years, solar masses.

    The first starts at the origin with 10 km/s upwards, the second with 10 km/s to the left, the third at
    rest.

    Parameters
    ----------
    x2, y2, x3, y3 : float
        Places of the second and the third, au.
    """
    import numpy as np

    from sciflow_control.bodies.state import KM_S, Bodies

    places = np.array([[0.0, 0.0, 0.0], [x2, y2, 0.0], [x3, y3, 0.0]])
    speeds = np.array([[0.0, 10.0, 0.0], [-10.0, 0.0, 0.0], [0.0, 0.0, 0.0]]) * KM_S
    return Bodies(np.ones(3), places, speeds).centred()


@dataclass(frozen=True)
class ThreeBody(Episodes):
    """Three stars of one solar mass that fall towards each other from random places.

    Equal seeds give equal stars, whatever the integrator.

    Attributes
    ----------
    integrator : NBody
        What is steered.
    years : float
        How long an episode is, Julian years: 10 in the published training, 30 in its evaluation.
    interval : float
        For so many years a value of the knob is kept.
    features : {"physics", "paper"}
        What a controller is told; see `features.Physics` and `features.Paper`.

    References
    ----------
    V. Saz Ulibarrena, S. Portegies Zwart, "Reinforcement learning for adaptive time-stepping in the chaotic
    gravitational three-body problem", arXiv:2502.12809.
    """

    name: ClassVar[str] = "three_body"
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    time_unit: ClassVar[str] = "year"
    integrator: NBody = field(default_factory=Hermite)
    years: float = 10.0
    interval: float = 0.1
    features: Features = "physics"

    def __post_init__(self) -> None:
        check_choices(self)
        check_parts(self)
        if not 0 < self.years < math.inf or not 0 < self.interval <= self.years:
            raise Invalid(f"no interval of {self.interval} years in an episode of {self.years}")

    @property
    def until(self) -> float:
        """See `Episodes.until`; years."""
        return self.years

    def begin(self, seed: int) -> Stepper:
        """See `Episodes.begin`."""
        import numpy as np

        parts = np.random.default_rng([seed]).random(len(PLACES))
        places = {
            k: low + (high - low) * p for (k, (low, high)), p in zip(PLACES.items(), parts, strict=True)
        }
        return self.integrator.stepper(stars(**places), self.interval, self.features)
