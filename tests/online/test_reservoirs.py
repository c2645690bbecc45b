"""What must hold for every buffer, in any interleaving of puts and draws; brute force as the oracle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from sciflow import Failed, Invalid
from sciflow_online.buffers import BINS, some_of
from sciflow_online.moments import Moments
from sciflow_online.reservoirs import FIFO, FIRO, KeepHard, Reservoir
from sciflow_online.rowset import RowSet

SHAPES = {"x": ((3,), "float32"), "time": ((), "float64")}
POLICIES = {"fifo": FIFO, "firo": FIRO, "reservoir": Reservoir, "keep_hard": KeepHard}
ANY = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
ONCE = pytest.mark.parametrize("policy", [FIFO, FIRO], ids=["fifo", "firo"])
AGAIN = pytest.mark.parametrize("policy", [Reservoir, KeepHard], ids=["reservoir", "keep_hard"])

# A step puts up to so many samples, or draws up to so many.
STEPS = st.lists(st.tuples(st.sampled_from(["put", "draw"]), st.integers(1, 9)), max_size=40)
QUICK = settings(max_examples=60, deadline=None)


def sample(number, scale=1.0):
    return {"x": np.full(3, scale * number, np.float32), "time": np.array(number / 7)}


class Play:
    """Runs a schedule and keeps its own books, one Python object per sample."""

    def __init__(self, buffer, scale=1.0, losses=True):
        self.buffer, self.scale, self.losses = buffer, scale, losses
        self.puts = 0
        self.uses = []  # of each sample ever put
        self.where = {}  # row: number of the sample in it
        self.drawn = []

    def put(self, count):
        for _ in range(count):
            if not self.buffer.room():
                return
            known = set(self.where)
            before = {r: self.buffer._stamp[r] for r in known}
            self.buffer.put(sample(self.puts, self.scale), self.puts // 5, self.puts)
            (row,) = np.flatnonzero(self.buffer._stamp == self.puts)
            if row in known:
                assert self.uses[before[row]] > 0, "a sample that was never used was overwritten"
            self.where[int(row)] = self.puts
            self.uses.append(0)
            self.puts += 1

    def draw(self, size):
        rows = self.buffer.draw(size)
        got = self.buffer.take(rows)
        numbers = [self.where[int(r)] for r in rows]
        np.testing.assert_array_equal(got["time"], np.array(numbers) / 7)
        np.testing.assert_array_equal(got["x"][:, 1], np.float32(self.scale) * np.array(numbers, np.float32))
        np.testing.assert_array_equal(self.buffer.members_of(rows), np.array(numbers, int) // 5)
        for n in numbers:
            self.uses[n] += 1
        if self.losses:
            self.buffer.feedback(rows, np.array([n % 4 for n in numbers], float))
        self.drawn.append(numbers)

    def run(self, steps):
        for what, count in steps:
            getattr(self, what)(count)
            assert len(self.buffer) <= self.buffer.capacity
        return self

    def all_drawn(self):
        return [n for batch in self.drawn for n in batch]


def play(policy, capacity=7, seed=0, **how):
    return Play(policy(capacity=capacity, threshold=1).open(SHAPES, np.random.default_rng(seed)), **how)


def drain(game):
    """Close and draw until every sample present was used."""
    game.buffer.close()
    while game.buffer.statistics()["unseen"]:
        game.draw(4)


@ANY
@QUICK
@given(steps=STEPS, capacity=st.integers(1, 9))
def test_memory_is_bounded_and_every_sample_is_used_by_the_end(policy, steps, capacity):
    game = play(policy, capacity).run(steps)
    assert len(game.buffer) <= capacity
    rows = {a.shape[0] for a in game.buffer._slabs.values()}
    assert rows == {capacity + 1}, "one row more, for the sample that is on its way in"
    drain(game)
    assert set(game.all_drawn()) == set(range(game.puts))


@ONCE
@QUICK
@given(steps=STEPS, capacity=st.integers(1, 9))
def test_each_sample_is_used_exactly_once(policy, steps, capacity):
    game = play(policy, capacity).run(steps)
    drain(game)
    assert sorted(game.all_drawn()) == list(range(game.puts))
    assert len(game.buffer) == 0
    if policy is FIFO:
        assert game.all_drawn() == list(range(game.puts))


@ANY
@QUICK
@given(steps=STEPS)
def test_there_is_no_room_just_where_a_used_sample_cannot_give_way(policy, steps):
    game = play(policy).run(steps)
    buffer = game.buffer
    unseen = int(buffer.statistics()["unseen"])
    assert buffer.room() == (unseen < buffer.capacity)
    while buffer.room():
        game.put(1)
    assert buffer.statistics() | {"unseen": 7.0, "fill": 1.0} == buffer.statistics()
    with pytest.raises(Failed, match="not used yet"):
        buffer.put(sample(0), 0, 0)
    if not policy.reuse:  # held until they were copied, so that nothing overwrites a batch before
        rows = buffer.draw(2)
        assert not buffer.room()
        buffer.take(rows)
        assert buffer.room()


@ANY
@QUICK
@given(steps=STEPS)
def test_reports_are_those_of_brute_force(policy, steps):
    game = play(policy).run(steps)
    present = [n for n in range(game.puts) if policy.reuse or game.uses[n] == 0]
    if policy.reuse:
        present = list(game.where.values())
    uses = np.array([game.uses[n] for n in present] or [0.0])
    expected = {
        "fill": len(present) / 7,
        "unseen": sum(game.uses[n] == 0 for n in present),
        "age_mean": np.mean([game.puts - n for n in present] or [0.0]),
        "uses_mean": uses.mean(),
        "uses_max": uses.max(),
    }
    assert game.buffer.statistics() == pytest.approx(expected)
    histogram = game.buffer.uses_histogram()
    assert histogram.sum() == game.puts
    np.testing.assert_array_equal(
        histogram, np.bincount(np.minimum(game.uses, BINS - 1).astype(int), minlength=BINS)
    )


@ANY
@QUICK
@given(before=STEPS, after=STEPS, held=st.booleans())
def test_a_restored_buffer_goes_on_with_the_same_bits(policy, before, after, held):
    game = play(policy).run(before)
    rows = game.buffer.draw(3) if held else None
    state = {k: v.copy() for k, v in game.buffer.state().items()}
    for array in state.values():
        assert array.dtype.kind in "iuf"
    assert len(state["array/x"]) == len(game.buffer)
    other = play(policy, seed=99)
    other.buffer.restore(state)
    if held:
        np.testing.assert_array_equal(other.buffer.take(rows)["x"], game.buffer.take(rows)["x"])
    follow(game.buffer, other.buffer, after, game.puts)
    for buffer in (game.buffer, other.buffer):
        buffer.close()
    follow(game.buffer, other.buffer, [("draw", 5)] * 3, game.puts)
    one, two = game.buffer.state(), other.buffer.state()
    assert {k: v.tobytes() for k, v in one.items()} == {k: v.tobytes() for k, v in two.items()}


def follow(one, two, steps, number):
    """Give the same to both and compare everything they give."""
    for what, count in steps:
        if what == "put":
            for i in range(count):
                assert one.room() == two.room()
                if one.room():
                    for buffer in (one, two):
                        buffer.put(sample(number + i), 0, number + i)
            continue
        rows, same = one.draw(count), two.draw(count)
        np.testing.assert_array_equal(rows, same)
        copies = two.take(same)
        for name, array in one.take(rows).items():
            assert array.tobytes() == copies[name].tobytes()
        for buffer in (one, two):
            buffer.feedback(rows, np.arange(len(rows)) % 3.0)


@ANY
@QUICK
@given(steps=STEPS)
def test_the_rows_drawn_do_not_depend_on_what_the_samples_hold(policy, steps):
    assert play(policy).run(steps).drawn == play(policy, scale=-3.5).run(steps).drawn


@AGAIN
def test_batches_are_uniform_over_the_samples_there(policy):
    game = play(policy, capacity=40)
    game.put(40)
    for _ in range(400):
        game.draw(10)
    expected = 400 * 10 / 40
    assert np.sum((np.array(game.uses) - expected) ** 2 / expected) < chi2.ppf(1 - 1e-6, 39)


def test_reservoir_overwrites_each_used_sample_as_often():
    gone = np.zeros(10)
    for seed in range(600):
        game = play(Reservoir, capacity=10, seed=seed)
        game.put(10)
        game.draw(200)
        game.put(1)
        (missing,) = set(range(10)) - set(game.where.values())
        gone[missing] += 1
    assert np.sum((gone - 60) ** 2 / 60) < chi2.ppf(1 - 1e-6, 9)


def test_firo_gives_every_order_as_often():
    counts = {}
    for seed in range(1200):
        game = play(FIRO, capacity=4, seed=seed)
        game.put(4)
        game.draw(1)
        game.draw(3)
        key = tuple(game.all_drawn())
        counts[key] = counts.get(key, 0) + 1
    seen = np.array([*counts.values(), *[0] * (24 - len(counts))])
    assert np.sum((seen - 50) ** 2 / 50) < chi2.ppf(1 - 1e-6, 23)


@pytest.mark.parametrize("size", [2, 5], ids=["with retries", "by permutation"])
def test_some_of_gives_every_ordered_choice_as_often(size):
    rows = np.arange(10, 16) if size == 2 else np.arange(10, 15)
    rng = np.random.default_rng(3)
    counts = {}
    draws = 6000
    for _ in range(draws):
        got = tuple(some_of(rows, size, rng).tolist())
        assert len(set(got)) == size
        counts[got] = counts.get(got, 0) + 1
    choices = 30 if size == 2 else 120
    mean = draws / choices
    seen = np.array([*counts.values(), *[0] * (choices - len(counts))])
    assert np.sum((seen - mean) ** 2 / mean) < chi2.ppf(1 - 1e-6, choices - 1)


def test_keep_hard_overwrites_what_is_learned_best():
    buffer = KeepHard(capacity=8, threshold=1, candidates=64).open(SHAPES, np.random.default_rng(1))
    for n in range(8):
        buffer.put(sample(n), 0, n)
    rows = buffer.draw(400)
    buffer.feedback(rows, np.abs(buffer.take(rows)["x"][:, 0] - 3.25))
    for expected in (3, 4, 2, 5, 1):
        assert expected in buffer._sample
        buffer.put(sample(10), 0, 10)
        assert expected not in buffer._sample


@QUICK
@given(steps=STEPS, losses=st.booleans())
def test_keep_hard_with_one_candidate_is_reservoir(steps, losses):
    single = Play(KeepHard(capacity=7, threshold=1, candidates=1).open(SHAPES, np.random.default_rng(0)))
    assert single.run(steps).drawn == play(Reservoir, losses=losses).run(steps).drawn


def test_the_loss_of_a_replaced_sample_is_passed_over():
    buffer = Reservoir(capacity=2, threshold=1).open(SHAPES, np.random.default_rng(0))
    buffer.put(sample(0), 0, 0)
    buffer.put(sample(1), 0, 1)
    rows = np.unique(buffer.draw(30))
    buffer.put(sample(2), 0, 2)
    new = int(np.flatnonzero(buffer._sample == 2)[0])
    buffer.feedback(rows, np.array([5.0, np.nan]))
    assert buffer.losses_of(np.array([new]))[0] == np.inf
    old = 1 - new
    assert buffer.losses_of(np.array([old]))[0] == (5.0 if old == 0 else np.inf)


@ANY
def test_ready_waits_for_the_threshold_and_the_batch_until_reception_ends(policy):
    buffer = policy(capacity=10, threshold=4).open(SHAPES, np.random.default_rng(0))
    assert not buffer.ready(1)
    for n in range(10):
        assert buffer.ready(2) == (n >= 4)
        assert buffer.ready(6) == (n >= 6)
        assert not buffer.ready(12)
        buffer.put(sample(n), 0, n)
    assert buffer.ready(12), "a batch larger than the buffer must not wait for ever"
    few = policy(capacity=10, threshold=4).open(SHAPES, np.random.default_rng(0))
    few.close()
    assert not few.ready(1)
    assert len(few.draw(3)) == 0
    with pytest.raises(Failed, match="ended"):
        few.put(sample(0), 0, 0)


@AGAIN
def test_after_reception_unseen_samples_come_first(policy):
    game = play(policy, capacity=20)
    game.put(20)
    game.draw(6)
    unseen = {n for n in range(20) if not game.uses[n]}
    game.buffer.close()
    game.draw(8)
    game.draw(len(unseen) - 8 + 3)
    assert len(game.drawn[-1]) == len(unseen) - 5
    assert set(game.drawn[1] + game.drawn[2][:-3]) == unseen


def test_the_threshold_follows_the_capacity():
    rng = np.random.default_rng(0)
    assert Reservoir(capacity=1000).open(SHAPES, rng).threshold == 100
    assert Reservoir(capacity=1000, threshold=500).open(SHAPES, rng, 10).threshold == 5
    assert FIFO(capacity=1000).open(SHAPES, rng).threshold == 1
    assert FIRO(capacity=3).open(SHAPES, rng, 7).capacity == 7


@ANY
@pytest.mark.parametrize("bad", [{"capacity": 0}, {"capacity": 5, "threshold": 6}, {"threshold": -1}])
def test_bad_numbers_are_refused(policy, bad):
    with pytest.raises(Invalid):
        policy(**bad)


def test_bad_samples_states_and_candidates_are_refused():
    with pytest.raises(Invalid, match="candidates"):
        KeepHard(candidates=0)
    with pytest.raises(Invalid, match="capacity"):
        Reservoir().open(SHAPES, np.random.default_rng(0), 0)
    buffer = play(Reservoir).buffer
    with pytest.raises(Invalid, match="at least one array"):
        Reservoir().open({}, np.random.default_rng(0))
    for wrong in ({"x": np.zeros(3)}, {**sample(0), "x": np.zeros(1)}, {"x": np.zeros(3), "t": np.zeros(())}):
        with pytest.raises(Invalid):
            buffer.put(wrong, 0, 0)
    assert len(buffer) == 0
    with pytest.raises(Invalid, match="not the state of this buffer"):
        buffer.restore(play(FIFO).buffer.state())
    with pytest.raises(Invalid, match="of 5 rows"):
        buffer.restore(play(Reservoir, capacity=5).buffer.state())
    buffer.put(sample(0), 0, 0)
    with pytest.raises(Invalid, match="new"):
        buffer.restore(play(Reservoir).buffer.state())
    other = Reservoir(capacity=7, threshold=1).open(
        SHAPES | {"x": ((3,), "float64")}, np.random.default_rng(0)
    )
    with pytest.raises(Invalid, match="x is float64"):
        other.restore(buffer.state())


@QUICK
@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 11))), max_size=20))
def test_a_row_set_is_a_set(changes):
    rows, expected = RowSet(12), set()
    for add, some in changes:
        chosen = np.array(sorted(some - expected if add else some & expected), np.int64)
        if len(chosen) == 1:
            (rows.add if add else rows.discard)(int(chosen[0]))
        else:
            (rows.extend if add else rows.remove)(chosen)
        expected = expected | some if add else expected - some
        assert sorted(rows.items) == sorted(expected)
        np.testing.assert_array_equal(rows.holds(np.arange(12)), [i in expected for i in range(12)])


@QUICK
@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=6),
    shift=st.sampled_from([0.0, 1.0, -1e6, 1e6]),
    seed=st.integers(0, 99),
)
def test_moments_do_not_depend_on_order_or_split(sizes, shift, seed):
    rng = np.random.default_rng(seed)
    parts = [shift + rng.standard_normal((n, 4)) for n in sizes]
    whole = np.concatenate(parts)
    there, back, ranks = Moments(), Moments(), Moments()
    for part in parts:
        there.update({"u": part})
        alone = Moments()
        alone.update({"u": part})
        ranks.merge(alone)
    for part in reversed(parts):
        back.update({"u": part})
    if not whole.size:
        assert there.count == {}
        return
    copy = Moments()
    copy.restore(there.state())
    for m in (there, back, ranks, copy):
        assert m.count == {"u": whole.size}
        assert m.mean["u"] == pytest.approx(whole.mean(), rel=1e-12, abs=1e-12)
        # The data themselves have lost digits by the shift: half an ulp of 1e6 is 6e-11.
        assert m.std["u"] == pytest.approx(whole.std(), rel=1e-9)
        assert m.mean["u"] == pytest.approx(there.mean["u"], rel=1e-12, abs=1e-12)
        assert m.std["u"] == pytest.approx(there.std["u"], rel=1e-12)


@ANY
def test_a_sample_that_landed_is_the_one_that_was_received_and_no_other_changes(policy):
    """Received in place or copied, whatever comes in between: the same samples, row by row."""
    shapes = {"x:a": ((), "float32"), "y:u": ((3,), "float32")}
    landed, copied = (policy(capacity=5).open(shapes, np.random.default_rng(3)) for _ in range(2))
    rng = np.random.default_rng(0)
    for i in range(200):
        if not landed.room() or (len(landed) > 2 and i % 3 == 0):
            rows = landed.draw(2)
            assert np.array_equal(rows, copied.draw(2))
            a, b = landed.take(rows), copied.take(rows)
            assert all(np.array_equal(a[k], b[k]) for k in shapes)
        if not landed.room():
            continue
        u = np.full(3, i, "float32")
        place = landed.landing("y:u")
        place[:] = u if i % 4 else -1.0  # every fourth lands and is then given up: another one comes
        landed.put({"x:a": np.float32(i), "y:u": place if i % 4 else u}, 0, i)
        copied.put({"x:a": np.float32(i), "y:u": u}, 0, i)
        if rng.random() < 0.05:
            again = policy(capacity=5).open(shapes, np.random.default_rng(9))
            again.restore(landed.state())
            landed = again
