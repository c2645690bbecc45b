"""The work of the ``propagate`` stage: asks the model, has full solves made, estimates, stores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sciflow.schema import Field
from sciflow.stages import allocation, queries
from sciflow.stages.answers import Answers, Asked, domain_of
from sciflow.stages.multifidelity import Correction
from sciflow.stages.propagate import LEAST, PROPAGATION
from sciflow.stages.simulate import Simulate, points_of
from sciflow.stages.solves import Solves

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.stages.propagate import Propagate
    from sciflow.store import Writer

MODEL, DOUBTED, DRAWN, LEFT, FAILED = range(5)
"""Who answered a query: the model; the full solve, since the model was in doubt; both, drawn by lot; the
model, in doubt, with the budget used up; the full-order model failed."""
STATES = "0 model, 1 solved in doubt, 2 drawn by lot, 3 in doubt and not solved, 4 solve failed"
REASONS = "0 none, 1 bound, 2 outside of the training, 3 far from it, 4 no answer"


class Propagation:
    """One attempt.

    Parameters
    ----------
    stage : Propagate
        Configuration.
    inputs : mapping of str to Artifact
        ``model``, ``design``, and perhaps ``ensemble`` and ``calibration``.
    out : Writer
        Of the result.
    ctx : Context
        Executor, resources, progress.
    """

    def __init__(self, stage: Propagate, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        model = inputs["model"]
        self.stage, self.inputs, self.out, self.ctx = stage, inputs, out, ctx
        self.training = queries.training_of(model, inputs.get("ensemble"))
        self.problem = queries.problem_of(model, stage.problem, self.training)
        self.points = points_of(inputs["design"], self.problem)
        self.limit = min(stage.budget, len(self.points))
        simulate = Simulate(self.problem, stage.seed, minimum=0.0, attempts=stage.attempts)
        self.solves = Solves(simulate, self.limit, inputs["design"], out, ctx)
        self.order: list[int] = []
        self.full = np.full(len(self.points), np.nan)
        self.failed: set[int] = set()

    def run(self) -> None:
        """Ask, solve, estimate, store.

        Raises
        ------
        Failed
            If jobs keep ending without a result, or nearly all drawn solves failed.
        Cancelled
            If the run was cancelled; full solves so far are kept.
        """
        answers = self.answers
        lot = np.random.default_rng([self.stage.seed, 1]).permutation(len(self.points))
        self._solve(lot[: self.stage.pilot])
        doubtful = answers.doubtful
        allowed = min(int(self.stage.share * self.limit), self.limit - self.stage.pilot)
        self._solve(doubtful[:allowed])
        replaced = doubtful[:allowed]
        drawn = lot[: self._wanted(lot, replaced)]
        self._solve(drawn)
        left = len(doubtful) - len(replaced)
        if left:
            text = "%d of %d answers are in doubt and were not solved: the budget is %d full solves"
            self.ctx.log.warning(text, left, len(self.points), self.limit)
        self._store(answers, replaced, drawn)

    # -- what is asked and solved --------------------------------------------------------------

    @cached_property
    def answers(self) -> Answers:
        """The model's answers to all queries; kept, so that another attempt goes on with the same bits."""
        from safetensors.numpy import load

        from sciflow.artifact.disk import Disk
        from sciflow.stages.calibrate import load_calibration
        from sciflow.stages.train import load_model, tensors

        file, stage, artifact = self.out.scratch / "answers.safetensors", self.stage, self.inputs["model"]
        if file.is_file():
            kept = load(file.read_bytes())
        else:
            model, told = load_model(artifact), self.inputs.get("calibration")
            output = queries.output_of(artifact, model.signature, self.problem, stage.quantity)
            calibration = None if told is None else load_calibration(told)
            asked = Asked(model, self.problem, stage.quantity, output, calibration)
            found = asked.answers(self.points, stage.batch, self.ctx)
            kept = {n: getattr(found, n) for n in ("quantity", "doubt", "change")}
            kept["seconds"] = np.array([found.seconds])
            Disk().replace(file, tensors(kept))
        seconds = float(kept["seconds"][0])
        answers = Answers(kept["quantity"], kept["doubt"], kept["change"], seconds=seconds)
        domain = domain_of(artifact, self.problem, self.training)
        if domain is None:
            self.ctx.log.warning("where the training members lie is not known: no query counts as outside")
        answers.judge(self.points, stage.tolerance, stage.far, domain)
        return answers

    def _solve(self, wanted: Sequence[int] | np.ndarray) -> None:
        """Have some queries solved in full, those that are not yet; the order decides who is which member."""
        known = set(self.order)
        fresh = [int(q) for q in wanted if int(q) not in known]
        if not fresh:
            return
        self.order += fresh
        members = self.solves.more(self.points[fresh])
        for member in members.tolist():
            if member in self.solves.failed:
                query, reason = self.order[member], self.solves.failed[member]
                self.failed.add(query)
                self.ctx.log.warning("query %d: the full-order model failed: %s", query, reason)
        self.full[fresh] = self.solves.quantity(self.stage.quantity, members)

    def _wanted(self, lot: np.ndarray, replaced: np.ndarray) -> int:
        """How many queries are to be drawn in all, as the pilot tells."""
        stage, room = self.stage, self.limit - len(self.order)
        taken = set(self.order)
        pilot = self._correction(lot[: stage.pilot], replaced)
        if len(pilot.full) < LEAST:
            return stage.pilot
        rho = pilot.correlation(share=stage.quantity.probability)
        ratio = allocation.best_ratio(self.full_seconds, self.cheap_seconds, rho)
        wanted = len(self.points) if ratio <= 1 else math.ceil(len(self.points) / ratio)
        if stage.precision:
            wanted = self._for_precision(pilot)
        count = stage.pilot
        while count < min(wanted, len(lot)) and room > 0:
            room -= int(lot[count]) not in taken
            count += 1
        return count

    def _for_precision(self, pilot: Correction) -> int:
        """Solves by lot after which the interval of the mean is as narrow as asked for, by the pilot."""
        spread, now, total = pilot.spread(), len(pilot.full), len(self.points)
        whole = pilot.mean(share=self.stage.quantity.probability)
        floor = spread**2 / total
        left = max(whole.error**2 - floor, 0.0) / (1 / now - 1 / total) if now < total else 0.0
        room = (self.stage.precision * spread * whole.error / max(whole.half, 1e-300)) ** 2 - floor
        return total if room <= 0 else math.ceil(left / (room + left / total))

    # -- costs ---------------------------------------------------------------------------------

    @cached_property
    def full_seconds(self) -> float:
        """Median wall time of a full solve, s; in units of an answer where the costs are given."""
        if self.stage.cost:
            return self.stage.cost
        return self.solves.seconds(self.stage.pilot)

    @property
    def cheap_seconds(self) -> float:
        """Wall time of an answer, s; 1 where the costs are given."""
        return 1.0 if self.stage.cost else max(self.answers.seconds, 1e-9)

    # -- results -------------------------------------------------------------------------------

    def _replaced(self, replaced: np.ndarray) -> np.ndarray:
        """Answers with those in doubt replaced; NaN where there is none."""
        values = self.answers.quantity.copy()
        solved = replaced[np.isfinite(self.full[replaced])]
        values[solved] = self.full[solved]
        return values

    def _correction(self, drawn: np.ndarray, replaced: np.ndarray) -> Correction:
        values = self._replaced(replaced)
        there = np.isfinite(values)
        middle = float(values[there].mean()) if there.any() else 0.0
        good = drawn[np.isfinite(self.full[drawn])]
        return Correction(np.where(there, values, middle), good, self.full[good], self.stage.coverage)

    def _store(self, answers: Answers, replaced: np.ndarray, drawn: np.ndarray) -> None:
        from sciflow.errors import Failed
        from sciflow.stages.estimates import summary

        correction = self._correction(drawn, replaced)
        if len(correction.full) < LEAST:
            raise Failed(
                f"{len(correction.full)} of {len(drawn)} full solves drawn by lot succeeded; the mean cannot "
                "be corrected. They are kept: mend the cause and run again"
            )
        self._queries(answers, replaced, drawn)
        self.solves.store()
        found = self.problem.fields[self.stage.quantity.source[0]]
        grid = queries.grid_of(
            found, self.problem.coordinates(), self.problem.axis_units(), self.problem.periodic
        )
        about, path = summary(self, correction, self._replaced(replaced), replaced)
        for name, values in path.items():
            self.out.write(f"path_{name}", values, Field(("solve",), "any", "float64"))
        self.out.describe(
            model=self.inputs["model"].digest,
            quantity=self.stage.quantity.words(),
            unit=self.stage.quantity.unit(found, grid),
            share=self.stage.quantity.probability,
            parameters=list(self.problem.parameters),
            propagation=about,
        )

    def _queries(self, answers: Answers, replaced: np.ndarray, drawn: np.ndarray) -> None:
        state = np.full(len(self.points), MODEL, dtype=np.uint8)
        state[answers.doubtful] = LEFT
        state[drawn] = DRAWN
        state[replaced] = DOUBTED
        state[sorted(self.failed)] = FAILED
        member = np.full(len(self.points), -1, dtype=np.int64)
        member[self.order] = np.arange(len(self.order))
        columns = {
            "model": (answers.quantity, "any", "of the model"),
            "full": (self.full, "any", "of the full solve; NaN where there is none"),
            "doubt": (answers.doubt, "1", "bound of the relative error of the field; NaN where nobody says"),
            "change": (answers.change, "any", "what that means for the quantity, at most"),
            "state": (state, "1", STATES),
            "reason": (answers.reason, "1", REASONS),
            "member": (member, "1", "full solution; -1 none"),
        }
        self.out.write("queries", self.points, PROPAGATION["queries"])
        for name, (values, unit, text) in columns.items():
            self.out.write(f"query_{name}", values, Field(("query",), unit, values.dtype.name, text))
        self.out.write("drawn", np.asarray(drawn, dtype=np.int64), Field(("solve",), "1", "int64", "by lot"))
