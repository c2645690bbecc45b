"""The two ends of a transport: what a trainer rank and a solver rank may ask of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sciflow_online.wire import Header, Kind, text

if TYPE_CHECKING:
    import numpy as np


@dataclass(slots=True)
class Message:
    """A message that came.

    Attributes
    ----------
    peer : hashable
        Who sent it; for `Server.send`. On a solver's side the trainer rank.
    header : Header
        What it says.
    payload : bytes or memoryview
        What it carries.
    landed : bool
        Whether it was received into the array that `Server.landing` gave.
    """

    peer: Any
    header: Header
    payload: Any
    landed: bool = False


class Server(ABC):
    """A trainer rank's end. Nothing is read before `receive` asks for it.

    Attributes
    ----------
    landing : callable
        Asked by transports that can receive straight into an array where a large payload is to go;
        None where it is to stay with the message. After a message that has landed, `receive` returns.
    refused : callable
        Told the reason of every refusal.
    """

    landing: Callable[[Any, Header], np.ndarray | None] = staticmethod(lambda peer, header: None)

    refused: Callable[[str], None] = staticmethod(lambda reason: None)

    def refuse(self, peer: Any, reason: str) -> None:
        """Tell a connection that it is not listened to."""
        self.refused(reason)
        self.send(peer, Header(Kind.REFUSED), text({"reason": reason}))

    @abstractmethod
    def receive(self, timeout: float) -> list[Message]:
        """Messages that are there, or the first that come within `timeout` seconds.

        What is no message of the protocol is answered with a refusal here, and left out.
        """

    @abstractmethod
    def send(self, peer: Any, header: Header, payload: bytes = b"") -> bool:
        """Send to one solver rank without waiting; False if it is not there any more."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; what was sent still goes out."""


class Link(ABC):
    """A solver rank's end, to all trainer ranks.

    Attributes
    ----------
    trainers : int
        Number of trainer ranks that can be reached.
    """

    trainers: int = 1

    @abstractmethod
    def send(self, trainer: int, header: Header, payload: Any = b"") -> None:
        """Send to one trainer rank; the payload may be changed as soon as this returns."""

    @abstractmethod
    def receive(self, timeout: float) -> Message | None:
        """The next message, or None if none comes within `timeout` seconds."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; what was sent still goes out."""
