"""Cores: what the stages of a run that are computed on this machine share."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sciflow.errors import Cancelled
from sciflow.executors.local import cores


class Cores:
    """Lets stages begin, first come first served, while there are cores left for them.

    Parameters
    ----------
    count : int
        How many there are; 0 takes those that this process may use.
    """

    def __init__(self, count: int = 0) -> None:
        self.count = count or cores()
        self._free = self.count
        self._line: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, wish: int, cancelled: threading.Event, waits: Callable[[], None]) -> Iterator[int]:
        """Have some cores for a while.

        Parameters
        ----------
        wish : int
            How many; all of them where there are fewer, none and no wait for 0.
        cancelled : Event
            Ends the wait.
        waits : callable
            Called once if there is no room yet.

        Yields
        ------
        int
            How many there are to use.

        Raises
        ------
        Cancelled
            If that came first.
        """
        share, ticket = min(wish, self.count), object()
        if share > 0:
            self._wait(share, ticket, cancelled, waits)
        try:
            yield share
        finally:
            with self._changed:
                self._free += share
                self._changed.notify_all()

    def _wait(
        self, share: int, ticket: object, cancelled: threading.Event, waits: Callable[[], None]
    ) -> None:
        told = False
        with self._changed:
            self._line.append(ticket)
            try:
                while self._line[0] is not ticket or self._free < share:
                    if not told:
                        waits()
                        told = True
                    if cancelled.is_set():
                        raise Cancelled("the run was cancelled")
                    self._changed.wait(0.2)
                self._free -= share
            finally:
                self._line.remove(ticket)
                self._changed.notify_all()
