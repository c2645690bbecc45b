"""What the stages of a run share that are computed on this machine: its cores, and this process."""

from __future__ import annotations

import sys
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


class Inside:
    """Which stages of a run go on as threads of this process, so that none starts MPI beside another.

    Starting MPI forks, and a fork waits for the threads of a BLAS that another stage may be using: both would
    hang. And what speaks MPI (PETSc, dolfinx) knows one thread.
    """

    def __init__(self) -> None:
        self._running = self._starting = 0
        self._lock = threading.Lock()

    @contextmanager
    def entered(self, speaks: bool) -> Iterator[bool]:
        """Go on as a thread of this process, where that is safe, for as long as the block lasts.

        Parameters
        ----------
        speaks : bool
            Whether the stage needs MPI.

        Yields
        ------
        bool
            False where the stage needs a process of its own: one that speaks MPI beside any other, or any
            one while MPI is being started.
        """
        with self._lock:
            there = _started("mpi4py.MPI") or _started("petsc4py.PETSc")
            safe = not (speaks and self._running) and not (self._starting and not there)
            self._running += safe
            self._starting += safe and speaks
        try:
            yield safe
        finally:
            with self._lock:
                self._running -= safe
                self._starting -= safe and speaks


def _started(module: str) -> bool:
    """Whether a module that starts MPI is there as a whole: while it does, it is in `sys.modules` already."""
    found = sys.modules.get(module)
    return found is not None and not getattr(getattr(found, "__spec__", None), "_initializing", False)
