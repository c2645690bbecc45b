"""The ``mpi`` transport: solvers and trainers are groups of ranks of one MPI job."""

from __future__ import annotations

import os
import time
from collections import deque
from functools import cache
from typing import Any

import numpy as np

from sciflow.errors import Invalid
from sciflow_online.pool import Pool
from sciflow_online.transport import Link, Message, Server
from sciflow_online.wire import DTYPES, SIZE, Header, unpack

TAG, LARGE_TAG = 17, 18
LARGE = 1 << 16
"""Bytes from which a payload travels behind its header, so that it can be received where it is to stay."""
ITEMSIZE = (0, *(np.dtype(name).itemsize for name in DTYPES[1:]))
MANY = 512
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
        self.sweep()
        if not len(payload):
            self._post(rank, TAG, np.frombuffer(header.pack(), dtype=np.uint8), ())
            return
        head, data = np.frombuffer(header.pack(), np.uint8), np.frombuffer(payload, dtype=np.uint8)
        if len(data) < LARGE:
            self._post(rank, TAG, head, data)
        else:
            self._post(rank, TAG, head, ())
            self._post(rank, LARGE_TAG, data, ())

    def _post(self, rank: int, tag: int, first: np.ndarray, then: Any) -> None:
        size = len(first) + len(then)
        spare = self._free.get(size)
        buffer = spare.pop() if spare else np.empty(size, dtype=np.uint8)
        buffer[: len(first)] = first
        if len(then):
            buffer[len(first) :] = then
        self._going.append((self._comm.Isend(buffer, rank, tag), buffer))

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
        self._out, self._pool = _Outbox(comm), Pool()

    def receive(self, timeout: float) -> list[Message]:
        """See `Server.receive`."""
        until, looks = time.monotonic() + timeout, 0
        found: list[Message] = []
        while True:
            self._out.sweep()
            while len(found) < MANY and (message := self._next()) is not None:
                found.append(message)
                if message.landed:
                    return found
            if found or time.monotonic() >= until:
                return found
            looks += 1
            _pause(looks)

    def _next(self) -> Message | None:
        """The next message of the protocol that is there."""
        while (message := _take(self._comm, self._pool)) is not None:
            peer, data = message
            try:
                header = unpack(data)
            except Invalid as error:
                self.refuse(peer, str(error))
                continue
            size = ITEMSIZE[header.dtype] * header.count
            if len(data) > SIZE or size < LARGE:
                return Message(peer, header, data[SIZE:])
            landing = self.landing(peer, header)
            place = self._pool.get(size) if landing is None else landing
            self._comm.Recv(place, peer, LARGE_TAG)
            return Message(peer, header, place.reshape(-1).view(np.uint8), landing is not None)
        return None

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
        self._out, self._pool = _Outbox(comm), Pool()

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
            _pause(looks)

    def close(self) -> None:
        """See `Link.close`."""
        self._out.flush()


def _pause(looks: int) -> None:
    """Let others run: at first only those that wait for this core."""
    if looks < EAGER:
        os.sched_yield()  # sleep(0) would take a timer's slack
    else:
        time.sleep(NAP)


@cache
def _mpi() -> tuple[Any, Any, Any]:
    """What mpi4py wants for every message: a status, the type of bytes, any source."""
    from mpi4py import MPI

    return MPI.Status(), MPI.BYTE, MPI.ANY_SOURCE


def _take(comm: Any, pool: Pool) -> tuple[int, np.ndarray] | None:
    """The next message, if one is there."""
    status, byte, anybody = _mpi()
    found = comm.Improbe(anybody, TAG, status)
    if found is None:
        return None
    buffer = pool.get(status.Get_count(byte))
    found.Recv(buffer)
    return status.Get_source(), buffer
