"""What an executor must do with a job that ends well, one that cannot be run and one that is cancelled."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.executor import Executor
from sciflow.testing.component import example

if TYPE_CHECKING:
    from sciflow.executor import Job
    from sciflow.problem import Problem


def check_executor(executor: Executor, directory: Path) -> None:
    """Check an executor with a job that ends well, one that cannot be run and one that is cancelled.

    Parameters
    ----------
    executor : Executor
        To check.
    directory : Path
        Empty, for the run directories; seen by the jobs under the same path.

    Raises
    ------
    AssertionError
        If states, reasons, events or files are not as they must be.
    """
    _check_bad_job(executor, directory / "bad")
    found = _some_problem()
    if found is not None:
        _check_good_job(executor, directory / "good", found)
        _check_cancelled_job(executor, directory / "long", found)


def _some_problem() -> Problem | None:
    """An installed problem with nothing missing, which a job finds as well."""
    from sciflow.problem import Problem
    from sciflow.registry import missing, registry

    for cls, _ in registry().components():
        if issubclass(cls, Problem) and not missing(cls) and not cls.requires:
            made = example(cls)
            assert isinstance(made, Problem)
            return made
    return None


def _check_bad_job(executor: Executor, directory: Path) -> None:
    from sciflow.executor import Cause, JobState, Resources
    from sciflow.jobs import JobSpec

    empty: dict[str, Any] = {"members": [], "parameters": []}
    spec = JobSpec("members", {"component": "no_such_problem"}, str(directory / "out"), payload=empty)
    job = executor.submit(spec, directory, Resources())
    assert job.wait(60) == JobState.FAILED, (
        f"{executor.name}: an unknown problem ends as {job.state()}, asked for {JobState.FAILED}; the "
        "state is what the job's exit.json says"
    )
    assert "no_such_problem" in job.reason(), (
        f"{executor.name}: the reason is {job.reason()!r}; a failed job says what it failed of, by name"
    )
    assert job.cause() == Cause.FAILED, (
        f"{executor.name}: the cause is {job.cause()}, asked for {Cause.FAILED}: nobody ended it from outside"
    )
    assert (directory / "job.json").is_file(), (
        f"{executor.name}: no job.json in the run directory {directory}; write the spec there before the job "
        "starts"
    )
    job.cancel()
    assert job.state() == JobState.FAILED, (
        f"{executor.name}: cancelling an ended job changes its state to {job.state()}; then cancel "
        "does nothing"
    )
    assert job.id, f"{executor.name}: the job has no id; people find it by that"
    assert isinstance(job.events(), list), (
        f"{executor.name}: events() is no list but a {type(job.events()).__name__}"
    )
    assert isinstance(job.log(), str), f"{executor.name}: log() is no text but a {type(job.log()).__name__}"


def _submit_members(executor: Executor, directory: Path, problem: Problem, count: int) -> Job:
    """A job that solves members of one ensemble, as the stage ``simulate`` would submit it."""
    from sciflow.executor import Resources
    from sciflow.jobs import JobSpec
    from sciflow.schema import Schema
    from sciflow.stages.simulate import member_field
    from sciflow.store import Writer

    out = Writer(directory / "artifact", Schema("ensemble"), recipe="")
    sizes = problem.coordinates()
    for name, field in problem.fields.items():
        out.create(name, member_field(field), (count, *(len(sizes[a]) for a in field.axes)), member=True)
    point = [(p.low + p.high) / 2 for p in problem.parameters.values()]
    payload: dict[str, Any] = {"members": list(range(count)), "parameters": [point] * count}
    spec = JobSpec("members", problem.to_json(), str(out.path), payload=payload, seed=1)
    return executor.submit(spec, directory / "run", Resources())


def _committed(directory: Path) -> int:
    from sciflow.store import Writer

    return len(Writer.attach(directory / "artifact").committed())


def _check_good_job(executor: Executor, directory: Path, problem: Problem) -> None:
    from sciflow.executor import JobState

    job = _submit_members(executor, directory, problem, 2)
    state = job.wait(60)
    assert state == JobState.DONE, f"{executor.name}: a good job ends as {state}: {job.reason()}"
    assert job.wait(0) == JobState.DONE, (
        f"{executor.name}: waiting again changes the state to {job.state()}; an ended job stays as it ended"
    )
    assert job.reason() == "", (
        f"{executor.name}: a good job has the reason {job.reason()!r}; only a failed one has any"
    )
    ended = [e["member"] for e in job.events() if e["event"] == "member" and e["state"] == "ok"]
    assert ended == [0, 1], (
        f"{executor.name}: the events tell of the members {ended}, not of 0 and 1; give every line of the "
        "status file, in order"
    )
    assert job.events() == [], (
        f"{executor.name}: events() returns an event twice; each call gives what came since the last one"
    )
    assert _committed(directory) == 2, (
        f"{executor.name}: {_committed(directory)} of 2 members are there when the job is done; it "
        "must see the directory under the same path"
    )


def _check_cancelled_job(executor: Executor, directory: Path, problem: Problem) -> None:
    from sciflow.executor import JobState

    job = _submit_members(executor, directory, problem, 20_000)
    assert not job.wait(0.01).ended, (
        f"{executor.name}: a long job is {job.state()} at once; submit returns while it runs: {job.reason()}"
    )
    assert job.reason() == "", (
        f"{executor.name}: a running job has the reason {job.reason()!r}; only one that ended has any"
    )
    assert job.cause() is None, (
        f"{executor.name}: a running job has the cause {job.cause()}; only one that ended has any"
    )
    again = [other.id for other in executor.attach(job.directory)]
    if executor.queues:
        assert again == [job.id], (
            f"{executor.name}: attach() finds {again}, not the job {job.id}; jobs of a queue outlive their "
            "driver and are found again by their run directory"
        )
    until = time.monotonic() + 60
    while not any(e["event"] == "member" for e in job.events()):
        assert time.monotonic() < until, (
            f"{executor.name}: a job reports nothing for a minute: {job.log()[-200:]!r}"
        )
        job.wait(0.02)
    job.cancel()
    assert job.state() == JobState.CANCELLED, (
        f"{executor.name}: a cancelled job is {job.state()}; cancel returns when it has ended as "
        f"{JobState.CANCELLED}"
    )
    job.settle()
    again = [other.id for other in executor.attach(job.directory)]
    assert again == [], (
        f"{executor.name}: attach() finds {again}, whose end was dealt with; after settle it is forgotten"
    )
    before = _committed(directory)
    time.sleep(0.2)
    assert _committed(directory) == before, (
        f"{executor.name}: a cancelled job goes on solving members; end its process, on every node"
    )
