"""The ``ensemble_trial`` stage: an ensemble that was solved under a step controller, beside an exact one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sciflow.component import check_choices
from sciflow.errors import Invalid, nearest
from sciflow.problem import Problem
from sciflow.schema import Schema
from sciflow.stage import Stage
from sciflow.stages.simulate import ENSEMBLE
from sciflow.step_controller import TakesSteps
from sciflow_control.harness.cost_table import label
from sciflow_control.trials.step_trial import STEP_TRIAL

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer


@dataclass(frozen=True)
class EnsembleTrial(Stage):
    """Compares the members of an ensemble with those of a reference, at the points of one design.

    What comes of it is a trial as `StepTrial` makes it, with a row for each member, which `StepTable` puts
    beside others.

    Attributes
    ----------
    field : str
        Whose error is taken; it has the axis ``time``.
    cost : str
        The figure of the solver that is the work, ``solves`` where the ensemble has ``solver_solves``.
    unit : str
        What that counts.
    at : {"end", "all"}
        Whether the error is that at the last level or over all of them.
    watched : int
        Of so many of the first members every attempt is kept, for pictures.

    Raises
    ------
    Invalid
        If `watched` has a value that it cannot have.

    Notes
    -----
    The error of a member is ``|u - r| / |r|`` with the L2 norm over the grid, and over the levels where all
    are taken; the field ``largest`` holds that of the level where it is largest. Both as log10; infinite
    where only the reference is zero. One member is in memory at a time.
    """

    name: ClassVar[str] = "ensemble_trial"
    inputs: ClassVar[Mapping[str, Schema]] = {"ensemble": ENSEMBLE, "reference": ENSEMBLE}
    output: ClassVar[Schema] = STEP_TRIAL
    light: ClassVar[bool] = True
    field: str = "temperature"
    cost: str = "solves"
    unit: str = "linear solves"
    at: Literal["end", "all"] = "end"
    watched: int = 1

    def __post_init__(self) -> None:
        check_choices(self)
        if self.watched < 0:
            raise Invalid(f"{self.name}: watched={self.watched} must not be negative")

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse ensembles of different designs, fields or times, and one without that work."""
        super().check(inputs)
        one, exact = inputs["ensemble"], inputs["reference"]
        for artifact in (one, exact):
            for name in (self.field, "time"):
                if name not in artifact.schema.fields:
                    raise Invalid(
                        f"{artifact.path} has no field {name!r}. {nearest(name, artifact.schema.fields)}"
                    )
        if f"solver_{self.cost}" not in one.schema.fields:
            known = [n.removeprefix("solver_") for n in one.schema.fields if n.startswith("solver_")]
            raise Invalid(f"{one.path} does not know the work {self.cost!r}. {nearest(self.cost, known)}")
        same = one.attributes["design"] == exact.attributes["design"]
        if not same or one.read("seed").tolist() != exact.read("seed").tolist():
            raise Invalid(f"{one.path} and {exact.path} are not of the same design and seed")
        if one.array(self.field).shape != exact.array(self.field).shape or not _close(one, exact):
            raise Invalid(
                f"{self.field!r} of {one.path} and {exact.path} is not at the same points and times"
            )

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Write a row for each member, and what is watched."""
        import numpy as np

        from sciflow_control.trials.playing import RECORD

        one, exact = inputs["ensemble"], inputs["reference"]
        failed = (one.read("status") != 1) | (exact.read("status") != 1)
        count = len(failed)
        error, largest = np.full(count, np.inf), np.full(count, np.inf)
        for member in np.flatnonzero(~failed):
            ctx.progress(int(member), count, "members")
            error[member], largest[member] = self._errors(one, exact, int(member))
        logs = {name: one.read(f"decision_{name}") for name in _LOG} if _logged(one) else None
        steps, rejected, fallback = _counts(one, failed) if logs is None else _noted(logs, count)
        guarded = (one.attributes["problem"].get("stepping") or {}).get("component") == "guarded"
        work = one.read(f"solver_{self.cost}")
        record, whose = _record(logs, min(self.watched, count), RECORD)
        values: dict[str, np.ndarray] = {
            "seed": np.arange(count),
            "error": error,
            "largest": largest,
            "cost": np.where(failed, 0.0, np.nan_to_num(work)),
            "steps": steps,
            "rejected": rejected,
            "failed": failed,
            "counts": np.stack([steps - fallback, fallback], axis=1) if guarded else np.empty((count, 0)),
            "record": record,
            "record_seed": whose,
        }
        for name, field in STEP_TRIAL.fields.items():
            out.write(name, values[name].astype(field.dtype), field)
        self._describe(out, one, ["policy", "fallback"] if guarded else [], record)

    def _errors(self, one: Artifact, exact: Artifact, member: int) -> tuple[float, float]:
        """log10 of the error and of the largest one of any level."""
        import numpy as np

        from sciflow.stages.metrics import relative_l2
        from sciflow_control.trials.playing import log10

        u, r = (np.asarray(a.array(self.field)[member]) for a in (one, exact))
        if not r.any():
            raise Invalid(
                f"{exact.path}: {self.field!r} of member {member} is zero, nothing is relative to it"
            )
        levels = relative_l2(u, r)
        error = relative_l2(u[None], r[None])[0] if self.at == "all" else levels[-1]
        return log10(float(error)), log10(float(levels.max()))

    def _describe(self, out: Writer, one: Artifact, counters: list[str], record: np.ndarray) -> None:
        from sciflow_control.trials.playing import RECORD

        unit = one.schema.fields["time"].unit
        chosen = record[record[:, 1] > 0, 2]
        low, high = (float(chosen.min()), float(chosen.max())) if len(chosen) else (0.0, 0.0)
        out.describe(
            episodes=f"members of {one.attributes['problem']['component']}",
            controller=_steered_by(one),
            until=float(one.read("time")[-1]),
            time_unit=unit,
            cost_unit=self.unit,
            error=f"relative distance of {self.field} from the reference"
            + (" at the end" if self.at == "end" else ""),
            knob={"name": "dt", "unit": unit, "low": low, "high": high, "marks": self._marks(one)},
            counters=counters,
            columns=list(RECORD),
            reasons=one.attributes.get("failures", {}),
        )

    def _marks(self, one: Artifact) -> dict[str, list[float]]:
        """When what drives the watched members jumps, by member."""
        problem = Problem.from_json(one.attributes["problem"])
        if not isinstance(problem, TakesSteps):
            return {}
        rows = one.read("parameters")[: self.watched].tolist()
        points = [dict(zip(one.attributes["parameters"], row, strict=True)) for row in rows]
        return {str(i): list(problem.switches(mu)) for i, mu in enumerate(points)}


_LOG = ("member", "time", "length", "value", "error", "accepted", "fallback")


def _logged(ensemble: Artifact) -> bool:
    return all(f"decision_{name}" in ensemble.schema.fields for name in _LOG)


def _close(one: Artifact, exact: Artifact) -> bool:
    import numpy as np

    times = one.read("time"), exact.read("time")
    return times[0].shape == times[1].shape and bool(np.allclose(*times, rtol=1e-12, atol=0))


def _steered_by(ensemble: Artifact) -> str:
    """The controller of an ensemble in words; without one how many steps there were."""
    problem = Problem.from_json(ensemble.attributes["problem"])
    stepping = getattr(problem, "stepping", None)
    return "equal steps" if stepping is None else label(stepping)


def _counts(ensemble: Artifact, failed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, attempts taken back and steps by a fallback of each member, by the solver's figures.

    Zero where it has none.
    """
    import numpy as np

    found = []
    for name in ("solver_steps", "solver_rejected"):
        known = ensemble.read(name) if name in ensemble.schema.fields else np.zeros(len(failed))
        found.append(np.nan_to_num(known).astype(np.int64))
    return found[0], found[1], np.zeros(len(failed), dtype=np.int64)


def _noted(logs: Mapping[str, np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same by what the members noted."""
    import numpy as np

    stands, fallback = logs["accepted"] == 1, logs["fallback"] == 1
    steps, rejected, by_fallback = (
        np.bincount(logs["member"][which].astype(int), minlength=count)
        for which in (stands, ~stands, stands & fallback)
    )
    return steps, rejected, by_fallback


def _record(
    logs: Mapping[str, np.ndarray] | None, watched: int, columns: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Attempts of the first members, after a row for the start of each, and whose they are."""
    import numpy as np

    rows, whose = [np.empty((0, len(columns)))], [np.empty(0, dtype=np.int64)]
    for member in range(watched if logs is not None else 0):
        assert logs is not None
        here = logs["member"] == member
        nothing = np.full(int(here.sum()), np.nan)
        table = np.stack([logs[c][here] if c in logs else nothing for c in columns], axis=1)
        start: dict[str, Any] = {"time": 0.0, "length": 0.0, "accepted": 1.0, "fallback": 0.0}
        rows += [np.array([[start.get(c, np.nan) for c in columns]]), table]
        whose.append(np.full(len(table) + 1, member))
    return np.concatenate(rows), np.concatenate(whose)
