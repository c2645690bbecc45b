"""The ``simulate`` stage: an ensemble of a problem over a design, resumable after any kill."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow.console import duration
from sciflow.errors import Cancelled, Failed, Invalid, nearest
from sciflow.executor import Cause, cancel_all, ended
from sciflow.experience import FOLDER as EXPERIENCE
from sciflow.experience import Experience
from sciflow.guess import TakesGuess
from sciflow.problem import Problem, member_seed
from sciflow.provenance import components_in
from sciflow.registry import require
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.design import DESIGN
from sciflow.step_controller import TakesSteps

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.executor import Executor, Job, Resources
    from sciflow.jobs import JobSpec
    from sciflow.store import Writer

ENSEMBLE = Schema(
    "ensemble",
    {
        "parameters": Field(("member", "parameter"), "any", "float64"),
        "status": Field(("member",), "1", "uint8", "1 ok, 2 failed"),
        "seed": Field(("member",), "1", "int64", "seed of each member"),
    },
)
HOPELESS = 5
"""So many jobs in a row that end before a single member is done, for each attempt, end the ensemble."""
PATIENT = 100
"""The same for jobs that were ended by their time limit, for another job, or with their node."""
WORTHWHILE = 5.0
"""A job of several members should take at least so many seconds: starting one takes one or two."""
LONG = 5.0
"""No member that takes less, in s, is a straggler."""
SLOW = 5.0
"""A member that takes so many times the median is a straggler."""


@dataclass(frozen=True)
class Simulate(Stage):
    """Solves a problem at every point of a design and collects the members in one artifact.

    A member that fails is recorded beside the others. A killed run continues: only members
    without a result are computed, and the result is the same to the bit (on the same number of
    ranks).

    Attributes
    ----------
    problem : Problem
        The full-order model.
    seed : int
        Of the ensemble; member seeds are derived from it.
    minimum : float
        Smallest fraction of members that must succeed, in [0, 1].
    attempts : int
        How often a member is tried that takes its job down or meets an error of its solver. One that
        diverges is tried once: it would again.

    Raises
    ------
    Invalid
        If the minimum is no fraction, the seed is negative, or there is no attempt.
    """

    name: ClassVar[str] = "simulate"
    inputs: ClassVar[Mapping[str, Schema]] = {"design": DESIGN}
    output: ClassVar[Schema] = ENSEMBLE
    orchestrates: ClassVar[bool] = True
    problem: Problem
    seed: int = 0
    minimum: float = 0.9
    attempts: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= 1:
            raise Invalid(f"minimum is a fraction between 0 and 1, got {self.minimum}")
        if self.seed < 0:
            raise Invalid(f"the seed cannot be negative, got {self.seed}")
        if self.attempts < 1:
            raise Invalid(f"a member needs at least one attempt, got attempts={self.attempts}")

    def identity(self) -> dict[str, object]:
        """`minimum` decides whether the ensemble is accepted, not what is in it; `attempts` neither."""
        config = self.to_json()
        del config["minimum"], config["attempts"]
        return config

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse a design of other parameters or with NaN, and steps or a guess that do not fit."""
        super().check(inputs)
        for part in components_in(self.problem):
            require(part)
        if isinstance(self.problem, TakesSteps):
            self.problem.check_stepping()
        if isinstance(self.problem, TakesGuess):
            self.problem.check_guess()
        points_of(inputs["design"], self.problem)

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Solve what is missing, then seal."""
        points = points_of(inputs["design"], self.problem)
        self.begin(out, inputs["design"], points)
        Campaign(self, points, out, ctx).run()
        self.seal(out, points, ctx)

    def begin(self, out: Writer, design: Artifact, points: np.ndarray) -> None:
        """Create the fields of the ensemble; members may be written afterwards.

        Parameters
        ----------
        out : Writer
            Of the ensemble.
        design : Artifact
            Where the points come from.
        points : ndarray, shape (member, parameter)
            In the problem's units.
        """
        import numpy as np

        problem = self.problem
        units = problem.axis_units()
        sizes = problem.coordinates()
        for axis, values in sizes.items():
            out.write(
                axis, np.asarray(values, dtype=np.float64), Field((axis,), units.get(axis, "1"), "float64")
            )
        for name, field in problem.fields.items():
            shape = (len(points), *(len(sizes[a]) for a in field.axes))
            out.create(name, member_field(field), shape, member=True)
        if "step" in sizes:
            times = Field(("member", "step"), units.get("time", "s"), "float64", "time of each step")
            out.create("time", times, (len(points), len(sizes["step"])), member=True)
        out.write("parameters", points, ENSEMBLE["parameters"])
        out.describe(
            parameters=list(problem.parameters),
            parameter_units=[p.unit for p in problem.parameters.values()],
            problem=problem.to_json(),
            periodic=list(problem.periodic),
            design=design.digest,
        )

    def seal(self, out: Writer, points: np.ndarray, ctx: Context) -> None:
        """Write what is known when every member has a record: status, seeds, solver figures.

        Parameters
        ----------
        out : Writer
            Of the ensemble.
        points : ndarray, shape (member, parameter)
            Its points.
        ctx : Context
            Told of members that failed.

        Raises
        ------
        Failed
            If fewer than `minimum` of the members succeeded.
        """
        import numpy as np

        records = out.committed()
        status = np.array([records[m]["status"] for m in range(len(points))], dtype=np.uint8)
        failures = {str(m): records[m]["reason"] for m in range(len(points)) if status[m] != 1}
        good = int((status == 1).sum())
        if good < self.minimum * len(points):
            shown = "; ".join(f"member {m}: {r}" for m, r in list(failures.items())[:3])
            raise Failed(
                f"{good} of {len(points)} members succeeded, fewer than the minimum of "
                f"{self.minimum:.0%}. {shown}. "
                f"They are kept: mend the cause and run again, or accept them with a smaller minimum."
            )
        if failures:
            ctx.log.warning("%d of %d members failed and are recorded as such", len(failures), len(points))
        out.write("status", status, ENSEMBLE["status"])
        seeds = np.array([member_seed(self.seed, m) for m in range(len(points))], dtype=np.int64)
        out.write("seed", seeds, ENSEMBLE["seed"])
        for metric in sorted({k for r in records.values() for k in r["metrics"]}):
            values = [records[m]["metrics"].get(metric, np.nan) for m in range(len(points))]
            out.write(
                f"solver_{metric}", np.array(values), Field(("member",), "1", "float64", "summed over time")
            )
        out.describe(failures=failures)
        if "step" in self.problem.coordinates():
            steps = np.array([records[m].get("levels", 0) for m in range(len(points))], dtype=np.int64)
            out.write("n_steps", steps, Field(("member",), "1", "int64", "steps of each member"))
        _seal_numberings(out, records, len(points))
        solved = {m: r for m, r in records.items() if r["status"] == 1}
        _seal_decisions(out, solved, self.problem.axis_units().get("time", "s"))


def _seal_numberings(out: Writer, records: Mapping[int, Mapping[str, Any]], count: int) -> None:
    """Note for each member in which order its degrees of freedom are stored."""
    import numpy as np

    found: dict[str, set[str]] = {}
    for record in records.values():
        for field, name in record.get("numberings", {}).items():
            found.setdefault(field, set()).add(name)
    names = {field: sorted(group) for field, group in sorted(found.items())}
    for name in sorted({n for group in names.values() for n in group}):
        out.adopt(name)
    for field, group in names.items():
        which = np.full(count, -1, dtype=np.int32)
        for member, record in records.items():
            if field in record.get("numberings", {}):
                which[member] = group.index(record["numberings"][field])
        text = f"which of the attribute numberings[{field}] holds; -1 none"
        out.write(f"{field}_numbering", which, Field(("member",), "1", "int32", text))
    if names:
        out.describe(numberings=names)


def _seal_decisions(out: Writer, records: Mapping[int, Mapping[str, Any]], time: str) -> None:
    """Store what the members noted while they were solved, one after the other; nothing if none did.

    `time` is the unit of the problem's time.
    """
    import numpy as np

    logs = Experience(out.scratch / EXPERIENCE).logs(records)
    if not logs:
        return
    lengths = {m: len(next(iter(log.values()))) for m, log in logs.items()}
    members = np.repeat(np.array(list(logs)), list(lengths.values()))
    out.write("decision_member", members, Field(("decision",), "1", "int64", "whose decision it was"))
    for name in sorted({n for log in logs.values() for n in log}):
        columns = [log[name] if name in log else np.full(lengths[m], np.nan) for m, log in logs.items()]
        values = np.concatenate(columns)
        free = name in ("cost", "value", "work") or name.startswith("feature_")
        unit = {"seconds": "s", "time": time, "length": time}.get(name, "any" if free else "1")
        note = "noted while the members were solved; NaN where one noted no such thing"
        out.write(f"decision_{name}", values, Field(("decision",), unit, values.dtype.name, note))


def member_field(field: Field) -> Field:
    """The field of a problem with the ``member`` axis of an ensemble in front."""
    return Field(("member", *field.axes), field.unit, field.dtype, field.description, field.attributes)


def points_of(design: Artifact, problem: Problem) -> np.ndarray:
    """The points of a design in the order of a problem's parameters.

    Returns
    -------
    ndarray, shape (member, parameter)

    Raises
    ------
    Invalid
        If names or units differ, or a value is not finite; the message names the row.
    """
    import numpy as np

    points = design.read("parameters")
    names: list[str] = design.attributes["parameters"]
    units = dict(zip(names, design.attributes["parameter_units"], strict=True))
    wanted = problem.parameters
    for name in names:
        if name not in wanted:
            raise Invalid(f"{design.path}: {problem.name} has no parameter {name!r}. {nearest(name, wanted)}")
    for name, parameter in wanted.items():
        if name not in units:
            raise Invalid(f"{design.path} has no column for the parameter {name!r} of {problem.name}")
        if units[name] != parameter.unit:
            raise Invalid(
                f"{design.path}: {name!r} is in {units[name]!r}, {problem.name} takes {parameter.unit!r}"
            )
    bad = np.argwhere(~np.isfinite(points))
    if len(bad):
        row, column = bad[0]
        raise Invalid(f"{design.path}: member {row}, parameter {names[column]!r} is {points[row, column]}")
    return points[:, [names.index(n) for n in wanted]]


@dataclass
class _Running:
    """A job, its members, and the one that it started last.

    Attributes
    ----------
    since : float
        When that one was started, seconds since the epoch.
    """

    job: Job
    members: list[int]
    current: int | None = None
    since: float = 0.0
    node: str = ""


class Campaign:
    """One attempt at the missing members of an ensemble.

    Parameters
    ----------
    stage : Simulate
        Problem, seed, attempts.
    points : ndarray, shape (member, parameter)
        Where to solve it.
    out : Writer
        The ensemble being written.
    ctx : Context
        Executor, resources, progress.
    """

    def __init__(self, stage: Simulate, points: np.ndarray, out: Writer, ctx: Context) -> None:
        self.problem, self.seed, self.attempts = stage.problem, stage.seed, stage.attempts
        self.points, self.out, self.ctx = points, out, ctx
        self._done: set[int] = set()
        self._failed: set[int] = set()
        self._tries: dict[int, int] = {}
        self._seconds: list[float] = []
        self._slow: set[int] = set()
        self._fruitless = 0
        self._waiting = ""

    def run(self) -> None:
        """Submit jobs until every member has a record.

        Raises
        ------
        Failed
            If jobs keep ending before any member is done.
        Cancelled
            If the run, or a job outside of it, was cancelled; all jobs are ended first.
        """
        earlier = self._earlier()
        self._constants(earlier)
        # A crash may have had a passing cause (memory, a lost node): it is tried again once a run.
        self.out.recover()
        self._done = {m for m, r in self.out.committed().items() if not r.get("crash")}
        self._look_for_room(len(self.points) - len(self._done))
        running = [_Running(job, spec.payload["members"]) for job, spec in earlier if spec.task == "members"]
        if running:
            self.ctx.log.info("%d jobs of an earlier process are found again", len(running))
        taken = {m for one in running for m in one.members}
        queue = self._blocks([m for m in range(len(self.points)) if m not in self._done and m not in taken])
        try:
            if self._executor.queues and queue:
                running += self._submit_all(queue)
                queue = []
            while queue or running:
                while queue and len(running) < self._width:
                    members = self._take(queue)
                    running.append(_Running(self._submit("members", members), members))
                running, left = self._round(running)
                if left and self._executor.queues:
                    running += self._submit_all([[m] for m in left] if self.problem.batch == 1 else [left])
                else:
                    # First: a member learns from those before it, also after a kill.
                    queue = self._blocks(left) + queue
            self.ctx.progress(len(self._done), len(self.points), "members")
        finally:
            cancel_all([one.job for one in running if not one.job.state().ended])

    def _round(self, running: list[_Running]) -> tuple[list[_Running], list[int]]:
        """Look at every job once; those that still run, and members that need another job."""
        figures = {"failed": str(len(self._failed))} if self._failed else None
        self.ctx.progress(len(self._done), len(self.points), f"members{self._stragglers(running)}", figures)
        begin = time.monotonic()
        still, left, waiting = [], [], ""
        first = running[0].job.wait(0.2) if running else None
        for one in running:
            state = first if one is running[0] and first is not None else one.job.state()
            self._follow(one)
            if not state.ended:
                still.append(one)
                waiting = one.job.waits_for() if state == "queued" else ""
                continue
            # Whatever it solved, also where that was reported earlier than its end.
            self._fruitless = self._fruitless + 1 if self._done.isdisjoint(one.members) else 0
            left += self._after(one)
            one.job.settle()
        if waiting not in ("", self._waiting):
            self.ctx.log.info("jobs wait in the queue: %s", waiting)
        self._waiting = waiting
        # Looking at many jobs means looking at many files, which others share.
        pause = 0.002 * len(still) - (time.monotonic() - begin)
        if pause > 0:
            self.ctx.cancelled.wait(pause)
        return still, left

    def _look_for_room(self, members: int) -> None:
        """Warn where the disk is too small for what is to come; it may still be enlarged meanwhile."""
        import os

        layouts = self.out.layouts.values()
        need = members * sum(layout.size() for layout in layouts)
        disk = os.statvfs(self.out.path)
        free = disk.f_bavail * disk.f_frsize
        if need > free:
            self.ctx.log.warning(
                "%d members need %.1f GB, %s has %.1f GB left", members, need / 1e9, self.out.path, free / 1e9
            )
        if 0 < disk.f_favail < members * len(layouts):
            self.ctx.log.warning(
                "%d files are to come, %d inodes are left", members * len(layouts), disk.f_favail
            )

    @property
    def _resources(self) -> Resources:
        from sciflow.executor import Resources

        return self.ctx.resources or Resources()

    @cached_property
    def _executor(self) -> Executor:
        if self.ctx.executor is not None:
            return self.ctx.executor
        from sciflow.executors.local import Local
        from sciflow.executors.mpi import Mpi

        apart = self._resources.ranks > 1 or "mpi4py" in self.problem.requires
        return Mpi() if apart else Local()

    @property
    def _width(self) -> int:
        if self.problem.batch > 1 and not self._executor.queues:
            return self._resources.parallel or 1
        return self._executor.width(self._resources)

    def _blocks(self, members: list[int]) -> list[list[int]]:
        """Members that are solved together: blocks where the problem is batched, else single ones."""
        size = self.problem.batch
        if size == 1:
            return [[m] for m in members]
        wanted = sorted({m // size for m in members})
        return [list(range(b * size, min(len(self.points), (b + 1) * size))) for b in wanted]

    def _take(self, blocks: list[list[int]]) -> list[int]:
        """Members of the next job: many while there are many, few at the end, so that all end together.

        Notes
        -----
        Guided self-scheduling [1]_: the next of `width` workers takes the share ``1 / (2 width)`` of what
        is left, yet at least what takes `WORTHWHILE` seconds.

        References
        ----------
        .. [1] C. D. Polychronopoulos, D. J. Kuck, IEEE Trans. Comput. C-36 (1987) 1425-1439, with the
           divisor of S. F. Hummel, E. Schonberg, L. E. Flynn, Commun. ACM 35 (1992) 90-101.
        """
        share = -(-len(blocks) // (2 * self._width))
        least = 1
        if self._seconds:
            each = statistics.median(self._seconds) * self.problem.batch
            # Never more than a fair share, however short a member seems.
            least = min(-(-len(blocks) // self._width), int(WORTHWHILE / max(each, 1e-6)))
        count = max(share, least, 1)
        taken = [m for block in blocks[:count] for m in block]
        del blocks[:count]
        return taken

    def _spec(self, task: Any, members: list[int]) -> JobSpec:
        from sciflow.jobs import JobSpec

        payload = {
            "members": members,
            "parameters": self.points[members].tolist(),
            "attempts": self.attempts,
        }
        return JobSpec(task, self.problem.to_json(), str(self.out.path), payload=payload, seed=self.seed)

    def _submit(self, task: Any, members: list[int]) -> Job:
        spec = self._spec(task, members)
        return self._executor.submit(spec, self.ctx.scratch / f"job-{spec.nonce[:12]}", self._resources)

    def _submit_all(self, blocks: list[list[int]]) -> list[_Running]:
        """One array of jobs for all blocks."""
        blocks, groups = list(blocks), []
        while blocks:
            groups.append(self._take(blocks))
        specs = [self._spec("members", members) for members in groups]
        folder = self.ctx.scratch / f"job-{specs[0].nonce[:12]}"
        jobs = self._executor.submit_all(specs, folder, self._resources, self._width)
        first, last = jobs[0].id, jobs[-1].id
        self.ctx.log.info("%d members in %d jobs, %s to %s", sum(map(len, groups)), len(jobs), first, last)
        return [_Running(job, members) for job, members in zip(jobs, groups, strict=True)]

    def _earlier(self) -> list[tuple[Job, JobSpec]]:
        """Jobs of an earlier process, killed or not, that are still somebody's business."""
        from sciflow.executor import unfinished
        from sciflow.jobs import JOB, JobSpec

        return [(job, JobSpec.read(job.directory / JOB)) for job in unfinished(self.ctx.scratch)]

    def _constants(self, earlier: list[tuple[Job, JobSpec]]) -> None:
        if type(self.problem).constants is Problem.constants or "constants" in self.out.attributes:
            return
        found = [job for job, spec in earlier if spec.task == "constants"]
        job = found[0] if found else self._submit("constants", [])
        try:
            while not job.wait(0.5).ended:
                self.ctx.check()
        finally:
            if not job.state().ended:
                job.cancel()
        job.settle()
        if job.state() != "done":
            raise ended(job, f"the constants of {self.problem.name} could not be computed")
        self.out.refresh()

    def _follow(self, one: _Running) -> None:
        """Take in what a job reported."""
        for event in one.job.events():
            if event["event"] == "start":
                one.node = event.get("host", "")
            elif event["event"] == "member":
                if event["state"] == "started":
                    one.current, one.since = event["member"], event["time"]
                elif event["state"] in ("ok", "failed"):
                    self._done.add(event["member"])
                    (self._failed.add if event["state"] == "failed" else self._failed.discard)(
                        event["member"]
                    )
                    if "seconds" in event:
                        self._seconds = [*self._seconds[-200:], event["seconds"]]
            elif event["event"] == "log":
                self.ctx.emit(event)

    def _stragglers(self, running: list[_Running]) -> str:
        """Members that take far longer than the others, in words; each is also logged once."""
        if len(self._seconds) < 3:
            return ""
        usual, now = statistics.median(self._seconds), time.time()
        slow = [
            one for one in running
            if one.current is not None and one.current not in self._done
            and now - one.since > max(SLOW * usual, LONG)
        ]  # fmt: skip
        for one in slow:
            if one.current not in self._slow:
                self._slow.add(one.current or 0)
                text = "member %d takes %s so far, others took %s (job %s on %s, %s)"
                took, others, job = duration(now - one.since), duration(usual), one.job
                self.ctx.log.warning(text, one.current, took, others, job.id, one.node, job.directory)
        return f" ({len(slow)} slow: {', '.join(str(one.current) for one in slow[:5])})" if slow else ""

    def _after(self, one: _Running) -> list[int]:
        """Members of an ended job that are still to be solved; records the one that ended it.

        Raises
        ------
        Failed
            If the disk is full, or job after job ends without a result.
        Cancelled
            If somebody cancelled the job.
        """
        left = [m for m in one.members if m not in self._done]
        if not left:
            return []
        cause, reason = one.job.cause(), one.job.reason() or "the job ended without a result"
        if cause == Cause.CANCELLED:
            raise Cancelled(f"{reason}; {len(self._done)} members are kept")
        passing = cause is not None and cause.passing
        if "cannot write" in reason or self._fruitless >= (PATIENT if passing else HOPELESS * self.attempts):
            where = f"(run directory {one.job.directory}); {len(self._done)} members are kept"
            raise ended(one.job, where=where)
        if passing:
            self.ctx.log.warning("%s; %d members go on in another job", reason, len(left))
            return left
        if one.current not in left:
            self.ctx.log.warning("a job ended between members: %s", reason)
            return left
        tries = self._tries[one.current] = self._tries.get(one.current, 0) + 1
        again = "it is tried again" if tries < self.attempts else "it is recorded as failed"
        self.ctx.log.warning("member %d ended its job: %s; %s", one.current, reason, again)
        if tries < self.attempts:
            return left
        record = {"status": 2, "reason": reason, "metrics": {}, "seconds": 0.0, "crash": True}
        self.out.write_member(one.current, {}, record)
        self._done.add(one.current)
        return [m for m in left if m != one.current]


def failures(ensemble: Artifact) -> Iterator[tuple[int, str]]:
    """Members of an ensemble that failed, with the reasons."""
    for member, reason in ensemble.attributes.get("failures", {}).items():
        yield int(member), reason
