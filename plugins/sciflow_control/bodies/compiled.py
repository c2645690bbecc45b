"""Compiled: the stepper of bodies under a compiled integrator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from sciflow_control.bodies.held import Held
from sciflow_control.bodies.kernels import JERK, PLACE, SPEED, forces, jerks

if TYPE_CHECKING:
    from sciflow.step_controller import Knob
    from sciflow_control.bodies.n_body import Features
    from sciflow_control.bodies.state import Bodies

Advance = Callable[..., tuple[int, float]]


class Compiled(Held):
    """Bodies under Hermite's method or the leapfrog.

    Parameters
    ----------
    bodies, knob, features, most, restart
        See `Held`.
    advance : callable
        One of the integrators of `kernels`, called with the masses, the gravitational constant, the state
        before and after, the knob's value, the length of the interval, `most` and `settings`.
    settings : tuple
        What else it takes.
    rows : int
        Of its state: 5 with the derivative of the acceleration, else 4.
    """

    def __init__(
        self,
        bodies: Bodies,
        knob: Knob,
        features: Features,
        most: int,
        advance: Advance,
        settings: tuple[bool | int, ...],
        rows: int,
        restart: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._run, self._settings = advance, settings
        self._rows = rows
        super().__init__(bodies, knob, features, most, restart)

    def _begin(self) -> np.ndarray:
        bodies = self.bodies
        state = np.zeros((self._rows, len(bodies.masses), 3))
        state[PLACE], state[SPEED] = bodies.positions, bodies.velocities
        if self._rows > JERK:
            jerks(bodies.masses, bodies.gravity, state)
        else:
            forces(bodies.masses, bodies.gravity, state)
        return state

    def _advance(self, value: float, length: float, end: np.ndarray) -> tuple[int, float]:
        bodies = self.bodies
        return self._run(
            bodies.masses, bodies.gravity, self.state, end, value, length, self._most, *self._settings
        )
