"""kill -9 of what runs a flow, of ranks and of Slurm's own daemons: nothing finished is computed again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sciflow.cli import main
from tests.slurm.conftest import active, next_job, wait_until

pytestmark = pytest.mark.slurm

FLOW = """
from pathlib import Path
from prefect import flow
from sciflow import Resources, run
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from tests.toys import Least, March

@flow
async def campaign(pause: float = 0.1, members: int = 12, ranks: int = 1) -> str:
    problem = March(levels=4, pause=pause)
    points = await run(Design(problem=problem, count=members))
    data = await run(Simulate(problem), design=points, resources=Resources(ranks=ranks))
    model = await run(Train(Least(epochs=4), ("a", "b"), ("u",)), ensemble=data)
    return " ".join(a.digest for a in (points, data, model))
"""
SITE = """
description = "of the tests"
[executor]
component = "slurm"
poll = 1.0
submits_per_minute = 10000
parallel = 4
[defaults]
memory = 0.3
threads = 1
"""


class Driver:
    """A flow in a process of its own, on the test's site."""

    def __init__(self, folder, *settings):
        (folder / "campaign.py").write_text(FLOW)
        (folder / "test_site.toml").write_text(SITE)
        self.folder = folder
        self.command = [
            sys.executable, "-m", "sciflow.cli", "run", "campaign.py", "--engine", "plain",
            "--site", "test_site.toml", "--store", "store", *(f"--set={s}" for s in settings),
        ]  # fmt: skip

    def start(self):
        self.log = self.folder / "driver.log"
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, stdout=out, stderr=out, start_new_session=True
            )
        return self.process

    def kill(self):
        """kill -9, of the driver alone."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self, seconds=120.0):
        if self.process.poll() is not None and self.process.returncode < 0:
            self.start()
        assert self.process.wait(seconds) == 0, self.log.read_text()[-3000:]
        return self.log.read_text().strip().splitlines()[-1]

    @property
    def computed(self):
        file = self.folder / "store" / "partial" / "computed"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def digests(self):
        found = (self.folder / "store" / "artifacts").glob("*/meta/manifest.json")
        return {p.parents[1].name: json.loads(p.read_text())["digest"] for p in found}


@pytest.fixture(scope="module")
def whole(slurm_cluster, tmp_path_factory):
    """An uninterrupted run: its digests, the jobs that it took, the levels that it computed."""
    driver = Driver(tmp_path_factory.mktemp("whole"))
    before = next_job()
    driver.start()
    driver.finish()
    return {"digests": driver.digests, "jobs": next_job() - before, "computed": driver.computed}


def same(driver, whole, jobs_before):
    assert driver.digests == whole["digests"]
    assert next_job() - jobs_before == whole["jobs"], "another number of jobs was submitted"
    assert sorted(driver.computed) == sorted(whole["computed"]), "finished time levels were computed again"


@pytest.mark.parametrize("delays", [(1.2, 0.9, 1.5, 2.5)])
def test_a_killed_driver_finds_its_jobs_again(cluster, whole, tmp_path, delays):
    driver, before = Driver(tmp_path), next_job()
    for delay in delays:
        driver.start()
        time.sleep(delay)
        driver.kill()
    driver.finish()
    same(driver, whole, before)


def test_a_driver_killed_with_its_submission_submits_nothing_twice(cluster, whole, tmp_path):
    """sbatch hears the job, its submitter does not hear the answer."""
    folder = tmp_path / "bin"
    folder.mkdir()
    slow = folder / "sbatch"
    slow.write_text('#!/bin/sh\nPATH=${PATH#*:}\nsbatch "$@" > /dev/null; touch heard; sleep 3; exit 1\n')
    slow.chmod(0o755)
    driver, before = Driver(tmp_path), next_job()
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{path}"
    try:
        driver.start()
    finally:
        os.environ["PATH"] = path
    wait_until((tmp_path / "heard").exists, "sbatch was not called")
    driver.kill()
    driver.start()
    driver.finish()
    same(driver, whole, before)


def test_the_controller_restarts_and_a_node_daemon_is_killed(cluster, whole, tmp_path):
    driver = Driver(tmp_path)
    driver.start()
    wait_until(lambda: driver.computed, "no member was begun")
    cluster("kill-node", "n1")
    cluster("restart-controller", "2")
    cluster("start-node", "n1")
    driver.finish()
    assert driver.digests == whole["digests"]
    assert sorted(driver.computed) == sorted(whole["computed"])


def test_a_killed_rank_is_tried_again(cluster, tmp_path):
    driver = Driver(tmp_path, "ranks=2", "pause=0.5", "members=3")
    driver.start()
    wait_until(lambda: len(driver.computed) > 2, "no member was begun")
    ranks = subprocess.run(
        ["pgrep", "-f", f"sciflow.worker --ranks 2 {tmp_path}"], capture_output=True, text=True
    )
    pids = [
        int(p) for p in ranks.stdout.split() if b"python" in Path(f"/proc/{p}/exe").resolve().name.encode()
    ]
    os.kill(pids[-1], signal.SIGKILL)
    driver.finish()
    assert "tried again" in driver.log.read_text()
    assert len(driver.digests) == 3
    # Of the member that lost its rank at most the level in flight is computed again.
    assert len(driver.computed) <= len(set(driver.computed)) + 1


def test_jobs_of_a_killed_driver_are_listed_and_can_be_cancelled(cluster, tmp_path, capsys):
    driver = Driver(tmp_path, "pause=30")
    driver.start()
    wait_until(lambda: sum("RUNNING" in line for line in active()) >= 2, "no job runs")
    driver.kill()
    store = str(tmp_path / "store")
    assert main(["jobs", "--store", store]) == 0
    text = capsys.readouterr().out
    assert "ensemble-" in text
    assert "members" in text
    assert "running" in text or "queued" in text
    assert main(["jobs", "--store", store, "--cancel"]) == 0
    assert active() == []
    assert main(["jobs", "--store", store]) == 0
    assert "no job of" in capsys.readouterr().out


def test_a_full_disk_is_said_and_what_was_there_stays(cluster, whole, tmp_path):
    """The store is on a file system that is too small, then on one that is not."""
    place = tmp_path / "store"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place], capture_output=True
    ).returncode:
        pytest.skip("a small file system can only be mounted as root")
    try:
        driver = Driver(tmp_path)
        driver.start()
        assert driver.process.wait(120) == 1
        assert "No space left on device" in driver.log.read_text() or "cannot write" in driver.log.read_text()
        assert active() == []
        subprocess.run(["mount", "-o", "remount,size=100m", place], check=True)
        driver.start()
        driver.finish()
        assert driver.digests == whole["digests"]
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.torture
def test_many_killed_drivers(cluster, whole, tmp_path):
    chance = random.Random(5)
    kills, rounds = 0, 0
    while kills < 50:
        rounds += 1
        folder = tmp_path / str(rounds)
        folder.mkdir()
        driver, before = Driver(folder), next_job()
        for _ in range(chance.randrange(1, 5)):
            driver.start()
            time.sleep(chance.uniform(0.3, 6.0))
            if driver.process.poll() is None:
                driver.kill()
                kills += 1
        driver.finish()
        same(driver, whole, before)
        assert active() == []
