"""What a person sees in the terminal while a flow runs, and what a log keeps of it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from sciflow.terminal import Words, clever, painted, width_of

if TYPE_CHECKING:
    from types import TracebackType

    from sciflow.context import Event
    from sciflow.terminal import Block

PATIENCE = 2.0
"""Seconds of silence that a person is spared a progress line for."""
PAUSE = 60.0
"""Seconds between two lines of one stage in a log, at least."""
NAME, BAR, SHORT = 24, 22, 10
"""Columns of the name of a stage, which longer ones exceed, and of its bar, also in a narrow window."""
STATES = {"computed": "good", "written": "good", "cached": "faint", "failed": "bad", "cancelled": "odd",
          "would run": "new"}  # fmt: skip
"""How the end of a stage is painted."""


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def pace(per_second: float) -> str:
    """How fast, with a unit that leaves a number that can be read."""
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        if per_second * seconds >= 1:
            return f"{per_second * seconds:.3g}/{unit}"
    return f"{per_second * 86400:.3g}/day"


@dataclass
class Running:
    """One stage that runs.

    Attributes
    ----------
    name : str
        Its label.
    begin : float
        When it began, s of the monotonic clock.
    done, total : int
        So many of so many; 0 of 0 as long as it said nothing.
    what : str
        Of what.
    figures : mapping of str to str
        What else it said with it.
    note : str
        Its last metrics.
    first : (float, int) or None
        When it first said how far it is, and how far it was then.
    told : (float, int)
        When the last line about it was written, and at which tenth.
    """

    name: str
    begin: float
    done: int = 0
    total: int = 0
    what: str = ""
    figures: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    first: tuple[float, int] | None = None
    told: tuple[float, int] = (-1e9, 0)

    @property
    def share(self) -> float:
        """Part that is done, 0 to 1."""
        return min(1.0, self.done / max(1, self.total))

    def line(self, now: float, width: int, bar: str) -> Words:
        """The stage in a line; in a narrow window what matters least is left out.

        Parameters
        ----------
        now : float
            s of the monotonic clock.
        width : int
            Columns.
        bar : str
            What is done and what is not, a character each.
        """
        for long, least in ((BAR, 9), (BAR, 6), (BAR, 5), (SHORT, 4), (0, 4), (0, 2)):
            pieces = [(text, style) for rank, text, style in self._pieces(now, bar, long) if rank < least]
            over = sum(len(text) for text, _ in pieces) - width
            if over <= 0:
                break
        if over > 0:
            name, room = self.name, max(NAME - over, 3)
            name = name if len(name) <= room else name[: room - 1] + "~"
            pieces[0] = (f"{name:<{room}}", "strong")
        return [piece for piece in pieces if piece[0]]

    def _pieces(self, now: float, bar: str, long: int) -> list[tuple[int, str, str]]:
        """Rank of what matters most, text and style, in the order of the line."""
        filled = round(long * self.share)
        ahead, per_second = "", ""
        # What a start took, and what was there before it, tell nothing of the pace.
        if self.first is not None and self.first[1] < self.done and now > self.first[0]:
            rate = (self.done - self.first[1]) / (now - self.first[0])
            per_second = f"  {pace(rate)}"
            if self.done < self.total:
                ahead = f"  {duration((self.total - self.done) / rate)} left"
        failed, passed = self.figures.get("failed", "0"), now - self.begin
        name = (0, f"{self.name:<{NAME}}", "strong")
        if not self.total:
            return [name, (1, f"  {duration(passed)}" if passed >= 1 else "", "faint")]
        return [
            name,
            (3, f" {bar[0] * filled}" if long else "", "bar"),
            (3, bar[1] * (long - filled), "faint"),
            (1, f"  {self.done}/{self.total}", ""),
            (4, f" {self.what}", ""),
            (1, f"  {failed} failed" if failed != "0" else "", "bad"),
            (2, ahead, ""),
            (5, per_second, "faint"),
            (6, f"  {self.note}" if self.note else "", "faint"),
        ]


class Console:
    """A line for each stage that ended, and below, on a terminal, one for each that runs.

    Elsewhere a stage that runs has a line at most at every tenth and every minute.

    Parameters
    ----------
    stream : text stream or None
        Where to; None stands for standard error.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = clever(self._stream)
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._running: dict[str, Running] = {}
        self._ended: list[tuple[str, str, float]] = []
        self._since = time.monotonic()
        self._block: Block | None = None
        fancy = "utf" in (getattr(self._stream, "encoding", "") or "utf-8").lower()
        self._bar = "\u2501\u2500" if fancy and self._live else "#."

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, stage: str, event: Event) -> None:
        """Take one event of one stage, from any thread."""
        # The block asks for the lock while it holds its own: nothing is drawn or written under this one.
        if event["event"] == "begin" and self._live:
            self._open()
        with self._lock:
            lines = self._take(stage, event)
        for words in lines:
            self._write(words)

    def close(self) -> None:
        """End the block, and give the terminal back as it was."""
        block, self._block = self._block, None
        if block is not None:
            block.close()

    def summary(self) -> str:
        """What was computed and what was there already, how long that took, and where the time went."""
        with self._lock:
            ended, took = list(self._ended), time.monotonic() - self._since
        states = [state for _, state, _ in ended if state != "written"]
        if not states:
            return ""
        counted = [f"{states.count(s)} {s}" for s in STATES if s in states]
        text = f"{len(states)} stage{'s'[: len(states) != 1]}: {', '.join(counted)}; {duration(took)} in all"
        spent: dict[str, float] = {}
        for name, state, seconds in ended:
            if state != "cached":
                spent[name] = spent.get(name, 0.0) + seconds
        most = sorted(spent.items(), key=lambda item: -item[1])[:4]
        if took > 0 and most:
            # Stages that ran at the same time add up to more than the whole.
            shares = ", ".join(f"{name} {duration(s)} ({100 * s / took:.0f} %)" for name, s in most)
            text += f"\nmost of the time: {shares}"
        return text

    def _open(self) -> None:
        from sciflow.terminal import Block

        with self._opening:
            if self._block is None:
                self._block = Block(self._stream, self._lines)

    def _take(self, stage: str, event: Event) -> list[Words]:
        """Note an event; the lines to be written of it."""
        kind, now = event["event"], time.monotonic()
        key = str(event.get("task", stage))
        if kind == "begin":
            self._running[key] = Running(stage, now)
        elif kind == "end":
            self._running.pop(key, None)
            self._ended.append((stage, event["state"], event["seconds"]))
            return [self._end(stage, event)]
        elif kind == "log" and event["level"] not in ("DEBUG", "INFO"):
            style = "bad" if event["level"] in ("ERROR", "CRITICAL") else "odd"
            return [[(f"  {stage}: {event['message']}", style)]]
        elif key in self._running:
            one = self._running[key]
            if kind == "metric":
                one.note = "  ".join(f"{k} {v:.3g}" for k, v in list(event["values"].items())[:2])
            elif kind == "progress":
                one.done, one.total, one.what = event["done"], event["total"], event["what"]
                one.figures = event.get("figures", {})
                one.first = one.first or (now, one.done)
                return self._told(one, now)
        return []

    def _told(self, one: Running, now: float) -> list[Words]:
        """A line about a stage that runs, where there is no block and it is time for one."""
        tenth = int(10 * one.share)
        early = now - one.begin < PATIENCE or now - one.told[0] < PAUSE
        if self._live or early or tenth <= one.told[1]:
            return []
        one.told = (now, tenth)
        return [one.line(now, 10_000, self._bar)]

    def _end(self, stage: str, event: Event) -> Words:
        head = f"{stage:<{NAME}} "
        state = f"{event['state']:<9}"
        took = "" if event["state"] == "would run" else f" {duration(event['seconds']):>12}"
        detail = str(event["detail"])
        if self._live and len(head + state + took + detail) + 2 > width_of(self._stream) and "/" in detail:
            detail = detail.rpartition("/")[2]  # the store is the same for all
        return [(head, ""), (state, STATES.get(event["state"], "")), (took, ""), (f"  {detail}", "faint")]

    def _lines(self, width: int) -> list[Words]:
        now = time.monotonic()
        with self._lock:
            # One that is over at once does not flicker.
            return [r.line(now, width, self._bar) for r in self._running.values() if now - r.begin > 0.3]

    def _write(self, words: Words) -> None:
        block = self._block
        if block is not None:
            block.above(words)
            return
        self._stream.write(painted(words, self._stream).rstrip() + "\n")
        self._stream.flush()
