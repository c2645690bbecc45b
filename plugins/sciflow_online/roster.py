"""Who computes which member: given out, finished, failed, lost, given out again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from sciflow.errors import Invalid


class Standing(IntEnum):
    """How far a member is."""

    PENDING = 0
    RUNNING = 1
    DONE = 2
    FAILED = 3


@dataclass
class Turn:
    """One attempt at one member by one group of ranks.

    Attributes
    ----------
    member, attempt : int
        Which.
    group : str
        Who.
    heard, moved : float
        When something, and when a part of a level, last came from it; s, monotonic.
    finished : set of int
        Ranks that are through.
    level : int
        The latest one that is known to be computed.
    failures : list of str
        What ranks that are through say went wrong.
    final : bool
        Whether one of them says that another attempt would go the same way.
    """

    member: int
    attempt: int
    group: str
    heard: float
    moved: float
    finished: set[int] = field(default_factory=set)
    level: int = -1
    failures: list[str] = field(default_factory=list)
    final: bool = False


@dataclass
class Group:
    """The ranks of one solver.

    Attributes
    ----------
    name : str
        The same for all of them.
    ranks : int
        How many there are.
    lane : int
        Its place among the groups, for a fixed order of members.
    turns : dict of int to (int, int)
        The latest members and attempts that it was given, by how many it had had before.
    """

    name: str
    ranks: int
    lane: int
    turns: dict[int, tuple[int, int]] = field(default_factory=dict)


class Roster:
    """The table of members; of trainer rank 0.

    Parameters
    ----------
    order : sequence of int
        Members in the order in which they are to be begun.
    attempts : int
        How often each is tried.
    lanes : int
        If above 0, the member at position ``i`` of `order` is only given to lane ``i % lanes``, so that
        what is computed does not depend on which solver is quicker.

    Raises
    ------
    Invalid
        If `attempts` is below 1, or a member stands in the order twice.
    """

    def __init__(self, order: Sequence[int], attempts: int, lanes: int = 0) -> None:
        if attempts < 1:
            raise Invalid(f"a member needs at least one attempt, got {attempts}")
        if len(set(order)) != len(order):
            raise Invalid("a member stands twice in the order")
        self.attempts, self.lanes = attempts, lanes
        self._place = {member: i for i, member in enumerate(order)}
        self._waiting: deque[int] = deque(order)
        self.standing = dict.fromkeys(order, Standing.PENDING)
        self.reasons: dict[int, str] = {}
        self.tries: dict[int, int] = {}
        self._number: dict[int, int] = {}
        self.turns: dict[int, Turn] = {}
        self.groups: dict[str, Group] = {}
        self.resubmitted = 0

    # -- groups ------------------------------------------------------------------------------

    def enter(self, name: str, ranks: int) -> Group:
        """A rank of a solver says hello.

        Raises
        ------
        Invalid
            If the group is known with another number of ranks, or every lane is taken.
        """
        known = self.groups.get(name)
        if known is None:
            taken = {g.lane for g in self.groups.values()}
            lane = next(i for i in range(len(taken) + 1) if i not in taken)
            if self.lanes and lane >= self.lanes:
                raise Invalid(f"there are {self.lanes} lanes and each has its solver")
            known = self.groups[name] = Group(name, ranks, lane)
        elif known.ranks != ranks:
            raise Invalid(f"group {name!r} has {known.ranks} ranks, one of {ranks} says hello")
        return known

    def leave(self, name: str, reason: str, *, penalty: bool) -> list[int]:
        """A group is gone; what it was computing waits again, as one more failure if it was its own fault.

        Returns
        -------
        list of int
            The members that it was computing: one, or two where some of its ranks were ahead.
        """
        group = self.groups.pop(name, None)
        lost = []
        for member, attempt in group.turns.values() if group is not None else ():
            turn = self.turns.get(member)
            if turn is None or (turn.group, turn.attempt) != (name, attempt):
                continue
            lost.append(member)
            if penalty:
                self.fail(member, attempt, reason)
            else:
                del self.turns[member]
                self._again(member)
        return lost

    # -- members -----------------------------------------------------------------------------

    def ask(self, name: str, number: int, now: float) -> Turn | None:
        """The member for a rank of a group that has had `number`; None if there is none now."""
        group = self.groups[name]
        if number in group.turns:
            # Another rank of the group was here first: all of them get the same.
            member, attempt = group.turns[number]
            turn = self.turns.get(member)
            if turn is not None and (turn.group, turn.attempt) == (name, attempt):
                return turn
            return Turn(member, attempt, name, now, now)
        member_ = self._next(group)
        if member_ is None:
            return None
        attempt = self._number.get(member_, 0)
        self._number[member_] = attempt + 1
        turn = self.turns[member_] = Turn(member_, attempt, name, now, now)
        self.standing[member_] = Standing.RUNNING
        group.turns[number] = (member_, attempt)
        # All ranks are through with a member before one of them asks for the one after the next.
        group.turns.pop(number - 2, None)
        return turn

    def _next(self, group: Group) -> int | None:
        if not self.lanes:
            return self._waiting.popleft() if self._waiting else None
        for member in self._waiting:
            if self._place[member] % self.lanes == group.lane:
                self._waiting.remove(member)
                return member
        return None

    def finish(
        self, member: int, attempt: int, rank: int, failure: str = "", *, final: bool = False
    ) -> Turn | None:
        """A rank is through with a member; the turn when all ranks of its group are, else None.

        Parameters
        ----------
        member, attempt, rank : int
            Who, with what.
        failure : str
            What went wrong; empty if nothing did. Then `fail` is to be told.
        final : bool
            Another attempt would go the same way.
        """
        turn = self._current(member, attempt)
        if turn is None:
            return None
        turn.finished.add(rank)
        turn.failures += [failure] if failure else []
        turn.final |= final
        group = self.groups.get(turn.group)
        if group is None or len(turn.finished) < group.ranks:
            return None
        if not turn.failures:
            del self.turns[member]
            self.standing[member] = Standing.DONE
            self.reasons.pop(member, None)
        return turn

    def fail(self, member: int, attempt: int, reason: str, *, final: bool = False) -> bool:
        """An attempt came to nothing; True if another will be made."""
        if self._current(member, attempt) is None:
            return self.standing.get(member) == Standing.PENDING
        del self.turns[member]
        self.tries[member] = self.attempts if final else self.tries.get(member, 0) + 1
        self.reasons[member] = reason
        if self.tries[member] < self.attempts:
            self.resubmitted += 1
            self._again(member)
            return True
        self.standing[member] = Standing.FAILED
        return False

    def _current(self, member: int, attempt: int) -> Turn | None:
        turn = self.turns.get(member)
        return turn if turn is not None and turn.attempt == attempt else None

    def _again(self, member: int) -> None:
        self.standing[member] = Standing.PENDING
        self._waiting.appendleft(member)

    def heard(self, member: int, attempt: int, now: float, *, moved: bool, level: int = -1) -> None:
        """Something came from whoever computes a member; a level that is new shows that it moves."""
        turn = self._current(member, attempt)
        if turn is not None:
            turn.heard = now
            if moved or level > turn.level:
                turn.moved = now
            turn.level = max(turn.level, level)

    def silent(
        self, now: float, heartbeat: float, patience: float, beating: Collection[str]
    ) -> list[tuple[Turn, str]]:
        """Attempts that nothing comes from any more, with the reason in words.

        Parameters
        ----------
        now : float
            s, monotonic.
        heartbeat : float
            Longest silence of a group that gives signs of life, s.
        patience : float
            Longest time without a new level, s.
        beating : collection of str
            The groups that give signs of life.
        """
        found = []
        for turn in self.turns.values():
            if turn.group in beating and now - turn.heard > heartbeat:
                found.append((turn, f"nothing was heard of its solver for {now - turn.heard:.0f} s"))
            elif now - turn.moved > patience:
                found.append((turn, f"no new time level came for {now - turn.moved:.0f} s"))
        return found

    def exhausted(self, lane: int, wanted: Callable[[int], bool]) -> bool:
        """Whether no wanted member of a lane can give anything more."""
        return all(
            self.standing[m] >= Standing.DONE
            for m, place in self._place.items()
            if place % self.lanes == lane and wanted(m)
        )

    # -- counts ------------------------------------------------------------------------------

    def count(self, standing: Standing, members: Sequence[int] | None = None) -> int:
        """How many members, of all or of some, stand so."""
        chosen = self.standing if members is None else members
        return sum(self.standing[m] == standing for m in chosen)

    def settled(self, members: Sequence[int] | None = None) -> bool:
        """Whether nothing more will come of these members."""
        if self._waiting and members is None:
            return False
        chosen = self.standing if members is None else members
        return all(self.standing[m] >= Standing.DONE for m in chosen)

    # -- keeping -----------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """What a later trainer needs to know: who is done, who failed and why, how often it was tried."""
        ended = {str(m): int(s) for m, s in self.standing.items() if s >= Standing.DONE}
        return {
            "ended": ended,
            "reasons": {str(m): r for m, r in self.reasons.items()},
            "tries": {str(m): n for m, n in self.tries.items()},
            "numbers": {str(m): n for m, n in self._number.items()},
            "resubmitted": self.resubmitted,
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Take up what `to_json` wrote; members that were being computed wait again."""
        for member, standing in document["ended"].items():
            self.standing[int(member)] = Standing(standing)
        self.reasons = {int(m): r for m, r in document["reasons"].items()}
        self.tries = {int(m): n for m, n in document["tries"].items()}
        self._number = {int(m): n for m, n in document["numbers"].items()}
        self.resubmitted = int(document["resubmitted"])
        self._waiting = deque(m for m in self._waiting if self.standing[m] == Standing.PENDING)
