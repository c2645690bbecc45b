"""What tests of whole online trainings share: a small run, and a look at the processes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np

from sciflow import Resources, run
from sciflow.flow import Session, within
from sciflow.stages.design import Design
from sciflow.store import Store
from sciflow_online.components import OnlineTrain
from sciflow_online.reservoirs import Reservoir
from sciflow_online.trainer import ADDRESS
from tests.online.toys import Mean, Moody


def stage(problem=None, surrogate=None, **more):
    """An online training that takes about a second."""
    more = {
        "inputs_of": ("a", "q", "time"), "outputs_of": ("u",), "window": (0, 1), "train": 0.6, "valid": 0.2,
        "reservoir": Reservoir(capacity=24, threshold=4), "checkpoint_seconds": 0.0, **more,
    }  # fmt: skip
    return OnlineTrain(problem or Moody(), surrogate or Mean(), **more)


def session(root):
    """A session of its own whose events are kept."""
    made = Session(Store(Path(root)), "test")
    made.events = []
    made.listener = lambda stage, event: made.events.append((stage, event))
    return made


def train(here, made, count=20, **resources):
    """The model, within a session."""

    async def flow():
        points = await run(Design(problem=made.problem, count=count))
        return await run(made, design=points, resources=Resources(**{"parallel": 1, **resources}))

    with within(here):
        return asyncio.run(flow())


def messages(here, level="WARNING"):
    """What was logged at a level or above it."""
    ranks = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    wanted = ranks[ranks.index(level) :]
    return [e["message"] for _, e in here.events if e["event"] == "log" and e["level"] in wanted]


def running(text):
    """Pids of processes, other than this one, with a text in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(text).encode() in words:
                found.append(int(entry.name))
    return found


def wait_until(check, message, seconds=120.0):
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, message
        time.sleep(0.05)
    return found


def jobs(root, role):
    """Run directories of the jobs with a role below a store, the latest last, with their pids."""
    found = []
    for spec in Path(root).glob("partial/*/scratch/job-*/**/job.json"):
        if json.loads(spec.read_text())["payload"].get("role") != role:
            continue
        status = spec.with_name("status.jsonl")
        for line in status.read_text().splitlines() if status.exists() else ():
            event = json.loads(line)
            if event["event"] == "start":
                found.append((event.get("time", 0), event["pid"], spec.parent))
    return [(pid, folder) for _, pid, folder in sorted(found)]


def settled_uses(model, total, uses):
    """Every sample of the training came once, and was drawn so often on average."""
    histogram = model.read("uses")
    assert histogram.sum() == total
    assert int((histogram * np.arange(len(histogram))).sum()) == total * uses


def kill(pid, number=signal.SIGKILL):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Apart:
    """A training in a thread of this process; its jobs are processes of their own."""

    def __init__(self, root, made, count=10, site=None, **resources):
        self.here, self.root, self.model, self.error = session(root), Path(root), None, None
        self.here.site = site or self.here.site

        def work():
            try:
                self.model = train(self.here, made, count, **resources)
            except Exception as error:  # told to the test by `end`
                self.error = error

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def metrics(self):
        return sum(e["event"] == "metric" for _, e in self.here.events)

    def job(self, role):
        """The pid of the latest job with a role that runs."""
        alive = [p for p, _ in jobs(self.root, role) if Path(f"/proc/{p}").exists()]
        return alive[-1] if alive else None

    def wait_for_job(self, role):
        return wait_until(lambda: self.job(role), f"no {role} started")

    @property
    def address(self):
        (found,) = wait_until(
            lambda: list(self.root.glob(f"partial/*/scratch/online/{ADDRESS}")), "no address"
        )
        return found

    def end(self, seconds=120):
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "the run does not end"
        if self.error is not None:
            raise self.error
        return self.model
