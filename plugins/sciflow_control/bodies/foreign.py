"""Foreign: the stepper of bodies under one of rebound's integrators, as its release 5 offers them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import rebound

from sciflow_control.bodies.held import Held
from sciflow_control.bodies.kernels import PLACE, REST, SPEED, energy

if TYPE_CHECKING:
    from sciflow.step_controller import Knob
    from sciflow_control.bodies.n_body import Features
    from sciflow_control.bodies.state import Bodies

KEPT = 3
"""Row of a state that holds the step to begin the next interval with."""
FIRST = 0.1
"""The first step of all is this part of an interval."""


class Foreign(Held):
    """Bodies under an integrator of rebound.

    Each interval is integrated by a simulation of its own, which begins with the last one's step, so that it
    depends on nothing but the state. Evaluations are counted by a function that rebound calls in each.

    Parameters
    ----------
    bodies, knob, features, most, restart
        See `Held`.
    integrator : str
        Name in rebound.
    settings : mapping of str to float or None
        Attributes of the integrator; None stands for the value of the knob. Where the knob is the step
        ``dt`` an interval is cut into the least number of equal steps that are not longer.
    """

    def __init__(
        self,
        bodies: Bodies,
        knob: Knob,
        features: Features,
        most: int,
        integrator: str,
        settings: Mapping[str, float | None],
        restart: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._integrator, self._settings = integrator, settings
        super().__init__(bodies, knob, features, most, restart)

    def _begin(self) -> np.ndarray:
        state = np.zeros((4, len(self.bodies.masses), 3))
        state[PLACE], state[SPEED] = self.bodies.positions, self.bodies.velocities
        state[KEPT] = FIRST * self._held
        return state

    def _advance(self, value: float, length: float, end: np.ndarray) -> tuple[int, float]:
        simulation = self._simulation(value)
        steps = 0
        if self.knob.name == "dt":
            wanted = length / value * (1 - 1e-12)
            if not wanted <= self._most:
                return 0, math.nan
            steps = max(math.ceil(wanted), 1)
            simulation.dt = length / steps
        else:
            simulation.dt = min(float(self.state[KEPT, 0, 0]), length)
        count = 0

        def counted(_: Any) -> None:
            nonlocal count
            count += 1
            if count > self._most:
                simulation.stop()

        simulation.additional_forces = counted
        try:
            _run(simulation, steps, length)
        except RuntimeError:
            return count, math.nan
        x, v = np.empty_like(end[PLACE]), np.empty_like(end[SPEED])
        simulation.serialize_particle_data(xyz=x, vxvyvz=v)
        end[PLACE], end[SPEED], end[REST], end[KEPT] = x, v, 0.0, simulation.dt
        if count > self._most:
            return count, math.nan
        bodies = self.bodies
        return count, energy(bodies.masses, bodies.gravity, end)

    def _simulation(self, value: float) -> Any:
        bodies = self.bodies
        simulation = rebound.Simulation()
        simulation.G = bodies.gravity
        for mass, (x, y, z), (vx, vy, vz) in zip(
            bodies.masses.tolist(), self.state[PLACE].tolist(), self.state[SPEED].tolist(), strict=True
        ):
            simulation.add(m=mass, x=x, y=y, z=z, vx=vx, vy=vy, vz=vz)
        simulation.integrator = self._integrator
        for name, number in self._settings.items():
            setattr(simulation.integrator, name, value if number is None else number)
        return simulation


def _run(simulation: Any, steps: int, length: float) -> None:
    """Take so many equal steps or, with 0, the integrator's own up to there."""
    with warnings.catch_warnings():
        # Steps that are too long for its corrector: the energy says how wrong they are.
        warnings.simplefilter("ignore", RuntimeWarning)
        if steps:
            simulation.steps(steps)
            simulation.synchronize()
        else:
            simulation.integrate(length)
