"""Held: a stepper of bodies that keeps one value of its knob for an interval."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sciflow.errors import Invalid
from sciflow.step_controller import CLOSE, Stepper, StepResult
from sciflow_control.bodies.features import view
from sciflow_control.bodies.kernels import energy

if TYPE_CHECKING:
    from sciflow.step_controller import Knob
    from sciflow_control.bodies.n_body import Features
    from sciflow_control.bodies.state import Bodies

STATE, CLOCK = "bodies_state", "bodies_clock"
"""Names of what a run goes on from; the clock is time, energy, last error and last value of the knob."""


class Held(Stepper):
    """Bodies under an integrator whose knob is held for an interval; one attempt is one interval.

    The error of an interval is ``|E_1 - E_0| / |E_start|``. Where a system has next to no energy at its
    start (a parabola) it is relative to the kinetic energy there.

    Parameters
    ----------
    bodies : Bodies
        At time 0.
    knob : Knob
        Of the integrator.
    features : {"physics", "paper"}
        What is told.
    most : int
        An attempt that would take more evaluations of the forces has not converged.
    restart : mapping of str to ndarray or None
        What `restart` gave.

    Attributes
    ----------
    bodies : Bodies
        At the start.
    state : ndarray, shape (row, body, 3)
        Positions, velocities, and what else the integrator keeps, at `time`; not to be changed.
    """

    def __init__(
        self,
        bodies: Bodies,
        knob: Knob,
        features: Features,
        most: int,
        restart: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        assert knob.held is not None
        self.bodies, self.knob, self._held, self._most = bodies, knob, knob.held, most
        self._view = view(features, bodies, knob)
        self.features = self._view.names
        self.time, self._error, self._value = 0.0, math.nan, math.nan
        moving = 0.5 * float(bodies.masses @ (bodies.velocities**2).sum(axis=1))
        self.state = self._begin()
        self._start = self._energy = energy(bodies.masses, bodies.gravity, self.state)
        self._scale = abs(self._start) if abs(self._start) > 1e-10 * moving else moving
        if restart is not None:
            self._go_on(restart)
        self._other = np.empty_like(self.state)
        self._tried: tuple[float, float, float, float] | None = None

    @property
    def positions(self) -> np.ndarray:
        """At `time`, shape (body, 3); not to be changed."""
        found: np.ndarray = self.state[0]
        return found

    @property
    def velocities(self) -> np.ndarray:
        """At `time`, shape (body, 3); not to be changed."""
        found: np.ndarray = self.state[1]
        return found

    @abstractmethod
    def _begin(self) -> np.ndarray:
        """The state of the bodies at their start, shape (row, body, 3)."""

    @abstractmethod
    def _advance(self, value: float, length: float, end: np.ndarray) -> tuple[int, float]:
        """From `state` to `end`; evaluations of the forces, and the energy there or NaN where it failed."""

    def attempt(self, value: float, until: float) -> StepResult:
        """See `Stepper.attempt`."""
        rest = until - self.time
        # Intervals that add up to the end but for rounding do not leave one of nearly no length.
        length = rest if rest <= self._held * (1 + CLOSE) else self._held
        end = until if length == rest else self.time + length
        cost, total = self._advance(value, length, self._other)
        error = abs(total - self._energy) / self._scale
        converged = math.isfinite(error)
        self._tried = (end, total, error, value) if converged else None
        return StepResult(self.time, length, value, self.knob, error, 0, float(cost), converged)

    def accept(self) -> None:
        """See `Stepper.accept`.

        Raises
        ------
        Invalid
            If nothing was tried, or it has not converged.
        """
        if self._tried is None:
            raise Invalid("no interval that converged was tried")
        self.time, self._energy, self._error, self._value = self._tried
        self.state, self._other = self._other, self.state
        self._tried = None

    def reject(self) -> None:
        """See `Stepper.reject`."""
        self._tried = None

    def observe(self) -> Mapping[str, float]:
        """See `Stepper.observe`."""
        drift = math.nan if math.isnan(self._value) else self.drift()
        return self._view.of(self.state, self._error, drift, self._value)

    def drift(self) -> float:
        """Relative change of the energy since the start."""
        change: float = abs(self._energy - self._start) / self._scale
        return change

    def restart(self) -> Mapping[str, np.ndarray]:
        """See `Stepper.restart`."""
        clock = np.array([self.time, self._energy, self._error, self._value])
        return {STATE: self.state.copy(), CLOCK: clock}

    def _go_on(self, restart: Mapping[str, np.ndarray]) -> None:
        if STATE not in restart or CLOCK not in restart:
            raise Invalid(f"what bodies go on from holds {STATE!r} and {CLOCK!r}, got {sorted(restart)}")
        state = np.array(restart[STATE], dtype=np.float64, order="C")
        if state.shape != self.state.shape:
            raise Invalid(
                f"saved with another integrator or other bodies: a state of shape {state.shape}, "
                f"here it is {self.state.shape}"
            )
        clock = np.asarray(restart[CLOCK])
        if clock.shape != (4,) or not (np.isfinite(state).all() and np.isfinite(clock[:2]).all()):
            raise Invalid("what bodies go on from is damaged: it holds what is no finite number, or no clock")
        self.state = state
        self.time, self._energy, self._error, self._value = (float(v) for v in clock)
