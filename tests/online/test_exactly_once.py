"""Every sample arrives exactly once, whatever dies when, and means what it must."""

import random
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow_online import reception as reception_module
from sciflow_online.roster import Standing
from sciflow_online.sending import Aborted, Assigned, Gone
from sciflow_online.wire import Header, Kind, text
from tests.online.memory import MemoryLink, MemoryServer
from tests.online.parts import TOKEN, Ramp, client, drained, reception, recipe


def check(found, members, levels, window=(0, 1)):
    """The samples are those of all members, once each, with the values that say so."""
    reach = sum(window)
    keys = sorted((m, s) for m, s, _ in found)
    assert keys == [(m, s) for m in members for s in range(levels - reach + 1)]
    x = np.arange(3.0)
    for m, s, arrays in found:
        a = 100.0 * m
        if window == (0, 1):
            assert arrays["x:a"] == a
            assert arrays["x:time"] == s + 1
            assert np.array_equal(arrays["x:q"], (a * x).astype("float32"))
            assert np.array_equal(arrays["y:u"], (a + 10 * (s + 1) + x).astype("float32"))
        else:
            first, last = (np.atleast_2d(arrays[f"{side}:u"]) for side in "xy")
            assert np.array_equal(first[0], (a + 10 * (s + 1) + x).astype("float32"))
            assert np.array_equal(last[-1], (a + 10 * (s + reach) + x).astype("float32"))


class Actor:
    """A solver that is moved step by step and may die between any two messages."""

    def __init__(self, server, here, name):
        self.link, self.here = MemoryLink(server), here
        made = {}
        thread = threading.Thread(target=lambda: made.update(c=client(self.link, name)))
        thread.start()
        while thread.is_alive():
            here.poll(0.001)
        self.client, self.states, self.busy = made["c"], None, False

    def turn(self):
        """One small step; False when there is no more work."""
        if self.states is None:
            answer = self._call(self.client.ask)
            if not isinstance(answer, Assigned):
                return answer is not None
            self.states = Ramp().solve(answer.parameters, None)
            return True
        state = next(self.states, None)
        if state is None:
            self._call(self.client.finish)
            self.states = None
        else:
            self._call(lambda: self.client.send(state.time, state.fields))
        return True

    def _call(self, action):
        """Run what waits for the trainer while the trainer runs."""
        out = {}

        def run():
            try:
                out["value"] = action()
            except (Aborted, Gone) as error:
                out["error"] = error

        thread = threading.Thread(target=run)
        thread.start()
        while thread.is_alive():
            self.here.poll(0.0005)
        self.here.poll()
        if "error" in out:
            raise out["error"]
        return out["value"]


@settings(max_examples=25, deadline=None)
@given(
    window=st.sampled_from([(0, 1), (1, 1), (2, 2)]),
    deaths=st.lists(st.integers(0, 40), max_size=4),
    seed=st.integers(0, 2**32),
)
def test_every_sample_once_over_random_crashes(window, deaths, seed):
    """Three solvers take turns at random; at some turns the one that is on dies and another comes."""
    members, server, order = 5, MemoryServer(), random.Random(seed)
    here, buffer = reception(server, recipe(window=window), members, valid=1, attempts=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reception_module, "PROBE", 0.0)
        patch.setattr(reception_module, "LOOK", 0.0)
        actors = [Actor(server, here, f"g{i}") for i in range(3)]
        count, serial = 0, 3
        while not here.settled():
            one = order.choice(actors)
            if count in deaths:
                one.link.die()
                actors[actors.index(one)] = Actor(server, here, f"g{serial}")
                serial += 1
            else:
                one.turn()
            count += 1
            assert count < 2000
        here.poll()
    assert here.roster.count(Standing.DONE) == members
    check(drained(buffer), range(1, members), 5, window)
    assert sorted((s.member, s.number) for s in here.held) == [(0, s) for s in range(5 - sum(window) + 1)]


def test_a_level_that_is_sent_twice_counts_once():
    server = MemoryServer()
    here, buffer = reception(server, recipe(), 2, valid=1)
    one = Actor(server, here, "g")
    for _ in range(2):  # the validation member, then the other one
        one.turn()
        while one.states is not None:
            state = next(one.states, None)
            if state is None:
                one._call(one.client.finish)
                one.states = None
                continue
            for repeat in range(2):
                one._call(lambda now=state: one.client.send(now.time, now.fields))
                one.client._progress.level -= 1 - repeat
    check(drained(buffer), [1], 5)
    assert here.intake.duplicates >= 5


def test_a_member_that_stops_in_mid_trajectory_is_given_out_again_and_then_left_out():
    server = MemoryServer()
    here, buffer = reception(server, recipe(), 2, valid=1, attempts=2)
    one = Actor(server, here, "g")
    while here.roster.count(Standing.DONE) < 1:
        one.turn()
    for attempt in range(2):
        assert one.turn()
        one.turn()
        one.turn()
        one._call(one.client.finish)
        one.states = None
        assert here.roster.tries[1] == attempt + 1
    assert here.roster.standing[1] == Standing.FAILED
    assert "stopped after 2 of 5 time levels" in here.roster.reasons[1]
    assert here.settled()
    assert [(m, s) for m, s, _ in drained(buffer)] == [(1, 0), (1, 1)], "what had come is kept, once"


def test_values_that_are_not_finite_end_the_attempt_with_the_name_of_the_field():
    server = MemoryServer()
    here, _ = reception(server, recipe(), 2, valid=1, attempts=1)
    one = Actor(server, here, "g")
    while here.roster.count(Standing.DONE) < 1:
        one.turn()
    one.turn()
    mine = one.client._assigned
    # A client of somebody else's, which does not look at what it sends.
    one.link.send(0, Header(Kind.HELLO), text({"token": TOKEN, "group": "g", "client": "other 7"}))
    bad = np.array([1, np.inf, 2], dtype="float32")
    head = Header(Kind.DATA, 1, 2, member=mine.member, attempt=mine.attempt, count=3)
    number = one.client.fields["u"][0]
    one.link.send(0, Header(**{**{n: getattr(head, n) for n in head.__slots__}, "field": number}), bad)
    here.poll()
    assert here.roster.standing[1] == Standing.FAILED
    assert "'u' is not finite at time level 0" in here.roster.reasons[1]


@pytest.mark.parametrize("lanes", [0, 2])
def test_a_full_reservoir_holds_solvers_back_and_loses_nothing(lanes):
    """With room for three samples and nobody who draws, no more than the credits are under way."""
    server = MemoryServer()
    here, buffer = reception(server, recipe(), 4, valid=1, capacity=3, lanes=lanes, ahead=2)

    def solve(name):
        mine = client(MemoryLink(server), name)
        for assigned in mine.members():
            for state in Ramp().solve(assigned.parameters, None):
                mine.send(state.time, state.fields)
            mine.finish()

    threads = [threading.Thread(target=solve, args=(f"g{i}",), daemon=True) for i in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        here.poll(0.002)
    assert len(buffer) == 3
    assert here.waiting() <= 2 * 2, "two connections with two credits each"
    assert any(t.is_alive() for t in threads)
    found = []
    while not (here.settled() and not here.waiting()):
        here.poll(0.002)
        if buffer.ready(1):
            rows = buffer.draw(1)
            buffer.take(rows)
            found += list(zip(buffer._member[rows].tolist(), buffer._sample[rows].tolist(), strict=True))
    found += [(m, s) for m, s, _ in drained(buffer)]
    assert sorted(found) == [(m, s) for m in (1, 2, 3) for s in range(5)]
    here.dismiss()
    for thread in threads:
        thread.join(10)
