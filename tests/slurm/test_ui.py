"""What the Prefect UI shows of jobs, and what cancelling there does to them."""

import os
import subprocess
import sys

import pytest

from sciflow.errors import Cancelled, Ended
from sciflow.executor import Cause
from tests.slurm.conftest import active, wait_until
from tests.slurm.test_survival import SITE
from tests.test_prefect import api, eventually, served  # noqa: F401 - a fixture

pytestmark = [pytest.mark.slurm, pytest.mark.prefect]
pytest.importorskip("prefect")

FLOW = """
from prefect import flow
from sciflow import Resources, run
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from tests.toys import Wave

@flow
async def watched(problem: Wave = Wave(), count: int = 12, memory: float = 0.3) -> str:
    points = await run(Design(problem=problem, count=count))
    data = await run(Simulate(problem, attempts=1), design=points, resources=Resources(memory=memory))
    return data.digest
"""


def start(served, folder, *settings):  # noqa: F811
    (folder / "watched.py").write_text(FLOW)
    (folder / "site.toml").write_text(SITE)
    env = {**served["env"], "SLURM_CONF": os.environ["SLURM_CONF"], "SCIFLOW_STORE": str(folder / "store")}
    env.pop("PREFECT_API_URL")
    command = [sys.executable, "-m", "sciflow.cli", "run", "watched.py", "--site", "site.toml"]
    command += ["--engine", "prefect", *(f"--set={s}" for s in settings)]
    with (folder / "log").open("w") as log:
        return subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)


def the_run(served):  # noqa: F811
    (run, *_) = api(served, "flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
    return run


def ended(served, process, folder):  # noqa: F811
    assert process.wait(120) != 0, (folder / "log").read_text()

    def final():
        run = the_run(served)
        assert run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"), run["state"]
        return run

    return eventually(final)


def tasks(served, run):  # noqa: F811
    def look():
        found = api(served, "task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
        simulate = next(t["state"] for t in found if t["name"] == "simulate toy_wave")
        assert simulate["type"] not in ("RUNNING", "PENDING")
        return simulate

    return eventually(look)


def test_cancelling_in_the_ui_empties_the_queue(cluster, served, tmp_path):  # noqa: F811
    process = start(served, tmp_path, "problem.pause=60")
    wait_until(lambda: sum("RUNNING" in line for line in active()) >= 2, (tmp_path / "log").read_text())
    run = eventually(lambda: the_run(served))
    api(served, f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    wait_until(lambda: active() == [], "jobs are left in the queue")
    run = ended(served, process, tmp_path)
    assert run["state"]["type"] == "CANCELLED"
    assert "in the Prefect UI" in run["state"]["message"]
    assert tasks(served, run)["type"] == "CANCELLED"
    assert process.returncode == 143


def test_a_job_cancelled_by_hand_cancels_its_run(cluster, served, tmp_path):  # noqa: F811
    process = start(served, tmp_path, "problem.pause=60")
    running = wait_until(lambda: [x for x in active() if "RUNNING" in x], (tmp_path / "log").read_text())
    subprocess.run(["scancel", running[0].split("|")[0]], check=True)
    run = ended(served, process, tmp_path)
    assert run["state"]["type"] == "CANCELLED"
    assert "scancel" in run["state"]["message"]
    assert active() == [], "the other jobs of the run go on"


def test_the_reason_and_the_end_of_the_log_are_shown(cluster, served, tmp_path):  # noqa: F811
    settings = ("problem.fail=hog", "problem.above=0.0", "memory=0.2", "count=4")
    run = ended(served, start(served, tmp_path, *settings), tmp_path)
    assert run["state"]["type"] == "FAILED", run["state"]
    assert "ran out of memory: ask for more" in run["state"]["message"]


@pytest.mark.parametrize(
    ("cause", "kind", "name"),
    [
        (Cause.TIME_LIMIT, "FAILED", "TimedOut"),
        (Cause.OUT_OF_MEMORY, "FAILED", "OutOfMemory"),
        (Cause.NODE_FAILURE, "CRASHED", "NodeFailure"),
        (Cause.PREEMPTED, "CRASHED", "Preempted"),
        (Cause.LOST, "CRASHED", "Lost"),
        (Cause.FAILED, "FAILED", "Failed"),
    ],
)
def test_every_end_is_a_state_with_the_reason_and_the_end_of_the_log(cause, kind, name):
    from sciflow.server.engine import state_of

    state = state_of(Ended("the reason", cause, "line 1\nline 2"))
    assert (state.type.value, state.name) == (kind, name)
    assert "the reason" in state.message
    assert "line 2" in state.message
    assert state_of(Cancelled("by hand")).type.value == "CANCELLED"
