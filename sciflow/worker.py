"""``python -m sciflow.worker job.json``: what runs on a node, or on every rank."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.artifact import Artifact
from sciflow.artifact.member import Member
from sciflow.context import Comm, Context, Event, SerialComm
from sciflow.environment import usage
from sciflow.errors import Cancelled, Diverged, Invalid, SciflowError
from sciflow.experience import FOLDER as EXPERIENCE
from sciflow.experience import Experience
from sciflow.jobs import EXIT, EventHandler, EventLog, JobSpec, replace_json
from sciflow.problem import Problem, member_seed
from sciflow.registry import registry, require
from sciflow.stage import Stage
from sciflow.states import Assembler, Collector, not_finite
from sciflow.store import Writer

if TYPE_CHECKING:
    import argparse

OK, FAILED = 1, 2
AGAIN = 75
"""Exit code of a worker that was told to stop and kept what it had: started again, it goes on."""


def execute(spec: JobSpec, ctx: Context) -> None:
    """Run a job in this process; collective over ``ctx.comm``.

    Raises
    ------
    SciflowError
        If the job cannot be run. A member that fails is recorded and raises nothing.
    """
    if spec.task in ("stage", "work"):
        _stage(spec, ctx)
    elif spec.task == "members":
        _members(spec, ctx)
    elif spec.task == "constants":
        _constants(spec, ctx)
    else:
        from sciflow.hello import hello

        hello(spec, ctx)


def open_inputs(spec: JobSpec) -> dict[str, Artifact]:
    """The input artifacts of a job, each with the digest that it was submitted with.

    Raises
    ------
    Invalid
        If another artifact is where an input was.
    """
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
    out = Writer(Path(spec.output), stage.output, recipe="")
    if spec.task == "work":
        stage.work(spec.payload, inputs, out, ctx)
    else:
        stage.run(inputs, out, ctx)


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
    out = Writer.attach(Path(spec.output))
    members = [int(m) for m in spec.payload["members"]]
    points = spec.payload["parameters"]
    if problem.batch > 1:
        for start in range(0, len(members), problem.batch):
            block = slice(start, start + problem.batch)
            _solve_block(problem, members[block], points[block], spec.seed, out, ctx)
        return
    if ctx.comm.rank == 0:
        ctx.experience = Experience(out.scratch / EXPERIENCE, disk=out.disk)
    # A process begins with what is set up once: libraries, meshes, compiled forms. Whoever compares times
    # must know which member that fell to.
    first = {"first": True}
    for member, row in zip(members, points, strict=True):
        for last in [False] * (spec.payload.get("attempts", 1) - 1) + [True]:
            if _solve_one(problem, member, row, spec.seed, out, ctx, first, last=last):
                break
        first = {}


def _solve_one(
    problem: Problem,
    member: int,
    row: list[float],
    seed: int,
    out: Writer,
    ctx: Context,
    notes: Mapping[str, Any],
    *,
    last: bool,
) -> bool:
    """Solve one member and record it with `notes`; False if its solver's error asks for another attempt."""
    ctx.check_together()
    ctx.emit({"event": "member", "member": member, "state": "started"})
    # No rank may take the job down with this member before it is on record who was being solved.
    ctx.comm.barrier()
    clock = _Clock()
    inner = Context(
        member_seed(seed, member), ctx.scratch, ctx.comm, ctx.log, ctx.emit,
        cancelled=ctx.cancelled, stopping=ctx.stopping, experience=ctx.experience.of(member),
    )  # fmt: skip
    reason = ""
    with out.member(member, ctx.comm) as one:
        try:
            mu = problem.parameters.checked(dict(zip(problem.parameters, row, strict=True)))
            _stream(problem, mu, one, inner)
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
            if not last:
                one.drop()
                ctx.log.warning("member %d: %s; it is tried again", member, reason)
                return False
        record = {**_record(reason, one.metrics, clock.passed(), ctx), **notes}
        if reason:
            one.drop()
            if ctx.comm.rank == 0:
                out.write_member(member, {}, record)
        elif not one.commit({**record, **inner.experience.mention()}):
            ctx.log.warning("member %d was solved twice with other results; the first one stays", member)
    _tell(member, reason, ctx, record["seconds"])
    return True


def _stream(problem: Problem, mu: Mapping[str, float], one: Member, ctx: Context) -> None:
    """Append every state as it comes, from where an earlier attempt was interrupted."""
    import numpy as np

    if one.restart is not None:
        ctx.log.info("member %d goes on after %d time levels", one.member, one.resume_from)
        states = problem.resume(mu, ctx, one.restart.arrays)
    else:
        states = problem.solve(mu, ctx)
    assembler = Assembler(problem, ctx.comm, seen=one.resume_from)
    if one.resume_from < assembler.levels or assembler.adaptive:
        for state in states:
            values = assembler.take(state)
            if assembler.adaptive and ctx.comm.rank == 0:
                values["time"] = np.asarray(state.time, dtype=float)
            one.append(values, restart=state.restart, metrics=state.metrics)
            ctx.check_together()
    assembler.finish()


def _solve_block(
    problem: Problem, members: list[int], rows: list[list[float]], seed: int, out: Writer, ctx: Context
) -> None:
    import numpy as np

    ctx.check()
    for member in members:
        ctx.emit({"event": "member", "member": member, "state": "started"})
    clock = _Clock()
    mu = dict(zip(problem.parameters, np.asarray(rows, dtype=float).T, strict=True))
    mu["member"] = np.asarray(members, dtype=np.int64)
    inner = Context(seed, ctx.scratch, ctx.comm, ctx.log, ctx.emit, cancelled=ctx.cancelled)
    if ctx.comm.size > 1:
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
    share = clock.passed(len(members))
    for i, member in enumerate(members):
        arrays = {name: values[i] for name, values in collector.arrays.items()}
        reason = broken or not_finite(arrays, problem)
        out.write_member(member, {} if reason else arrays, _record(reason, {}, share, ctx))
        _tell(member, reason, ctx, share["seconds"])


class _Clock:
    """Wall time and processor time since it was made."""

    def __init__(self) -> None:
        self._begin = time.perf_counter(), time.process_time()

    def passed(self, share: int = 1) -> dict[str, float]:
        """``seconds`` and ``cpu_seconds``, of all the process's threads; of one of `share` equal parts."""
        wall, cpu = time.perf_counter() - self._begin[0], time.process_time() - self._begin[1]
        return {"seconds": wall / share, "cpu_seconds": cpu / share}


def _record(
    reason: str, metrics: Mapping[str, float], passed: Mapping[str, float], ctx: Context
) -> dict[str, Any]:
    """What the journal keeps of a member; processor time is that of the first rank."""
    return {
        "status": FAILED if reason else OK,
        "reason": reason,
        "metrics": {} if reason else dict(metrics),
        **passed,
        "ranks": ctx.comm.size,
    }


def _tell(member: int, reason: str, ctx: Context, seconds: float) -> None:
    state = "failed" if reason else "ok"
    ctx.emit({"event": "member", "member": member, "state": state, "reason": reason, "seconds": seconds})


def communicator(ranks: int = 0) -> Comm:
    """The world of this process: mpi4py's where an MPI launcher started it, else a plugin's, else serial.

    Parameters
    ----------
    ranks : int
        How many there should be; with 1 no plugin is asked, 0 leaves it open.
    """
    launched = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "MPI_LOCALNRANKS")
    if not any(name in os.environ for name in launched):
        if ranks == 1:
            return SerialComm()
        found: Comm | None = registry().manager.hook.sciflow_communicator(environ=os.environ)
        return SerialComm() if found is None else found
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


def _stop_when_told(ctx: Context) -> None:
    """End soon, and well, when the scheduler says that the time is over or the node is needed."""

    def told(number: int, frame: Any) -> None:
        ctx.stopping.set()
        # Several ranks may only stop together: they agree where they meet (`Context.check_together`).
        if ctx.comm.size == 1:
            ctx.cancelled.set()

    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, told)


def _run(job: Path, comm: Comm) -> int:
    directory = job.parent
    spec = JobSpec.read(job)
    if comm.rank == 0:
        # An earlier attempt of this very job may have left them.
        for name in (EXIT, "ended"):
            (directory / name).unlink(missing_ok=True)
    emit: Callable[[Event], None] = EventLog(directory) if comm.rank == 0 else (lambda event: None)
    log = logging.getLogger("sciflow")
    log.setLevel(logging.INFO)
    log.addHandler(EventHandler(emit))
    scratch = Path(spec.output).parent / "scratch"
    ctx = Context(spec.seed, scratch, comm, log, emit)
    _stop_when_told(ctx)
    emit({"event": "start", "host": os.uname().nodename, "pid": os.getpid(), "ranks": comm.size})
    reason, again, begin = "", False, time.perf_counter()
    try:
        execute(spec, ctx)
    except Cancelled:
        if not ctx.stopping.is_set():
            raise
        reason, again = "it was told to stop; what was finished is kept", True
        log.info("told to stop: what was finished is kept")
    # The job is foreign code: whatever it raises ends this process with the reason on record.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        logging.getLogger("sciflow.worker").exception("the job failed on rank %d", comm.rank)
    code = AGAIN if again else 1 if reason else 0
    if comm.rank == 0 or (reason and not again):
        end = {"nonce": spec.nonce, "code": code, "reason": reason, "rank": comm.rank, "again": again}
        measured = {"seconds": time.perf_counter() - begin, "usage": usage()}
        replace_json(directory / EXIT, end | measured)
    if code == 1 and comm.size > 1:
        sys.stderr.flush()
        abort: Any = comm
        abort.Abort(1)
    return code


def read_exit(directory: Path, nonce: str) -> dict[str, Any] | None:
    """The exit record of this attempt, or None while there is none."""
    try:
        document: dict[str, Any] = json.loads((directory / EXIT).read_bytes())
    except FileNotFoundError:
        return None
    return document if document.get("nonce") == nonce else None


def _arguments(arguments: list[str]) -> argparse.Namespace:
    import argparse

    parser = argparse.ArgumentParser(prog="python -m sciflow.worker", description="Run one job file.")
    parser.add_argument("job", type=Path, help="job.json of a run directory")
    parser.add_argument("--leave-with-parent", action="store_true", help="end when standard input closes")
    parser.add_argument("--ranks", type=int, default=0, help="refuse to run on another number of ranks")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run one job file; the module's command line."""
    options = _arguments(arguments)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    try:
        comm = communicator(options.ranks)
        if options.leave_with_parent and comm.rank == 0:
            _leave_with_parent()
        if options.ranks not in (0, comm.size):
            _strangers(options.job, options.ranks, comm)
        return _run(options.job, comm)
    except SciflowError as error:
        sys.stderr.write(f"sciflow: {error}\n")
        return 2


def _strangers(job: Path, wanted: int, comm: Comm) -> None:
    """Refuse ranks that do not see each other; each of them would do the whole work."""
    reason = (
        f"{wanted} MPI ranks were started but mpi4py sees {comm.size}: launcher and MPI library do not fit "
        "(with srun choose --mpi, `srun --mpi=list` shows which there are, or launch with mpirun; "
        "`sciflow doctor --site` tries them)"
    )
    nonce = JobSpec.read(job).nonce
    replace_json(job.parent / EXIT, {"nonce": nonce, "code": 1, "reason": reason, "rank": 0, "again": False})
    raise Invalid(reason)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
