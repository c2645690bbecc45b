"""The ``zmq`` transport: separate jobs that come and go, over TCP."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zmq

from sciflow.errors import Failed, Invalid
from sciflow_online.transport import Link, Message, Server
from sciflow_online.wire import SIZE, VERSION, Header, unpack

MANY = 512
"""Messages that are taken from the socket in one go."""
LARGE = 32768
"""Bytes from which a payload is not copied out of ZeroMQ's buffer."""
LINGER = 5000
"""Milliseconds that the end of a process waits for its last messages to go out."""
LOOPBACK = "127.0.0.1"


class ZmqServer(Server):
    """A ROUTER socket of one trainer rank.

    Parameters
    ----------
    host : str
        Address of this machine to listen on.
    largest : int
        Bytes; a longer message ends its connection before it is taken in.

    Attributes
    ----------
    endpoint : str
        Where solvers connect, with the port that was free.

    Raises
    ------
    Failed
        If the address cannot be listened on.
    """

    def __init__(self, host: str = LOOPBACK, largest: int = 1 << 30) -> None:
        self._context = zmq.Context()
        self._socket = socket = self._context.socket(zmq.ROUTER)
        socket.set(zmq.LINGER, LINGER)
        socket.set(zmq.ROUTER_MANDATORY, 1)
        # Solvers send no more than their credits, so these queues are bounded all the same.
        socket.set(zmq.SNDHWM, 0)
        socket.set(zmq.RCVHWM, 0)
        socket.set(zmq.MAXMSGSIZE, largest)
        socket.set(zmq.HEARTBEAT_IVL, 5000)
        socket.set(zmq.HEARTBEAT_TIMEOUT, 60000)
        if ":" in host:
            socket.set(zmq.IPV6, 1)
            host = f"[{host}]"
        try:
            port = socket.bind_to_random_port(f"tcp://{host}")
        except zmq.ZMQError as error:
            self.close()
            raise Failed(f"cannot listen on {host}: {error}") from None
        self.endpoint = f"tcp://{host}:{port}"

    def receive(self, timeout: float) -> list[Message]:
        """See `Server.receive`."""
        if not self._socket.poll(max(0, round(1000 * timeout))):
            return []
        found: list[Message] = []
        for _ in range(MANY):
            try:
                peer = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            message = self._rest(peer)
            if message is not None:
                found.append(message)
        return found

    def _rest(self, peer: bytes) -> Message | None:
        socket, more = self._socket, bool(self._socket.getsockopt(zmq.RCVMORE))
        head = socket.recv() if more else b""
        payload: Any = b""
        if more and socket.getsockopt(zmq.RCVMORE):
            # A message is there whole or not at all: nothing of it is waited for.
            large = len(head) == SIZE and int.from_bytes(head[56:64], "little") * 4 >= LARGE
            frame: Any = socket.recv(copy=not large)
            payload = frame.buffer if large else frame
        while socket.getsockopt(zmq.RCVMORE):
            socket.recv()
            head = b""
        try:
            return Message(peer, unpack(head), payload)
        except Invalid as error:
            self.refuse(peer, str(error))
            return None

    def send(self, peer: Any, header: Header, payload: bytes = b"") -> bool:
        """See `Server.send`."""
        try:
            self._socket.send_multipart((peer, header.pack(), payload), zmq.NOBLOCK)
        except (zmq.Again, zmq.ZMQError):
            return False
        return True

    def close(self) -> None:
        """See `Server.close`."""
        self._socket.close()
        self._context.term()


class ZmqLink(Link):
    """A DEALER socket to each trainer rank.

    Parameters
    ----------
    endpoints : sequence of str
        One for each trainer rank.
    context : zmq.Context or None
        Shared by several links of one process, which ends it; None makes one of its own.
    """

    def __init__(self, endpoints: Sequence[str], context: zmq.Context[Any] | None = None) -> None:
        self.trainers = len(endpoints)
        self._shared = context is not None
        self._context = context or zmq.Context()
        self._poller = zmq.Poller()
        self._sockets: list[zmq.Socket[bytes]] = []
        for endpoint in endpoints:
            socket = self._context.socket(zmq.DEALER)
            socket.set(zmq.LINGER, LINGER)
            socket.set(zmq.SNDHWM, 0)
            socket.set(zmq.RCVHWM, 0)
            socket.set(zmq.IPV6, int("[" in endpoint))
            socket.set(zmq.HEARTBEAT_IVL, 5000)
            socket.set(zmq.HEARTBEAT_TIMEOUT, 60000)
            socket.connect(endpoint)
            self._sockets.append(socket)
            self._poller.register(socket, zmq.POLLIN)

    def send(self, trainer: int, header: Header, payload: Any = b"") -> None:
        """See `Link.send`."""
        socket = self._sockets[trainer]
        socket.send(header.pack(), zmq.SNDMORE)
        socket.send(payload)

    def receive(self, timeout: float) -> Message | None:
        """See `Link.receive`."""
        if self.trainers == 1:
            ready = self._sockets if self._sockets[0].poll(max(0, round(1000 * timeout))) else []
        else:
            ready = [s for s, _ in self._poller.poll(max(0, round(1000 * timeout)))]
        for socket in ready:
            parts = socket.recv_multipart()
            return Message(self._sockets.index(socket), unpack(parts[0]), parts[1] if parts[1:] else b"")
        return None

    def close(self, *, wait: bool = True) -> None:
        """See `Link.close`; without `wait` what has not gone out is dropped, as nobody is there."""
        for socket in self._sockets:
            socket.close(None if wait else 0)
        if not self._shared:
            self._context.term()


def new_token() -> str:
    """A word that only those who can read the address file know."""
    return secrets.token_urlsafe(24)


def write_address(path: Path, endpoints: Sequence[str], token: str, nonce: str) -> None:
    """Tell solvers where the trainer is; readable by this user alone."""
    document = {"protocol": VERSION, "nonce": nonce, "token": token, "endpoints": list(endpoints)}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file, indent=1)
    temporary.replace(path)


def read_address(path: Path) -> dict[str, Any] | None:
    """What `write_address` wrote, or None while there is no such file.

    Raises
    ------
    Invalid
        If the file is something else, or of another version of the protocol.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Invalid(f"{path} is not the address of a trainer: {error}") from None
    if not isinstance(document, dict) or not {"protocol", "nonce", "token", "endpoints"} <= set(document):
        raise Invalid(f"{path} is not the address of a trainer: it lacks protocol, nonce, token or endpoints")
    if document["protocol"] != VERSION:
        raise Invalid(
            f"{path}: the trainer speaks protocol {document['protocol']}, this side {VERSION}: use one "
            "version of sciflow on both sides"
        )
    return document


def wait_for_address(path: Path, patience: float, other_than: str = "") -> dict[str, Any]:
    """The address of a trainer that is about to start, or of the one after `other_than`.

    Raises
    ------
    Failed
        If it does not come within `patience` seconds.
    """
    until = time.monotonic() + patience
    while True:
        found = read_address(path)
        if found is not None and found["nonce"] != other_than:
            return found
        if time.monotonic() > until:
            raise Failed(f"no trainer wrote its address into {path} within {patience:g} s; is it running?")
        time.sleep(0.1)
