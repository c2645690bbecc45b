"""The loop of the ``enrich`` stage: asks the reduced model, decides, has full-order solutions made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Diverged
from sciflow.executor import cancel_all, ended
from sciflow.stages.simulate import Campaign, Simulate, points_of
from sciflow_rom.adapt.rounds import Round, Rounds
from sciflow_rom.net import trust

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.executor import Executor, Job
    from sciflow.store import Writer
    from sciflow_rom.adapt.enrichment import Enrich
    from sciflow_rom.adapt.regions import Region
    from sciflow_rom.net.indicator import Calibration
    from sciflow_rom.net.online_slice import RomModel
    from sciflow_rom.net.space import Space

ANSWERED, SOLVED, UNTRUSTED, FAILED = 0, 1, 2, 3
"""What became of a query: the reduced answer is believed; solved in full; answered but not to be trusted;
the full-order model failed and no local model converges, or its answer is not to be trusted either."""


@dataclass(frozen=True)
class Answer:
    """What is kept of a query.

    Attributes
    ----------
    query : int
        Its row in the design.
    state : int
        `ANSWERED`, `SOLVED`, `UNTRUSTED` or `FAILED`.
    round : int
        The model that was asked last.
    reason : str
        Why it was solved in full, or was not to be believed.
    estimate, upper : float or None
        Of the relative error of the reduced answer; None where there is none.
    cluster, iterations : int
        Of the reduced answer; -1 and 0 where no local model converges.
    member : int
        The full-order solution; -1 for none.
    """

    query: int
    state: int
    round: int
    reason: str = ""
    estimate: float | None = None
    upper: float | None = None
    cluster: int = -1
    iterations: int = 0
    member: int = -1


class Enrichment:
    """One attempt at the queries that have no answer yet.

    Parameters
    ----------
    stage : Enrich
        Configuration.
    inputs : mapping of str to Artifact
        ``model``, ``ensemble``, ``compression``, ``design``.
    out : Writer
        Of the enriched model.
    ctx : Context
        Executor, resources, progress.
    """

    def __init__(self, stage: Enrich, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        from sciflow.artifact.statelog import StateLog
        from sciflow.stages.train import load_model
        from sciflow_rom.net.online_slice import RomModel

        opened = load_model(inputs["model"])
        assert isinstance(opened, RomModel)
        self.stage, self.inputs, self.out, self.ctx = stage, inputs, out, ctx
        self.base: RomModel = opened
        self.problem = opened.problem
        self.points = points_of(inputs["design"], self.problem)
        self.limit = int(stage.budget * len(self.points) + 1e-9)
        self.rounds = Rounds(out.scratch / "rounds")
        self.log = StateLog(out.scratch / "enrichment")
        self.answers: dict[int, Answer] = {}
        self.solved: list[int] = []
        self.failed: set[int] = set()
        self.number = 0
        self.pairs: list[tuple[float, float]] = []
        self.done: list[Round] = []
        self._regions: dict[int, tuple[int, Region]] = {}

    # -- the loop ------------------------------------------------------------------------------

    def run(self) -> None:
        """Answer every query and store the model.

        Raises
        ------
        Failed
            If jobs keep ending without a result.
        Cancelled
            If the run was cancelled; answers and full-order solutions so far are kept.
        """
        from sciflow_rom.adapt.enriched import store

        if self.limit:
            self._simulate.begin(
                self.out, self.inputs["design"], np.zeros((self.limit, self.points.shape[1]))
            )
        self._job(0, [])
        self._advance(0)
        self._restore()
        ahead = self.stage.ahead
        for begin in range(0, len(self.points), ahead):
            self._window(range(begin, min(begin + ahead, len(self.points))))
        self._say()
        untrusted = sum(a.state in (UNTRUSTED, FAILED) for a in self.answers.values())
        if untrusted:
            text = "%d of %d queries are not to be trusted: %d of at most %d full-order solutions were made"
            self.ctx.log.warning(text, untrusted, len(self.points), len(self.solved), self.limit)
        store(self)

    def _window(self, queries: range) -> None:
        """Answer some queries that are known at the same time."""
        while True:
            doubtful = []
            for query in queries:
                if query in self.answers:
                    continue
                answer = self._ask(query)
                if not answer.reason:
                    self._note(answer)
                elif len(self.solved) < self.limit:
                    doubtful.append(answer)
                else:
                    self._note(_without_solution(answer))
            if not doubtful:
                return
            # What no local model answers is most in doubt.
            doubtful.sort(key=lambda a: -a.upper if a.upper is not None else -np.inf)
            self._solve(doubtful[: min(self.stage.together, self.limit - len(self.solved))])

    def _ask(self, query: int) -> Answer:
        """The answer of the present model, and whether it is believed."""
        point, bound = self.points[query], self.calibration
        try:
            found = self.model.solve(dict(zip(self.problem.parameters, point.tolist(), strict=True)))
        except Diverged:
            return Answer(query, UNTRUSTED, self.number, "diverged")
        estimate, upper = bound(found.estimate)
        space = self.space
        reason = trust.reason(
            upper, self.stage.tolerance,
            outside=bool(((point < space.low) | (point > space.high)).any()),
            calibrated=bound.members >= trust.needed(self.stage.coverage),
            audited=bool(np.random.default_rng([self.stage.seed, query]).random() < self.stage.audit),
        )  # fmt: skip
        if not reason or len(self.solved) >= self.limit:
            self._keep(query, found.cluster, found.coefficients)
        return Answer(
            query, ANSWERED, self.number, reason, _finite(estimate), _finite(upper), found.cluster,
            int(found.iterations.sum()),
        )  # fmt: skip

    def _solve(self, doubtful: list[Answer]) -> None:
        """Solve some queries in full and let the model grow by them."""
        first = len(self.solved)
        answers = [
            dataclasses.replace(a, state=SOLVED, member=first + i) for i, a in enumerate(doubtful)
        ]  # fmt: skip
        self.log.append({"round": self.number + 1, "answers": [dataclasses.asdict(a) for a in answers]})
        self._round(answers)
        self._say()

    def _round(self, answers: list[Answer]) -> None:
        """Make the full-order solutions of a round that are not there yet, and the round itself."""
        self.solved += [a.query for a in answers]
        number = self.number + 1
        if self.rounds.get(number) is None:
            Campaign(self._simulate, self.points[self.solved], self.out, self.ctx).run()
        records = self.out.committed()
        good = [a for a in answers if records[a.member]["status"] == 1]
        self._job(number, [(a.member, self.points[a.query]) for a in good])
        for answer in answers:
            if answer not in good:
                self.failed.add(answer.member)
                self.ctx.log.warning(
                    "query %d: the full-order model failed: %s",
                    answer.query,
                    records[answer.member]["reason"],
                )
            self.answers[answer.query] = (
                answer if answer in good else dataclasses.replace(answer, state=FAILED)
            )
        self._advance(number)

    def _note(self, answer: Answer) -> None:
        self.log.append({"answer": dataclasses.asdict(answer)})
        self.answers[answer.query] = answer
        self._say()

    def _restore(self) -> None:
        """Take up what an earlier attempt answered."""
        _, records = self.log.restore()
        for record in records:
            if "answer" in record:
                answer = Answer(**record["answer"])
                self.answers[answer.query] = answer
            else:
                self._round([Answer(**a) for a in record["answers"]])
        if records:
            self.ctx.log.info("%d queries were answered by an earlier attempt", len(self.answers))

    def _say(self) -> None:
        """Report how far it is."""
        share = len(self.solved) / max(1, len(self.answers))
        bound = self.calibration.bound
        figures = {
            "full-order solutions": f"{len(self.solved)} of {self.limit}, {100 * share:.1f} % of queries",
            "error over indicator, at most": f"{bound:.2g}",
            "modes": f"{max(self.done[-1].modes)} in the largest of {len(self.done[-1].modes)} bases",
            "integration points": f"{max(self.done[-1].points)}",
        }
        self.ctx.progress(len(self.answers), len(self.points), "queries", figures)

    # -- the model -----------------------------------------------------------------------------

    def _advance(self, number: int) -> None:
        """Go on with the model that a round left."""
        finished = self.rounds.get(number)
        assert finished is not None, "a round is finished before the next query"
        self.number = number
        self.done.append(finished)
        self.pairs += [(a, b) for a, b in finished.pairs if a is not None and b is not None]
        for name in ("model", "space", "calibration"):
            self.__dict__.pop(name, None)
        self.rounds.drop(finished)

    def region(self, cluster: int) -> Region:
        """A region of the present model."""
        version = self.done[-1].versions[cluster]
        known = self._regions.get(cluster)
        if known is None or known[0] != version:
            known = version, self.rounds.region(cluster, version)
            self._regions[cluster] = known
        return known[1]

    @cached_property
    def model(self) -> RomModel:
        """The present model; its estimates are bare indicators."""
        from sciflow_rom.adapt.site import answering

        local = [self.region(k).model for k in range(len(self.done[-1].versions))]
        return answering(self.base, local, self.stage.selector, self.rounds.ranker(self.number))

    @cached_property
    def space(self) -> Space:
        """That of the training, with bounds that include all that was solved in full."""
        space = self.base.space
        good = [q for m, q in enumerate(self.solved) if m not in self.failed]
        rows = self.points[good]
        if not len(rows):
            return space
        low, high = np.minimum(space.low, rows.min(axis=0)), np.maximum(space.high, rows.max(axis=0))
        return dataclasses.replace(space, low=low, high=high)

    @cached_property
    def calibration(self) -> Calibration:
        """Of the indicator, as the solutions so far tell."""
        return trust.calibration(self.base.calibration, self.pairs, self.stage.coverage, self.stage.margin)

    # -- jobs ----------------------------------------------------------------------------------

    @property
    def _simulate(self) -> Simulate:
        return Simulate(self.problem, self.stage.seed, minimum=0.0, attempts=self.stage.attempts)

    @cached_property
    def _executor(self) -> Executor:
        if self.ctx.executor is not None:
            return self.ctx.executor
        from sciflow.executors.local import Local
        from sciflow.executors.mpi import Mpi

        ranks = self.ctx.resources.ranks if self.ctx.resources else 1
        return Mpi() if ranks > 1 or "mpi4py" in self.problem.requires else Local()

    def _job(self, number: int, wanted: list[tuple[int, np.ndarray]]) -> None:
        """Have a round made, unless it is there; what passes by, it tries again.

        Raises
        ------
        Failed
            If the job fails.
        """
        tries = 0
        while self.rounds.get(number) is None:
            job = self._found(number) or self._submit(number, wanted)
            try:
                while not job.wait(0.2).ended:
                    self.ctx.check()
                    self._forward(job)
            finally:
                if not job.state().ended:
                    cancel_all([job])
            self._forward(job)
            job.settle()
            cause = job.cause()
            tries += 1
            if cause is not None and (not cause.passing or tries > 5 * self.stage.attempts):
                raise ended(job, f"round {number} of the enrichment could not be made")

    def _forward(self, job: Job) -> None:
        for event in job.events():
            if event["event"] == "log":
                self.ctx.emit(event)

    def _found(self, number: int) -> Job | None:
        """A job of an earlier process that makes this round."""
        from sciflow.executor import unfinished
        from sciflow.jobs import JOB, JobSpec

        for job in unfinished(self.ctx.scratch):
            spec = JobSpec.read(job.directory / JOB)
            if spec.task == "work" and spec.payload["round"] == number:
                return job
        return None

    def _submit(self, number: int, wanted: list[tuple[int, np.ndarray]]) -> Job:
        from sciflow.executor import Resources
        from sciflow.jobs import JobSpec

        entries = {n: {"path": str(a.path), "digest": a.digest} for n, a in self.inputs.items()}
        payload = {
            "round": number,
            "members": [m for m, _ in wanted],
            "points": [p.tolist() for _, p in wanted],
            "rounds": str(self.rounds.folder),
        }
        stage = self.stage
        spec = JobSpec("work", stage.to_json(), str(self.out.path), entries, payload, stage.seed)
        directory = self.ctx.scratch / f"job-{spec.nonce[:12]}"
        return self._executor.submit(spec, directory, self.ctx.resources or Resources())

    # -- answers -------------------------------------------------------------------------------

    @cached_property
    def _rows(self) -> Any:
        """The fields of the answers, as they are given."""
        from sciflow.artifact.statelog import Rows

        shape = (len(self.problem.steps()), int(np.prod(self.problem.shape(self.problem.unknown))))
        return Rows(self.out.scratch / "answers.rows", {"query": ((), "i8"), "values": (shape, "f8")})

    def _keep(self, query: int, cluster: int, coefficients: np.ndarray) -> None:
        if self.stage.fields:
            values = coefficients @ self.region(cluster).basis.modes.T
            self._rows.append(query=np.array([query]), values=values[None])

    def fields(self) -> np.ndarray:
        """The unknown field of every answer, shape (query, step, dof); NaN where there is none."""
        rows = self._rows.read()
        out = np.full((len(self.points), *rows["values"].shape[1:]), np.nan)
        out[rows["query"]] = rows["values"]
        return out


def _without_solution(answer: Answer) -> Answer:
    """A query that was to be solved in full when the budget was used up."""
    if answer.reason == "audit":
        return dataclasses.replace(answer, reason="")
    return dataclasses.replace(answer, state=UNTRUSTED)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def grow(
    stage: Enrich, payload: Mapping[str, Any], inputs: Mapping[str, Artifact], out: Writer, ctx: Context
) -> None:
    """Make one round; a job."""
    from pathlib import Path

    from sciflow.artifact.snapshot import Snapshot
    from sciflow_rom.adapt.growth import Growth, Rules
    from sciflow_rom.adapt.site import Site

    rules = Rules(
        stage.modes, stage.truncation * stage.tolerance, stage.share, stage.far, stage.tolerance,
        stage.selector, stage.seed,
    )  # fmt: skip
    rounds = Rounds(Path(payload["rounds"]))
    site = Site(inputs["model"], inputs["ensemble"], inputs["compression"], ctx)
    growth = Growth(site, rules, rounds)
    if payload["round"] == 0:
        growth.prepare()
        return
    points = [np.array(p) for p in payload["points"]]
    wanted = list(zip(payload["members"], points, strict=True))
    growth.grow(payload["round"], Snapshot(out.path), wanted)
