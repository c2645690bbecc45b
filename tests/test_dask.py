"""The Dask executor: workers that come and go; on this machine and as Slurm jobs."""

import asyncio
import subprocess
import sys

import pytest

from sciflow import Invalid, Resources, run
from sciflow.executors.dask import Dask
from sciflow.executors.local import Local
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from tests.conftest import ROOT
from tests.slurm.conftest import active, cluster, slurm_cluster, wait_until  # noqa: F401 - fixtures
from tests.toys import Wave

pytest.importorskip("distributed")

SCRIPT = """
import asyncio, sys
from sciflow import Resources, Store, run
from sciflow.executors.dask import Dask
from sciflow.flow import Session, within
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from tests.toys import Wave

async def flow(executor, fail):
    points = await run(Design(problem=Wave(), count=12))
    problem = Wave(fail=fail)
    stage, little = Simulate(problem, minimum=0.5), Resources(memory=0.4)
    data = await run(stage, design=points, executor=executor, resources=little)
    return f"{data.digest} {int((data.read('status') == 1).sum())}"

if __name__ == "__main__":
    with within(Session(Store(sys.argv[1]))):
        print(asyncio.run(flow(Dask(maximum=2, workers=sys.argv[2]), sys.argv[3])))
"""


def ensemble(tmp_path, workers, fail=""):
    """In a process of its own: a Dask cluster lives as long as its process."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "store"), workers, fail]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()[-2:]


def here(store, fail=""):
    from sciflow.flow import Session, within

    async def flow():
        points = await run(Design(problem=Wave(), count=12))
        return await run(Simulate(Wave(fail=fail), minimum=0.5), design=points, executor=Local())

    with within(Session(store)):
        return asyncio.run(flow()).digest


def test_an_ensemble_on_dask_workers_is_that_of_this_process(store, tmp_path):
    assert ensemble(tmp_path, "processes") == [here(store), "12"]


@pytest.mark.torture
def test_a_member_that_kills_its_worker_is_recorded_and_the_others_go_on(tmp_path):
    _digest, good = ensemble(tmp_path, "processes", "kill")
    assert 6 <= int(good) < 12


@pytest.mark.slurm
def test_workers_are_slurm_jobs_that_are_gone_afterwards(cluster, store, tmp_path):  # noqa: F811
    assert ensemble(tmp_path, "slurm") == [here(store), "12"]
    wait_until(lambda: active() == [], "workers are left behind", 30)


def test_several_ranks_are_refused(tmp_path):
    from sciflow.jobs import JobSpec

    with pytest.raises(Invalid, match="jobs of one rank"):
        Dask().submit(JobSpec("members", {}, "x"), tmp_path, Resources(ranks=2))
    with pytest.raises(Invalid, match="at least one worker"):
        Dask(maximum=0)
