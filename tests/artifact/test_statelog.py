import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow.artifact.disk import Disk
from sciflow.artifact.statelog import HEADER, Rows, StateLog
from sciflow.errors import Invalid

QUICK = Disk("rename")


def replay(state, records):
    """A tuner's state: how often each arm was pulled, and the sum of its costs."""
    counts, sums = (
        (np.zeros(3), np.zeros(3)) if state is None else (state["counts"].copy(), state["sums"].copy())
    )
    for record in records:
        counts[record["arm"]] += 1
        sums[record["arm"]] += record["cost"]
    return counts, sums


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.floats(-1, 1))), st.integers(1, 5), st.integers(1, 4))
def test_what_is_restored_is_what_was_learned(tmp_path_factory, pulls, every, sessions):
    folder = tmp_path_factory.mktemp("log")
    parts = np.array_split(np.arange(len(pulls)), sessions)
    for part in parts:
        log = StateLog(folder, QUICK)
        counts, sums = replay(*log.restore())
        for i in part:
            arm, cost = pulls[i]
            log.append({"arm": arm, "cost": cost})
            counts[arm] += 1
            sums[arm] += cost
            if len(log) % every == 0:
                log.snapshot({"counts": counts, "sums": sums})
        del log
    state, records = StateLog(folder, QUICK).restore()
    assert len(records) < every
    expected = replay(None, [{"arm": a, "cost": c} for a, c in pulls])
    np.testing.assert_array_equal(replay(state, records), expected)
    assert len(list(folder.glob("snapshot-*"))) <= 2


def test_a_kill_anywhere_loses_at_most_the_record_in_flight(tmp_path):
    log = StateLog(tmp_path / "log")
    for i in range(4):
        log.append({"arm": i % 3, "cost": 0.5 * i})
    log.snapshot(dict(zip(("counts", "sums"), replay(*log.restore()), strict=True)))
    log.append({"arm": 0, "cost": 7.0})
    (file,) = (tmp_path / "log" / "journal").glob("*.log")
    whole = file.read_bytes()
    ends = [i + 1 for i, b in enumerate(whole) if b == 10]
    for cut in range(len(whole)):
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "log", copy)
        (copy / "journal" / file.name).write_bytes(whole[:cut])
        records = sum(e <= cut for e in ends[:4]) + (ends[5] <= cut)
        counts, _ = replay(*StateLog(copy, QUICK).restore())
        assert counts.sum() == records
        shutil.rmtree(copy)


def test_a_damaged_snapshot_is_not_used(tmp_path):
    log = StateLog(tmp_path, QUICK)
    for i in range(5):
        log.append({"arm": 0, "cost": 1.0})
        if i in (1, 3):
            log.snapshot({"counts": np.array([i + 1.0, 0, 0]), "sums": np.array([i + 1.0, 0, 0])})
    newest = max(tmp_path.glob("snapshot-*"))
    newest.write_bytes(newest.read_bytes()[:-1] + b"!")
    state, records = StateLog(tmp_path, QUICK).restore()
    assert state["counts"][0] == 2
    assert len(records) == 3
    assert replay(state, records)[0][0] == 5


def test_a_record_that_is_missing_or_there_twice_is_said(tmp_path):
    one, other = StateLog(tmp_path / "a", QUICK), StateLog(tmp_path / "a", QUICK)
    one.append({"arm": 1, "cost": 0.0})
    other.append({"arm": 2, "cost": 0.0})
    with pytest.raises(Invalid, match="two processes wrote record 0"):
        one.restore()
    log = StateLog(tmp_path / "b", QUICK)
    for _ in range(3):
        log.append({"arm": 1, "cost": 0.0})
    (file,) = (tmp_path / "b" / "journal").glob("*.log")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[2])
    with pytest.raises(Invalid, match="record 1 of 3 is damaged or missing"):
        log.restore()


FIELDS = {"state": ((3,), "float32"), "action": ((), "int64"), "reward": ((), "float64")}


def some_rows(n, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "state": rng.random((n, 3)).astype("f4"),
        "action": rng.integers(0, 9, n),
        "reward": rng.random(n),
    }


def test_rows_come_back_from_any_cut_up_to_the_last_whole_one(tmp_path):
    rows = Rows(tmp_path / "r", FIELDS)
    rows.append(**some_rows(2))
    rows.append(**some_rows(3, 1))
    rows.close()
    whole = (tmp_path / "r").read_bytes()
    expected = {
        k: np.concatenate([a, b])
        for (k, a), b in zip(some_rows(2).items(), some_rows(3, 1).values(), strict=True)
    }
    for cut in range(HEADER, len(whole) + 1):
        (tmp_path / "c").write_bytes(whole[:cut])
        again = Rows(tmp_path / "c", FIELDS, QUICK)
        count = (cut - HEADER) // again.dtype.itemsize
        assert len(again) == count
        for name, values in expected.items():
            np.testing.assert_array_equal(again.read()[name], values[:count])
        again.append(**some_rows(1, 9))
        assert len(again) == len(again.read()) == count + 1
        again.close()


def test_a_flipped_bit_ends_the_rows(tmp_path):
    rows = Rows(tmp_path / "r", FIELDS, QUICK)
    rows.append(**some_rows(3))
    rows.close()
    whole = (tmp_path / "r").read_bytes()
    size = rows.dtype.itemsize
    for bit in range(HEADER * 8, len(whole) * 8):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        (tmp_path / "r").write_bytes(data)
        again = Rows(tmp_path / "r", FIELDS, QUICK)
        assert len(again) == (bit // 8 - HEADER) // size
        again.close()


def test_rows_of_another_kind_are_refused(tmp_path):
    Rows(tmp_path / "r", FIELDS, QUICK).close()
    with pytest.raises(Invalid, match="rows of other fields"):
        Rows(tmp_path / "r", {"x": ((), "float32")})
    with pytest.raises(Invalid, match="rows hold numbers"):
        Rows(tmp_path / "s", {"x": ((), "object")})
    rows = Rows(tmp_path / "r", FIELDS, QUICK)
    with pytest.raises(Invalid, match="'state': shape"):
        rows.append(**{**some_rows(2), "state": np.zeros((2, 4))})
    with pytest.raises(Invalid, match="a row has the fields"):
        rows.append(state=np.zeros((1, 3)))
    rows.close()
