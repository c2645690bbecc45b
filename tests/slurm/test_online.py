"""Online training on a real Slurm: the trainer first, solvers as an array, and what dies is replaced."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sciflow import Resources
from sciflow.artifact import Artifact
from sciflow.site import Site
from sciflow_online.trainer import ADDRESS
from tests.online.runs import Apart, jobs, messages, settled_uses, stage
from tests.online.toys import Mean, Moody
from tests.slurm.conftest import QUICK, active, next_job, wait_until

pytest.importorskip("zmq")
pytestmark = pytest.mark.slurm
DEFAULTS = {"memory": 0.3, "threads": 1}
SITE = Site("test", "", 1, QUICK, DEFAULTS, {})


def apart(root, made):
    """A training whose jobs, and the stage itself, are Slurm's."""
    return Apart(root, made, site=SITE, parallel=2, **DEFAULTS)


def slurm_stage(problem, surrogate=None, **more):
    return stage(problem, surrogate, trainer=Resources(**DEFAULTS), **more)


def submitted(root, role):
    return sorted(
        s
        for s in Path(root).glob("partial/*/scratch/job-*/**/job.json")
        if json.loads(s.read_text())["payload"].get("role") == role
    )


def test_solvers_are_an_array_and_one_that_dies_is_replaced(cluster, tmp_path):
    before = next_job()
    one = apart(tmp_path, slurm_stage(Moody(pause=0.25), keep=True))
    wait_until(lambda: one.metrics() >= 1, "no report")
    host = json.loads(one.address.read_text())["endpoints"][0].removeprefix("tcp://").split(":")[0]
    assert host != "127.0.0.1", "solvers on other nodes could not reach it"
    (trainer_id,) = [i for i in ids() if "_" not in i]
    elements = [i for i in ids() if "_" in i]
    assert len({i.split("_")[0] for i in elements}) == 1
    assert len(elements) == 2
    assert int(trainer_id) == before, "the trainer is submitted first"
    subprocess.run(["scancel", elements[0]], check=True)
    wait_until(lambda: len(submitted(tmp_path, "solver")) > 2, "no solver takes its place")
    victim = [p for p, _ in jobs(tmp_path, "solver") if Path(f"/proc/{p}").exists()]
    os.kill(victim[0], signal.SIGKILL)
    model = one.end(90)
    settled_uses(model, 6 * 4, 4)
    assert model.attributes["failures"] == {}
    wait_until(lambda: active() == [], "a job of the run is still there")


def ids():
    lines = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i"], capture_output=True, text=True, check=True
    )
    return lines.stdout.split()


DRIVER = """
import sys
import tests.conftest
from tests.slurm.test_online import apart, slurm_stage
from tests.online.toys import Moody
one = apart(sys.argv[1], slurm_stage(Moody(pause=0.25)))
one.thread.join()
if one.error:
    raise one.error
print(one.model.path)
"""


def test_a_driver_that_is_killed_and_comes_back_submits_nothing_twice(cluster, tmp_path):
    before = next_job()

    def drive():
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )

    first = drive()
    wait_until(lambda: list(tmp_path.glob(f"partial/*/scratch/online/{ADDRESS}")), "no trainer")
    wait_until(lambda: len(submitted(tmp_path, "solver")) == 2, "no solvers")
    first.kill()
    first.wait()
    first.stdout.close()
    assert active(), "the jobs live on"
    said, _ = (second := drive()).communicate(timeout=90)
    assert second.returncode == 0
    settled_uses(Artifact.open(said.strip()), 6 * 4, 4)
    assert next_job() - before == 3, "a trainer and two solvers"


@pytest.mark.torture
def test_a_trainer_whose_time_is_over_is_continued_by_the_next(cluster, tmp_path):
    """Slurm warns it with a signal; here one like it comes from the test."""
    one = apart(tmp_path, slurm_stage(Moody(pause=0.15), Mean(step=0.02)))
    wait_until(lambda: one.metrics() >= 1, "no report")
    ((pid, _),) = jobs(tmp_path, "trainer")
    os.kill(pid, signal.SIGUSR1)
    model = one.end(90)
    settled_uses(model, 6 * 4, 4)
    assert any("training goes on after report" in m for m in messages(one.here, "INFO"))
    assert len(model.read("history_draws")) == 4
