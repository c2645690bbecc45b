import subprocess
import sys
import time

import pytest

from sciflow import Invalid, Missing, Resources
from sciflow.executor import JobState
from sciflow.executors.local import Local, cores
from sciflow.executors.mpi import Mpi, environment, launcher
from sciflow.jobs import JobSpec
from sciflow.schema import Field
from sciflow.stages.simulate import ENSEMBLE
from sciflow.store import Store
from tests.toys import Wave


def members(store, pause, count=4):
    """A job that solves members into an artifact that is being written."""
    with store.writer(ENSEMBLE, "b" * 64) as out:
        out.create("u", Field(("member", "time", "x"), "K"), (count, 3, 8), member=True)
        out.create("q", Field(("member", "x"), "W", "float64"), (count, 8), member=True)
    payload = {"members": list(range(count)), "parameters": [[1.0, 0.5]] * count}
    return JobSpec("members", Wave(pause=pause).to_json(), str(out.path), payload=payload), out


@pytest.mark.parametrize("executor", [Local(), Mpi()])
def test_a_job_reports_and_ends(store, tmp_path, executor):
    spec, out = members(store, 0.0)
    job = executor.submit(spec, tmp_path / "run", Resources())
    assert job.wait(60) == JobState.DONE
    assert job.reason() == ""
    states = [e["state"] for e in job.events() if e["event"] == "member"]
    assert states == ["started", "ok"] * 4
    assert sorted(out.committed()) == [0, 1, 2, 3]


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2])
def test_cancelling_ends_every_rank_soon(store, tmp_path, ranks):
    spec, _ = members(store, 30.0)
    job = Mpi().submit(spec, tmp_path / "run", Resources(ranks=ranks))
    end = time.monotonic() + 30
    while not any(e["event"] == "member" for e in job.events()) and time.monotonic() < end:
        time.sleep(0.05)
    begin = time.monotonic()
    job.cancel()
    assert time.monotonic() - begin < 10
    assert job.state() == JobState.CANCELLED


def test_a_time_limit_ends_a_job(store, tmp_path):
    spec, _ = members(store, 30.0)
    job = Mpi().submit(spec, tmp_path / "run", Resources(minutes=0.03))
    assert job.wait(30) == JobState.FAILED
    assert job.reason() == "the time limit was reached"


def test_a_missing_launcher_is_named(tmp_path):
    spec = JobSpec("members", Wave().to_json(), str(tmp_path))
    with pytest.raises(Missing, match="'no_such_mpirun' is not on the PATH.*openmpi-bin"):
        Mpi("no_such_mpirun").submit(spec, tmp_path / "run", Resources(ranks=2))


def test_threads_fit_the_cores():
    assert environment(0, 1)["OMP_NUM_THREADS"] == str(cores())
    assert environment(0, 10**6)["OMP_NUM_THREADS"] == "1"
    assert environment(3, 2)["OMP_NUM_THREADS"] == "3"


@pytest.mark.mpi
def test_ranks_start_from_a_process_that_began_mpi_by_itself():
    """Such a process leaves its MPI identity to its children, and mpirun then ends in silence."""
    pytest.importorskip("mpi4py")
    launcher("mpirun")
    inner = (
        "import subprocess, sys\n"
        "from sciflow.executors.mpi import Mpi, environment\n"
        "command = Mpi().command(2)\n"
        "command = [*command[: command.index(sys.executable)], 'hostname']\n"
        "done = subprocess.run(command, env=environment(1, 2), capture_output=True, text=True)\n"
        "print(done.returncode, len(done.stdout.split()))\n"
    )
    outer = (
        f"from mpi4py import MPI\nimport subprocess, sys\nsubprocess.run([sys.executable, '-c', {inner!r}])"
    )
    done = subprocess.run([sys.executable, "-c", outer], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "2"], done.stderr


@pytest.mark.parametrize("asked", [{"ranks": 0}, {"threads": -1}, {"minutes": -1.0}])
def test_impossible_resources_are_refused(asked):
    with pytest.raises(Invalid, match=next(iter(asked))):
        Resources(**asked)


@pytest.mark.parametrize(("requires", "together"), [((), 2), (("mpi4py",), 1)])
def test_threads_that_need_mpi_wait_for_each_other(tmp_path, monkeypatch, requires, together):
    running, most, solve = [], [], Wave.solve

    def watched(self, mu, ctx):
        running.append(mu)
        most.append(len(running))
        try:
            yield from solve(self, mu, ctx)
        finally:
            running.pop()

    monkeypatch.setattr(Wave, "solve", watched)
    monkeypatch.setattr(Wave, "requires", requires)
    jobs = []
    for name in ("a", "b"):
        spec, _ = members(Store(tmp_path / name), 0.1)
        jobs.append(Local().submit(spec, tmp_path / name / "run", Resources()))
    assert [job.wait(60) for job in jobs] == [JobState.DONE] * 2, [job.reason() for job in jobs]
    assert max(most) == together
