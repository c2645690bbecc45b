"""The ``mpi`` transport: solvers and trainers are groups of ranks of one MPI job."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

import numpy as np

from sciflow.errors import Invalid
from sciflow_online.transport import Link, Message, Server
from sciflow_online.wire import SIZE, Header, Kind, text, unpack

TAG = 17
MANY = 512
KEPT = 64
"""Buffers of one size that are kept."""
EAGER = 200
"""Looks at the network, one right after the other, before a process that waits begins to nap."""
NAP = 5e-5
"""Seconds between two looks at the network while there is nothing to do."""


class _Outbox:
    """Messages on their way: buffers stay untouched until MPI is done with them, then serve again."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self._going: deque[tuple[Any, np.ndarray]] = deque()
        self._free: dict[int, list[np.ndarray]] = {}

    def send(self, rank: int, header: Header, payload: Any) -> None:
        data = np.frombuffer(payload, dtype=np.uint8) if len(payload) else None
        size = SIZE + (0 if data is None else len(data))
        self.sweep()
        spare = self._free.get(size)
        buffer = spare.pop() if spare else np.empty(size, dtype=np.uint8)
        buffer[:SIZE] = np.frombuffer(header.pack(), dtype=np.uint8)
        if data is not None:
            buffer[SIZE:] = data
        self._going.append((self._comm.Isend(buffer, rank, TAG), buffer))

    def sweep(self) -> None:
        """Take back the buffers of messages that have gone."""
        while self._going and self._going[0][0].Test():
            buffer = self._going.popleft()[1]
            self._free.setdefault(len(buffer), []).append(buffer)

    def flush(self) -> None:
        """Wait until everything has gone."""
        while self._going:
            self._going.popleft()[0].Wait()


class MpiServer(Server):
    """A trainer rank's end.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Of all ranks, trainers first; used for nothing else.
    """

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self._out, self._pool = _Outbox(comm), _Pool()

    def receive(self, timeout: float) -> list[Message]:
        """See `Server.receive`."""
        until, looks = time.monotonic() + timeout, 0
        found: list[Message] = []
        while True:
            self._out.sweep()
            while len(found) < MANY and (message := _take(self._comm, self._pool)) is not None:
                try:
                    header = unpack(message[1])
                except Invalid as error:
                    self.send(message[0], Header(Kind.REFUSED), text({"reason": error}))
                    continue
                found.append(Message(message[0], header, message[1][SIZE:]))
            if found or time.monotonic() >= until:
                return found
            looks += 1
            time.sleep(0 if looks < EAGER else NAP)

    def send(self, peer: Any, header: Header, payload: bytes = b"") -> bool:
        """See `Server.send`."""
        self._out.send(peer, header, payload)
        return True

    def close(self) -> None:
        """See `Server.close`."""
        self._out.flush()


class MpiLink(Link):
    """A solver rank's end.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Of all ranks, trainers first; used for nothing else.
    trainers : int
        How many of them are trainers.
    """

    def __init__(self, comm: Any, trainers: int) -> None:
        self._comm, self.trainers = comm, trainers
        self._out, self._pool = _Outbox(comm), _Pool()

    def send(self, trainer: int, header: Header, payload: Any = b"") -> None:
        """See `Link.send`."""
        self._out.send(trainer, header, payload)

    def receive(self, timeout: float) -> Message | None:
        """See `Link.receive`."""
        until, looks = time.monotonic() + timeout, 0
        while True:
            self._out.sweep()
            found = _take(self._comm, self._pool)
            if found is not None:
                return Message(found[0], unpack(found[1]), found[1][SIZE:])
            if time.monotonic() >= until:
                return None
            looks += 1
            time.sleep(0 if looks < EAGER else NAP)

    def close(self) -> None:
        """See `Link.close`."""
        self._out.flush()


class _Pool:
    """Buffers for messages that serve again when nobody looks at them any more.

    A new large array costs more in page faults than the message that it is for.
    """

    def __init__(self) -> None:
        self._buffers: dict[int, list[np.ndarray]] = {}

    def get(self, size: int) -> np.ndarray:
        """A buffer of `size` bytes that nothing else refers to."""
        known = self._buffers.setdefault(size, [])
        for i in range(len(known)):
            # Of the list, and of the call itself; a message or a view of it would be one more.
            if sys.getrefcount(known[i]) == 2:
                return known[i]
        made = np.empty(size, dtype=np.uint8)
        if len(known) < KEPT:
            known.append(made)
        return made


def _take(comm: Any, pool: _Pool) -> tuple[int, np.ndarray] | None:
    """The next message, if one is there."""
    from mpi4py import MPI

    status = MPI.Status()
    found = comm.Improbe(MPI.ANY_SOURCE, TAG, status)
    if found is None:
        return None
    buffer = pool.get(status.Get_count(MPI.BYTE))
    found.Recv([buffer, MPI.BYTE])
    return status.Get_source(), buffer
