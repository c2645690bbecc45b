"""A whole flow inside one allocation, as `sbatch hpc/flow.sbatch` starts it."""

import os
import subprocess
import sys
import time

import pytest

from sciflow.executors.steps import processors
from tests.conftest import ROOT
from tests.slurm.conftest import active, wait_until
from tests.slurm.test_survival import Driver

pytestmark = pytest.mark.slurm


@pytest.fixture
def launched(cluster, tmp_path):
    """Submits flow.sbatch; returns the job's id."""

    def launch(driver, *options):
        flow = ["campaign.py", "--store", "store", *driver.command[driver.command.index("store") + 1 :]]
        wrapper = tmp_path / "sciflow"
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m sciflow.cli "$@"\n')
        wrapper.chmod(0o755)
        done = subprocess.run(
            ["sbatch", "--parsable", "--ntasks=4", "--mem-per-cpu=300M", "--output=flow.log", *options,
             str(ROOT / "hpc" / "flow.sbatch"), *flow],
            cwd=tmp_path, env={**os.environ, "SCIFLOW": str(wrapper)}, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        return done.stdout.strip()

    return launch


def log(folder):
    file = folder / "flow.log"
    return file.read_text() if file.exists() else ""


def test_stages_are_steps_of_the_allocation(launched, tmp_path):
    driver = Driver(tmp_path, "ranks=2", "members=5", "pause=0.02")
    launched(driver, "-N2")
    wait_until(lambda: not active(), "the flow did not end")
    assert len(driver.digests) == 3, log(tmp_path)
    assert len(driver.computed) == 5 * 4


@pytest.mark.torture
def test_a_flow_that_is_warned_goes_on_after_a_requeue(launched, tmp_path):
    driver = Driver(tmp_path, "ranks=2", "members=3", "pause=0.25")
    job = launched(driver)
    wait_until(lambda: len(driver.computed) > 3, "no member was begun")
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], check=True)
    wait_until(lambda: "requeued" in log(tmp_path), log(tmp_path))
    time.sleep(1)
    wait_until(lambda: not active(), "the flow did not end")
    assert len(driver.digests) == 3, log(tmp_path)
    assert len(set(driver.computed)) == 12
    # Two members were under way, each of which may repeat the level in flight.
    assert len(driver.computed) <= 12 + 2


def test_processors_of_an_allocation(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", "2(x3),4")
    assert processors() == 10
