"""Stored levels of heat problems whose steps are of any length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from sciflow.artifact.share import Share
from sciflow.errors import Diverged
from sciflow.linear_solver import wrapped
from sciflow.problem import Part, State
from sciflow.step_controller import ACCEPT, Memory, StepController, StepResult, StepState, Verdict
from sciflow.step_log import StepLog
from sciflow.stepping import Leg, Stepping
from sciflow_fenics.heat import checked, shared
from sciflow_fenics.heat_steps import HeatStepper
from sciflow_fenics.lattice import communicator

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow_fenics.heated_plate import HeatedPlate


@dataclass(frozen=True)
class _Equal(StepController):
    """Steps of one length, none taken back.

    Attributes
    ----------
    dt : float
        s.
    """

    name: ClassVar[str] = "equal"
    dt: float

    def choose(self, memory: Memory, state: StepState) -> tuple[float, Memory]:
        return self.dt, memory

    def judge(self, memory: Memory, result: StepResult) -> tuple[Verdict, Memory]:
        return ACCEPT, memory


def stepper(
    heat: HeatedPlate,
    mu: Mapping[str, float],
    ctx: Context,
    restart: Mapping[str, np.ndarray] | None = None,
) -> HeatStepper:
    """The solver of one member; see `TakesSteps.stepper`."""
    mu = checked(heat, mu)
    heated = heat.heating(mu)
    system, _, order = shared(heat, communicator(ctx))
    solving = wrapped(heat.solver, system.ksp, ctx, restart)
    return HeatStepper(system, order, heat.scheme, heated, solving, restart)


def solve(
    heat: HeatedPlate,
    mu: Mapping[str, float],
    ctx: Context,
    restart: Mapping[str, np.ndarray] | None = None,
) -> Iterator[State]:
    """Stream the stored time levels, all or those after a restart point; see `Problem.solve`."""
    made = stepper(heat, mu, ctx, restart)
    system, sample, order = shared(heat, communicator(ctx))
    for level, counts, saved in _levels(heat, made, ctx, restart):
        heated = made.heating
        system.begin(heated.beta, made.rise, heated.source(made.time, False))
        fields: dict[str, Part | Share] = {"temperature": sample(system.rise)}
        if level == 0 or "time" in heat.fields["source"].axes:
            fields["source"] = sample(system.source)
        if heat.dofs:
            fields["temperature_dof"] = order(system.rise)
        yield State(made.time, fields, counts, saved)


_Saved = Callable[[], Mapping[str, np.ndarray]]


def _levels(
    heat: HeatedPlate,
    made: HeatStepper,
    ctx: Context,
    restart: Mapping[str, np.ndarray] | None,
) -> Iterator[tuple[int, dict[str, int], _Saved]]:
    """Step from one stored level to the next: its number, what it took, and what is needed to go on."""
    controller = heat.stepping or _Equal(heat.end / heat.levels / heat.substeps)
    times = heat.coordinates()["time"]
    log = StepLog(Stepping(made, controller, restart), restart)
    first = 0 if restart is None else int(restart["level"])
    for level in range(first, len(times)):
        linear = made.linear if level else 0
        try:
            leg = log.to(float(times[level]))
        except Diverged as error:
            raise Diverged(f"time level {level}: {error}") from None
        counts = _counts(leg, made.linear - linear, 0 if level else made.prepared)
        if level + 1 == len(times):
            made.solving.close()
            # Only one table of decisions is stored for a member: that of its linear solver, if it has one.
            if heat.solver is None and heat.stepping is not None:
                log.note(ctx)
        yield level, counts, partial(_saved, log, level + 1)


def _saved(log: StepLog, level: int) -> dict[str, np.ndarray]:
    return {**log.restart(), "level": np.array(level)}


def _counts(leg: Leg, linear: int, prepared: int) -> dict[str, int]:
    """Newton iterations of the steps that stand; linear solves and their iterations of all attempts."""
    return {
        "newton": int(sum(r.cost for r in leg.taken)),
        "linear": linear,
        "steps": len(leg.taken),
        "rejected": len(leg.rejected),
        "solves": prepared + int(leg.cost),
    }
