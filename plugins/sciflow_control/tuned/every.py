"""The linear systems of one member, each solved with every arm of a space."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.context import Context
from sciflow.linear_solver import Solving
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.tuned.arms import GIVEN, Choice, choice
from sciflow_control.tuned.attempt import Goal, Outcome
from sciflow_control.tuned.book import STATUSES, positive
from sciflow_control.tuned.costs import price
from sciflow_control.tuned.history import History, pack, unpack
from sciflow_control.tuned.solving import converged
from sciflow_control.tuned.tuning import Plan, Rules, Tuning, first_factor

if TYPE_CHECKING:
    from sciflow_control.tuned.solver import EveryArm


class EverySolving(Solving):
    """See `sciflow_control.tuned.solver.EveryArm`."""

    def __init__(
        self, every: EveryArm, ksp: Any, ctx: Context, restart: Mapping[str, np.ndarray] | None
    ) -> None:
        self._every, self._ctx = every, ctx
        self._tuning = Tuning(ksp, Thompson(every.space), Rules())  # whose tuner is never asked
        self._wanted = [choice(values) for values in every.space.arms]
        self._history, self._count = History(), 0
        if restart:
            self._tuning.resume(restart)
            document = unpack(restart["every"])
            self._history.rows, self._count = document["rows"], int(document["count"])

    def solve(self, b: Any, x: Any, features: Mapping[str, float]) -> int:
        """See `Solving.solve`."""
        tuning = self._tuning
        known = {**features, **tuning.own_features()}
        tuning.look()
        goal = tuning.goal(b, x)
        start = x.copy() if goal is not None and goal.nonzero else None
        begin = time.perf_counter()
        solved = tuning.safely(b, x)
        seconds = tuning.most(time.perf_counter() - begin)
        work = tuning.safe_price().iteration * solved.iterations
        setup = tuning.book.setup(GIVEN, tuning.safe_price())
        if goal is not None and solved.reason > 0:
            self._note(
                -1, Outcome("ok", solved.iterations, work, solved.residual, 1.0), setup, seconds, known
            )
            for arm, wanted in enumerate(self._wanted):
                self._try(arm, wanted, goal, (b, start), self._every.limit * (work + setup[1]), known)
            for wanted in self._wanted:
                tuning.book.done(wanted.key)
        tuning.book.done(GIVEN)
        self._count += 1
        return converged(solved)

    def _try(
        self,
        arm: int,
        wanted: Choice,
        goal: Goal,
        system: tuple[Any, Any],
        room: float,
        known: Mapping[str, float],
    ) -> None:
        """Solve with one arm from the start; arms that share a set-up pay for it each."""
        tuning = self._tuning
        if wanted.method == GIVEN:
            return
        tuning.begin(*system)
        setup = tuning.book.setup(wanted.key, price(wanted.method, wanted.preconditioner, tuning.size))
        factor = tuning.book.factors.get(wanted.name, first_factor(wanted))
        begin = time.perf_counter()
        outcome = tuning.tried(Plan(wanted, room - setup[1], setup[1], factor, True), goal, system[0])
        tuning.book.factors[wanted.name] = outcome.factor
        self._note(arm, outcome, setup, tuning.most(time.perf_counter() - begin), known)

    def _note(
        self,
        arm: int,
        outcome: Outcome,
        setup: tuple[int, float],
        seconds: float,
        known: Mapping[str, float],
    ) -> None:
        costs = {
            "work": setup[1] + outcome.work,
            "iterations": float(max(outcome.iterations, 1)),
            "seconds": seconds,
        }
        row = {
            "solve": self._count,
            "arm": arm,
            "cost": positive(costs[self._every.cost]),
            "status": STATUSES.index(outcome.status),
            "iterations": outcome.iterations,
            "seconds": seconds,
            "setup": setup[0],
        }
        self._history.add(row, known)

    def restart(self) -> Mapping[str, np.ndarray]:
        """See `Solving.restart`."""
        return {**self._tuning.restart(), "every": pack({"rows": self._history.rows, "count": self._count})}

    def close(self) -> None:
        """See `Solving.close`."""
        if self._tuning.root:
            self._ctx.experience.note(self._history.columns())
