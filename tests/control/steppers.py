"""Solvers small enough to reason about: a scripted one, and Bogacki and Shampine's pair on an oscillator."""

import math

import numpy as np

from sciflow.step_controller import Knob, Stepper, StepResult, ending


class Scripted(Stepper):
    """Errors and work are given functions of the time and the value; there is no solution.

    Parameters
    ----------
    knob : Knob
        What is steered.
    error, cost : callable
        Of the time at which a step begins, and the value.
    fails : callable
        Likewise; whether the step fails.
    """

    def __init__(
        self,
        knob,
        error,
        cost=lambda t, v: 1.0,
        fails=lambda t, v: False,
        iterations=lambda t, v: 0,
        features=(),
    ):
        self.knob, self.time, self.features = knob, 0.0, features
        self._error, self._cost, self._fails, self._iterations = error, cost, fails, iterations
        self.total, self.tried = 0.0, []

    def observe(self):
        return {name: math.sin(self.time + i) for i, name in enumerate(self.features)}

    def attempt(self, value, until):
        length = value if self.knob.is_length else min(self.knob.held, until - self.time)
        part = 1.0 if self.knob.is_length else length / self.knob.held
        failed = self._fails(self.time, value)
        error = math.nan if failed else self._error(self.time, value) * part
        cost = self._cost(self.time, value) * part
        self._next = ending(self.time, length, until)
        self.tried.append((self.time, value))
        self._last = error
        return StepResult(
            *(self.time, length, value, self.knob, error),
            iterations=self._iterations(self.time, value),
            cost=cost,
            converged=not failed,
        )

    def accept(self):
        self.time = self._next
        self.total += self._last

    def reject(self):
        pass

    def restart(self):
        return {"time": np.array(self.time)}


class Oscillator(Stepper):
    """Van der Pol's equation by the pair of orders 3 and 2 of Bogacki and Shampine, without reuse of stages.

    The error of a step is relative to the solution, as absolute numbers; work is three evaluations each.
    """

    def __init__(self, stiffness=5.0, unit=1.0, low=1e-9, high=1.0, restart=None):
        self.knob = Knob("dt", "s", low * unit, high * unit, order=3.0)
        self._mu, self._unit = stiffness, unit
        self.time, self.state = 0.0, np.array([2.0, 0.0])
        if restart is not None:
            self.time, self.state = float(restart["time"]), np.array(restart["state"])

    def _slope(self, y):
        return np.array([y[1], self._mu * (1 - y[0] ** 2) * y[1] - y[0]]) / self._unit

    def attempt(self, value, until):
        y, h = self.state, value
        with np.errstate(all="ignore"):
            k1 = self._slope(y)
            k2 = self._slope(y + h / 2 * k1)
            k3 = self._slope(y + 3 * h / 4 * k2)
            new = y + h * (2 * k1 / 9 + k2 / 3 + 4 * k3 / 9)
            k4 = self._slope(new)
            gap = h * (-5 * k1 / 72 + k2 / 12 + k3 / 9 - k4 / 8)
            error = float(np.sqrt(np.mean((gap / (1 + np.abs(y))) ** 2)))
        self._new, self._end = new, ending(self.time, value, until)
        fine = bool(np.isfinite(new).all() and math.isfinite(error))
        return StepResult(self.time, value, value, self.knob, error, cost=3.0, converged=fine)

    def accept(self):
        self.state, self.time = self._new, self._end

    def reject(self):
        pass

    def restart(self):
        return {"time": np.array(self.time), "state": self.state}
