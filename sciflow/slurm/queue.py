"""One look at the queue for all jobs of this process, and not too often."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

from sciflow.slurm import commands
from sciflow.slurm.commands import Entry, Unreachable
from sciflow.slurm.ends import ENDED

SLOWEST = 60.0
"""Longest time between two looks, s; reached while nothing changes."""


class Queue:
    """What the controller last said of the jobs that somebody here waits for.

    Parameters
    ----------
    interval : float
        Shortest time between two looks, s.

    Attributes
    ----------
    looks : int
        How often the controller answered.
    """

    def __init__(self, interval: float = 10.0) -> None:
        self.interval = interval
        self.looks = 0
        self._pause = interval
        self._watched: dict[str, int] = {}
        self._entries: dict[str, Entry] = {}
        self._last = float("-inf")
        self._lock = threading.Lock()

    def watch(self, job: str) -> None:
        """Ask for a job (of an array for the whole) from now on."""
        with self._lock:
            parent = job.partition("_")[0]
            self._watched[parent] = self._watched.get(parent, 0) + 1
            self._pause = self.interval

    def forget(self, job: str) -> None:
        """No longer ask for it."""
        with self._lock:
            parent = job.partition("_")[0]
            left = self._watched.get(parent, 1) - 1
            if left:
                self._watched[parent] = left
            else:
                self._watched.pop(parent, None)

    def hurry(self) -> None:
        """Something is known to have happened: look again as soon as the interval allows."""
        with self._lock:
            self._pause = self.interval

    def entry(self, job: str) -> Entry | None:
        """What the controller last said of a job; None if it said nothing. May look."""
        with self._lock:
            if time.monotonic() - self._last >= self._pause:
                self._look()
            return self._entries.get(job)

    def _look(self) -> None:
        parents = list(self._watched)
        if not parents:
            return
        self._last = time.monotonic()
        try:
            found = commands.queue(parents)
        except Unreachable as error:
            self._pause = min(SLOWEST, 1.5 * self._pause)
            logging.getLogger("sciflow").warning("%s; jobs go on, it is asked again", error)
            return
        self.looks += 1
        watched = set(parents)
        changed = any(self._entries.get(job) != entry for job, entry in found.items())
        kept = {job: e for job, e in self._entries.items() if job.partition("_")[0] not in watched}
        self._entries = kept | found
        self._pause = self.interval if changed else min(SLOWEST, 1.2 * self._pause)

    def gone(self, jobs: Iterable[str], patience: float) -> list[str]:
        """Wait until jobs that were cancelled have left; returns those that have not in time."""
        left = sorted(set(jobs))
        until = time.monotonic() + patience
        pause = 0.2
        while left:
            time.sleep(pause)
            pause = min(2.0, 1.6 * pause)
            try:
                found = commands.queue({job.partition("_")[0] for job in left})
            except Unreachable:
                found = {job: Entry("UNKNOWN") for job in left}
            left = [job for job in left if job in found and found[job].state not in ENDED]
            if time.monotonic() > until:
                break
        return left


_QUEUES: dict[float, Queue] = {}
_GUARD = threading.Lock()


def shared(interval: float) -> Queue:
    """The queue that all jobs of this process share."""
    with _GUARD:
        return _QUEUES.setdefault(interval, Queue(interval))
