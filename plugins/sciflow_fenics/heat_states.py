"""Stored levels of heat problems whose steps a controller chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from sciflow.artifact.share import Share
from sciflow.errors import Diverged
from sciflow.linear_solver import wrapped
from sciflow.problem import Part, State
from sciflow.step_controller import Leg, StepController, Stepping
from sciflow_fenics.conduction import Values
from sciflow_fenics.heat import checked, gaussian, shared
from sciflow_fenics.heat_steps import Heating, HeatStepper
from sciflow_fenics.lattice import communicator

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow_fenics.components import Heat


def heating(heat: Heat, mu: Mapping[str, float]) -> Heating:
    """What a member of `Heat` is heated by.

    Notes
    -----
    A source of height A and width w warms its place by about ``A w**2 / k0``; its Gaussian has the root
    mean square ``sqrt(pi) w / side``. The plate answers it within ``w**2 rho c / k0``.
    """
    height, width = mu["amplitude"], mu["width"]
    bump = gaussian(height, mu["x"], mu["y"], width)

    def source(time: float, after: bool) -> Values:
        return bump

    warmed = abs(height) * width**2 / heat.conductivity * np.sqrt(np.pi) * width / heat.side
    pace = width**2 * heat.capacity / heat.conductivity
    return Heating(mu["beta"], mu["boundary"], source, (), True, warmed + abs(mu["boundary"]), pace, heat.end)


def stepper(
    heat: Heat, mu: Mapping[str, float], ctx: Context, restart: Mapping[str, np.ndarray] | None = None
) -> HeatStepper:
    """The solver of one member; see `TakesSteps.stepper`."""
    system, _, order = shared(heat, communicator(ctx))
    solving = wrapped(heat.solver, system.ksp, ctx, restart)
    return HeatStepper(system, order, heat.scheme, heating(heat, checked(heat, mu)), solving, restart)


def solve(
    heat: Heat, mu: Mapping[str, float], ctx: Context, restart: Mapping[str, np.ndarray] | None = None
) -> Iterator[State]:
    """Stream the stored time levels, all or those after a restart point; see `Problem.solve`."""
    system, sample, order = shared(heat, communicator(ctx))
    made = stepper(heat, mu, ctx, restart)
    assert heat.stepping is not None
    for level, counts, saved in legs(made, heat.stepping, heat.coordinates()["time"], restart):
        system.rise.x.array[: len(made.rise)] = made.rise
        system.rise.x.scatter_forward()
        fields: dict[str, Part | Share] = {"temperature": sample(system.rise)}
        if level == 0:
            fields["source"] = sample(system.source)
        if heat.dofs:
            fields["temperature_dof"] = order(system.rise)
        yield State(made.time, fields, counts, saved)


Saved = Callable[[], Mapping[str, np.ndarray]]


def legs(
    made: HeatStepper,
    controller: StepController,
    times: np.ndarray,
    restart: Mapping[str, np.ndarray] | None,
) -> Iterator[tuple[int, dict[str, int], Saved]]:
    """Step from one stored level to the next.

    Yields
    ------
    level : int
        That was reached.
    counts : dict
        ``newton`` iterations of the ``steps`` that stand, those ``rejected``; the iterations of the
        ``linear`` solver and its ``solves`` in all of them, and what
        was solved to prepare the first one.
    saved : callable
        Gives what a rank needs to go on after it.

    Raises
    ------
    Diverged
        On every rank alike.
    """
    stepping = Stepping(made, controller, restart)
    first = 0 if restart is None else int(restart["level"])
    for level in range(first, len(times)):
        linear = made.linear if level else 0
        try:
            leg = stepping.to(float(times[level]))
        except Diverged as error:
            raise Diverged(f"time level {level}: {error}") from None
        if level + 1 == len(times):
            made.solving.close()
        yield (
            level,
            _counts(leg, made.linear - linear, 0 if level else made.prepared),
            partial(_saved, made, stepping, level + 1),
        )


def _saved(made: HeatStepper, stepping: Stepping, level: int) -> dict[str, np.ndarray]:
    return {**made.restart(), **stepping.saved(), "level": np.array(level)}


def _counts(leg: Leg, linear: int, prepared: int) -> dict[str, int]:
    return {
        "newton": int(sum(r.cost for r in leg.taken)),
        "linear": linear,
        "steps": len(leg.taken),
        "rejected": len(leg.rejected),
        "solves": prepared + int(leg.cost),
    }
