"""Reading ahead in a thread: the same batches, no thread left behind, errors where they belong."""

import gc
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from sciflow.ahead import ahead
from sciflow.errors import Invalid
from sciflow.stored import Stored
from tests.artifact.test_stored import ensemble


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return ensemble(tmp_path_factory.mktemp("ahead"))


def threads():
    return [t for t in threading.enumerate() if t.name == "ahead"]


@pytest.mark.parametrize("depth", [1, 2, 50])
@pytest.mark.parametrize("block", [None, 2])
def test_batches_and_their_order_are_those_without_a_thread(data, depth, block):
    plain, read_ahead = (
        Stored(data, ["u", "a"], ["u"], window=(2, 1), block=block, ahead=n) for n in (0, depth)
    )
    for seed, start in ((None, 0), (3, 0), (3, 2)):
        pairs = zip(
            plain.batches(4, seed=seed, epoch=1, start=start),
            read_ahead.batches(4, seed=seed, epoch=1, start=start),
            strict=True,
        )
        for a, b in pairs:
            for name in a.x:
                np.testing.assert_array_equal(a.x[name], b.x[name])
            np.testing.assert_array_equal(a.y["u"], b.y["u"])
            np.testing.assert_array_equal(a.members, b.members)
    assert not threads()


def test_no_thread_without_a_wish_for_one(data):
    batches = Stored(data, ["u[0]"], ["q"]).batches(2, seed=0)
    next(batches)
    assert not threads()


def test_at_most_so_many_items_are_made_before_they_are_asked_for():
    made = []

    def source():
        for i in range(100):
            made.append(i)
            yield i

    items = ahead(source(), 3)
    assert not made
    for wanted in range(5):
        assert next(items) == wanted
        time.sleep(0.05)
        assert len(made) <= wanted + 1 + 3 + 1  # asked for, ready, and the one that waits for room
    items.close()
    assert not threads()


@pytest.mark.parametrize("how", ["close", "drop", "break", "raise"])
def test_the_thread_ends_with_the_loop_and_releases_the_source(how):
    closed = []

    def source():
        try:
            while True:
                yield 1
        finally:
            closed.append(threading.current_thread().name)

    items = ahead(source(), 2)
    if how == "raise":
        with pytest.raises(KeyError):  # noqa: PT012  the loop is what is tested
            for _ in items:
                raise KeyError("the step failed")
    elif how == "break":
        for _ in items:
            break
    else:
        next(items)
    if how == "close":
        items.close()
    del items
    assert not threads()
    assert closed == ["ahead"]


def test_an_error_comes_after_what_was_read_before_it():
    def source():
        yield 1
        yield 2
        raise Invalid("damaged")

    items = ahead(source(), 5)
    time.sleep(0.05)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(Invalid, match="damaged"):
        next(items)
    assert not threads()


def test_reading_overlaps_with_the_work():
    def source():
        for i in range(8):
            time.sleep(0.03)
            yield i

    begin = time.perf_counter()
    for _ in ahead(source(), 2):
        time.sleep(0.03)
    assert time.perf_counter() - begin < 0.85 * 16 * 0.03


def test_a_process_ends_amid_a_batch():
    code = (
        "import time\nfrom sciflow.ahead import ahead\n"
        "def source():\n    while True:\n        time.sleep(0.01)\n        yield 1\n"
        "items = ahead(source(), 2)\nnext(items)\nprint('ended', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert done.stdout == "ended\n"
    assert "Error" not in done.stderr


def test_a_negative_number_is_refused(data):
    with pytest.raises(Invalid, match="read ahead"):
        Stored(data, ["u[0]"], ["q"], ahead=-1)


def test_a_loop_may_be_collected_in_the_thread_itself(monkeypatch):
    forgotten, collected, unraisable = threading.Event(), threading.Event(), []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)

    def source():
        yield 0
        forgotten.wait()
        gc.collect()
        collected.set()
        yield 1

    cycle = [ahead(source(), 1)]
    assert next(cycle[0]) == 0
    gc.disable()
    try:
        cycle.append(cycle)
        del cycle
        forgotten.set()
        assert collected.wait(10)
    finally:
        gc.enable()
    assert not unraisable
