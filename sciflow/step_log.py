"""StepLog: every attempt at a step of a member, kept so that an ensemble can show how it was solved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from sciflow.errors import Invalid
from sciflow.step_controller import StepResult
from sciflow.stepping import PREFIX, Leg, Stepping

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Context

LOG = f"{PREFIX}log"
COLUMNS = ("time", "length", "value", "error", "work", "accepted", "fallback")
"""Of the table; `Simulate` stores them as ``decision_<name>``."""


class StepLog:
    """A solution under a controller whose every attempt is noted.

    Parameters
    ----------
    stepping : Stepping
        What steps.
    restart : mapping of str to ndarray or None
        With what `saved` gave, among other arrays.

    Raises
    ------
    Invalid
        If `restart` holds no such table.

    Notes
    -----
    A row for each attempt, in order: where it began, its length, the knob's value, the estimated error, the
    work, whether it stands (1 or 0), and whether a guard's fallback chose it (its memory's ``source`` is
    ``"fallback"``). 56 bytes an attempt.
    """

    def __init__(self, stepping: Stepping, restart: Mapping[str, np.ndarray] | None = None) -> None:
        self.stepping, self._resumed = stepping, restart is not None
        self._rows: list[list[float]] = []
        if restart is not None:
            known = restart.get(LOG)
            if known is None or known.ndim != 2 or known.shape[1] != len(COLUMNS):
                raise Invalid(
                    f"what is to be gone on from has no table {LOG!r} of {len(COLUMNS)} columns: its steps "
                    "were not noted; begin anew"
                )
            self._rows = known.tolist()

    def to(self, until: float) -> Leg:
        """See `Stepping.to`."""
        whole, stepper = Leg(), self.stepping.stepper
        while stepper.time < until:
            leg = Leg()
            self.stepping.step(until, leg)
            attempts = zip(leg.rejected, leg.rejected_by, strict=True)
            self._rows += [_row(result, 0.0, source) for result, source in attempts]
            source = str(self.stepping.memory.get("source", ""))
            self._rows += [_row(result, 1.0, source) for result in leg.taken]
            whole.rejected += leg.rejected
            whole.rejected_by += leg.rejected_by
            whole.taken += leg.taken
        return whole

    def levels(self, times: np.ndarray, ctx: Context) -> Iterator[tuple[float, Leg]]:
        """Step to the times at which states are stored; the table is given away before the last one.

        Parameters
        ----------
        times : ndarray, shape (time,)
            Growing. The first may be the start, those up to a restart are left out.
        ctx : Context
            Of the member.

        Yields
        ------
        float
            The time, where the solver stands.
        Leg
            What was done since the one before.

        Raises
        ------
        Diverged, Invalid
            See `Stepping.to`.
        """
        for time in times[times > self.stepping.stepper.time] if self._resumed else times:
            leg = self.to(float(time))
            if time == times[-1]:
                self.note(ctx)
            yield float(time), leg

    def restart(self) -> dict[str, np.ndarray]:
        """All that is needed to go on from here: the solver's arrays, and what `saved` gives."""
        return {**self.stepping.stepper.restart(), **self.saved()}

    def saved(self) -> dict[str, np.ndarray]:
        """The table and what the controller remembers, under names that begin with `PREFIX`."""
        import numpy as np

        table = np.array(self._rows, dtype=float).reshape(-1, len(COLUMNS))
        return {LOG: table, **self.stepping.saved()}

    def note(self, ctx: Context) -> None:
        """Give the table to the ensemble; called once, before the member's last state is given away."""
        if ctx.comm.rank == 0:
            table = self.saved()[LOG]
            ctx.experience.note({name: table[:, i] for i, name in enumerate(COLUMNS)})


def _row(result: StepResult, accepted: float, source: str) -> list[float]:
    fallback = float(source == "fallback")
    return [result.time, result.length, result.value, result.error, result.cost, accepted, fallback]
