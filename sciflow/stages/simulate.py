"""The ``simulate`` stage: an ensemble of a problem over a design, resumable after any kill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow.errors import Failed, Invalid, nearest
from sciflow.problem import Problem, member_seed
from sciflow.registry import require
from sciflow.schema import Field, Schema
from sciflow.stage import Stage
from sciflow.stages.design import DESIGN

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact
    from sciflow.context import Context
    from sciflow.executor import Executor, Job, Resources
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
"""So many jobs in a row that end before a single member is done end the ensemble."""


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
    """

    name: ClassVar[str] = "simulate"
    inputs: ClassVar[Mapping[str, Schema]] = {"design": DESIGN}
    output: ClassVar[Schema] = ENSEMBLE
    orchestrates: ClassVar[bool] = True
    problem: Problem
    seed: int = 0
    minimum: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= 1:
            raise Invalid(f"minimum is a fraction between 0 and 1, got {self.minimum}")
        if self.seed < 0:
            raise Invalid(f"the seed cannot be negative, got {self.seed}")

    def identity(self) -> dict[str, object]:
        """`minimum` decides whether the ensemble is accepted, not what is in it."""
        config = self.to_json()
        del config["minimum"]
        return config

    def check(self, inputs: Mapping[str, Artifact]) -> None:
        """Also refuse a design of other parameters, or one with NaN."""
        super().check(inputs)
        require(self.problem)
        points_of(inputs["design"], self.problem)

    def run(self, inputs: Mapping[str, Artifact], out: Writer, ctx: Context) -> None:
        """Solve what is missing, then seal."""
        points = points_of(inputs["design"], self.problem)
        self._begin(out, inputs["design"], points)
        Campaign(self.problem, points, self.seed, out, ctx).run()
        self._seal(out, points, ctx)

    def _begin(self, out: Writer, design: Artifact, points: np.ndarray) -> None:
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

    def _seal(self, out: Writer, points: np.ndarray, ctx: Context) -> None:
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
    """A job, its members, and the one that it started last."""

    job: Job
    members: list[int]
    current: int | None = None


class Campaign:
    """One attempt at the missing members of an ensemble.

    Parameters
    ----------
    problem : Problem
        The full-order model.
    points : ndarray, shape (member, parameter)
        Where to solve it.
    seed : int
        Of the ensemble.
    out : Writer
        The ensemble being written.
    ctx : Context
        Executor, resources, progress.
    """

    def __init__(self, problem: Problem, points: np.ndarray, seed: int, out: Writer, ctx: Context) -> None:
        self.problem, self.points, self.seed, self.out, self.ctx = problem, points, seed, out, ctx
        self._number = 0
        self._done: set[int] = set()

    def run(self) -> None:
        """Submit jobs until every member has a record.

        Raises
        ------
        Failed
            If jobs keep ending before any member is done.
        Cancelled
            If the run was cancelled; the jobs are ended first.
        """
        self._constants()
        # A crash may have had a passing cause (memory, a lost node): it is tried again once a run.
        self.out.recover()
        self._done = {m for m, r in self.out.committed().items() if not r.get("crash")}
        self._look_for_room(len(self.points) - len(self._done))
        queue = self._split(self._missing())
        running: list[_Running] = []
        fruitless = 0
        try:
            while queue or running:
                self.ctx.progress(len(self._done), len(self.points), "members")
                while queue and len(running) < self._width:
                    members = queue.pop(0)
                    running.append(_Running(self._submit("members", members), members))
                for one in list(running):
                    before = len(self._done)
                    state = one.job.wait(0.2 / len(running))
                    self._follow(one)
                    if state == "running":
                        continue
                    running.remove(one)
                    fruitless = 0 if len(self._done) > before else fruitless + 1
                    queue.extend(self._split(self._after(one, fruitless), 1))
            self.ctx.progress(len(self._done), len(self.points), "members")
        finally:
            for one in running:
                one.job.cancel()

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

    @property
    def _executor(self) -> Executor:
        if self.ctx.executor is not None:
            return self.ctx.executor
        from sciflow.executors.local import Local
        from sciflow.executors.mpi import Mpi

        apart = self._resources.ranks > 1 or "mpi4py" in self.problem.requires
        return Mpi() if apart else Local()

    @property
    def _width(self) -> int:
        from sciflow.executors.local import cores

        if self.problem.batch > 1:
            return self._resources.parallel or 1
        return self._resources.parallel or max(1, cores() // self._resources.ranks)

    def _missing(self) -> list[int]:
        """Members without a record; whole blocks of them where the problem is batched."""
        missing = [m for m in range(len(self.points)) if m not in self._done]
        size = self.problem.batch
        if size == 1:
            return missing
        blocks = {m // size for m in missing}
        return [m for m in range(len(self.points)) if m // size in blocks]

    def _split(self, members: list[int], parts: int | None = None) -> list[list[int]]:
        size, parts = self.problem.batch, parts or self._width
        blocks = [[m for m in members if m // size == b] for b in sorted({m // size for m in members})]
        share = max(1, -(-len(blocks) // parts))
        return [[m for b in blocks[i : i + share] for m in b] for i in range(0, len(blocks), share)]

    def _submit(self, task: Any, members: list[int]) -> Job:
        from sciflow.jobs import JobSpec

        payload = {"members": members, "parameters": self.points[members].tolist()}
        spec = JobSpec(task, self.problem.to_json(), str(self.out.path), payload=payload, seed=self.seed)
        self._number += 1
        return self._executor.submit(spec, self.ctx.scratch / f"job-{spec.nonce[:12]}", self._resources)

    def _constants(self) -> None:
        if type(self.problem).constants is Problem.constants or "constants" in self.out.attributes:
            return
        job = self._submit("constants", [])
        while job.wait(0.5) == "running":
            self.ctx.check()
        if job.state() != "done":
            raise Failed(f"the constants of {self.problem.name} could not be computed: {job.reason()}")
        self.out.refresh()

    def _follow(self, one: _Running) -> None:
        """Take in what a job reported."""
        for event in one.job.events():
            if event["event"] == "member":
                if event["state"] == "started":
                    one.current = event["member"]
                elif event["state"] in ("ok", "failed"):
                    self._done.add(event["member"])
            elif event["event"] == "log":
                self.ctx.emit(event)

    def _after(self, one: _Running, fruitless: int) -> list[int]:
        """Members of an ended job that are still to be solved; records the one that ended it.

        Raises
        ------
        Failed
            If the disk is full, or job after job ends without a result.
        """
        left = [m for m in one.members if m not in self._done]
        if not left:
            return []
        reason = one.job.reason() or "the job ended without a result"
        if "cannot write" in reason or fruitless >= HOPELESS:
            raise Failed(f"{reason} (run directory {one.job.directory}); {len(self._done)} members are kept")
        if one.current not in left:
            self.ctx.log.warning("a job ended between members: %s", reason)
            return left
        self.ctx.log.warning("member %d ended its job: %s", one.current, reason)
        record = {"status": 2, "reason": reason, "metrics": {}, "seconds": 0.0, "crash": True}
        self.out.write_member(one.current, {}, record)
        self._done.add(one.current)
        return [m for m in left if m != one.current]


def failures(ensemble: Artifact) -> Iterator[tuple[int, str]]:
    """Members of an ensemble that failed, with the reasons."""
    for member, reason in ensemble.attributes.get("failures", {}).items():
        yield int(member), reason
