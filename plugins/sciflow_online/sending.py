"""A solver's side of the protocol, for Python solvers: connect, send(time, fields), finish.

::

    from sciflow_online.sending import connect

    client = connect()                       # reads the address file that SCIFLOW_ONLINE names
    for member in client.members():
        for time, u in solve(**member.parameters):
            client.send(time, {"temperature": u})
        client.finish()
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.artifact.share import Share
from sciflow.context import Comm, SerialComm, exchange
from sciflow.errors import Diverged, Failed, Invalid
from sciflow.problem import Part
from sciflow_online.intake import all_finite
from sciflow_online.pool import Pool
from sciflow_online.transport import Link, Message
from sciflow_online.wire import Header, Kind, dtype_code, entries, text

if TYPE_CHECKING:
    from sciflow_online.zmq_transport import ZmqLink

ADDRESS = "SCIFLOW_ONLINE"
"""Environment variable that names the address file."""
PATIENCE = "SCIFLOW_ONLINE_PATIENCE"
"""Environment variable: seconds that a solver waits for a trainer that says nothing, 600 if not set."""


GROUP = "SCIFLOW_GROUP"
"""Environment variable: the name of a solver, the same for all its ranks."""
ROOTED = 1 << 17
"""Bytes of a level from which the root of a solver gathers it."""


class Gone(Failed):
    """The trainer ended, or another one took its place; what was being computed is given out again."""


class Aborted(Failed):
    """The trainer gave this attempt up, with the reason; the solver goes on with the next member."""


@dataclass(frozen=True)
class Assigned:
    """A member to compute.

    Attributes
    ----------
    member, attempt : int
        Which, and which attempt at it.
    parameters : dict of str to float
        Its point, in the problem's units.
    seed : int
        Its own.
    purpose : str
        ``train``, ``valid``, or ``test``, of which nothing is sent.
    """

    member: int
    attempt: int
    parameters: dict[str, float]
    seed: int
    purpose: str


@dataclass(frozen=True)
class _Wanted:
    name: str
    dtype: np.dtype
    timed: bool
    size: int
    code: int


@dataclass
class _Progress:
    """How far the member is that is being computed."""

    begun: float
    level: int = 0
    time: float | None = None
    blocked: float = 0.0
    seen: set[str] = field(default_factory=set)


class Client:
    """One rank of a solver, in touch with all trainer ranks.

    Parameters
    ----------
    link : Link
        The transport's end.
    token, group : str
        That of the run; the same text on all ranks of this solver.
    comm : Comm
        The ranks of this solver.
    patience : float
        Seconds after which a trainer that says nothing is given up.
    gather : {"auto", "owner", "root"}
        Whether every rank sends its own part, which the trainer puts together, or the solver's root
        gathers the whole field first; ``auto`` decides by size and layout, field by field.
    beats : bool
        Whether signs of life come also while a level is being computed, see `Heart`.
    present, stopping : callable
        Asked while the trainer says nothing: whether it is still the one that is to be talked to, and
        whether this process was told to end.

    Raises
    ------
    Invalid
        If the trainer refuses this client; with its reason.
    Gone
        If it does not answer.
    """

    def __init__(
        self, link: Link, token: str, group: str, comm: Comm | None = None, *, patience: float = 600.0,
        gather: str = "auto", beats: bool = False, present: Callable[[], bool] = lambda: True,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self._present, self._stopping = present, stopping
        self._link, self._patience, self._gather = link, patience, gather
        self.comm: Comm = comm or SerialComm()
        self._group, self._token = group, token
        self._head = {"rank": self.comm.rank, "ranks": self.comm.size}
        self._number = 0
        self._under_way = [0] * link.trainers
        self._placed: dict[tuple[int, int, int], np.ndarray] = {}
        self._assigned: Assigned | None = None
        self._progress = _Progress(time.monotonic())
        self._aborted = ""
        self._told = time.monotonic()
        self._offsets: dict[str, int] = {}
        self._orders: dict[str, np.ndarray | None] = {}
        self._roots: dict[str, bool] = {}
        self._pool = Pool()
        self.nonce = ""
        self.closers: list[Callable[[], None]] = []
        hello = {"token": token, "group": group, "client": "python 1", "beats": int(beats)}
        for trainer in range(link.trainers):
            self._link.send(trainer, Header(Kind.HELLO, **self._head), text(hello))
        self._welcomed = False
        welcomes = [self._expect(Kind.WELCOME) for _ in range(link.trainers)]
        self._welcomed = True
        self._learn(entries(welcomes[0].payload))

    def _learn(self, said: Mapping[str, str]) -> None:
        self.session = said["session"]
        self.credits, self.heartbeat = int(said["credits"]), float(said["heartbeat"])
        self._by_level = said["spread"] == "level"
        self.fields: dict[str, tuple[int, _Wanted]] = {}
        for i in range(int(said["fields"])):
            name, dtype, timed, size = said[f"field{i}"].split()
            self.fields[name] = i, _Wanted(name, np.dtype(dtype), timed == "1", int(size), dtype_code(dtype))
        self._names = [said[f"parameter{i}"] for i in range(int(said["parameters"]))]
        self._timed = {n for n, (_, w) in self.fields.items() if w.timed}

    # -- listening ---------------------------------------------------------------------------

    def _hear(self, until: float) -> Message | None:
        """The next message, or None after a second; gives up at the time `until`.

        Raises
        ------
        Gone
            If the trainer has said nothing for too long, or another one took its place.
        """
        message = self._link.receive(min(1.0, self._patience))
        if message is None:
            if self._stopping():
                raise Gone("this process was told to end while it waited for the trainer")
            if time.monotonic() > until:
                raise Gone(f"the trainer has said nothing for {self._patience:g} s")
            if not self._present():
                raise Gone("the trainer ended")
        return message

    def _expect(self, *kinds: Kind) -> Message:
        """The next message of one of these kinds; others are dealt with."""
        until = time.monotonic() + self._patience
        while True:
            message = self._hear(until)
            if message is None:
                continue
            if message.header.kind in kinds:
                return message
            self._deal(message)

    def _deal(self, message: Message) -> None:
        header = message.header
        if header.kind == Kind.CREDIT:
            self._under_way[message.peer] -= header.count
        elif header.kind == Kind.REFUSED:
            reason = f"the trainer refuses: {entries(message.payload).get('reason', 'no reason given')}"
            # Once let in, a refusal means that the trainer gave this connection up.
            raise Gone(reason) if self._welcomed else Invalid(reason)
        elif header.kind == Kind.ABORT:
            mine = self._assigned
            if mine is not None and (header.member, header.attempt) == (mine.member, mine.attempt):
                self._aborted = entries(message.payload).get("reason", "no reason given")
                # What was announced may be what was wrong.
                self._placed.clear()
        elif header.kind == Kind.BYE:
            raise Gone("the trainer says that there is no more work")

    def _listen(self) -> None:
        """Deal with whatever has come, without waiting."""
        while (message := self._link.receive(0.0)) is not None:
            self._deal(message)

    # -- members -----------------------------------------------------------------------------

    def ask(self) -> Assigned | float | None:
        """Ask for work: a member, or the seconds after which to ask again, or None for no more."""
        self._link.send(0, Header(Kind.ASK, level=self._number, **self._head))
        answer = self._expect(Kind.MEMBER, Kind.WAIT, Kind.BYE)
        said, head = entries(answer.payload), answer.header
        if head.kind == Kind.BYE:
            return None
        if head.kind == Kind.WAIT:
            return float(said.get("seconds", "0.25"))
        self._number += 1
        # Another member may be spread over the ranks in another way.
        self._offsets.clear()
        self._orders.clear()
        self._roots.clear()
        point = {name: float(said[f"p{i}"]) for i, name in enumerate(self._names)}
        self._assigned = Assigned(head.member, head.attempt, point, int(said["seed"]), said["purpose"])
        self._progress, self._aborted = _Progress(time.monotonic()), ""
        return self._assigned

    def next(self) -> Assigned | None:
        """The next member to compute, the same on all ranks; None when there is no more.

        Raises
        ------
        Gone
            If the trainer is not there any more.
        """
        while isinstance(answer := self.ask(), float):
            time.sleep(answer)
        return answer

    def members(self) -> Iterator[Assigned]:
        """Members until there are no more."""
        while (assigned := self.next()) is not None:
            yield assigned

    # -- sending -----------------------------------------------------------------------------

    def send(self, time_: float, fields: Mapping[str, Any]) -> None:
        """Send one time level; waits while the trainer has no room.

        Parameters
        ----------
        time_ : float
            Of the level, in the problem's unit of time.
        fields : mapping of str to ndarray, Part or Share
            Whole arrays from rank 0 (others give none, or None), or each rank its own: a `Part`
            with positions, a `Share` of a range. Fields that this run does not need are left out;
            those without time go with the first level.

        Raises
        ------
        Diverged
            If a value is not finite.
        Invalid
            If the size is not that of the field.
        Aborted
            If the trainer gave this attempt up.
        Gone
            If it is not there any more.
        """
        self._listen()
        for name, value in fields.items():
            if value is not None and name in self.fields and self._mine().purpose != "test":
                self._send_field(name, value, time_)
        self._progress.level += 1
        self._alive()
        if self._aborted:
            raise Aborted(self._aborted)

    def _send_field(self, name: str, value: Any, time_: float) -> None:
        number, wanted = self.fields[name]
        if isinstance(value, Part | Share) and self.comm.size > 1 and self._rooted(name, value, wanted):
            value = self._gathered(name, value)
            if value is None:
                return
        values, positions, start = self._own(name, value, wanted)
        if not all_finite(values):
            raise Diverged(f"field {name!r} is not finite at time level {self._progress.level}")
        mine = self._assigned
        assert mine is not None, "send comes after next"
        level = self._progress.level if wanted.timed else 0
        head = Header(
            Kind.DATA, wanted.code, number, self.comm.rank, self.comm.size, mine.member,
            mine.attempt, level, time_, start, len(values),
        )  # fmt: skip
        for trainer in self._owners(mine.member, level, timed=wanted.timed):
            if positions is not None:
                self._announce(trainer, number, start, positions)
            self._wait_for_credit(trainer)
            if self._aborted:
                return
            self._under_way[trainer] += 1
            self._link.send(trainer, head, values)
            if trainer == 0:
                self._told = time.monotonic()

    def _owners(self, member: int, level: int, *, timed: bool) -> range | tuple[int, ...]:
        trainers = self._link.trainers
        if not timed:
            return range(trainers)
        return ((member + level if self._by_level else member) % trainers,)

    def _own(self, name: str, value: Any, wanted: _Wanted) -> tuple[np.ndarray, np.ndarray | None, int]:
        """This rank's values as they travel, their positions, and the number of the first."""
        if isinstance(value, Part):
            own, start = np.ravel(value.values), self._offset(name, int(np.size(value.values)))
            return self._typed(own, wanted), _travelling(value.index), start
        if isinstance(value, Share):
            start = self._offset(name, len(value.values))
            positions = None if value.index is None else _travelling(value.index)
            return self._typed(np.ravel(value.values), wanted), positions, start
        values = self._typed(np.ravel(value), wanted)
        if len(values) != wanted.size:
            raise Invalid(f"field {name!r}: {len(values)} values, this run takes {wanted.size} a level")
        return values, None, 0

    @staticmethod
    def _typed(values: np.ndarray, wanted: _Wanted) -> np.ndarray:
        if values.dtype == wanted.dtype and values.flags.c_contiguous:
            return values
        with np.errstate(over="ignore"):  # what is too large for the type is found to be not finite
            return np.ascontiguousarray(values, dtype=wanted.dtype)

    def _offset(self, field_: str, count: int) -> int:
        """Number of this rank's first value, counted over the ranks; collective for a new field."""
        if self.comm.size == 1:
            return 0
        if field_ not in self._offsets:
            mpi: Any = self.comm
            counts = np.empty(self.comm.size, dtype=np.int64)
            mpi.Allgather(np.array([count], dtype=np.int64), counts)
            self._offsets[field_] = int(counts[: self.comm.rank].sum())
        return self._offsets[field_]

    def _rooted(self, name: str, value: Part | Share, wanted: _Wanted) -> bool:
        """Whether the root gathers a field before it is sent; collective for a new field.

        Notes
        -----
        Measured on two cores with two solver ranks: from `ROOTED` bytes a level on, gathering within the
        solver relieves the trainer of putting the parts together and is 1.1 to 1.7 times faster; below,
        parts cost the same either way, and scattered ones would have to be put in place by the trainer.
        """
        if self._gather != "auto":
            return self._gather == "root"
        known = self._roots.get(name)
        if known is None:
            count = int(np.size(value.values))
            start = self._offset(name, count)
            index = value.index
            straight = index is None or bool(np.array_equal(np.ravel(index), np.arange(start, start + count)))
            texts = exchange(self.comm, "" if straight else "scattered")
            large = wanted.size * wanted.dtype.itemsize >= ROOTED
            known = self._roots[name] = large or any(texts)
        return known

    def _gathered(self, name: str, value: Part | Share) -> np.ndarray | None:
        """The whole field on rank 0; collective."""
        mpi: Any = self.comm
        _, wanted = self.fields[name]
        values = self._typed(np.ravel(value.values), wanted)
        start = self._offset(name, len(values))
        index = value.index if value.index is not None else np.arange(start, start + len(values))
        counts = np.empty(self.comm.size, dtype=np.int64)
        mpi.Allgather(np.array([len(values)], dtype=np.int64), counts)
        total = int(counts.sum())
        whole = self._pool.array((total,), wanted.dtype) if self.comm.rank == 0 else None
        mpi.Gatherv(values, None if whole is None else [whole, counts])
        if name not in self._orders:
            order = np.empty(int(counts.sum()), dtype=np.int64) if whole is not None else None
            mine = np.ascontiguousarray(index, dtype=np.int64)
            mpi.Gatherv(mine, None if order is None else [order, counts])
            self._orders[name] = order
        if whole is None:
            return None
        made = self._pool.array((len(whole),), wanted.dtype)
        found = self._orders[name]
        assert found is not None, "rank 0 has the order"
        made[found] = whole
        return made

    def _mine(self) -> Assigned:
        assert self._assigned is not None, "send comes after next"
        return self._assigned

    def _announce(self, trainer: int, number: int, start: int, positions: np.ndarray) -> None:
        """Tell a trainer rank once where this rank's values lie."""
        key = (trainer, number, start)
        last = self._placed.get(key)
        # Solvers give the same array with every level; only another one is looked into.
        if last is not None and (last is positions or np.array_equal(last, positions)):
            self._placed[key] = positions
            return
        head = Header(
            Kind.INDEX, dtype_code(np.int64), number, self.comm.rank, self.comm.size,
            self._mine().member, self._mine().attempt, start=start, count=len(positions),
        )  # fmt: skip
        self._link.send(trainer, head, positions)
        self._placed[key] = positions

    def _wait_for_credit(self, trainer: int) -> None:
        if self._under_way[trainer] < self.credits:
            return
        begin = time.monotonic()
        until = begin + self._patience
        while self._under_way[trainer] >= self.credits and not self._aborted:
            message = self._hear(until)
            if message is not None:
                self._deal(message)
                until = time.monotonic() + self._patience
            self._alive()
        self._progress.blocked += time.monotonic() - begin

    def _alive(self) -> None:
        now = time.monotonic()
        if now - self._told > self.heartbeat and self._assigned is not None:
            mine, level = self._assigned, self._progress.level
            head = Header(Kind.ALIVE, member=mine.member, attempt=mine.attempt, level=level, **self._head)
            self._link.send(0, head)
            self._told = now

    def finish(self, failure: str = "", *, final: bool = False) -> None:
        """The member is complete, or came to nothing.

        A single trainer rank reads everything in order, so nothing is waited for; with several, this
        returns when all of them have taken what they were sent.

        Parameters
        ----------
        failure : str
            Why it came to nothing; empty if all went well.
        final : bool
            Another attempt would come to nothing too.

        Raises
        ------
        Gone
            If the trainer is not there any more.
        """
        mine, progress = self._assigned, self._progress
        assert mine is not None, "finish comes after next"
        begin = time.monotonic()
        until = begin + self._patience
        self._listen()
        apart = self._link.trainers > 1
        while apart and any(self._under_way) and not (self._aborted or failure):
            message = self._hear(until)
            if message is not None:
                self._deal(message)
                until = time.monotonic() + self._patience
            self._alive()
        # Waiting for the last messages is no time that the solver could have used.
        now = time.monotonic()
        failure = failure or self._aborted
        said = {
            "status": "failed" if failure else "ok", "reason": failure, "final": int(final),
            "seconds": f"{now - progress.begun:.6f}",
            "blocked": f"{progress.blocked + now - begin:.6f}",
        }  # fmt: skip
        head = Header(
            Kind.FINISH, member=mine.member, attempt=mine.attempt, level=progress.level, **self._head
        )
        self._link.send(0, head, text(said))
        self._assigned = None
        while apart and self._expect(Kind.FINISHED).header.member != mine.member:
            pass

    def leave(self) -> None:
        """Go away in good order; the member is given to another without penalty."""
        self._link.send(0, Header(Kind.LEAVE, **self._head))

    def close(self) -> None:
        """Let go of the connection."""
        for close in self.closers:
            close()
        self._link.close()

    @property
    def now(self) -> Header | None:
        """The sign of life that a heartbeat gives."""
        mine = self._assigned
        if mine is None:
            return None
        level = self._progress.level
        return Header(Kind.ALIVE, member=mine.member, attempt=mine.attempt, level=level, **self._head)


def _travelling(index: Any) -> np.ndarray:
    """Positions as they travel: in one piece, which a slice of somebody's numbers need not be."""
    return np.ascontiguousarray(index, dtype=np.int64).ravel()


class Heart:
    """Gives signs of life from a thread, over a connection of its own, while a solver takes long.

    Parameters
    ----------
    link : ZmqLink
        To trainer rank 0.
    client : Client
        Whose signs they are.
    """

    def __init__(self, link: ZmqLink, client: Client) -> None:
        self._client, self._end = client, threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(link,), name="heart", daemon=True)
        self._thread.start()

    def _beat(self, link: ZmqLink) -> None:
        client = self._client
        hello = {"token": client._token, "group": client._group, "client": "heart", "beats": 1}
        link.send(0, Header(Kind.HELLO, rank=client.comm.rank, ranks=client.comm.size), text(hello))
        while not self._end.wait(client.heartbeat):
            sign = client.now
            if sign is not None:
                link.send(0, sign)
        link.close(wait=False)

    def stop(self) -> None:
        """End it."""
        self._end.set()
        self._thread.join()


def connect(
    address: Path | str | None = None, comm: Comm | None = None, *, group: str = "",
    patience: float | None = None, gather: str = "auto",
) -> Client:  # fmt: skip
    """Join a running trainer, over ZeroMQ.

    Parameters
    ----------
    address : Path or str or None
        The address file; None takes the one that the environment variable ``SCIFLOW_ONLINE`` names.
    comm : Comm or None
        The ranks of this solver, each of which calls this.
    group : str
        Names this solver; made up by rank 0 if empty.
    patience : float or None
        Seconds to wait for the trainer, at the beginning and whenever it says nothing; None takes
        ``SCIFLOW_ONLINE_PATIENCE``, else 600.
    gather : {"auto", "owner", "root"}
        See `Client`.

    Raises
    ------
    Invalid
        If no address is given, or the trainer refuses.
    Failed
        If there is no trainer.
    """
    from sciflow_online.zmq_transport import ZmqLink, wait_for_address

    ranks: Comm = comm or SerialComm()
    place = address or os.environ.get(ADDRESS)
    if not place:
        raise Invalid(f"which trainer? Give the path of its address file, or set {ADDRESS} to it")
    wait = float(os.environ.get(PATIENCE, "600")) if patience is None else patience
    found = wait_for_address(Path(place), wait)
    name = exchange(ranks, group or os.environ.get(GROUP) or uuid.uuid4().hex)[0]
    link = ZmqLink(found["endpoints"])
    beats = ranks.rank == 0
    try:
        client = Client(link, found["token"], name, ranks, patience=wait, gather=gather, beats=beats)
    except BaseException:
        link.close()
        raise
    client.nonce = found["nonce"]
    if beats:
        heart = Heart(ZmqLink(found["endpoints"][:1]), client)
        client.closers.append(heart.stop)
    return client
