"""HeatStepper: implicit steps of heat conduction whose length is chosen from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from sciflow.context import exchange, summed
from sciflow.errors import Diverged, Invalid
from sciflow.linear_solver import Solving
from sciflow.step_controller import Stepper, StepResult, ending, shortened
from sciflow_fenics.checks import FEATURES, step_knob
from sciflow_fenics.conduction import Conduction
from sciflow_fenics.heating import Heating
from sciflow_fenics.lattice import DofOrder

DAMPED = 4
"""Euler steps with which Crank-Nicolson begins where the boundary jumps."""


@dataclass(frozen=True)
class _Point:
    """A solution at one time with what its next step is predicted from.

    Attributes
    ----------
    time, length, before : float
        Of the solution, of the step that led to it, and of the one before, s; 0 at the start, `before` also
        where that step was the first after a jump.
    rise, rate, older : ndarray
        K, and the mean rates in the last step and the one before, K s-1, at the unknowns of this rank.
    error, newton : float
        Of the last step.
    count : int
        Steps so far.
    fresh : bool
        Whether nothing before this time tells how the rate changes after it, as at the start and where the
        source jumps: `rate` and `older` are the rate at this time.
    """

    time: float
    length: float
    before: float
    rise: np.ndarray
    rate: np.ndarray
    older: np.ndarray
    error: float = 0.0
    newton: float = 0.0
    count: int = 0
    fresh: bool = False


class HeatStepper(Stepper):
    r"""Implicit Euler or Crank-Nicolson steps with an error estimate that costs no solve.

    Parameters
    ----------
    system : Conduction
        May serve others in between.
    order : DofOrder
        Of its unknowns.
    scheme : {"euler", "crank_nicolson"}
        Order 1 or 2.
    heating : Heating
        Of the member.
    solving : Solving
        Solves the linear systems; what it learned in a step that is taken back stays learned.
    restart : mapping of str to ndarray or None
        What `restart` gave.

    Attributes
    ----------
    linear : int
        Iterations of the linear solver, also in steps that were taken back.
    prepared : int
        Linear solves before the first step.

    Notes
    -----
    A step begins Newton's method at an explicit prediction, and the distance of the solution from it
    is proportional to the local error. With the mean rate :math:`r_n` in the last step, of length
    :math:`\sigma`, that in the step before, of length :math:`\varrho`, and :math:`\tau` of the new one,

    .. math:: T^p = T_n + \tau r_n, \quad e = \tfrac12 (T_{n+1} - T^p)

    for Euler, where the mean rate is that at the end of the step by its own equation, and

    .. math:: T^p = T_n + \tau \Big(r_n + \frac{\tau + \sigma}{\sigma + \varrho} (r_n - r_{n-1})\Big), \quad
              e = \frac{\tau^2 (T_{n+1} - T^p)}{\tau^2 + 2 (\tau + \sigma) (\tau + \sigma + \varrho)}

    for Crank-Nicolson: the parabola through the last three solutions, whose distance from the exact one
    is :math:`-\tau (\tau + \sigma) (\tau + \sigma + \varrho) \dddot T / 6` where that of the step is
    :math:`\tau^3 \dddot T / 12`. (The rate at the end of a step, :math:`2 r - v_n`, which the classical
    prediction takes, keeps every error at a switch for ever: it alternates, and holds the steps short.)
    Where the source jumps, so does the rate at that time, by the jump over the capacity; how it changes
    afterwards nobody knows yet, and the first step is judged by its distance from the tangent, 1/13 of it
    for Crank-Nicolson, the second with :math:`\varrho = 0`. The boundary jumps at the
    start: a step of the shortest length gives the unknowns beside it their values after the jump, and
    Crank-Nicolson begins with four Euler steps. The error is the root mean square of e over the unknowns
    inside, over that of the solution plus ``heating.size``.

    References
    ----------
    P. M. Gresho, R. L. Lee, R. L. Sani, "On the time-dependent solution of the incompressible
    Navier-Stokes equations in two and three dimensions", in Recent Advances in Numerical Methods in
    Fluids 1 (1980) 27-79. D. A. Kay, P. M. Gresho, D. F. Griffiths, D. J. Silvester, "Adaptive
    time-stepping for incompressible flow II", SIAM J. Sci. Comput. 32 (2010) 111-128, section 2.
    """

    features: ClassVar[tuple[str, ...]] = FEATURES  # type: ignore[misc]

    def __init__(
        self,
        system: Conduction,
        order: DofOrder,
        scheme: Literal["euler", "crank_nicolson"],
        heating: Heating,
        solving: Solving,
        restart: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.heating, self.solving = heating, solving
        self._system, self._order, self._euler = system, order, scheme == "euler"
        self.knob = step_knob(heating.end, scheme)
        self._inside = system.inner
        self._count = float(self._sums(np.ones_like(self._inside))[0])
        self.linear, self.prepared = 0, 0
        self._now = self._start() if restart is None else _loaded(restart, order, system.mesh.comm)
        self._source = self._heat(self.time, True)
        self._tried: _Point | None = None

    @property
    def time(self) -> float:  # type: ignore[override]
        """Of the last step that stands, s."""
        return self._now.time

    @property
    def rise(self) -> np.ndarray:
        """The solution at the unknowns of this rank, K."""
        return self._now.rise

    def solution(self) -> np.ndarray:
        """The unknowns of this rank, K."""
        return self._now.rise

    def attempt(self, value: float, until: float) -> StepResult:
        """See `Stepper.attempt`; a switch that is known is met as `until` is.

        A step that fails on one rank has failed on all.

        Raises
        ------
        Invalid
            If the ranks were told to take different steps.
        """
        self._agree(value)
        now, length, end = self._now, *self._reach(value, until)
        system, heating = self._system, self.heating
        euler = self._euler or (heating.boundary != 0 and now.count < DAMPED)
        system.begin(heating.beta, now.rise, self._source, self.solving)
        system.weight.value = 1.0 if euler else 0.5
        source = self._heat(end, False)
        guess, share = self._predicted(length, euler)
        solves, linear = system.solves, system.linear
        newton = 0
        try:
            newton, _ = system.step(length, self._boundary, source, guess)
            rise = np.array(system.rise.x.array[: len(now.rise)])
        except Diverged:
            rise = guess = np.zeros_like(now.rise)
        cost = float(system.solves - solves)
        self.linear += system.linear - linear
        error = self._relative(share * (rise - guess), rise, failed=not newton)
        if not np.isfinite(error):
            return StepResult(now.time, length, length, self.knob, cost=cost, converged=False)
        slope = self._inside * (rise - now.rise) / length
        before = 0.0 if now.fresh else now.length
        self._tried = _Point(end, length, before, rise, slope, now.rate, error, float(newton), now.count + 1)
        return StepResult(now.time, length, length, self.knob, error, newton, cost)

    def accept(self) -> None:
        """See `Stepper.accept`."""
        assert self._tried is not None, "nothing was tried"
        tried, self._tried = self._tried, None
        source = self._heat(tried.time, True)
        if self._switch(tried.time) is not None:
            before = self._heat(tried.time, False)
            rate = tried.rate + self._inside * (source - before) / self._system.capacity
            if not self._euler:
                rate = rate + tried.length * (tried.rate - tried.older) / (tried.length + tried.before)
            tried = replace(tried, rate=rate, older=rate, fresh=True)
        self._now, self._source = tried, source

    def reject(self) -> None:
        """See `Stepper.reject`."""
        self._tried = None

    def observe(self) -> Mapping[str, float]:
        """Of the solution and of the source, by the names of `features`.

        Returns
        -------
        dict
            ``log_error`` of the last step and ``log_step``, its length over ``heating.pace``, log10;
            ``newton``, a quarter of its Newton iterations; ``log_change``, log10 of the change within one
            pace relative to the solution; ``bend``, the relative change of the rate in the last step;
            ``heated``, 1 where the source is on; ``log_since`` and ``log_until`` the last and the next
            switch of the source, or start and end, over the pace, log10.
        """
        now, pace = self._now, self.heating.pace
        sums = self._sums(now.rise, now.rate, now.rate - now.older, self._source)
        rise, rate, turn, source = np.sqrt(sums / self._count)
        size = rise + self.heating.size
        edges = (0.0, *self.heating.switches, self.heating.end)
        since = now.time - max(t for t in edges if t <= now.time)
        until = min((t for t in edges if t > now.time), default=now.time) - now.time
        values = (
            _log(now.error, 1e-12),
            _log(now.length / pace, 1e-6),
            now.newton / 4,
            _log(rate * pace / size if size else 0.0, 1e-6),
            min(turn / rate, 2.0) if rate else 0.0,
            float(source > 0),
            _log(since / pace, 1e-3),
            _log(until / pace, 1e-3),
        )
        return dict(zip(self.features, map(float, values), strict=True))

    def restart(self) -> Mapping[str, np.ndarray]:
        """See `Stepper.restart`."""
        now = self._now
        notes = np.array([now.time, now.length, now.before, now.error, now.newton, now.count, now.fresh])
        arrays = {"rise": now.rise, "rate": now.rate, "older": now.older}
        return {**arrays, "notes": notes, "place": self._order.index, **self.solving.saved()}

    def _start(self) -> _Point:
        system, heating = self._system, self.heating
        rise = np.zeros_like(self._inside)
        source = self._heat(0.0, True)
        rate = self._inside * source / system.capacity
        if heating.boundary:
            solves, linear = system.solves, system.linear
            system.begin(heating.beta, rise, source, self.solving)
            system.weight.value = 1.0
            system.step(self.knob.low, self._boundary)
            rise = np.array(system.rise.x.array[: len(rise)])
            self.prepared, self.linear = system.solves - solves, system.linear - linear
        return _Point(0.0, 0.0, 0.0, rise, rate, rate, fresh=True)

    def _boundary(self, x: np.ndarray) -> np.ndarray:
        return np.full(x.shape[1], self.heating.boundary)

    def _reach(self, value: float, until: float) -> tuple[float, float]:
        """The length of a step that crosses no known switch, and where it ends."""
        time, low = self._now.time, self.knob.low
        ahead = [t for t in self.heating.switches if time + low < t < until - low]
        if self.heating.met and ahead:
            value, until = shortened(value, ahead[0] - time), ahead[0]
        end = ending(time, value, until)
        return (value if end == time + value else end - time), end

    def _switch(self, time: float) -> float | None:
        """The switch at a time: one that is nearer than the shortest step is there."""
        return next((t for t in self.heating.switches if abs(t - time) <= self.knob.low), None)

    def _heat(self, time: float, after: bool) -> np.ndarray:
        """The source before or after a time, at the unknowns of this rank, W m-3."""
        switch = self._switch(time)
        return self._system.interpolated(self.heating.source(time if switch is None else switch, after))

    def _predicted(self, length: float, euler: bool) -> tuple[np.ndarray, float]:
        """Where an explicit method gets, and the error's part of the distance from there."""
        now = self._now
        if euler or now.fresh:
            return now.rise + length * now.rate, 0.5 if euler else 1 / 13
        last, before = now.length, now.before
        bend = (now.rate - now.older) / (last + before)
        far = (length + last) * (length + last + before)
        return now.rise + length * (now.rate + (length + last) * bend), length**2 / (length**2 + 2 * far)

    def _agree(self, value: float) -> None:
        comm = self._system.mesh.comm
        if comm.size == 1:
            return
        everyone = np.empty(comm.size)
        comm.Allgather(np.array([float(value)]), everyone)
        if (everyone != everyone[0]).any():
            rank = int(np.argmax(everyone != everyone[0]))
            raise Invalid(
                f"the ranks were told to take different steps at time {self.time:.6g}: {everyone[0]!r} s on "
                f"rank 0, {everyone[rank]!r} s on rank {rank}; do all of them see the same policy, on like "
                "processors?"
            )

    def _relative(self, error: np.ndarray, rise: np.ndarray, failed: bool) -> float:
        """Of all ranks; NaN where the step has failed on one of them."""
        lost, wrong, whole = np.sqrt(self._sums(np.array([float(failed)]), error, rise) / self._count)
        if lost:
            return float("nan")
        size = whole + self.heating.size
        return float(wrong / size) if size else 0.0

    def _sums(self, *arrays: np.ndarray) -> np.ndarray:
        """Sums of squares over all ranks, the same on each."""
        return summed(np.array([a @ a for a in arrays]), self._system.mesh.comm)


def _loaded(restart: Mapping[str, np.ndarray], order: DofOrder, comm: Any) -> _Point:
    reasons = exchange(comm, _fault(restart))
    if any(reasons):
        raise Invalid(next(r for r in reasons if r))
    place = restart["place"]
    rise, rate, older = (order.values(place, restart[name]) for name in ("rise", "rate", "older"))
    time, length, before, error, newton, count, fresh = (float(x) for x in restart["notes"])
    return _Point(time, length, before, rise, rate, older, error, newton, int(count), bool(fresh))


def _fault(restart: Mapping[str, np.ndarray]) -> str:
    """Why a member cannot go on from there; empty if it can."""
    absent = {"place", "rise", "rate", "older", "notes"} - set(restart)
    if absent:
        return (
            f"what heat goes on from lacks {', '.join(sorted(absent))}; it holds {', '.join(sorted(restart))}"
        )
    size = len(restart["place"])
    for name, count in (("rise", size), ("rate", size), ("older", size), ("notes", 7)):
        values = restart[name]
        if values.shape != (count,) or not np.isfinite(values).all():
            return f"what heat goes on from is damaged: {name!r} is not {count} finite numbers"
    return ""


def _log(value: float, least: float) -> float:
    return float(np.log10(max(value, least)))
