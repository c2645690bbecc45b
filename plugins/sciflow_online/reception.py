"""A trainer rank's side of the protocol: refuses, gives out members, takes levels in, holds back."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Failed, Invalid
from sciflow.problem import member_seed
from sciflow_online.intake import Intake, Recipe, Sample
from sciflow_online.moments import Moments
from sciflow_online.roster import Roster, Standing
from sciflow_online.terms import PURPOSES, TEST, TRAIN, VALID, Plan, Sink, Tally, Terms
from sciflow_online.wire import Header, Kind, entries, text

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow_online.transport import Message, Server

UNREACHABLE = "the connection to its solver is gone"
UNSAID = "the solver says that it failed"
LOOK = 0.5
"""Seconds between two looks at who is silent or gone."""
CHECKING = ("python 1", "c 1")
"""Clients that look at every value before they send it."""
ROUNDS = 64
"""Messages that may land in the buffer, one by one, before credits are given."""
MEASURED, GOLDEN = 1 / 8, 0.6180339887498949
"""Share of the samples that are looked at for the mean and spread of the stream; not every eighth one, which
might always be the same time level."""
SAID = 100
"""Refusals that are logged one by one."""
PROBE = 2.0
"""Seconds between two attempts to find out which connections are gone."""
WAIT = 0.25
"""Seconds after which a solver without work asks again."""


@dataclass
class _Peer:
    group: str
    rank: int
    ranks: int
    beats: bool
    heart: bool
    checks: bool
    taken: int = 0


@dataclass
class _Lane:
    """Finished samples that wait for room, with the connection that is told when they are in."""

    queue: deque[tuple[Sample, Any]] = field(default_factory=deque)


class Reception:
    """Talks to the solvers, between two training steps and never in another thread.

    Parameters
    ----------
    server : Server
        The transport's end.
    recipe : Recipe
        What samples are made of.
    sink : Sink
        Where training samples go.
    plan : Plan
        Points and purposes; on ranks other than 0 filled by what rank 0 tells.
    terms : Terms
        Credits, patience, token.
    roster : Roster or None
        The table of members; of rank 0.
    ctx : Context
        Log, events, and the communicator of the trainer ranks.
    lanes : int
        0 takes samples as they come. Above, samples go into the buffer lane by lane in turn, whichever
        solver is quicker.
    """

    def __init__(
        self, server: Server, recipe: Recipe, sink: Sink, plan: Plan, terms: Terms, roster: Roster | None,
        ctx: Context, lanes: int = 0,
    ) -> None:  # fmt: skip
        self._server, self.recipe, self._sink, self.plan = server, recipe, sink, plan
        self._terms, self.roster, self._ctx = terms, roster, ctx
        self._comm: Any = ctx.comm
        self.intake = Intake(recipe, len(plan.points), ctx.comm.rank, ctx.comm.size)
        self.tally = Tally()
        self.moments = Moments()
        self.held: list[Sample] = []
        self.limit: float = float("inf")
        self.lanes = lanes
        self.turn = 0
        self._lanes = [_Lane() for _ in range(max(1, lanes))]
        self._peers: dict[Any, _Peer] = {}
        self._early: deque[Message] = deque()
        self._later: list[Message] = []
        self._notes: list[Any] = []
        self._looked = self._probed = time.monotonic()
        self._version = 0
        self._settled: dict[int | None, tuple[int, bool]] = {}
        server.refused = self._refused
        if not lanes:
            server.landing = self._landing

    # -- the loop ----------------------------------------------------------------------------

    def poll(self, timeout: float = 0.0) -> None:
        """Take in what has come, answer it, and put finished samples where there is room."""
        self._ctx.check()
        self._take_notes()
        self._put()
        for _ in range(ROUNDS):
            messages = self._server.receive(timeout)
            for message in messages:
                self._handle(message)
            # What has landed in the buffer becomes a sample before anything else may land.
            if not messages or not messages[-1].landed:
                break
            self._put()
            timeout = 0.0
        if self._early:
            self._again()
        self._put()
        if self._later:
            later, self._later = self._later, []
            for message in later:
                self._handle(message)
        self._pay()
        now = time.monotonic()
        if self.roster is not None and now - self._looked > LOOK:
            self._look(now)

    def _handle(self, message: Message) -> None:
        header = message.header
        peer = self._peers.get(message.peer)
        if header.kind == Kind.HELLO:
            self._hello(message)
        elif peer is None:
            self._refuse(message.peer, "say HELLO with the token of this run first")
        elif header.kind in (Kind.DATA, Kind.INDEX):
            self._part(peer, message)
        elif header.kind == Kind.ALIVE:
            self._heard(header, moved=False)
        elif self.roster is None:
            self._refuse(message.peer, f"{header.kind.name} goes to trainer rank 0")
        elif header.kind == Kind.ASK:
            self._ask(peer, message)
        elif header.kind == Kind.FINISH:
            self._finish(peer, message)
        elif header.kind == Kind.LEAVE:
            self._lost(peer.group, "its solver left", penalty=False)
        else:
            self._refuse(message.peer, f"{header.kind.name} is not for a trainer")

    def _refuse(self, peer: Any, reason: str) -> None:
        self._server.refuse(peer, reason)

    def _refused(self, reason: str) -> None:
        self.tally.refused += 1
        if self.tally.refused <= SAID:
            more = "; further ones are only counted" if self.tally.refused == SAID else ""
            self._ctx.log.warning("refused: %s%s", reason, more)

    # -- hello and work ----------------------------------------------------------------------

    def _hello(self, message: Message) -> None:
        import hmac

        said, header = entries(message.payload), message.header
        if not hmac.compare_digest(said.get("token", "").encode(), self._terms.token.encode()):
            self._refuse(message.peer, "the token is not that of this run: read it from the address file")
            return
        name = said.get("group", "")
        if not name or not 0 <= header.rank < header.ranks:
            self._refuse(
                message.peer, f"HELLO needs a group and a rank, got {name!r}, {header.rank} of {header.ranks}"
            )
            return
        try:
            if self.roster is not None:
                self.roster.enter(name, header.ranks)
        except Invalid as error:
            self._refuse(message.peer, str(error))
            return
        who = said.get("client", "")
        self._peers[message.peer] = _Peer(
            name, header.rank, header.ranks, said.get("beats") == "1", who == "heart", who in CHECKING
        )
        self._server.send(message.peer, Header(Kind.WELCOME), text(self._welcome()))

    def _welcome(self) -> dict[str, object]:
        terms, recipe = self._terms, self.recipe
        said: dict[str, object] = {
            "session": terms.session,
            "trainers": self._ctx.comm.size,
            "credits": terms.credits,
            "heartbeat": terms.heartbeat,
            "spread": recipe.spread,
            "fields": len(recipe.fields),
            "parameters": len(recipe.problem.parameters),
        }
        for i, f in enumerate(recipe.fields):
            said[f"field{i}"] = f"{f.name} {f.dtype.name} {int(f.timed)} {f.size}"
        for i, name in enumerate(recipe.problem.parameters):
            said[f"parameter{i}"] = name
        for i, endpoint in enumerate(terms.endpoints):
            said[f"endpoint{i}"] = endpoint
        return said

    def _ask(self, peer: _Peer, message: Message) -> None:
        roster = self.roster
        assert roster is not None
        if peer.group not in roster.groups:
            # It was thought lost and is back: it begins anew.
            try:
                roster.enter(peer.group, peer.ranks)
            except Invalid as error:
                self._refuse(message.peer, str(error))
                return
        number = message.header.level
        known = number in roster.groups[peer.group].turns
        turn = roster.ask(peer.group, number, time.monotonic())
        if turn is None:
            over = self.settled()
            self._server.send(message.peer, Header(Kind.BYE if over else Kind.WAIT), text({"seconds": WAIT}))
            if over:
                self._drop(message.peer)
            return
        point = self.plan.point(turn.member)
        if not known:
            self._begin(turn.member, turn.attempt, point)
        said: dict[str, object] = {
            "seed": member_seed(self._terms.seed, turn.member),
            "purpose": PURPOSES[self.plan.purposes[turn.member]],
            **{f"p{i}": repr(float(v)) for i, v in enumerate(point)},
        }
        head = Header(Kind.MEMBER, member=turn.member, attempt=turn.attempt, level=number)
        self._server.send(message.peer, head, text(said))

    def _begin(self, member: int, attempt: int, point: np.ndarray) -> None:
        self.intake.begin(member, attempt, point)
        note = np.array([member, attempt, self.plan.purposes[member], *point], dtype=np.float64)
        for rank in range(1, self._comm.size):
            self._notes.append((self._comm.Isend(note, rank, 23), note))
        self._notes = [(request, kept) for request, kept in self._notes if not request.Test()]

    def _take_notes(self) -> None:
        """On other ranks: what rank 0 gave out."""
        if self._comm.rank == 0 or self._comm.size == 1:
            return
        while self._comm.Iprobe(0, 23):
            note = np.empty(3 + self.plan.points.shape[1])
            self._comm.Recv(note, 0, 23)
            member = int(note[0])
            self.plan.purposes[member] = int(note[2])
            self.plan.points[member] = note[3:]
            self.intake.begin(member, int(note[1]), note[3:])

    def _finish(self, peer: _Peer, message: Message) -> None:
        roster, header, said = self.roster, message.header, entries(message.payload)
        assert roster is not None
        if any(s.member == header.member for lane in self._lanes for s, _ in lane.queue):
            # Done is what is in the reservoir.
            self._later.append(message)
            return
        self.tally.solver_seconds += _number(said.get("seconds"))
        self.tally.blocked_seconds += _number(said.get("blocked"))
        whole = self.recipe.adaptive or header.level == self.recipe.levels
        failure = ""
        if said.get("status") != "ok":
            failure = said.get("reason") or UNSAID
        elif not whole and self.plan.purposes[header.member] != TEST:
            failure = f"its solver stopped after {header.level} of {self.recipe.levels} time levels"
        final = said.get("final") == "1"
        turn = roster.finish(header.member, header.attempt, header.rank, failure, final=final)
        if turn is not None and turn.failures:
            # Ranks that only stopped because another one did have nothing to say.
            reason = next((r for r in turn.failures if r != UNSAID), UNSAID)
            again = roster.fail(turn.member, turn.attempt, reason, final=turn.final)
            self._note_failure(turn.member, reason, again=again)
        elif turn is not None:
            self.intake.end(header.member)
            self._tell(header.member, "ok")
        self._server.send(message.peer, Header(Kind.FINISHED, member=header.member))

    def _fail(self, header: Header, reason: str) -> None:
        assert self.roster is not None
        turn = self.roster.turns.get(header.member)
        if turn is not None and turn.attempt == header.attempt:
            again = self.roster.fail(header.member, header.attempt, reason)
            self._note_failure(header.member, reason, again=again)

    def _note_failure(self, member: int, reason: str, *, again: bool) -> None:
        self.intake.end(member)
        word = "it is computed again" if again else "it is left out"
        self._ctx.log.warning("member %d: %s; %s", member, reason, word)
        if not again:
            self._tell(member, "failed", reason)
            self._give_up()

    def _give_up(self) -> None:
        """End the run as soon as it is certain that too few members will succeed."""
        roster, minimum = self.roster, self._terms.minimum
        assert roster is not None
        failed, count = roster.count(Standing.FAILED), len(roster.standing)
        if count - failed < minimum * count:
            shown = "; ".join(f"member {m}: {r}" for m, r in list(roster.reasons.items())[:3])
            raise Failed(
                f"{failed} of {count} members failed, so fewer than the minimum of {minimum:.0%} can "
                f"succeed. {shown}. Mend the cause and run again, or accept them with a smaller minimum."
            )

    def _tell(self, member: int, state: str, reason: str = "") -> None:
        self._version += 1
        self._ctx.emit({"event": "member", "member": member, "state": state, "reason": reason})

    # -- levels ------------------------------------------------------------------------------

    def _part(self, peer: _Peer, message: Message) -> None:
        header = message.header
        if header.kind == Kind.DATA and not self.intake.expects(header):
            # Rank 0 gave this member out a moment ago; its note is under way.
            self._early.append(message)
            return
        try:
            if header.kind == Kind.INDEX:
                self.intake.place(message.peer, header, message.payload)
                return
            samples = self.intake.add(message.peer, header, message.payload, finite=peer.checks)
        except (Invalid, ValueError, IndexError) as error:
            self._bad(peer, message, str(error))
            return
        self.tally.messages += 1
        self.tally.nbytes += 64 + len(message.payload)
        self._heard(header, moved=True)
        if not samples or self.plan.purposes[header.member] == TEST:
            peer.taken += 1
            return
        lane = self._lanes[self._lane_of(peer) if self.lanes else 0]
        for i, sample in enumerate(samples, 1):
            if self.plan.purposes[sample.member] == VALID:
                # Their arrays look into the transport's memory.
                own = {k: np.array(v) for k, v in sample.arrays.items()}
                self.held.append(Sample(sample.member, sample.number, own))
                peer.taken += i == len(samples)
            else:
                lane.queue.append((sample, peer if i == len(samples) else None))

    def _landing(self, peer: Any, header: Header) -> np.ndarray | None:
        """The row of the buffer that a whole level may be received into, if it will be put at once."""
        lane = self._lanes[0]
        ready = peer in self._peers and not lane.queue and self.tally.samples < self.limit
        if not ready or self.plan.purposes[header.member] != TRAIN or not self._sink.room():
            return None
        name = self.intake.lands(header)
        landing = getattr(self._sink, "landing", None)
        return landing(name) if name and landing is not None else None

    def _lane_of(self, peer: _Peer) -> int:
        if self.roster is not None and peer.group in self.roster.groups:
            return self.roster.groups[peer.group].lane
        return 0

    def _again(self) -> None:
        early, self._early = self._early, deque()
        self._take_notes()
        for message in early:
            peer = self._peers.get(message.peer)
            if peer is not None:
                self._part(peer, message)

    def _bad(self, peer: _Peer, message: Message, reason: str) -> None:
        """A part that cannot be right ends the attempt, and nothing else."""
        self.tally.refused += 1
        peer.taken += message.header.kind == Kind.DATA
        header = message.header
        head = Header(Kind.ABORT, member=header.member, attempt=header.attempt)
        self._server.send(message.peer, head, text({"reason": reason}))
        if self.roster is not None:
            self._fail(header, reason)
        else:
            self.intake.end(header.member)

    def _put(self) -> None:
        """Move finished samples into the buffer as far as there is room and their turn has come."""
        while self.tally.samples < self.limit and self._sink.room():
            lane = self._lanes[self.turn]
            if not lane.queue:
                if not self.lanes or not self._skip():
                    return
                continue
            sample, peer = lane.queue.popleft()
            self._sink.put(sample.arrays, sample.member, sample.number)
            if self.tally.samples * GOLDEN % 1.0 < MEASURED:
                self.moments.update({k: np.asarray(v)[None] for k, v in sample.arrays.items()})
            self.tally.samples += 1
            if peer is not None:
                peer.taken += 1
            if self.lanes:
                self.turn = (self.turn + 1) % self.lanes

    def _skip(self) -> bool:
        """Whether the lane whose turn it is has nothing more to give, and another one has."""
        assert self.roster is not None
        roster = self.roster
        for _ in range(self.lanes):
            lane = self._lanes[self.turn]
            if lane.queue:
                return True
            if not roster.exhausted(self.turn, self._is_train):
                return False
            self.turn = (self.turn + 1) % self.lanes
        return False

    def _is_train(self, member: int) -> bool:
        return bool(self.plan.purposes[member] == TRAIN)

    def _pay(self) -> None:
        """Tell every connection how many of its messages were taken."""
        for key, peer in list(self._peers.items()):
            if peer.taken:
                taken, peer.taken = peer.taken, 0
                self._reach(key, peer, taken)

    def _reach(self, key: Any, peer: _Peer, taken: int = 0) -> None:
        """Tell a connection how many messages were taken; one that is gone takes its group with it."""
        if self._server.send(key, Header(Kind.CREDIT, count=taken)):
            return
        self._drop(key)
        if self.roster is not None and not peer.heart:
            self._lost(peer.group, UNREACHABLE, penalty=True)

    def _drop(self, key: Any) -> None:
        self._peers.pop(key, None)
        self.intake.forget(key)

    # -- who is still there ------------------------------------------------------------------

    def _heard(self, header: Header, *, moved: bool) -> None:
        if self.roster is not None:
            self.roster.heard(
                header.member, header.attempt, time.monotonic(), moved=moved, level=header.level
            )

    def _look(self, now: float) -> None:
        roster, terms = self.roster, self._terms
        assert roster is not None
        # What lay in the queue while the last training step ran was taken in by now.
        self._looked = now
        beating = {p.group for p in self._peers.values() if p.beats}
        for turn, reason in roster.silent(now, 5 * terms.heartbeat, terms.patience, beating):
            self._ctx.emit({"event": "hung", "group": turn.group, "reason": reason})
            self._abort(turn.group, turn.member, turn.attempt, reason)
            self._lost(turn.group, reason, penalty=True)
        self._probe(now)
        if terms.gone is None or not terms.gone.is_dir():
            return
        for note in list(terms.gone.iterdir()):
            if note.name.endswith(".partial"):
                continue
            if note.name in roster.groups:
                reason = note.read_text().strip()
                self._lost(note.name, reason or "its job ended", penalty=bool(reason))
            for key in [k for k, p in self._peers.items() if p.group == note.name]:
                self._drop(key)
            note.unlink(missing_ok=True)

    def _probe(self, now: float) -> None:
        """Find connections that are gone: nothing can be sent to them any more."""
        if now - self._probed < PROBE:
            return
        self._probed = now
        for key, peer in list(self._peers.items()):
            self._reach(key, peer)

    def _abort(self, group: str, member: int, attempt: int, reason: str) -> None:
        for key, peer in list(self._peers.items()):
            if peer.group == group:
                head = Header(Kind.ABORT, member=member, attempt=attempt)
                self._server.send(key, head, text({"reason": reason}))

    def _lost(self, group: str, reason: str, *, penalty: bool) -> None:
        assert self.roster is not None
        for member in self.roster.leave(group, reason, penalty=penalty):
            self.intake.end(member)
            if penalty:
                again = self.roster.standing[member] == Standing.PENDING
                self._note_failure(member, reason, again=again)

    # -- ends --------------------------------------------------------------------------------

    def settled(self, purpose: int | None = None) -> bool:
        """On rank 0: whether nothing more will come of the members (with a purpose)."""
        assert self.roster is not None
        version, answer = self._settled.get(purpose, (-1, False))
        if not answer and version != self._version:
            answer = self.roster.settled(None if purpose is None else self.plan.of(purpose))
            self._settled[purpose] = self._version, answer
        return answer

    def discard(self) -> None:
        """Drop finished samples that wait for room, as taken: nothing is drawn any more."""
        for lane in self._lanes:
            while lane.queue:
                _, peer = lane.queue.popleft()
                if peer is not None:
                    peer.taken += 1

    def waiting(self) -> int:
        """Finished samples that wait for room."""
        return sum(len(lane.queue) for lane in self._lanes)

    def dismiss(self) -> None:
        """Send every solver away, without waiting for its answer."""
        for key in self._peers:
            self._server.send(key, Header(Kind.BYE))

    def goodbye(self, seconds: float) -> None:
        """Tell every solver that asks, for some time, that there is no more work.

        Whoever was given up, because it hangs or is silent, is not waited for.
        """
        until = time.monotonic() + seconds
        groups = self.roster.groups if self.roster is not None else {}
        while any(p.group in groups and not p.heart for p in self._peers.values()):
            if time.monotonic() > until:
                return
            for message in self._server.receive(0.05):
                if message.header.kind == Kind.HELLO:
                    self._hello(message)
                elif message.header.kind == Kind.ASK:
                    self._server.send(message.peer, Header(Kind.BYE))
                    self._drop(message.peer)
                elif message.header.kind == Kind.FINISH:
                    self._server.send(message.peer, Header(Kind.FINISHED, member=message.header.member))
                elif message.header.kind == Kind.DATA:
                    self._server.send(message.peer, Header(Kind.CREDIT, count=1))
                elif message.header.kind == Kind.LEAVE:
                    self._drop(message.peer)

    # -- keeping -----------------------------------------------------------------------------

    def state(self) -> dict[str, np.ndarray]:
        """What is known, as arrays; samples that wait for room are not, and will come again."""
        known = self.intake.known.copy()
        for lane in self._lanes:
            for sample, _ in lane.queue:
                known[sample.member, sample.number] = False
        arrays = {
            "known": np.packbits(known, axis=1),
            "points": self.plan.points,
            "chosen": self.plan.chosen,
            "purposes": self.plan.purposes,
            "turn": np.array(self.turn),
            "samples": np.array(self.tally.samples),
            "solver": np.array([self.tally.solver_seconds, self.tally.blocked_seconds]),
            "held_key": np.array([[s.member, s.number] for s in self.held], dtype=np.int64).reshape(-1, 2),
        }
        arrays |= {f"moments:{k}": v for k, v in self.moments.state().items()}
        for name in self.recipe.slabs():
            if self.held:
                arrays[f"held:{name}"] = np.stack([s.arrays[name] for s in self.held])
        return arrays

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take up what `state` gave."""
        samples = self.recipe.samples
        self.intake.known[:] = np.unpackbits(arrays["known"], axis=1, count=samples).astype(bool)
        self.plan.points[:] = arrays["points"]
        self.plan.chosen[:] = arrays["chosen"]
        self.plan.purposes[:] = arrays["purposes"]
        self._version += 1
        self.turn, self.tally.samples = int(arrays["turn"]), int(arrays["samples"])
        self.tally.solver_seconds, self.tally.blocked_seconds = map(float, arrays["solver"])
        prefix = "moments:"
        self.moments.restore({k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)})
        names = list(self.recipe.slabs())
        self.held = [
            Sample(int(m), int(n), {k: arrays[f"held:{k}"][i] for k in names})
            for i, (m, n) in enumerate(arrays["held_key"])
        ]


def _number(said: str | None) -> float:
    try:
        return float(said or 0.0)
    except ValueError:
        return 0.0
