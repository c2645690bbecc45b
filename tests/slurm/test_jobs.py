"""On a real Slurm: jobs that end well, and every way in which they do not."""

import asyncio
import subprocess
import threading
import time

import pytest

from sciflow import Resources, run
from sciflow.errors import Failed
from sciflow.executor import Cause, JobState, cancel_all
from sciflow.executors.local import Local
from sciflow.executors.mpi import Mpi
from sciflow.flow import Session, within
from sciflow.jobs import JobSpec
from sciflow.schema import Field
from sciflow.site import Place, Site
from sciflow.stages.design import Design
from sciflow.stages.simulate import ENSEMBLE, Simulate
from sciflow.stages.train import Train
from sciflow.store import Store
from sciflow.testing import check_executor
from tests.slurm.conftest import QUICK, SMALL, active, wait_until
from tests.toys import Least, March, Wave

pytestmark = pytest.mark.slurm
MB = 1 / 1024


def members(store, problem, count=2, recipe="b"):
    """A job that solves members into an artifact that is being written."""
    with store.writer(ENSEMBLE, recipe * 64) as out:
        sizes = problem.coordinates()
        for name, field in problem.fields.items():
            shape = (count, *(len(sizes[a]) for a in field.axes))
            out.create(name, Field(("member", *field.axes), field.unit, field.dtype), shape, member=True)
    payload = {"members": list(range(count)), "parameters": [[1.9, 0.5]] * count}
    return JobSpec("members", problem.to_json(), str(out.path), payload=payload), out


def started(job):
    wait_until(lambda: any(e["event"] == "member" for e in job.events()), "the job did not start")


def within_session(here, work):
    with within(here):
        return asyncio.run(work)


def levels(store):
    """The time levels that were computed, in order."""
    file = store.root / "partial" / "computed"
    return [int(line.split()[1]) for line in file.read_text().splitlines()] if file.exists() else []


def test_the_executor_conforms(cluster, tmp_path):
    check_executor(QUICK, tmp_path)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_job_reports_and_ends(cluster, store, tmp_path, ranks):
    spec, out = members(store, Wave())
    job = QUICK.submit(spec, tmp_path / "run", Resources(ranks=ranks, memory=0.3, nodes=ranks))
    assert job.wait(120) == JobState.DONE, job.log()
    assert job.reason() == ""
    assert job.cause() is None
    events = job.events()
    assert [e["state"] for e in events if e["event"] == "member"] == ["started", "ok"] * 2
    assert next(e for e in events if e["event"] == "start")["ranks"] == ranks
    assert sorted(out.committed()) == [0, 1]


def test_every_stage_is_a_job_and_the_artifacts_are_those_of_this_process(cluster, tmp_path):
    # Sums depend on the number of threads in the last bit, and this process may have others.
    same = {"memory": 0.3, "threads": 1}
    site = Site("test", "", 1, QUICK, same, {"design": Place("job")})

    def campaign(store, site):
        async def flow():
            points = await run(Design(problem=March(), count=7, seed=3))
            data = await run(Simulate(March(), seed=3), design=points, resources=Resources(ranks=2))
            model = await run(Train(Least(), ("a", "b"), ("u",)), ensemble=data)
            return [a.digest for a in (points, data, model)]

        made = Session(store, "test", site=site)
        with within(made):
            return asyncio.run(flow())

    here = campaign(Store(tmp_path / "a"), Site("here", executor=Mpi(), defaults=same))
    there = campaign(Store(tmp_path / "b"), site)
    assert there == here


def test_an_error_is_the_reason(cluster, store, here):
    points = asyncio.run(run(Design(problem=Wave(), count=12)))
    data = asyncio.run(run(Simulate(Wave()), design=points, executor=Local()))
    train = Train(Least(stop_at=3), ("a", "b"), ("u",))
    with pytest.raises(Failed, match="the power went.*run directory"):
        asyncio.run(run(train, ensemble=data, executor=QUICK, resources=SMALL))


def test_ranks_that_do_not_see_each_other_are_refused(cluster, store, tmp_path):
    pytest.importorskip("mpi4py")
    spec, _ = members(store, Wave())
    job = QUICK.replace(launcher="srun", mpi="none").submit(
        spec, tmp_path / "run", Resources(ranks=2, memory=0.3)
    )
    assert job.wait(120) == JobState.FAILED
    assert "--mpi" in job.reason() or "PMI" in job.log(), (job.reason(), job.log())


@pytest.mark.torture  # test_ui has the same with a whole run
def test_a_job_cancelled_by_hand_is_cancelled(cluster, store, tmp_path):
    spec, _ = members(store, Wave(pause=60.0))
    job = QUICK.submit(spec, tmp_path / "run", SMALL)
    started(job)
    subprocess.run(["scancel", job.id], check=True)
    assert job.wait(120) == JobState.CANCELLED
    assert job.cause() == Cause.CANCELLED
    assert "scancel" in job.reason()


def test_cancelling_leaves_an_empty_queue(cluster, store, tmp_path):
    spec, _ = members(store, Wave(pause=60.0))
    specs = [JobSpec(spec.task, spec.component, spec.output, payload=spec.payload) for _ in range(12)]
    jobs = QUICK.submit_all(specs, tmp_path / "run", SMALL, 3)
    started(jobs[0])
    begin = time.monotonic()
    cancel_all(jobs)
    assert time.monotonic() - begin < 20
    assert active() == []
    assert {job.state() for job in jobs} == {JobState.CANCELLED}


@pytest.mark.parametrize(("command", "state"), [("true", JobState.DONE), ("false", JobState.CANCELLED)])
def test_a_job_waits_for_one_of_somebody_elses(cluster, store, tmp_path, command, state):
    """If that one fails, ours is cancelled instead of waiting for ever."""
    before = subprocess.run(
        ["sbatch", "--parsable", "--mem=50M", "-o", "/dev/null", "--wrap", f"sleep 1; {command}"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    spec, _ = members(store, Wave())
    after = Resources(memory=0.3, extra=(f"--dependency=afterok:{before}",))
    job = QUICK.submit(spec, tmp_path / "run", after)
    assert job.wait(120) == state, job.reason()


def test_a_job_that_runs_out_of_memory_says_so(cluster, store, tmp_path):
    spec, _ = members(store, Wave(fail="hog"))
    job = QUICK.submit(spec, tmp_path / "run", Resources(memory=200 * MB))
    assert job.wait(120) == JobState.FAILED
    assert job.cause() == Cause.OUT_OF_MEMORY, (job.reason(), job.log())
    assert "ask for more (memory" in job.reason()


def goes_on_after_a_warning(store, tmp_path, problem, resources, warn):
    spec, out = members(store, problem, 1)
    job = QUICK.submit(spec, tmp_path / "run", resources)
    started(job)
    warn(job)
    assert job.wait(200) == JobState.DONE, (job.reason(), job.log())
    starts = (job.directory / "status.jsonl").read_text().count('"event": "start"')
    assert starts >= 2, "it was not requeued"
    done = levels(store)
    assert sorted(set(done)) == list(range(problem.levels))
    assert len(done) <= problem.levels + starts - 1, "finished time levels were computed again"
    assert sorted(out.committed()) == [0]


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.torture), 2])
def test_a_warned_job_keeps_what_it_has_is_requeued_and_goes_on(cluster, store, tmp_path, ranks):
    """The signal is the one that Slurm sends before a time limit; Slurm looks at those twice a minute."""

    def warn(job):
        wait_until(lambda: len(levels(store)) > 2, "no time level was computed")
        subprocess.run(["scancel", "--batch", "--signal=USR1", job.id], check=True)

    limit = Resources(memory=0.3, minutes=5, ranks=ranks)
    goes_on_after_a_warning(store, tmp_path, March(levels=6, pause=0.3), limit, warn)


@pytest.mark.torture
def test_at_its_time_limit_a_job_goes_on_in_another_one(cluster, store, tmp_path):
    limit = Resources(memory=0.3, minutes=1, extra=("--signal=B:USR1@55",))
    goes_on_after_a_warning(store, tmp_path, March(levels=45, pause=1.0), limit, lambda job: None)


def test_a_preempted_job_goes_on(cluster, store, here):
    problem = March(levels=8, pause=0.5)
    points = asyncio.run(run(Design(problem=problem, count=1)))
    spare = Resources(memory=0.3, partition="spare", ranks=2, extra=("--exclusive",))
    thread = threading.Thread(
        target=lambda: within_session(
            here, run(Simulate(problem), design=points, executor=QUICK, resources=spare)
        )
    )
    thread.start()
    wait_until(lambda: len(levels(store)) >= 2, "the job did not start")
    subprocess.run(
        ["sbatch", "-N2", "--exclusive", "-t1", "-o", "/dev/null", "--wrap", "sleep 1"], check=True
    )
    thread.join(120)
    done = levels(store)
    assert sorted(set(done)) == list(range(8))
    assert len(done) <= 8 + 1, done
    # Slurm 22 leaves it to us to submit the job again, 24 requeues it.
    assert here.records[-1].state == "computed", here.records[-1].reason


def test_a_lost_node_does_not_lose_the_job(cluster, store, tmp_path):
    problem = March(levels=8, pause=0.5)
    spec, _ = members(store, problem, 1)
    job = QUICK.submit(spec, tmp_path / "run", Resources(memory=0.3, extra=("--nodelist=n2",)))
    started(job)
    time.sleep(1.0)
    subprocess.run(["scontrol", "update", "nodename=n2", "state=down", "reason=test"], check=True)
    time.sleep(0.5)
    subprocess.run(["scontrol", "update", "nodename=n2", "state=resume"], check=False, capture_output=True)
    assert job.wait(120) == JobState.DONE, (job.reason(), job.log())
    assert len(levels(store)) <= 8 + 1
