"""Full solves that a stage asks for one after the other, kept as the members of its own artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sciflow.schema import Field
from sciflow.stages.queries import TIME, grid_of
from sciflow.stages.simulate import ENSEMBLE, Campaign, Simulate

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.problem import Problem
    from sciflow.quantity import Quantity
    from sciflow.store import Writer


class Solves:
    """Solves points of a problem in full; what an earlier attempt solved is not solved again.

    An attempt that asks for the same points in the same order gets the members that are there.

    Parameters
    ----------
    simulate : Simulate
        Problem, seed and attempts.
    limit : int
        Points in all, at most.
    origin : Artifact
        Noted as where the points come from.
    out : Writer
        Where they are kept.
    ctx : Context
        Executor, resources, progress.
    """

    def __init__(self, simulate: Simulate, limit: int, origin: Artifact, out: Writer, ctx: Context) -> None:
        self._simulate, self.limit, self._out, self._ctx = simulate, limit, out, ctx
        self.problem: Problem = simulate.problem
        self.points = np.zeros((0, len(self.problem.parameters)))
        self.failed: dict[int, str] = {}
        simulate.begin(out, origin, np.zeros((limit, self.points.shape[1])))

    def __len__(self) -> int:
        return len(self.points)

    def more(self, points: np.ndarray) -> np.ndarray:
        """Solve some points; their members, int64 of shape (point,).

        Raises
        ------
        Failed
            If jobs keep ending without a result.
        Cancelled
            If the run was cancelled; what is solved is kept.
        """
        first = len(self.points)
        self.points = np.concatenate([self.points, points])
        Campaign(self._simulate, self.points, self._out, self._ctx).run()
        records = self._out.committed()
        members = np.arange(first, len(self.points))
        for member in members.tolist():
            if records[member]["status"] != 1:
                self.failed[member] = records[member]["reason"]
        self._ctx.progress(len(self.points), self.limit, "full solves")
        return members

    def quantity(self, quantity: Quantity, members: np.ndarray) -> np.ndarray:
        """A quantity of some members, NaN where the solver failed, of shape (member,)."""
        from sciflow.artifact.snapshot import Snapshot

        name, level = quantity.source
        found, lines = self.problem.fields[name], self.problem.coordinates()
        grid = grid_of(found, lines, self.problem.axis_units(), self.problem.periodic)
        gather, records = Snapshot(self._out.path).gather(name), self._out.committed()
        timed = found.axes[:1] and found.axes[0] in TIME
        values = np.full(len(members), np.nan)
        for row, member in enumerate(members.tolist()):
            if member in self.failed:
                continue
            count = len(lines[found.axes[0]]) if timed else 1
            if timed and found.axes[0] == "step":
                count = records[member].get("levels", count)
            place = level % count if count > 1 else 0
            values[row] = quantity.of(gather.read(np.array([member]), np.array([place]))[:, 0], grid)[0]
        return values

    def seconds(self, members: int) -> float:
        """Median wall time of the first so many members that succeeded, s; 1 where none did."""
        records = self._out.committed()
        known = range(min(members, len(self.points)))
        found = [records[m]["seconds"] for m in known if records[m]["status"] == 1]
        return max(float(np.median(found)), 1e-9) if found else 1.0

    def store(self) -> None:
        """Note where the members are; those that were not made are NaN."""
        status = np.zeros(self.limit, dtype=np.uint8)
        status[: len(self.points)] = [2 if m in self.failed else 1 for m in range(len(self.points))]
        points = np.full((self.limit, self.points.shape[1]), np.nan)
        points[: len(self.points)] = self.points
        self._out.write("parameters", points, ENSEMBLE["parameters"])
        self._out.write("status", status, Field(("member",), "1", "uint8", "0 not made, 1 ok, 2 failed"))
