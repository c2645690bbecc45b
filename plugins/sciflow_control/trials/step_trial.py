"""The ``step_trial`` stage: one step controller on many runs that it has never seen."""

from __future__ import annotations

import io
import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self
from zipfile import BadZipFile

from sciflow.component import check_parts
from sciflow.errors import Invalid
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.step_controller import StepController
from sciflow_control.harness.cost_table import label
from sciflow_control.steering.episodes import Episodes

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.store import Writer
    from sciflow_control.trials.playing import Outcome

STEP_TRIAL = Schema(
    "step_trial",
    {
        "seed": Field(("seed",), "1", "int64", "of the runs"),
        "error": Field(("seed",), "1", "float64", "log10 of the relative error at the end; infinite: failed"),
        "largest": Field(("seed",), "1", "float64", "log10 of the largest drift after any step"),
        "cost": Field(("seed",), "any", "float64", "work of all attempts"),
        "steps": Field(("seed",), "1", "int64", "steps that stand"),
        "rejected": Field(("seed",), "1", "int64", "attempts that were taken back"),
        "failed": Field(("seed",), "1", "bool", "runs that did not come to their end"),
        "counts": Field(("seed", "counter"), "1", "int64", "what the controller counted, see the attributes"),
        "record": Field(("attempt", "column"), "any", "float64", "attempts in the runs that are watched"),
        "record_seed": Field(("attempt",), "1", "int64", "which run each of them belongs to"),
    },
)
BODIES = Field(("attempt", "body", "axis"), "any", "float64", "positions after the attempt; NaN: taken back")
TRAINING = 1_000_000
"""Seeds from here on are for trainings."""
SAVED = 5.0
"""Seconds between two checkpoints."""


@dataclass(frozen=True)
class StepTrial(Stage):
    """Plays a step controller over runs of a solver, and notes what they cost and how exact they are.

    A run that fails is noted as failed, with the reason. A killed trial goes on behind the runs that it
    had saved, with the same bits. On one rank.

    Attributes
    ----------
    episodes : Episodes
        The runs.
    controller : StepController
        Steers them.
    count : int
        Runs.
    seed : int
        Of the first one; those from 1 000 000 on are for trainings, and refused.
    reference : StepController or None
        Steers each run again; its solution is taken for exact. None: the drift of what should be constant
        is the error.
    watched : int
        Of so many of the first runs every attempt is kept, for pictures.
    limit : int
        Attempts after which a run has failed.

    Raises
    ------
    Invalid
        If `count`, `limit`, `seed` or `watched` has a value that it cannot have.
    """

    name: ClassVar[str] = "step_trial"
    output: ClassVar[Schema] = STEP_TRIAL
    episodes: Episodes
    controller: StepController
    count: int = 100
    seed: int = 0
    reference: StepController | None = None
    watched: int = 4
    limit: int = 1_000_000

    def __post_init__(self) -> None:
        check_parts(self)
        if self.count < 1 or self.limit < 1:
            raise Invalid(f"count={self.count} and limit={self.limit} must be at least 1")
        if self.seed < 0 or self.watched < 0:
            raise Invalid(f"seed={self.seed} and watched={self.watched} must not be negative")
        if self.seed + self.count > TRAINING:
            raise Invalid(
                f"seeds from {TRAINING} on are for trainings, this trial would play up to "
                f"{self.seed + self.count - 1}"
            )

    @classmethod
    def example(cls) -> Self:
        """One for conformance checks."""
        from sciflow_control.controllers.fixed_step import FixedStep
        from sciflow_control.integrators.equations import Equations

        return cls(Equations(), FixedStep(0.01), count=2)

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Play all runs and write what came of them.

        Raises
        ------
        Invalid
            On several ranks, or if the controller cannot steer this solver.
        """
        import numpy as np

        from sciflow_control.trials.playing import RECORD

        if ctx.comm.size > 1:
            raise Invalid(f"{self.name} runs on one rank, this job has {ctx.comm.size}; ask for one")
        kept = _Saved(out, ctx)
        for place in range(len(kept.outcomes), self.count):
            kept.add(self._played(place, ctx))
        rows = kept.outcomes
        names = list(dict.fromkeys(name for o in rows for name in o.counts))
        values: dict[str, np.ndarray] = {
            "seed": np.arange(self.seed, self.seed + self.count),
            **{n: np.array([float(getattr(o, n)) for o in rows]) for n in ("error", "largest", "cost")},
            **{n: np.array([int(getattr(o, n)) for o in rows]) for n in ("steps", "rejected")},
            "failed": np.array([bool(o.reason) for o in rows]),
            "counts": np.array([[o.counts.get(n, 0) for n in names] for o in rows], dtype=np.int64),
        }
        values["counts"] = values["counts"].reshape(self.count, len(names))
        records = {i: o.record for i, o in enumerate(rows) if o.record is not None}
        values["record"] = np.concatenate([np.empty((0, len(RECORD))), *records.values()])
        values["record_seed"] = np.concatenate(
            [np.empty(0, dtype=np.int64), *(np.full(len(r), self.seed + i) for i, r in records.items())]
        )
        for name, field in STEP_TRIAL.fields.items():
            out.write(name, values[name], field)
        bodies = [o.bodies for o in rows if o.bodies is not None]
        if bodies:
            out.write("record_bodies", np.concatenate(bodies), BODIES)
        self._describe(out, rows, names)

    def _played(self, place: int, ctx: Context) -> Outcome:
        from sciflow_control.trials.playing import play

        noted = time.monotonic()

        def told(now: float) -> None:
            nonlocal noted
            if time.monotonic() - noted > 0.5:
                noted = time.monotonic()
                at = {"time": f"{now:.4g} of {self.episodes.until:.4g} {self.episodes.time_unit}"}
                ctx.progress(place, self.count, "runs", at)

        ctx.progress(place, self.count, "runs")
        return play(
            self.episodes,
            self.controller,
            self.seed + place,
            reference=self.reference,
            watched=place < self.watched,
            limit=self.limit,
            told=told,
        )

    def _describe(self, out: Writer, rows: list[Outcome], names: list[str]) -> None:
        from sciflow_control.trials.playing import RECORD

        knob = self.episodes.begin(self.seed).knob
        reasons = {str(self.seed + i): o.reason for i, o in enumerate(rows) if o.reason}
        out.describe(
            episodes=label(self.episodes),
            controller=label(self.controller),
            until=self.episodes.until,
            time_unit=self.episodes.time_unit,
            cost_unit=self.episodes.cost_unit,
            error="relative distance from the reference" if self.reference else "drift of the invariant",
            knob={"name": knob.name, "unit": knob.unit, "low": knob.low, "high": knob.high},
            counters=names,
            columns=list(RECORD),
            reasons=reasons,
        )


class _Saved:
    """Runs that are done, kept in the scratch folder from one attempt to the next."""

    def __init__(self, out: Writer, ctx: Context) -> None:
        self._file, self._disk = out.scratch / "runs.npz", out.disk
        self.outcomes: list[Outcome] = []
        self._when = time.monotonic()
        if self._file.exists():
            try:
                self.outcomes = self._read()
            # A power loss may have left anything; the arrays have checksums.
            except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error) as error:
                ctx.log.warning("%s cannot be read (%s); the runs are played again", self._file, error)

    def add(self, outcome: Outcome) -> None:
        """Keep one more, on the disk if the last time is long ago."""
        self.outcomes.append(outcome)
        if time.monotonic() - self._when > SAVED:
            self._write()
            self._when = time.monotonic()

    def _write(self) -> None:
        import numpy as np

        texts: list[dict[str, object]] = []
        arrays: dict[str, np.ndarray] = {}
        for i, o in enumerate(self.outcomes):
            texts.append({"reason": o.reason, "counts": dict(o.counts)})
            arrays |= {f"{n}{i}": v for n in ("record", "bodies") if (v := getattr(o, n)) is not None}
        numbers = np.array([[o.error, o.largest, o.cost, o.steps, o.rejected] for o in self.outcomes])
        about = np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, numbers=numbers, about=about, **arrays)
        self._disk.replace(self._file, buffer.getvalue(), sync=False)

    def _read(self) -> list[Outcome]:
        import numpy as np

        from sciflow_control.trials.playing import Outcome

        outcomes = []
        with self._file.open("rb") as file, np.load(file) as kept:
            texts = json.loads(bytes(kept["about"]).decode())
            for i, (text, row) in enumerate(zip(texts, kept["numbers"].tolist(), strict=True)):
                error, largest, cost, steps, rejected = row
                record, bodies = (kept.get(f"{n}{i}") for n in ("record", "bodies"))
                told = text["reason"], text["counts"], record, bodies
                outcomes.append(Outcome(error, largest, cost, int(steps), int(rejected), *told))
        return outcomes
