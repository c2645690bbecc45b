"""A real Slurm on this machine, started for the tests and stopped by its pids."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from sciflow import Resources
from sciflow.executors import slurm as executor_module
from sciflow.executors.slurm import Slurm
from sciflow.flow import Session, within
from sciflow.slurm import commands, queue
from tests.conftest import ROOT

LOCAL = ROOT / "hpc" / "local-slurm"
QUICK = Slurm(poll=1.0, submits_per_minute=10_000, parallel=4)
"""The executor of these tests; only the intervals differ from the defaults."""
SMALL = Resources(memory=0.3)


class Cluster:
    """Commands of the throw-away Slurm."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.env = {**os.environ, "SLURM_LOCAL_DIR": str(directory), "SLURM_LOCAL_PORT": str(port)}

    def __call__(self, *arguments: str) -> None:
        done = subprocess.run(
            [str(LOCAL), *arguments], env=self.env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr

    def pid(self, daemon: str) -> int:
        return int((self.directory / "run" / f"{daemon}.pid").read_text())


def free_ports() -> int:
    """The first of twenty free ports."""
    for base in range(16817 + 40 * (os.getpid() % 400), 60000, 40):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(base, base + 20):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    raise AssertionError("no free ports")


@pytest.fixture(scope="session")
def slurm_cluster():
    """Two virtual nodes of four processors and 4 GB."""
    absent = [
        b
        for b in ("slurmctld", "slurmd", "munged", "sbatch")
        if not shutil.which(b, path=f"{os.environ['PATH']}:/usr/sbin")
    ]
    if absent:
        pytest.skip(f"no Slurm to test with ({', '.join(absent)}): apt-get install slurm-wlm munge")
    # Sockets have short names, so the directory of the tests is too deep.
    directory = Path(tempfile.mkdtemp(prefix="slurm-"))
    directory.chmod(0o755)
    cluster = Cluster(directory, free_ports())
    cluster("start", "--nodes", "2", "--cpus", "4")
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(directory / "etc" / "slurm.conf")
    executor_module.protocols.cache_clear()
    executor_module.protocol.cache_clear()
    yield cluster
    cluster("stop")
    if before is None:
        del os.environ["SLURM_CONF"]
    else:
        os.environ["SLURM_CONF"] = before
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def cluster(slurm_cluster, tmp_path, monkeypatch):
    """The cluster, empty before and after the test."""
    monkeypatch.setenv("SCIFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(queue, "_QUEUES", {})
    yield slurm_cluster
    subprocess.run(["scancel", "--quiet", f"--user={os.getuid()}"], check=False)
    wait_until(lambda: not active(), "the queue did not empty")


@pytest.fixture
def here(store):
    """A session whose events are kept."""
    events = []
    made = Session(store, "test", listener=lambda stage, event: events.append((stage, event)))
    made.events = events
    with within(made):
        yield made


def active() -> list[str]:
    """Lines of the queue."""
    return commands.ask(["squeue", "--noheader", "--format=%i|%T|%j"]).split()


def next_job() -> int:
    """The id that the next job will get; grows by one for every job and every element of an array."""
    text = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=True).stdout
    line = next(x for x in text.splitlines() if x.startswith("NEXT_JOB_ID"))
    return int(line.split("=")[1])


def wait_until(check, message: str, seconds: float = 120.0):
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, message
        time.sleep(0.05)
    return found
