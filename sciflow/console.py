"""What a person sees in the terminal while a flow runs."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO

from sciflow.context import Event

PATIENCE = 2.0
"""Seconds of silence that a person is spared a progress line for."""


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Console:
    """Prints one line a stage, and a progress bar for those that take more than two seconds.

    Parameters
    ----------
    stream : text stream
        Where to; a bar is redrawn on a terminal and printed at every tenth elsewhere.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._lock = threading.Lock()
        self._begin: dict[str, float] = {}
        self._tenth: dict[str, int] = {}
        self._note: dict[str, str] = {}
        self._first: dict[str, tuple[float, float]] = {}
        self._drawn = ""

    def __call__(self, stage: str, event: Event) -> None:
        """Take one event of one stage."""
        kind = event["event"]
        with self._lock:
            if kind == "begin":
                # The stage may have the name of one that ended.
                self._tenth.pop(stage, None)
                self._note.pop(stage, None)
                self._first.pop(stage, None)
                self._begin[stage] = time.monotonic()
            elif kind == "progress":
                self._progress(stage, event)
            elif kind == "metric":
                self._note[stage] = "  ".join(f"{k} {v:.3g}" for k, v in list(event["values"].items())[:2])
            elif kind == "log" and event["level"] not in ("DEBUG", "INFO"):
                self._print(f"  {stage}: {event['message']}")
            elif kind == "end":
                self._print(
                    f"{stage:<10} {event['state']:<9} {duration(event['seconds']):>12}  {event['detail']}"
                )

    def _progress(self, stage: str, event: Event) -> None:
        now = time.monotonic()
        passed = now - self._begin.get(stage, now)
        total = max(1, event["total"])
        since, before = self._first.setdefault(stage, (now, event["done"]))
        share = min(1.0, event["done"] / total)
        tenth = int(10 * share)
        if passed < PATIENCE or (not self._live and tenth <= self._tenth.get(stage, 0)):
            return
        self._tenth[stage] = tenth
        left = ""
        # What a start took, and what was there before it, tell nothing of the pace.
        if before < event["done"] < total:
            left = f"{duration((now - since) / (event['done'] - before) * (total - event['done']))} left"
        bar = "#" * round(24 * share) + "." * (24 - round(24 * share))
        note = self._note.get(stage, "")
        text = (
            f"{stage:<10} [{bar}] {event['done']}/{event['total']} {event['what']}  {left}  {note}".rstrip()
        )
        if self._live:
            self._stream.write("\r" + text[:150].ljust(len(self._drawn)))
            self._drawn = text[:150]
            self._stream.flush()
        else:
            self._print(text)

    def _print(self, text: str) -> None:
        if self._drawn:
            self._stream.write("\r" + " " * len(self._drawn) + "\r")
            self._drawn = ""
        self._stream.write(text + "\n")
        self._stream.flush()
