"""The linear systems of one member, solved with what a tuner chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.context import Context
from sciflow.errors import Diverged, Invalid
from sciflow.linear_solver import Solving
from sciflow_control.tuned.tuning import Rules, Solved, Tuning

if TYPE_CHECKING:
    from sciflow_control.tuned.solver import Tuned


OWN = {"ranks", "log_n"}
"""Features that need no problem."""


class TunedSolving(Solving):
    """See `sciflow_control.tuned.solver.Tuned`."""

    def __init__(
        self, tuned: Tuned, ksp: Any, ctx: Context, restart: Mapping[str, np.ndarray] | None
    ) -> None:
        seed = int(ctx.rng(tuned.seed, 0).integers(2**31))
        rules = Rules(tuned.cost, tuned.limit, seed, None, tuned.hold, tuned.amortise)
        self._tuning, self._ctx = Tuning(ksp, tuned.controller, rules), ctx
        self._name, self._needed = tuned.controller.name, tuned.controller.ranges.keys() - OWN
        if restart:
            self._tuning.resume(restart)
        elif self._tuning.root:
            self._tuning.book.inherit(ctx.experience)

    def solve(self, b: Any, x: Any, features: Mapping[str, float]) -> int:
        """See `Solving.solve`.

        Raises
        ------
        Invalid
            If the controller needs a feature that the problem does not give.
        """
        missing = self._needed - features.keys()
        if missing:
            raise Invalid(
                f"{self._name} decides by {', '.join(sorted(missing))}, which this problem does not give; "
                f"it gives {', '.join(sorted({*features, *OWN}))}"
            )
        return converged(self._tuning.solve(b, x, features))

    def restart(self) -> Mapping[str, np.ndarray]:
        """See `Solving.restart`."""
        return self._tuning.restart()

    def close(self) -> None:
        """See `Solving.close`."""
        if self._tuning.root:
            self._tuning.book.flush()
            columns = self._tuning.book.history.columns()
            columns.pop("seconds", None)  # with wall times no two runs would give the same ensemble
            self._ctx.experience.note(columns)


def converged(solved: Solved) -> int:
    """Iterations of a solve.

    Raises
    ------
    Diverged
        If the given solver failed as well.
    """
    if solved.reason < 0:
        text = f"the linear solver stopped at residual {solved.residual:.2e}, PETSc reason {solved.reason}"
        raise Diverged(text)
    return solved.iterations
