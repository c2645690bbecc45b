"""The table of members: whatever solvers do, no member is lost, doubled or tried too often."""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sciflow import Invalid
from sciflow_online.roster import Roster, Standing


class Schedule(RuleBasedStateMachine):
    """Groups come, ask, finish, fail, leave and are lost in any order; a table of our own looks on."""

    @initialize(
        members=st.integers(1, 8), attempts=st.integers(1, 3), lanes=st.sampled_from([0, 0, 2, 3]),
        ranks=st.integers(1, 3),
    )  # fmt: skip
    def begin(self, members, attempts, lanes, ranks):
        self.order = list(range(members))
        self.roster = Roster(self.order, attempts, lanes)
        self.attempts, self.lanes, self.ranks = attempts, lanes, ranks
        self.busy = {}  # group: (member, attempt)
        self.had = {}  # group: how many members
        self.failures = dict.fromkeys(self.order, 0)
        self.ended = {}
        self.seen = set()

    def group(self, number):
        names = sorted(self.roster.groups)
        return names[number % len(names)] if names else None

    @rule(name=st.sampled_from("abcd"))
    def enter(self, name):
        if self.lanes and name not in self.roster.groups and len(self.roster.groups) >= self.lanes:
            with pytest.raises(Invalid, match="lanes"):
                self.roster.enter(name, self.ranks)
            return
        self.roster.enter(name, self.ranks)
        self.had.setdefault(name, 0)

    @precondition(lambda self: self.roster.groups)
    @rule(number=st.integers(0, 9))
    def ask(self, number):
        name = self.group(number)
        if name in self.busy:
            return
        turns = [self.roster.ask(name, self.had[name], 0.0) for _ in range(self.ranks)]
        if turns[0] is None:
            assert all(t is None for t in turns), "one rank was given a member, another none"
            return
        got = {(t.member, t.attempt) for t in turns}
        assert len(got) == 1, "ranks of a group were given different members"
        member, attempt = got.pop()
        assert member not in {m for m, _ in self.busy.values()}, "a member is running twice"
        assert (member, attempt) not in self.seen, "an attempt was given out twice"
        assert member not in self.ended
        if self.lanes:
            assert member % self.lanes == self.roster.groups[name].lane
        self.seen.add((member, attempt))
        self.busy[name] = member, attempt
        self.had[name] += 1

    def one(self, number):
        names = sorted(self.busy)
        return names[number % len(names)]

    @precondition(lambda self: self.busy)
    @rule(number=st.integers(0, 9), order=st.randoms(use_true_random=False))
    def finish(self, number, order):
        name = self.one(number)
        member, attempt = self.busy.pop(name)
        ranks = order.sample(range(self.ranks), self.ranks)
        for rank in ranks[:-1]:
            assert self.roster.finish(member, attempt, rank) is None
            assert self.roster.finish(member, attempt, rank) is None, "one rank counted twice"
        assert self.roster.finish(member, attempt, ranks[-1]).member == member
        self.ended[member] = Standing.DONE

    @precondition(lambda self: self.busy)
    @rule(number=st.integers(0, 9), final=st.booleans())
    def fail(self, number, final):
        name = self.one(number)
        member, attempt = self.busy.pop(name)
        again = self.roster.fail(member, attempt, "it went wrong", final=final)
        self.failed(member, again, final)

    def failed(self, member, again, final=False):
        self.failures[member] += 1
        assert again == (self.failures[member] < self.attempts and not final)
        if not again:
            self.ended[member] = Standing.FAILED

    @precondition(lambda self: self.roster.groups)
    @rule(number=st.integers(0, 9), penalty=st.booleans())
    def leave(self, number, penalty):
        name = self.group(number)
        found = self.roster.leave(name, "it is gone", penalty=penalty)
        assert self.roster.leave(name, "it is gone", penalty=penalty) == []
        mine = self.busy.pop(name, None)
        assert found == ([mine[0]] if mine else [])
        if mine and penalty:
            self.failed(mine[0], self.roster.standing[mine[0]] == Standing.PENDING)

    @rule(number=st.integers(0, 8), off=st.sampled_from([-2, -1, 0, 1]))
    def stale(self, number, off):
        """Words about attempts that are over, or never were, change nothing."""
        running = sorted(self.busy.values())
        member, attempt = running[number % len(running)] if running else (number, 0)
        attempt += off
        if (member, attempt) in running or member not in self.roster.standing:
            return
        before = json.dumps(self.roster.to_json())
        assert self.roster.finish(member, attempt, 0) is None
        self.roster.fail(member, attempt, "old news")
        self.roster.heard(member, attempt, 9.0, moved=True)
        assert json.dumps(self.roster.to_json()) == before

    @rule()
    def trainer_dies(self):
        """Another trainer takes the table up; who was computing is unknown to it."""
        document = json.loads(json.dumps(self.roster.to_json()))
        self.roster = Roster(self.order, self.attempts, self.lanes)
        self.roster.restore(document)
        assert self.roster.to_json() == document
        self.busy.clear()
        self.had.clear()

    @invariant()
    def agrees(self):
        if not hasattr(self, "roster"):
            return
        running = {m for m, _ in self.busy.values()}
        for member, standing in self.roster.standing.items():
            wanted = self.ended.get(member, Standing.RUNNING if member in running else Standing.PENDING)
            assert standing == wanted
            assert self.roster.tries.get(member, 0) <= self.attempts
        assert self.roster.settled() == (len(self.ended) == len(self.order))
        assert set(self.roster.turns) == running

    def teardown(self):
        """From anywhere, willing solvers bring it to its end."""
        if not hasattr(self, "roster"):
            return
        for lane in range(self.lanes or 1):
            if len(self.roster.groups) <= lane:
                self.enter(f"last{lane}")
        for _ in range(3 * len(self.order) * len(self.roster.groups)):
            for i in range(len(self.roster.groups)):
                self.ask(i)
            if self.busy:
                self.finish(0, random.Random(0))
        assert self.roster.settled()


Schedule.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_schedules = Schedule.TestCase


@given(st.integers(1, 4), st.integers(0, 3))
def test_a_lost_group_that_comes_back_goes_on_with_its_own_number_on_all_ranks(ranks, had):
    """It still counts its members; the trainer that thought it lost must not mix them up."""
    roster = Roster(range(9), 3)
    roster.enter("g", ranks)
    for number in range(had):
        turn = roster.ask("g", number, 0.0)
        for rank in range(ranks):
            roster.finish(turn.member, turn.attempt, rank)
    first = roster.ask("g", had, 0.0)
    roster.leave("g", "silent", penalty=True)
    roster.enter("g", ranks)
    later = [roster.ask("g", had + 1, 0.0) for _ in range(ranks)]
    assert {(t.member, t.attempt) for t in later} == {(first.member, first.attempt + 1)}
    for rank in range(ranks):
        done = roster.finish(first.member, first.attempt + 1, rank)
        assert (done is not None) == (rank == ranks - 1)
    assert roster.standing[first.member] == Standing.DONE
    assert roster.tries[first.member] == 1


def test_going_away_in_good_order_costs_no_attempt():
    roster = Roster([0], 1)
    for number in range(5):
        roster.enter("g", 1)
        turn = roster.ask("g", 0, 0.0)
        assert (turn.member, turn.attempt) == (0, number)
        assert roster.leave("g", "it left", penalty=False) == [0]
    assert roster.standing[0] == Standing.PENDING
    assert roster.tries == {}
    assert roster.resubmitted == 0


def test_a_member_that_fails_on_two_ranks_has_failed_once_with_both_reasons():
    roster = Roster([0], 2)
    roster.enter("g", 2)
    roster.ask("g", 0, 0.0)
    assert roster.finish(0, 0, 0, "NaN") is None
    turn = roster.finish(0, 0, 1, "also")
    assert turn.failures == ["NaN", "also"]
    assert roster.fail(0, 0, "NaN")
    assert roster.tries[0] == 1
    assert roster.resubmitted == 1


def test_each_lane_has_its_own_members_and_an_empty_place_is_taken_again():
    roster = Roster([4, 3, 2, 1, 0], 2, lanes=2)
    for name in "ab":
        roster.enter(name, 1)
    given = {name: [] for name in "ab"}
    for number in range(3):
        for name in "ba":
            turn = roster.ask(name, number, 0.0)
            if turn is not None:
                given[name].append(turn.member)
                roster.finish(turn.member, turn.attempt, 0)
    assert given == {"a": [4, 2, 0], "b": [3, 1]}
    with pytest.raises(Invalid, match="2 lanes and each has its solver"):
        roster.enter("c", 1)
    roster.leave("a", "gone", penalty=False)
    assert roster.enter("c", 1).lane == 0
    assert roster.exhausted(0, lambda m: True)
    assert roster.exhausted(1, lambda m: True)


def test_a_group_of_another_size_is_refused_by_name():
    roster = Roster([0], 1)
    roster.enter("g", 2)
    with pytest.raises(Invalid, match="group 'g' has 2 ranks, one of 3 says hello"):
        roster.enter("g", 3)


def test_who_is_silent_is_told_in_words():
    roster = Roster([0, 1], 1)
    for name in "ab":
        roster.enter(name, 1)
        roster.ask(name, 0, 0.0)
    assert roster.silent(5.0, 6.0, 9.0, {"a"}) == []
    (turn, words), = roster.silent(7.0, 6.0, 9.0, {"a"})  # fmt: skip
    assert (turn.group, words) == ("a", "nothing was heard of its solver for 7 s")
    roster.heard(0, 0, 8.0, moved=False, level=0)
    roster.heard(0, 0, 9.0, moved=False, level=0)
    # Signs of life that always tell of the same level are no progress.
    assert [(t.group, w) for t, w in roster.silent(17.5, 60.0, 9.0, {"a"})] == [
        ("a", "no new time level came for 10 s"), ("b", "no new time level came for 18 s"),
    ]  # fmt: skip


@pytest.mark.parametrize(("order", "attempts", "words"), [([0, 0], 1, "twice"), ([0], 0, "one attempt")])
def test_tables_that_make_no_sense_are_refused(order, attempts, words):
    with pytest.raises(Invalid, match=words):
        Roster(order, attempts)
