"""One look at the queue for all jobs of this process, and not too often."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

from sciflow.slurm import commands
from sciflow.slurm.commands import Entry, Unreachable

SLOWEST = 60.0
"""Longest time between two looks, s; reached while nothing changes."""


class Queue:
    """What the controller last said of the jobs that somebody here waits for.

    Parameters
    ----------
    interval : float
        Shortest time between two looks, s.
    """

    def __init__(self, interval: float = 10.0) -> None:
        self.interval = interval
        self.looks = 0
        self._pause = interval
        self._watched: dict[str, int] = {}
        self._entries: dict[str, Entry] = {}
        self._absent: dict[str, int] = {}
        self._last = float("-inf")
        self._lock = threading.Lock()
        self._away = 0.0

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
        """What is known of a job; None while nothing is. May look."""
        with self._lock:
            if time.monotonic() - self._last >= self._pause:
                self._look()
            return self._entries.get(job)

    def absent(self, job: str) -> int:
        """How often in a row the controller did not know it."""
        with self._lock:
            return self._absent.get(job.partition("_")[0], 0)

    def _look(self) -> None:
        parents = list(self._watched)
        if not parents:
            return
        self._last = time.monotonic()
        self.looks += 1
        try:
            found = commands.queue(parents)
        except Unreachable as error:
            self._away = self._away or time.monotonic()
            self._pause = min(SLOWEST, 1.5 * self._pause)
            logging.getLogger("sciflow").warning("%s; jobs go on, it is asked again", error)
            return
        self._away = 0.0
        changed = any(self._entries.get(job) != entry for job, entry in found.items())
        self._entries.update(found)
        known = {job.partition("_")[0] for job in found}
        for parent in parents:
            self._absent[parent] = 0 if parent in known else self._absent.get(parent, 0) + 1
            if parent not in known:
                for job in [j for j in self._entries if j.partition("_")[0] == parent]:
                    del self._entries[job]
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
            from sciflow.slurm.ends import ENDED

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
