"""ThreeBodyProblem: the orbits of three stars from given places, with steps that can be steered."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from sciflow.component import check_choices, check_parts
from sciflow.errors import Invalid
from sciflow.problem import Parameter, ParameterSpace, Problem, State
from sciflow.schema import Field
from sciflow.step_controller import Knob, StepController, TakesSteps
from sciflow.step_log import StepLog
from sciflow.stepping import Stepping
from sciflow_control.bodies.hermite import Hermite
from sciflow_control.bodies.n_body import Features, NBody
from sciflow_control.bodies.three_body import PLACES, stars
from sciflow_control.controllers.fixed_step import FixedStep

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Context
    from sciflow_control.bodies.held import Held


@dataclass(frozen=True)
class ThreeBodyProblem(TakesSteps, Problem):
    """Three stars of one solar mass that fall towards each other, as `ThreeBody` draws them.

    The parameters are the places of the second and the third star. Close encounters make the orbits
    chaotic: members of a design that are near each other part after some years, and orbits from
    different integrators do as well.

    Attributes
    ----------
    integrator : NBody
        What is steered.
    stepping : StepController or None
        Chooses the knob for each interval; None: it keeps `value`.
    value : float
        Of the knob where nothing steers it.
    years : float
        How long, Julian years.
    levels : int
        States at equal distances in time, the first and the last among them.
    interval : float
        For so many years a value of the knob is kept, unless a state is due before.
    features : {"physics", "paper"}
        What a controller is told.

    Raises
    ------
    Invalid
        If `years`, `interval` or `levels` has a value that it cannot have.
    """

    name: ClassVar[str] = "three_body"
    requires: ClassVar[tuple[str, ...]] = ("numba",)
    parameters: ClassVar[ParameterSpace] = ParameterSpace(
        x2=Parameter(*PLACES["x2"], "au", description="first coordinate of the second star"),
        y2=Parameter(*PLACES["y2"], "au", description="second coordinate of the second star"),
        x3=Parameter(*PLACES["x3"], "au", description="first coordinate of the third star"),
        y3=Parameter(*PLACES["y3"], "au", description="second coordinate of the third star"),
    )
    fields: ClassVar[Mapping[str, Field]] = {
        "position": Field(("time", "body", "component"), "au", "float64", "from the centre of mass"),
        "velocity": Field(("time", "body", "component"), "au/year", "float64"),
    }
    integrator: NBody = field(default_factory=Hermite)
    stepping: StepController | None = None
    value: float = 0.01
    years: float = 10.0
    levels: int = 101
    interval: float = 0.1
    features: Features = "physics"

    def __post_init__(self) -> None:
        check_choices(self)
        check_parts(self)
        if not 0 < self.years < math.inf or not self.interval > 0 or self.levels < 2:
            raise Invalid(
                f"no {self.levels} states of {self.years} years in intervals of {self.interval}: both times "
                "are positive and finite, and there are two states at least"
            )
        knob = self.integrator.knob(self.interval)
        if self.stepping is None:
            FixedStep(self.value).init(knob)

    @property
    def _controller(self) -> StepController:
        return FixedStep(self.value) if self.stepping is None else self.stepping

    def axis_units(self) -> Mapping[str, str]:
        """See `Problem.axis_units`."""
        return {**super().axis_units(), "time": "year", "body": "1", "component": "1"}

    def coordinates(self) -> Mapping[str, np.ndarray]:
        """See `Problem.coordinates`; components are x, y, z."""
        import numpy as np

        return {
            "time": np.linspace(0.0, self.years, self.levels),
            "body": np.arange(3.0),
            "component": np.arange(3.0),
        }

    def steered(self) -> tuple[Knob, tuple[str, ...]]:
        """See `TakesSteps.steered`."""
        from sciflow_control.bodies.features import view

        knob = self.integrator.knob(self.interval)
        middle = {n: (p.low + p.high) / 2 for n, p in self.parameters.items()}
        return knob, view(self.features, stars(**middle), knob).names

    def stepper(
        self, mu: Mapping[str, float], ctx: Context, restart: Mapping[str, np.ndarray] | None = None
    ) -> Held:
        """See `TakesSteps.stepper`."""
        return self.integrator.stepper(stars(**mu), self.interval, self.features, restart)

    def solve(self, mu: Mapping[str, float], ctx: Context) -> Iterator[State]:
        """See `Problem.solve`; metrics are steps, rejected, evaluations and the drift of the energy."""
        return self._states(mu, ctx, None)

    def resume(
        self, mu: Mapping[str, float], ctx: Context, restart: Mapping[str, np.ndarray]
    ) -> Iterator[State]:
        """See `Problem.resume`."""
        return self._states(mu, ctx, restart)

    def _states(
        self, mu: Mapping[str, float], ctx: Context, restart: Mapping[str, np.ndarray] | None
    ) -> Iterator[State]:
        stepper = self.stepper(mu, ctx, restart)
        log = StepLog(Stepping(stepper, self._controller, restart), restart)
        for time, leg in log.levels(self.coordinates()["time"], ctx):
            metrics = {
                "steps": float(len(leg.taken)),
                "rejected": float(len(leg.rejected)),
                "evaluations": leg.cost,
                "drift": stepper.drift(),
            }
            fields = {"position": stepper.positions.copy(), "velocity": stepper.velocities.copy()}
            yield State(time, fields, metrics, log.restart)
