"""Embedded Runge-Kutta methods in numba: steps of a few microseconds for small systems."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from sciflow.errors import Invalid
from sciflow_control.integrators import compiled
from sciflow_control.integrators.embedded import Embedded
from sciflow_control.integrators.initial_value import InitialValue, finite_start


class RungeKutta(Embedded):
    """An embedded Runge-Kutta method for a right-hand side that numba compiles.

    Parameters
    ----------
    problem : InitialValue
        ``rhs(t, y, parameters, out)`` puts the slope into ``out``; `y`, `parameters` and `out` are arrays of
        float64, and it must write no other than `out`. What numba has not yet compiled is compiled without
        errors for divisions by 0. The state is a sequence of numbers.
    method : str
        One of `tableaus.METHODS`.
    bounds : tuple of float
        Shortest and longest step.
    restart : mapping of str to ndarray or None
        What `restart` gave: goes on from there instead of from the start.

    Raises
    ------
    NotFound
        If there is no such method.
    Invalid
        If the bounds are not in order, the state or the scale are not what they must be, or the right-hand
        side cannot be compiled.

    Notes
    -----
    A right-hand side is compiled once in a process, the steps once for a machine.
    """

    def __init__(
        self,
        problem: InitialValue,
        method: str = "dormand_prince",
        bounds: tuple[float, float] = (1e-10, 1.0),
        restart: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        super().__init__(problem, method, bounds, restart)
        if restart is not None and np.shape(restart["state"]) != np.shape(problem.state):
            raise Invalid(
                f"saved with another equation: a state of shape {np.shape(restart['state'])}, here it is "
                f"{np.shape(problem.state)}"
            )
        state = np.array(problem.state if restart is None else restart["state"], dtype=float)
        if state.ndim != 1 or not state.size:
            raise Invalid(f"the state is a sequence of numbers, got shape {state.shape}")
        scale = np.asarray(problem.scale, dtype=float)
        if scale.shape not in ((), state.shape):
            raise Invalid(f"scale has shape {scale.shape}, the state {state.shape}")
        finite_start(bool(np.isfinite(state).all()), bool((np.isfinite(scale) & (scale > 0)).all()))
        self._work = np.zeros((compiled.K + self.tableau.stages, state.size))
        self._work[compiled.Y], self._work[compiled.SCALE] = state, scale
        if restart is not None and "slope" in restart:
            self._work[compiled.K] = restart["slope"]
        self._parameters = np.array(problem.parameters, dtype=float)
        self._table, self._same = self.tableau.packed(), self.tableau.first_same_as_last
        self._function = compiled.pointer(problem.rhs)
        self._address = self._function.address
        self._begin(restart)

    def solution(self) -> np.ndarray:
        """The state of the last step that stands, shape (n,); a copy."""
        found: np.ndarray = self._work[compiled.Y].copy()
        return found

    def _slope(self) -> None:
        compiled.slope(self._address, self.time, self._work, self._parameters)

    def _step(self, length: float) -> tuple[float, float]:
        found: tuple[float, float] = compiled.step(
            self._address, self.time, length, self._work, self._table, self._parameters, self._same
        )
        return found

    def _advance(self) -> None:
        compiled.advance(self._work, compiled.K + (self.tableau.stages - 1 if self._same else 0))

    def _pace(self) -> float:
        return float(compiled.pace(self._work))

    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return self.solution(), self._work[compiled.K].copy()

    def _quantity(self) -> float:
        of = self._problem.invariant
        return math.nan if of is None else float(of(self.solution()))
