"""A trainer that trains nothing: it serves members to native clients and keeps every message."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import zmq

from sciflow.errors import Invalid
from sciflow_online import wire
from sciflow_online.wire import Kind

TOKEN = 'a "quoted" token'


@dataclass(frozen=True)
class Field:
    name: str
    size: int
    dtype: str = "float64"
    timed: bool = True


@dataclass(frozen=True)
class Message:
    trainer: int
    connection: bytes
    raw: bytes
    header: wire.Header
    payload: bytes

    @property
    def text(self):
        return wire.entries(self.payload)

    @property
    def values(self):
        return wire.values_of(self.header, self.payload)


@dataclass
class Peer:
    """Trainer ranks in one thread; use as a context."""

    folder: Path
    members: list
    fields: list
    parameters: tuple = ("kappa", "amplitude")
    trainers: int = 1
    credits: int = 8
    spread: str = "level"
    heartbeat: float = 10.0
    first: int = 0  # index of the first member
    attempt: int = 0
    purpose: str = "train"
    token: str = TOKEN
    protocol: int = wire.VERSION  # of the address file
    waits: int = 0  # how often an ASK is answered by WAIT first
    abort: tuple = ()  # (member, after so many DATA of it)
    dies_after: int = -1  # so many DATA
    grant: bool = True
    stale: bool = False  # with each MEMBER come an ABORT and a FINISHED that are not of it
    messages: list = field(default_factory=list)

    def __post_init__(self):
        self.address = self.folder / "address.json"
        self.groups = {}
        self.given = defaultdict(list)
        self.data = 0
        self.held = []
        self.error = None
        self.stopping = threading.Event()
        self.pending = list(range(self.first, self.first + len(self.members)))

    def __enter__(self):
        self.context = zmq.Context()
        self.sockets = [self.context.socket(zmq.ROUTER) for _ in range(self.trainers)]
        ports = [s.bind_to_random_port("tcp://127.0.0.1") for s in self.sockets]
        self.endpoints = [f"tcp://127.0.0.1:{port}" for port in ports]
        said = {"protocol": self.protocol, "nonce": "n", "token": TOKEN, "endpoints": self.endpoints}
        partial = self.address.with_suffix(".partial")
        partial.write_text(json.dumps(said, indent=1))
        partial.replace(self.address)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()
        self.context.destroy(linger=0)
        if self.error is not None:
            raise self.error

    def run(self):
        try:
            while not self.stopping.is_set():
                self.turn()
        except Exception as error:  # told to the test by __exit__
            self.error = error
        for socket in self.sockets:
            socket.close(linger=200 if self.dies_after < 0 else 0)

    def turn(self):
        if self.grant:
            for held in self.held:
                self.send(*held, Kind.CREDIT, count=1)
            self.held.clear()
        poller = zmq.Poller()
        for socket in self.sockets:
            poller.register(socket, zmq.POLLIN)
        ready = dict(poller.poll(20))
        for j, socket in enumerate(self.sockets):
            if socket in ready:
                self.take(j, *socket.recv_multipart())

    def send(self, j, connection, kind, said=None, **header):
        packed = wire.Header(kind, **header).pack()
        self.sockets[j].send_multipart([connection, packed, wire.text(said or {})])

    def take(self, j, connection, raw, payload):
        try:
            header = wire.unpack(raw)
        except Invalid as error:
            self.send(j, connection, Kind.REFUSED, {"reason": error})
            return
        message = Message(j, connection, raw, header, payload)
        self.messages.append(message)
        answer = getattr(self, f"on_{header.kind.name.lower()}", None)
        if answer is not None:
            answer(message)

    def on_hello(self, m):
        if m.text["token"] != self.token:
            self.send(m.trainer, m.connection, Kind.REFUSED, {"reason": "the token is not the trainer's"})
            return
        self.groups[m.trainer, m.connection] = m.text["group"]
        said = {
            "session": "s",
            "trainers": self.trainers,
            "credits": self.credits,
            "heartbeat": self.heartbeat,
            "spread": self.spread,
            "fields": len(self.fields),
            "parameters": len(self.parameters),
        }
        said |= {f"field{i}": f"{f.name} {f.dtype} {f.timed:d} {f.size}" for i, f in enumerate(self.fields)}
        said |= {f"parameter{i}": name for i, name in enumerate(self.parameters)}
        said |= {f"endpoint{i}": at for i, at in enumerate(self.endpoints)}
        self.send(m.trainer, m.connection, Kind.WELCOME, said)

    def on_ask(self, m):
        assert m.trainer == 0
        if self.waits:
            self.waits -= 1
            self.send(0, m.connection, Kind.WAIT, {"seconds": 0.05})
            return
        given = self.given[self.groups[0, m.connection]]
        if m.header.level == len(given):
            given.append(self.pending.pop(0) if self.pending else None)
        member = given[m.header.level]
        if member is None:
            self.send(0, m.connection, Kind.BYE)
            return
        said = {"seed": 2**63 + member, "purpose": self.purpose}
        said |= {f"p{i}": repr(float(p)) for i, p in enumerate(self.members[member - self.first])}
        where = {"member": member, "attempt": self.attempt, "level": m.header.level}
        self.send(0, m.connection, Kind.MEMBER, said, **where)
        if self.stale:
            other = {"member": member, "attempt": self.attempt + 1}
            self.send(0, m.connection, Kind.ABORT, {"reason": "of another attempt"}, **other)
            other = {"member": member - 1, "attempt": self.attempt}
            self.send(0, m.connection, Kind.ABORT, {"reason": "of another member"}, **other)
            self.send(0, m.connection, Kind.FINISHED, member=member - 1)

    def on_data(self, m):
        self.data += 1
        self.held.append((m.trainer, m.connection))
        if self.data == self.dies_after:
            self.stopping.set()
        of = [o for o in self.messages if o.header.kind == Kind.DATA and o.header.member == m.header.member]
        if (m.header.member, len(of)) == self.abort:
            for j, connection in self.groups:
                where = {"member": m.header.member, "attempt": m.header.attempt}
                self.send(j, connection, Kind.ABORT, {"reason": "the test says so"}, **where)

    def on_finish(self, m):
        self.send(m.trainer, m.connection, Kind.FINISHED, member=m.header.member)

    def of_kind(self, *kinds):
        return [m for m in self.messages if m.header.kind in kinds]

    def wait_for(self, count, kind, seconds=60.0):
        until = time.monotonic() + seconds
        while len(self.of_kind(kind)) < count and time.monotonic() < until:
            time.sleep(0.01)
        return self.of_kind(kind)

    def received(self, number=0):
        """What came of a field by member, shape (level, position); each value once, at its owner."""
        size, found, times = self.fields[number].size, {}, {}
        for m in self.of_kind(Kind.DATA):
            h = m.header
            if h.field != number:
                continue
            assert m.trainer == (h.member + (h.level if self.spread == "level" else 0)) % self.trainers
            values, seen = found.setdefault((h.member, h.level), (np.zeros(size), np.zeros(size, int)))
            values[h.start : h.start + h.count] = m.values
            seen[h.start : h.start + h.count] += 1
            assert times.setdefault((h.member, h.level), h.time) == h.time
        assert all((seen == 1).all() for _, seen in found.values())
        levels = defaultdict(dict)
        for (member, level), (values, _) in found.items():
            levels[member][level] = values
        for of in levels.values():
            assert sorted(of) == list(range(len(of)))
        return {member: np.array([of[k] for k in sorted(of)]) for member, of in levels.items()}
