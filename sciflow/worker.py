"""``python -m sciflow.worker job.json``: what runs on a node, or on every rank."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.artifact import Artifact
from sciflow.context import Comm, Context, Event, SerialComm, exchange
from sciflow.errors import Cancelled, Diverged, Invalid, SciflowError
from sciflow.jobs import EXIT, EventHandler, EventLog, JobSpec, replace_json
from sciflow.problem import Part, Problem, State, member_seed
from sciflow.registry import registry, require
from sciflow.stage import Stage
from sciflow.store import Writer

if TYPE_CHECKING:
    import numpy as np

OK, FAILED = 1, 2


def execute(spec: JobSpec, ctx: Context) -> None:
    """Run a job in this process; collective over ``ctx.comm``.

    Raises
    ------
    SciflowError
        If the job cannot be run. A member that fails is recorded and raises nothing.
    """
    if spec.task == "stage":
        _stage(spec, ctx)
    elif spec.task == "members":
        _members(spec, ctx)
    else:
        _constants(spec, ctx)


def open_inputs(spec: JobSpec) -> dict[str, Artifact]:
    """The input artifacts of a job, each with the digest that it was submitted with."""
    inputs = {}
    for name, entry in spec.inputs.items():
        artifact = Artifact.open(entry["path"])
        if artifact.digest != entry["digest"]:
            raise Invalid(f"input {name!r} ({artifact.path}) is not the artifact this job was submitted with")
        inputs[name] = artifact
    return inputs


def _stage(spec: JobSpec, ctx: Context) -> None:
    stage = registry().build(spec.component, kind="stage")
    assert isinstance(stage, Stage)
    require(stage)
    inputs = open_inputs(spec)
    stage.check(inputs)
    stage.run(inputs, Writer(Path(spec.output), stage.output, recipe=""), ctx)


def _problem(spec: JobSpec) -> Problem:
    problem = registry().build(spec.component, kind="problem")
    assert isinstance(problem, Problem)
    require(problem)
    return problem


def _constants(spec: JobSpec, ctx: Context) -> None:
    constants = _problem(spec).constants(ctx)
    if ctx.comm.rank == 0:
        out = Writer.attach(Path(spec.output))
        for name, (field, values) in constants.items():
            out.write(name, values, field)
        out.describe(constants=sorted(constants))


def _members(spec: JobSpec, ctx: Context) -> None:
    problem = _problem(spec)
    out = Writer.attach(Path(spec.output)) if ctx.comm.rank == 0 else None
    members = [int(m) for m in spec.payload["members"]]
    points = spec.payload["parameters"]
    if problem.batch > 1:
        for start in range(0, len(members), problem.batch):
            block = slice(start, start + problem.batch)
            _solve_block(problem, members[block], points[block], spec.seed, out, ctx)
        return
    for member, row in zip(members, points, strict=True):
        _solve_one(problem, member, row, spec.seed, out, ctx)


def _solve_one(
    problem: Problem, member: int, row: list[float], seed: int, out: Writer | None, ctx: Context
) -> None:
    ctx.check()
    ctx.emit({"event": "member", "member": member, "state": "started"})
    # No rank may take the job down with this member before it is on record who was being solved.
    ctx.comm.barrier()
    begin = time.perf_counter()
    inner = Context(
        member_seed(seed, member), ctx.scratch, ctx.comm, ctx.log, ctx.emit, cancelled=ctx.cancelled
    )
    collector = Collector(problem, ctx.comm)
    reason = ""
    try:
        mu = problem.parameters.checked(dict(zip(problem.parameters, row, strict=True)))
        for state in problem.solve(mu, inner):
            collector.add(state)
            ctx.check()
        collector.finish()
    except (Diverged, Invalid) as error:
        # These are raised alike on every rank (the contract of Problem.solve).
        reason = f"{type(error).__name__}: {error}"
    except SciflowError:
        raise
    # A solver is foreign code. With several ranks an error on one of them may leave the others
    # waiting for it, so the job ends here; the executor's side records it and goes on without.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if ctx.comm.size > 1:
            ctx.emit({"event": "member", "member": member, "state": "crashed", "reason": reason})
            raise
    if out is not None:
        _commit(out, member, {} if reason else collector.arrays, reason, collector.metrics, begin, ctx)


def _solve_block(
    problem: Problem, members: list[int], rows: list[list[float]], seed: int, out: Writer | None, ctx: Context
) -> None:
    import numpy as np

    ctx.check()
    for member in members:
        ctx.emit({"event": "member", "member": member, "state": "started"})
    begin = time.perf_counter()
    mu = dict(zip(problem.parameters, np.asarray(rows, dtype=float).T, strict=True))
    mu["member"] = np.asarray(members, dtype=np.int64)
    inner = Context(seed, ctx.scratch, ctx.comm, ctx.log, ctx.emit, cancelled=ctx.cancelled)
    if out is None or ctx.comm.size > 1:
        raise Invalid(f"{problem.name} solves members in batches and runs on one rank, not {ctx.comm.size}")
    collector = Collector(problem, ctx.comm, len(members))
    broken = ""
    try:
        for state in problem.solve_batch(mu, inner):
            collector.add(state)
            ctx.check()
        collector.finish()
    except Cancelled:
        raise
    # A solver is foreign code; its block of members is recorded as failed and the others go on.
    except Exception as error:
        broken = f"{type(error).__name__}: {error}"
    share = (time.perf_counter() - begin) / len(members)
    for i, member in enumerate(members):
        arrays = {name: values[i] for name, values in collector.arrays.items()}
        reason = broken or not_finite(arrays, problem)
        _commit(out, member, {} if reason else arrays, reason, {}, time.perf_counter() - share, ctx)


def _commit(
    out: Writer,
    member: int,
    arrays: Mapping[str, np.ndarray],
    reason: str,
    metrics: Mapping[str, float],
    begin: float,
    ctx: Context,
) -> None:
    record = {
        "status": FAILED if reason else OK,
        "reason": reason,
        "metrics": {} if reason else dict(metrics),
        "seconds": time.perf_counter() - begin,
        "ranks": ctx.comm.size,
    }
    out.write_member(member, arrays, record)
    ctx.emit({"event": "member", "member": member, "state": "failed" if reason else "ok", "reason": reason})


def not_finite(arrays: Mapping[str, np.ndarray], problem: Problem) -> str:
    """Which field of a member first holds NaN or an infinity, as a sentence; empty if none does."""
    import numpy as np

    for name, values in arrays.items():
        if not np.all(np.isfinite(values)):
            where = ""
            if problem.fields[name].axes[:1] == ("time",):
                level = int(np.argmin(np.isfinite(values.reshape(len(values), -1)).all(axis=1)))
                where = f" at time level {level}"
            return f"Diverged: field {name!r} is not finite{where}"
    return ""


class Collector:
    """Puts the states of one member (or a block of members) together on rank 0.

    Parameters
    ----------
    problem : Problem
        Whose states these are.
    comm : Comm
        Its communicator.
    block : int or None
        Number of members that arrive at once, or None for one without a member axis.
    """

    def __init__(self, problem: Problem, comm: Comm, block: int | None = None) -> None:
        import numpy as np

        self._problem, self._comm = problem, comm
        self._lead = () if block is None else (block,)
        self._times = problem.coordinates().get("time")
        self._levels = 1 if self._times is None else len(self._times)
        self._seen = 0
        self._shapes = {name: problem.shape(name) for name in problem.fields}
        self._arrived = dict.fromkeys(problem.fields, 0)
        self.metrics: dict[str, float] = {}
        self.arrays: dict[str, np.ndarray] = {}
        if comm.rank == 0:
            for name, field in problem.fields.items():
                time_axis = (self._levels,) if "time" in field.axes else ()
                shape = (*self._lead, *time_axis, *self._shapes[name])
                fill = np.nan if field.dtype.startswith("float") else 0
                self.arrays[name] = np.full(shape, fill, field.dtype)

    def add(self, state: State) -> None:
        """Take one state; collective.

        Raises
        ------
        Invalid
            If it has an unknown field, a wrong shape or time, or comes after the last time level.
        """
        import math

        if self._seen >= self._levels:
            raise Invalid(f"{self._problem.name} yielded more than {self._levels} states")
        if self._times is not None:
            wanted = float(self._times[self._seen])
            if not math.isclose(state.time, wanted, rel_tol=1e-9, abs_tol=1e-12):
                raise Invalid(f"{self._problem.name}: state {self._seen} has time {state.time}, not {wanted}")
        for name, value in state.fields.items():
            if name not in self._problem.fields:
                raise Invalid(f"{self._problem.name} yielded a field {name!r} that it does not declare")
            whole = self._whole(name, value)
            if self._comm.rank == 0 and whole is not None:
                self._store(name, whole)
        for key, number in (state.metrics or {}).items():
            self.metrics[key] = self.metrics.get(key, 0.0) + float(number)
        self._seen += 1

    def _store(self, name: str, whole: np.ndarray) -> None:
        shape = (*self._lead, *self._shapes[name])
        if tuple(whole.shape) != shape:
            raise Invalid(f"{self._problem.name}, field {name!r}: shape {whole.shape}, declared {shape}")
        self._arrived[name] += 1
        if "time" in self._problem.fields[name].axes:
            self.arrays[name][(slice(None),) * len(self._lead) + (self._seen,)] = whole
        elif self._seen == 0:
            self.arrays[name][...] = whole
        else:
            raise Invalid(f"field {name!r} has no time axis but came with state {self._seen}")

    def _whole(self, name: str, value: np.ndarray | Part | None) -> np.ndarray | None:
        import numpy as np

        if not isinstance(value, Part):
            return value
        index, values = _gather(value, self._comm)
        if index is None or values is None:
            return None
        shape = self._shapes[name]
        size = int(np.prod(shape, dtype=np.int64))
        if len(index) != size or not np.array_equal(np.sort(index), np.arange(size)):
            raise Invalid(
                f"field {name!r}: the ranks gave {len(index)} positions that are not each of {size} once"
            )
        whole = np.empty(size, values.dtype)
        whole[index] = values
        return whole.reshape(shape)

    def finish(self) -> None:
        """Check that everything arrived and is finite; all ranks agree.

        Raises
        ------
        Invalid
            If states or fields are missing.
        Diverged
            If a value is not finite.
        """
        if self._seen != self._levels:
            raise Invalid(f"{self._problem.name} yielded {self._seen} of {self._levels} states")
        missing = self._missing() if self._comm.rank == 0 else ""
        missing = exchange(self._comm, missing)[0]
        if missing:
            raise Invalid(missing)
        if self._lead:
            return
        reason = exchange(self._comm, not_finite(self.arrays, self._problem))[0]
        if reason:
            raise Diverged(reason.removeprefix("Diverged: "))

    def _missing(self) -> str:
        """The first field that did not come with every state it should come with."""
        for name, field in self._problem.fields.items():
            wanted = self._levels if "time" in field.axes else 1
            if self._arrived[name] != wanted:
                return f"{self._problem.name}: field {name!r} came {self._arrived[name]} times, not {wanted}"
        return ""


def _gather(part: Part, comm: Comm) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Concatenate the parts of all ranks on rank 0, as buffers."""
    import numpy as np

    index = np.ascontiguousarray(part.index, dtype=np.int64)
    values = np.ascontiguousarray(part.values, dtype=np.float64)
    if index.shape != values.shape or index.ndim != 1:
        raise Invalid(f"a Part needs equally long index and values, got {index.shape} and {values.shape}")
    if comm.size == 1:
        return index, values
    mpi: Any = comm
    counts = np.empty(comm.size, dtype=np.int64)
    mpi.Allgather(np.array([len(index)], dtype=np.int64), counts)
    if comm.rank != 0:
        mpi.Gatherv(index, None)
        mpi.Gatherv(values, None)
        return None, None
    all_index = np.empty(int(counts.sum()), dtype=np.int64)
    all_values = np.empty(int(counts.sum()), dtype=np.float64)
    mpi.Gatherv(index, [all_index, counts])
    mpi.Gatherv(values, [all_values, counts])
    return all_index, all_values


def communicator() -> Comm:
    """The world of this process: mpi4py's where it was started by an MPI launcher, else serial."""
    launched = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "MPI_LOCALNRANKS")
    if not any(name in os.environ for name in launched):
        return SerialComm()
    from mpi4py import MPI

    world: Comm = MPI.COMM_WORLD
    return world


def _leave_with_parent() -> None:
    """End this process when whoever started it is gone: its end of our standard input closes."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), 9)

    threading.Thread(target=watch, name="leave-with-parent", daemon=True).start()


def _run(job: Path, comm: Comm) -> int:
    directory = job.parent
    spec = JobSpec.read(job)
    emit: Callable[[Event], None] = EventLog(directory) if comm.rank == 0 else (lambda event: None)
    log = logging.getLogger("sciflow")
    log.setLevel(logging.INFO)
    log.addHandler(EventHandler(emit))
    scratch = Path(spec.output).parent / "scratch"
    ctx = Context(spec.seed, scratch, comm, log, emit)
    emit({"event": "start", "host": os.uname().nodename, "pid": os.getpid(), "ranks": comm.size})
    reason = ""
    try:
        execute(spec, ctx)
    # The job is foreign code: whatever it raises ends this process with the reason on record.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        logging.getLogger("sciflow.worker").exception("the job failed on rank %d", comm.rank)
    if comm.rank == 0 or reason:
        end = {"nonce": spec.nonce, "code": 1 if reason else 0, "reason": reason, "rank": comm.rank}
        replace_json(directory / EXIT, end)
    if reason and comm.size > 1:
        sys.stderr.flush()
        abort: Any = comm
        abort.Abort(1)
    return 1 if reason else 0


def read_exit(directory: Path, nonce: str) -> dict[str, Any] | None:
    """The exit record of this attempt, or None while there is none."""
    file = directory / EXIT
    if not file.exists():
        return None
    document: dict[str, Any] = json.loads(file.read_bytes())
    return document if document.get("nonce") == nonce else None


def main(arguments: list[str]) -> int:
    """Run one job file; the module's command line."""
    options = [a for a in arguments if a.startswith("--")]
    files = [a for a in arguments if not a.startswith("--")]
    if len(files) != 1 or any(o != "--leave-with-parent" for o in options):
        sys.stderr.write("usage: python -m sciflow.worker [--leave-with-parent] job.json\n")
        return 2
    comm = communicator()
    if "--leave-with-parent" in options and comm.rank == 0:
        _leave_with_parent()
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    try:
        return _run(Path(files[0]), comm)
    except SciflowError as error:
        sys.stderr.write(f"sciflow: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
