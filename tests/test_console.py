"""The terminal while a flow runs: a block on a terminal, few lines in a log, and nothing left behind."""

import codecs
import contextlib
import fcntl
import io
import logging
import os
import pty
import re
import struct
import sys
import termios
import threading
import time

import pytest

from sciflow import console, terminal
from sciflow.console import Console, Running, duration, pace
from sciflow.terminal import clever, painted, table


class Screen:
    """A terminal of our own: what stands on it after what was written, and what was seen on the way."""

    def __init__(self, columns=100, rows=40):
        self.master, slave = pty.openpty()
        self.slave = os.fdopen(slave, "w", encoding="utf-8")
        self.written = ""
        self.resize(columns, rows)
        # A terminal nobody reads from stops who writes.
        self.reader = threading.Thread(target=self._drain, daemon=True)
        self.reader.start()

    def _drain(self):
        decoder = codecs.getincrementaldecoder("utf-8")()
        with contextlib.suppress(OSError):  # the other side is closed
            while chunk := os.read(self.master, 65536):
                self.written += decoder.decode(chunk)

    def close(self):
        self.slave.close()
        self.reader.join(5)
        os.close(self.master)

    def resize(self, columns, rows=40):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self):
        self.slave.flush()
        time.sleep(0.05)
        return self.written

    def lines(self):
        """The screen, as a terminal that knows these few commands shows it."""
        shown, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", self.read()):
            if part == "\r":
                column = 0
            elif part == "\n":
                row += 1
                shown += [""] * (row + 1 - len(shown))
            elif part.startswith("\x1b["):
                number = int(re.sub(r"\D", "", part) or 1)
                if part.endswith("A"):
                    row = max(0, row - number)
                elif part.endswith("K"):
                    shown[row] = ""
                elif not part.endswith(("m", "h", "l")):
                    raise AssertionError(part)
            else:
                shown[row] = shown[row].ljust(column)[:column] + part + shown[row][column + len(part) :]
                column += len(part)
        return [line.rstrip() for line in shown]

    def until(self, text, patience=5.0):
        end = time.monotonic() + patience
        while text not in self.read():
            assert time.monotonic() < end, (text, self.written)
            time.sleep(0.02)


@pytest.fixture
def screen(monkeypatch):
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    made = Screen()
    yield made
    made.close()


def progress(done, total=40, what="epochs", **more):
    return {"event": "progress", "done": done, "total": total, "what": what, **more}


def end(state="computed", seconds=1.5, detail="/store/artifacts/model-1a2b"):
    return {"event": "end", "state": state, "seconds": seconds, "detail": detail}


def test_stages_that_run_have_a_line_each_and_leave_none_behind(screen, monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen.slave)
    seen = logging.StreamHandler(screen.slave)
    log = logging.getLogger("tests.console")
    log.propagate = False
    log.addHandler(seen)
    try:
        with Console() as show:
            show("train fno", {"event": "begin"})
            show("simulate heat", {"event": "begin"})
            show("train fno", progress(10))
            show("train fno", {"event": "metric", "step": 10, "values": {"loss": 0.0123}})
            show("simulate heat", progress(3, 9, "members", figures={"failed": "2"}))
            screen.until("10/40 epochs")
            screen.until("2 failed")
            log.warning("a line of somebody else")
            print("and one that is printed", file=sys.stderr)
            show("simulate heat", {"event": "log", "level": "WARNING", "message": "member 7 is slow"})
            show("train fno", end())
            show("simulate heat", progress(7, 9, "members"))
            screen.until("7/9 members")
            running = screen.lines()
            show("simulate heat", end("failed", 2.0, "Failed: the solver"))
    finally:
        log.removeHandler(seen)
    assert sum("simulate heat" in line and "7/9" in line for line in running) == 1
    assert not any("10/40" in line for line in running), "it has ended"
    left = [line for line in screen.lines() if line]
    assert left[:3] == [
        "a line of somebody else",
        "and one that is printed",
        "  simulate heat: member 7 is slow",
    ]
    assert re.match(r"train fno +computed +1.5 s  /store/artifacts/model-1a2b$", left[3])
    assert re.match(r"simulate heat +failed +2.0 s  Failed: the solver$", left[4])
    assert len(left) == 5
    assert screen.written.count("\x1b[?25l") == screen.written.count("\x1b[?25h") == 1, "the cursor is back"
    assert "\x1b[1;31m  2 failed" in screen.written
    assert "loss 0.0123" in screen.written
    assert sys.stderr is screen.slave


def test_the_cursor_is_back_after_ctrl_c(screen):
    def interrupted():
        with Console(screen.slave) as show:
            show("train", {"event": "begin"})
            show("train", progress(1))
            screen.until("1/40")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert screen.read().rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in screen.written[-40:]
    assert not any(line for line in screen.lines())
    assert not [t for t in threading.enumerate() if "refresh" in type(t).__name__.lower()]


def test_a_window_that_becomes_narrow_keeps_what_matters(screen):
    with Console(screen.slave) as show:
        show("evaluate pod_regression", {"event": "begin"})
        show("evaluate pod_regression", progress(1, 400, "test members", figures={"failed": "3"}))
        screen.until("1/400 test members")
        screen.resize(34)
        begin = len(screen.written)
        time.sleep(0.6)
        narrow = screen.read()[begin:]
    plain = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "\n", narrow)
    drawn = [line for line in re.split(r"[\r\n]+", plain) if line.strip()]
    assert "1/400" in narrow
    assert "3 failed" in narrow
    assert max(map(len, drawn)) <= 34


@pytest.mark.parametrize("width", [30, 40, 50, 70, 90, 118])
def test_a_line_fits_and_keeps_how_far_it_is_and_what_failed(width):
    one = Running(
        "evaluate a_model_of_many_words", 0.0, 310, 400, "members", {"failed": "2"}, "loss 1", (3.0, 0)
    )
    text = "".join(t for t, _ in one.line(63.0, width, "#."))
    assert len(text) <= width
    assert "310/400" in text
    assert "2 failed" in text
    assert text.startswith("evaluate"[:3])
    assert ("left" in text) == (width > 50)
    assert ("loss" in text) == (width >= 118)


def test_many_events_draw_no_more_often(screen):
    """A training of a thousand steps a second must not wait for a terminal."""
    with Console(screen.slave) as show:
        show("train", {"event": "begin"})
        begin = time.monotonic()
        for step in range(20_000):
            show("train", progress(step, 20_000, "steps"))
        took = time.monotonic() - begin
        frames = len(re.findall(r"\d+/20000 steps", screen.read()))
    assert frames <= terminal.PER_SECOND * took + 2


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_that_wants_none_of_it_gets_plain_lines(screen, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert not clever(screen.slave)
    with Console(screen.slave) as show:
        show("train", {"event": "begin"})
        show("train", progress(3))
        show("train", end())
    assert "\x1b" not in screen.read()
    assert screen.written.startswith("train ")


def lines_in_a_log(events, monkeypatch):
    """What a log has of events, each at its time in seconds."""
    seen, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    show = Console(seen)
    show("train", {"event": "begin"})
    for at, done in events:
        clock[0] = at
        show("train", progress(done, 100))
    show("train", end())
    assert "\x1b" not in seen.getvalue()
    return seen.getvalue().splitlines()


def test_a_log_has_a_line_at_most_at_every_tenth_and_every_minute(monkeypatch):
    fast = [(1 + 0.5 * i, i) for i in range(100)]
    assert len(lines_in_a_log(fast, monkeypatch)) == 1 + 1
    slow = [(100.0 * i, i) for i in range(100)]
    assert len(lines_in_a_log(slow, monkeypatch)) == 9 + 1


def test_every_stage_of_one_name_shows_the_time_that_its_pace_leaves(monkeypatch):
    """The second training too; neither a slow start nor what a killed one had done counts as pace."""
    one = lines_in_a_log([(100.0, 90), (170.0, 92), (180.0, 100)], monkeypatch)
    assert "90/100 epochs" in one[0]
    assert "left" not in one[0]
    running = Running("train", 0.0, 92, 100, "epochs", first=(100.0, 90))
    text = "".join(t for t, _ in running.line(110.0, 200, "#."))
    assert "92/100 epochs  40.0 s left  12/min" in text
    assert text.count("#") == 20


def test_stages_that_run_at_once_under_one_name_are_told_apart():
    show = Console(io.StringIO())
    for task, done in (("a", 10), ("b", 20)):
        show("train fno", {"event": "begin", "task": task})
        show("train fno", progress(done) | {"task": task})
    assert sorted(one.done for one in show._running.values()) == [10, 20]
    show("train fno", end() | {"task": "a"})
    assert [one.done for one in show._running.values()] == [20]


def test_the_summary_says_what_was_there_and_where_the_time_went(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    show = Console(io.StringIO())
    assert show.summary() == ""
    show("design", end("cached", 0.01))
    show("simulate heat", end(seconds=30.0))
    show("train fno", end(seconds=60.0))
    show("train fno", end(seconds=40.0))
    show("report", end("written", 5.0))
    clock[0] = 100.0
    assert show.summary() == (
        "4 stages: 3 computed, 1 cached; 1 min 40 s in all\n"
        "most of the time: train fno 1 min 40 s (100 %), simulate heat 30.0 s (30 %), report 5.0 s (5 %)"
    )


def test_tables_are_aligned_and_the_last_column_wraps_on_a_terminal(screen):
    rows = [("heat", "10", "ready"), ("rve", "9", "needs dolfinx and much else " + "that is long " * 10)]
    plain = table(("name", "n", "state"), rows, io.StringIO(), right=(1,), marks={"ready": "good"})
    assert plain.splitlines()[:2] == ["name   n  state", "heat  10  ready"]
    assert len(plain.splitlines()) == 3
    screen.resize(60)
    shown = table(("name", "n", "state"), rows, screen.slave, right=(1,), marks={"ready": "good"})
    bare = re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()
    assert max(map(len, bare)) <= 60
    assert all(line.startswith(" " * 10) for line in bare[3:])
    assert len(bare) > 4
    assert "\x1b[32m  ready" in shown
    assert table((), []) == ""


def test_words_for_times_and_paces():
    assert [duration(s) for s in (0.25, 12.34, 100, 4000)] == ["250 ms", "12.3 s", "1 min 40 s", "1 h 06 min"]
    assert [pace(p) for p in (3.21, 0.05, 0.001, 1e-5)] == ["3.21/s", "3/min", "3.6/h", "0.864/day"]
    assert painted([("a", "bad"), ("b", "")], io.StringIO()) == "ab"
