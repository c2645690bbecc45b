"""The driver of an online training: starts trainer and solvers, starts them again, ends them."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sciflow.artifact.member import DATA
from sciflow.component import digest_of
from sciflow.context import Context
from sciflow.errors import Cancelled, Failed
from sciflow.executor import Cause, Executor, Job, JobState, Resources, cancel_all, ended, unfinished
from sciflow.jobs import JOB, JobSpec
from sciflow.provenance import collect, recipe_of
from sciflow.stages.simulate import ENSEMBLE, Simulate, points_of
from sciflow_online.trainer import ADDRESS, FINISHED, GONE

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.store import Writer
    from sciflow_online.components import OnlineTrain

HOPELESS = 5
"""So many jobs in a row that end badly before anything new is done, for each attempt, end the run."""
PATIENT = 100
"""The same for jobs that were ended by their time limit, for another job, or with their node."""
GRACE = 15.0
"""Seconds that solvers have to end by themselves when the trainer is through."""


@dataclass
class _Started:
    """A job and what it is."""

    job: Job
    role: str
    group: str = ""
    block: int = 1


class Launch:
    """One attempt at an online training.

    Parameters
    ----------
    stage : OnlineTrain
        What to do.
    design : Artifact
        Points of the members.
    out : Writer
        Of the model.
    ctx : Context
        Executor, resources of a solver, progress.
    """

    def __init__(self, stage: OnlineTrain, design: Artifact, out: Writer, ctx: Context) -> None:
        self._stage, self._design, self._out, self._ctx = stage, design, out, ctx
        self._points = points_of(design, stage.problem)
        self._folder = out.scratch / "online"
        (self._folder / GONE).mkdir(parents=True, exist_ok=True, mode=0o700)
        from sciflow.executors.mpi import Mpi

        self._executor: Executor = ctx.executor if ctx.executor is not None else Mpi()
        self._resources = ctx.resources or Resources()
        self._ensemble = ""
        self._fruitless = 0
        self._trainer_ends = self._furthest = 0
        self._hung: set[str] = set()

    # -- the ensemble ------------------------------------------------------------------------

    def run(self) -> None:
        """Train; with `keep`, publish the ensemble as well."""
        if not self._stage.keep:
            self._drive()
            return
        stage = self._stage
        simulate = Simulate(stage.problem, stage.seed, stage.minimum)
        recipe = recipe_of(simulate, {"design": self._design})
        if stage.steering is not None or stage.problem.batch > 1:
            # Other points, or members solved in other company: not what Simulate would make.
            recipe = digest_of({"online": recipe_of(stage, {"design": self._design})})
        store, start = self._out.store, time.time()
        found = store.find(ENSEMBLE.kind, recipe)
        if found is None:
            with self._writer(simulate, recipe) as ensemble:
                self._ensemble = str(ensemble.path)
                self._drive()
                ensemble.refresh()
                points = self._final_points()
                ensemble.write("parameters", points, ENSEMBLE["parameters"])
                simulate.seal(ensemble, points, self._ctx)
                inputs = {"design": self._design}
                found = ensemble.publish(collect(simulate, inputs, self._resources, start, time.time()))
        else:
            self._ctx.log.info("the ensemble is there already: %s", found.path)
            self._drive()
        self._out.refresh()
        self._out.describe(ensemble=found.digest, ensemble_name=found.path.name)

    @contextlib.contextmanager
    def _writer(self, simulate: Simulate, recipe: str) -> Iterator[Writer]:
        store = self._out.store
        while True:
            try:
                with store.writer(ENSEMBLE, recipe) as out:
                    simulate.begin(out, self._design, self._points)
                    self._constants(out)
                    out.recover()
                    yield out
                return
            except BlockingIOError:
                self._ctx.log.warning("another run is writing this ensemble; waiting for it")
                if self._ctx.cancelled.wait(1.0):
                    raise Cancelled("the run was cancelled") from None

    def _constants(self, out: Writer) -> None:
        from sciflow.problem import Problem

        problem = self._stage.problem
        if type(problem).constants is Problem.constants or "constants" in out.attributes:
            return
        spec = JobSpec("constants", problem.to_json(), str(out.path), seed=self._stage.seed)
        job = self._executor.submit(spec, self._out.scratch / f"job-{spec.nonce[:12]}", self._resources)
        while not job.wait(0.5).ended:
            self._ctx.check()
        job.settle()
        if job.state() != JobState.DONE:
            raise ended(job, f"the constants of {problem.name} could not be computed")
        out.refresh()

    def _final_points(self) -> Any:
        """Where the members were computed, as the trainer noted it, shape (member, parameter)."""
        import zarr

        noted: Any = zarr.open_array(self._out.path / DATA / "points", mode="r")
        return noted[...]

    # -- jobs --------------------------------------------------------------------------------

    def _finished(self) -> bool:
        return (self._folder / FINISHED).exists()

    def _drive(self) -> None:
        """Look after the jobs until the trainer is through.

        Raises
        ------
        Failed
            If the trainer, or solver after solver, ends without getting anywhere.
        Cancelled
            If the run was cancelled; all jobs are ended first.
        """
        if self._finished():
            self._ctx.log.info("the model was trained by an earlier run")
            return
        started = self._earlier()
        try:
            started = self._complete(started)
            while True:
                self._ctx.check()
                started = self._round(started)
                if self._finished() and not any(s.role != "solver" for s in started):
                    break
            self._leave(started)
            started = []
        finally:
            cancel_all([s.job for s in started if not s.job.state().ended])

    def _earlier(self) -> list[_Started]:
        found = []
        for job in unfinished(self._out.scratch):
            payload = JobSpec.read(job.directory / JOB).payload
            if "role" in payload:
                found.append(
                    _Started(job, payload["role"], payload.get("group", ""), payload.get("block", 1))
                )
        if found:
            self._ctx.log.info("%d jobs of an earlier process are found again", len(found))
        return found

    def _complete(self, started: list[_Started]) -> list[_Started]:
        """Start what is missing: the trainer first."""
        if self._stage.transport == "mpi":
            return started or [self._start_world()]
        if not any(s.role == "trainer" for s in started):
            started = [self._start_trainer(), *started]
        solvers = sum(s.role == "solver" for s in started)
        return started + self._start_solvers(self._width - solvers)

    @property
    def _width(self) -> int:
        """How many solvers run at the same time."""
        stage, wish = self._stage, self._resources
        if stage.order == "fixed":
            return stage.lanes
        members = len(stage.begin_order(stage.purposes(len(self._points))))
        width = self._executor.width(wish)
        if not self._executor.queues and not wish.parallel:
            # The trainer is one of the jobs that share the machine, or the allocation.
            taken = stage.trainer.ranks * max(1, stage.trainer.threads)
            width -= -(-taken // (wish.ranks * max(1, wish.threads)))
        return max(1, min(width, -(-members // self._block_for(width))))

    def _block_for(self, width: int) -> int:
        """Members that one solver computes at the same time."""
        stage = self._stage
        if stage.problem.batch == 1 or stage.transport == "mpi" or stage.order == "fixed":
            return 1
        members = len(stage.begin_order(stage.purposes(len(self._points))))
        return max(1, min(stage.problem.batch, members // (4 * width)))

    def _threads(self) -> tuple[int, int]:
        """Threads of a trainer rank and of a solver rank."""
        from sciflow.executors.local import cores

        stage, wish = self._stage, self._resources
        solver = wish.threads or 1
        if stage.trainer.threads or self._executor.queues:
            return stage.trainer.threads, wish.threads
        left = cores() - self._width * wish.ranks * solver
        return max(1, left // stage.trainer.ranks), solver

    def _spec(self, payload: dict[str, Any]) -> JobSpec:
        entries = {"design": {"path": str(self._design.path), "digest": self._design.digest}}
        payload = {"folder": str(self._folder), "ensemble": self._ensemble, **payload}
        stage = self._stage
        return JobSpec("work", stage.to_json(), str(self._out.path), entries, payload, stage.seed)

    def _submit(self, payload: dict[str, Any], resources: Resources) -> _Started:
        spec = self._spec(payload)
        job = self._executor.submit(spec, self._out.scratch / f"job-{spec.nonce[:12]}", resources)
        self._ctx.log.info("%s: job %s, run directory %s", payload["role"], job.id, job.directory)
        return _Started(job, payload["role"], payload.get("group", ""), payload.get("block", 1))

    def _start_trainer(self) -> _Started:
        # Solvers are not to look for the one before.
        (self._folder / ADDRESS).unlink(missing_ok=True)
        apart = self._executor.queues or self._executor.name == "steps"
        listen = self._stage.listen or ("node" if apart else "127.0.0.1")
        resources = self._like_solvers(dataclasses.replace(self._stage.trainer, threads=self._threads()[0]))
        return self._submit({"role": "trainer", "listen": listen}, resources)

    def _like_solvers(self, wish: Resources) -> Resources:
        """Where the trainer's resources say nothing, what the site or the flow says of this stage's jobs."""
        same = ("minutes", "partition", "account", "qos", "constraint", "extra")
        return dataclasses.replace(
            wish, **{name: getattr(wish, name) or getattr(self._resources, name) for name in same}
        )

    def _start_solvers(self, count: int) -> list[_Started]:
        """Solvers, in one array where the executor queues."""
        if count < 1:
            return []
        resources = dataclasses.replace(self._resources, threads=self._threads()[1])
        block = self._block_for(self._width)
        payloads = [{"role": "solver", "group": uuid.uuid4().hex[:16], "block": block} for _ in range(count)]
        if not self._executor.queues:
            return [self._submit(p, resources) for p in payloads]
        specs = [self._spec(p) for p in payloads]
        folder = self._out.scratch / f"job-{specs[0].nonce[:12]}"
        jobs = self._executor.submit_all(specs, folder, resources, count)
        self._ctx.log.info("%d solvers, jobs %s to %s", count, jobs[0].id, jobs[-1].id)
        return [
            _Started(job, "solver", str(p["group"]), block) for job, p in zip(jobs, payloads, strict=True)
        ]

    def _start_world(self) -> _Started:
        """Trainer and solvers as ranks of one job."""
        each = self._resources.ranks
        ranks = self._stage.trainer.ranks + self._width * each
        threads = self._resources.threads or (0 if self._executor.queues else 1)
        resources = dataclasses.replace(self._resources, ranks=ranks, threads=threads)
        return self._submit({"role": "world", "ranks": each}, resources)

    # -- looking after them ------------------------------------------------------------------

    def _round(self, started: list[_Started]) -> list[_Started]:
        """Look at every job once."""
        started[0].job.wait(0.2)
        still, restart = [], False
        hung: set[str] = set()
        for one in started:
            state = one.job.state()
            hung |= self._follow(one)
            if not state.ended:
                still.append(one)
            elif one.role == "solver":
                self._solver_ended(one, state)
            else:
                restart |= self._trainer_ended(one, state)
        # Ranks of one job cannot be ended one by one.
        for one in [s for s in still if hung and (s.role == "world" or s.group.split(".")[0] in hung)]:
            self._ctx.log.warning("%s job %s hangs and is ended", one.role, one.job.id)
            self._hung.add(one.job.id)
            one.job.cancel()
        if self._finished():
            return still
        if restart:
            return self._complete(still)
        missing = self._wanting(started, still)
        return still + (self._start_solvers(missing) if self._stage.transport == "zmq" else [])

    def _wanting(self, started: list[_Started], still: list[_Started]) -> int:
        """Solvers to start: one for each that did not end because there was no more work."""
        ended_ = [s for s in started if s not in still and s.role == "solver"]
        return sum(s.job.state() != JobState.DONE for s in ended_)

    def _follow(self, one: _Started) -> set[str]:
        """Mirror what a job reports; groups that hang."""
        hung = set()
        for event in one.job.events():
            kind = event["event"]
            if kind == "hung":
                hung.add(event["group"].split(".")[0])
            elif kind == "member":
                self._fruitless = 0
            elif kind in ("progress", "metric") or (kind == "log" and one.role != "solver"):
                if kind == "metric" and event["step"] > self._furthest:
                    self._furthest, self._trainer_ends = event["step"], 0
                self._ctx.emit(event)
            elif kind == "log" and event["level"] not in ("DEBUG", "INFO"):
                self._ctx.emit(event)
        return hung

    def _solver_ended(self, one: _Started, state: JobState) -> None:
        job = one.job
        job.settle()
        cause = job.cause()
        passing = (cause is not None and cause.passing) or self._told(job)
        reason = "" if state == JobState.DONE or passing else job.reason() or "its job ended"
        self._note_gone(one, reason)
        if state == JobState.DONE:
            return
        if cause == Cause.CANCELLED and not reason:
            return
        self._fruitless += 1
        limit = PATIENT if passing else HOPELESS * self._stage.attempts * self._width
        if self._fruitless > limit:
            raise ended(job, "solvers end one after the other and nothing comes of them")
        self._ctx.log.warning("a solver ended: %s; another one takes its place", job.reason())

    @staticmethod
    def _told(job: Job) -> bool:
        """Whether it was told to stop and kept what it had."""
        return "told to stop" in job.reason()

    def _note_gone(self, one: _Started, reason: str) -> None:
        """Tell the trainer, through files, that the job behind a group, or several, has ended."""
        folder = self._folder / GONE
        names = [one.group] if one.block == 1 else [f"{one.group}.{i}" for i in range(one.block)]
        for name in names:
            temporary = folder / f"{name}.partial"
            temporary.write_text(reason)
            temporary.replace(folder / name)

    def _trainer_ended(self, one: _Started, state: JobState) -> bool:
        """Deal with the end of the trainer; True if another one is to begin."""
        job = one.job
        job.settle()
        hung = job.id in self._hung
        if (state == JobState.DONE or hung) and self._finished():
            return False
        cause = job.cause()
        if cause == Cause.CANCELLED and not hung:
            raise Cancelled(job.reason() or "the trainer was cancelled")
        self._trainer_ends += 1
        passing = (cause is not None and cause.passing) or self._told(job)
        # A configuration that cannot work will not work again.
        hopeless = any(
            w in job.reason() for w in ("Invalid:", "Missing:", "NotFound:", "Diverged:", "Failed:")
        )
        if hung and self._trainer_ends > self._stage.attempts:
            raise Failed("solvers hang again and again, and with them the job that holds the trainer too")
        if hopeless or self._trainer_ends > (PATIENT if passing else self._stage.attempts):
            raise ended(job, f"stage {self._stage.name!r}, the trainer")
        self._ctx.log.warning("the trainer ended: %s; another one goes on from its checkpoint", job.reason())
        return True

    def _leave(self, started: list[_Started]) -> None:
        """Let solvers end by themselves, then end them."""
        until = time.monotonic() + GRACE
        while started and time.monotonic() < until:
            started = [s for s in started if not s.job.wait(0.1).ended]
        cancel_all([s.job for s in started])
        for one in started:
            one.job.settle()
        self._out.refresh()
