"""A job of Slurm's: what its files say first, then the queue, then the accounting."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from sciflow.context import Event
from sciflow.executor import Cause, Job, JobState
from sciflow.jobs import LOG, EventReader, tail
from sciflow.slurm import commands
from sciflow.slurm.commands import Entry, Unreachable
from sciflow.slurm.ends import ACTIVE, NEVER, cause_of
from sciflow.slurm.queue import Queue

ENDED_FILE, SETTLED = "ended", "settled"
GRACE = 20.0
"""Seconds that the files of a job may take to reach this machine after the queue says it has ended."""
SOON = 1.0
"""The same where it is clear how the job ended."""
PATIENCE = 60.0
"""Seconds that a cancelled job may take to leave the queue."""


class SlurmJob(Job):
    """A submitted job, or an element of an array.

    Parameters
    ----------
    job : str
        ``"123"`` or ``"123_4"``.
    directory : Path
        Its run directory.
    nonce : str
        Of its job file.
    name : str
        Of the job in the queue.
    queue : Queue
        Where to look.
    accounting : bool
        Whether to ask ``sacct`` about a job that the controller has forgotten.
    """

    def __init__(
        self, job: str, directory: Path, nonce: str, name: str, queue: Queue, *, accounting: bool
    ) -> None:
        self.id = job
        self.directory = directory
        self._nonce = nonce
        self._name = name
        self._queue = queue
        self._accounting = accounting
        self._reader = EventReader(directory)
        self._started = False
        self._state: JobState | None = None
        self._cause: Cause | None = None
        self._said = ""
        self._missed: float | None = None
        self._told = ""
        queue.watch(job)
        self._known = queue.looks

    def state(self) -> JobState:
        """See `Job.state`."""
        if self._state is not None:
            return self._state
        from sciflow.worker import read_exit

        record = read_exit(self.directory, self._nonce)
        if record is not None and not record.get("again"):
            if record["code"] == 0:
                return self._end(JobState.DONE)
            where = f" (rank {record['rank']})" if record.get("rank") else ""
            return self._end(JobState.FAILED, Cause.FAILED, f"{record['reason']}{where}")
        if (self.directory / ENDED_FILE).exists():
            self._queue.hurry()
        return self._of_queue(self._queue.entry(self.id))

    def _of_queue(self, entry: Entry | None) -> JobState:
        """The state as far as the queue knows, when the files leave it open."""
        if entry is not None and entry.name in ("", self._name):
            self._known = self._queue.looks
        else:
            # One look may fall between two states; a network between two answers.
            if self._queue.looks - self._known < 2:
                return JobState.RUNNING if self._started else JobState.QUEUED
            entry = self._accounted()
            if entry is None:
                return JobState.RUNNING if self._started else JobState.QUEUED
        if entry.state in ACTIVE:
            self._missed = None
            self._told = entry.reason if entry.state == "PENDING" else ""
            return JobState(ACTIVE[entry.state])
        # What it wrote last may still be on its way through a network file system.
        self._missed = self._missed or time.monotonic()
        cause = cause_of(entry.state, tail(self.directory / LOG, 30))
        if cause in (Cause.FAILED, Cause.LOST) and self._told_to_stop():
            # It left before Slurm had to end it, which is how most preemptions go.
            cause = Cause.PREEMPTED
        clear = cause not in (Cause.FAILED, Cause.LOST) or (self.directory / ENDED_FILE).exists()
        if time.monotonic() - self._missed < (SOON if clear else GRACE):
            return JobState.RUNNING
        state = JobState.CANCELLED if cause == Cause.CANCELLED else JobState.FAILED
        return self._end(state, cause, self._sentence(cause, entry))

    def _told_to_stop(self) -> bool:
        from sciflow.worker import read_exit

        record = read_exit(self.directory, self._nonce)
        return bool(record and record.get("again"))

    def _accounted(self) -> Entry | None:
        """What is left to know of a job that the controller has forgotten; None to wait on."""
        if self._accounting:
            try:
                found = commands.accounted([self.id]).get(self.id)
            except Unreachable:
                return None
            if found is not None and found.name == self._name:
                return found
        return Entry("FORGOTTEN")

    def _sentence(self, cause: Cause, entry: Entry) -> str:
        on = f" on {entry.node}" if entry.node else ""
        why = f", {entry.reason}" if entry.reason else ""
        known = f"job {self.id}{on} ended as {entry.state}{why}"
        advice = {
            Cause.OUT_OF_MEMORY: "it ran out of memory: ask for more (memory = GiB of a node)",
            Cause.TIME_LIMIT: "it reached its time limit: ask for more (minutes = ...)",
            Cause.NODE_FAILURE: "its node failed",
            Cause.PREEMPTED: "it was preempted",
            Cause.CANCELLED: "it was cancelled outside of this run (scancel)",
            Cause.LOST: "it left no result (does its node see this directory?)",
        }.get(cause, "it failed")
        code = ""
        if cause == Cause.FAILED and (self.directory / ENDED_FILE).exists():
            from sciflow.executors.mpi import ended

            # Empty where the disk was full.
            number = (self.directory / ENDED_FILE).read_text().rpartition(" ")[2].strip()
            code = f", {ended(int(number))}" if number.isdigit() else ""
        return f"{advice} ({known}{code})"

    def _end(self, state: JobState, cause: Cause | None = None, said: str = "") -> JobState:
        self._state, self._cause, self._said = state, cause, said
        self._queue.forget(self.id)
        return state

    def wait(self, timeout: float | None = None) -> JobState:
        """See `Job.wait`."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            state = self.state()
            if state.ended or (until is not None and time.monotonic() >= until):
                return state
            left = 0.1 if until is None else until - time.monotonic()
            time.sleep(max(0.0, min(0.1, left)))

    def waits_for(self) -> str:
        """See `Job.waits_for`: Slurm's word, with a remark where waiting does not help."""
        if not self._told or self._state is not None:
            return ""
        stuck = any(sign.lower() in self._told.lower() for sign in NEVER)
        return f"{self._told}; that does not pass by itself" if stuck else self._told

    def cancel(self) -> None:
        """See `Job.cancel`."""
        self.cancel_many([self])

    @classmethod
    def cancel_many(cls, jobs: Sequence[SlurmJob]) -> None:
        """See `Job.cancel_many`: one ``scancel`` for all, then until they have left the queue."""
        left_over = [job for job in jobs if not job.state().ended]
        if not left_over:
            return
        ids = [job.id for job in left_over]
        try:
            commands.cancel(together(ids))
            left = left_over[0]._queue.gone(ids, PATIENCE)
        except Unreachable:
            # The controller is away: it is asked once more, and the jobs are found again by a later run.
            time.sleep(2.0)
            commands.cancel(together(ids))
            left = []
        for job in left_over:
            job.mark_cancelled()
            if job.id not in left:
                job.settle()

    def mark_cancelled(self) -> None:
        """Take note that this process cancelled it."""
        if self._state is None:
            self._end(JobState.CANCELLED, Cause.CANCELLED, "the run was cancelled")

    def events(self) -> list[Event]:
        """See `Job.events`."""
        found = self._reader.new()
        self._started = self._started or bool(found)
        return found

    def reason(self) -> str:
        """See `Job.reason`."""
        self.state()
        return self._said

    def cause(self) -> Cause | None:
        """See `Job.cause`."""
        self.state()
        return self._cause

    def settle(self) -> None:
        """See `Job.settle`."""
        (self.directory / SETTLED).touch()


def together(jobs: list[str]) -> list[str]:
    """The elements of each array as one word: ``3_1, 3_2`` as ``3_[1,2]``."""
    parents: dict[str, list[str]] = {}
    for job in jobs:
        parent, _, index = job.partition("_")
        parents.setdefault(parent, []).append(index)
    return [
        parent if group == [""] else f"{parent}_[{','.join(sorted(set(group), key=int))}]"
        for parent, group in parents.items()
    ]
