"""A transport inside one process, for tests that decide themselves what comes when and who dies."""

from __future__ import annotations

import threading
from collections import deque

from sciflow_online.transport import Link, Message, Server
from sciflow_online.wire import unpack


class MemoryServer(Server):
    """Takes messages out of a queue that links put them into."""

    def __init__(self):
        self.queue = deque()
        self.links = {}
        self.lock = threading.Condition()

    def receive(self, timeout):
        with self.lock:
            if not self.queue and timeout:
                self.lock.wait(timeout)
            found = list(self.queue)
            self.queue.clear()
        return found

    def send(self, peer, header, payload=b""):
        link = self.links.get(peer)
        if link is None:
            return False
        # Through bytes and back: what cannot travel must not pass here either.
        with link.lock:
            link.inbox.append(Message(0, unpack(header.pack()), bytes(payload)))
            link.lock.notify()
        return True

    def close(self):
        self.links.clear()


class MemoryLink(Link):
    """One solver rank; `die` ends it without a word."""

    def __init__(self, server):
        self.server, self.inbox = server, deque()
        self.lock = threading.Condition()
        self.name = object()
        server.links[self.name] = self

    def send(self, trainer, header, payload=b""):
        data = memoryview(payload).cast("B").tobytes() if len(payload) else b""
        with self.server.lock:
            if self.name in self.server.links:
                self.server.queue.append(Message(self.name, unpack(header.pack()), data))
                self.server.lock.notify()

    def receive(self, timeout):
        with self.lock:
            if not self.inbox and timeout:
                self.lock.wait(timeout)
            return self.inbox.popleft() if self.inbox else None

    def die(self):
        self.server.links.pop(self.name, None)

    def close(self):
        self.die()
