"""What a terminal can do: colours, tables that fit, and a block of lines that changes while others scroll."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.text import Text

Words = Sequence[tuple[str, str]]
"""A line as pieces: text and its style, one of `STYLES` or empty."""

STYLES = {"good": "32", "bad": "1;31", "odd": "33", "new": "36", "faint": "2", "strong": "1", "bar": "34"}
"""What stands behind ``ESC [`` for each."""
_RICH = {
    "good": "green", "bad": "bold red", "odd": "yellow", "new": "cyan", "faint": "dim", "strong": "bold",
    "bar": "blue",
}  # fmt: skip
PER_SECOND = 4
"""So often a block is drawn at most."""
WIDEST = 118
"""Columns of a line of a block at most: one that is narrower than its window survives a smaller window."""


def clever(stream: TextIO) -> bool:
    """Whether a stream is a terminal that takes colours and moves its cursor, and its user wants that.

    Parameters
    ----------
    stream : text stream
        ``NO_COLOR`` and ``TERM=dumb`` are obeyed.
    """
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") != "dumb"


def width_of(stream: TextIO) -> int:
    """Columns of a terminal; 10000 of a file, which has no edge."""
    if not stream.isatty():
        return 10_000
    with contextlib.suppress(OSError, ValueError):  # it may be none of the system's
        return int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size(stream.fileno()).columns or 80
    return 80


def painted(words: Words, stream: TextIO) -> str:
    """A line for a stream, with colours where it takes them."""
    if not clever(stream):
        return "".join(text for text, _ in words)
    return "".join(f"\x1b[{STYLES[s]}m{text}\x1b[0m" if s else text for text, s in words)


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    stream: TextIO | None = None,
    *,
    right: Sequence[int] = (),
    marks: Mapping[str, str] | None = None,
) -> str:
    """Rows with columns aligned; on a terminal a last column that is too wide goes on below itself.

    Parameters
    ----------
    head : sequence of str
        Heading of each column; none for a table without headings.
    rows : sequence of sequence of str
        As many cells each.
    stream : text stream or None
        Where it will be shown; None stands for standard output.
    right : sequence of int
        Columns of numbers, aligned at the right.
    marks : mapping of str to str or None
        Style of the cells that begin with a word.
    """
    stream, marks = stream or sys.stdout, marks or {}
    lines = [list(row) for row in ([head, *rows] if head else rows)]
    if not lines:
        return ""
    widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))]
    before = sum(widths[:-1]) + 2 * (len(widths) - 1)
    room = width_of(stream) - before
    shown = []
    for number, row in enumerate(lines):
        styles = ["strong" if head and number == 0 else marks.get(c.partition(" ")[0], "") for c in row]
        last = [row[-1]]
        if len(row[-1]) > room >= 24:
            last = textwrap.wrap(row[-1], room, break_on_hyphens=False)
        cells = [*row[:-1], last[0]]
        padded = [
            c.rjust(w) if i in right else c.ljust(w)
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ]
        padded[-1] = padded[-1].rstrip()
        words = [
            (("  " if i else "") + c, style) for i, (c, style) in enumerate(zip(padded, styles, strict=True))
        ]
        shown += [painted(words, stream).rstrip(), *(" " * before + more for more in last[1:])]
    return "\n".join(shown)


class Block:
    """Lines at the bottom of a terminal that are drawn again and again, while finished ones scroll above.

    What Python prints or logs meanwhile goes above them as well.

    Parameters
    ----------
    stream : text stream
        A terminal, see `clever`.
    lines : callable
        Gives the lines now, for a width; called from a thread of the block's own.
    """

    def __init__(self, stream: TextIO, lines: Callable[[int], list[Words]]) -> None:
        from rich.console import Console, Group
        from rich.live import Live

        self._console = Console(file=stream, force_terminal=True, highlight=False, legacy_windows=False)

        def now() -> Group:
            # It looks at the terminal of its own process, which need not be this one.
            self._console.width = width_of(stream)
            return Group(*(_text(words) for words in lines(min(self._console.width - 1, WIDEST))))

        self._live = Live(
            get_renderable=now, console=self._console, refresh_per_second=PER_SECOND, transient=True,
            redirect_stderr=stream is sys.stderr,
            redirect_stdout=stream is sys.stderr and sys.stdout.isatty(),
        )  # fmt: skip
        self._moved = contextlib.ExitStack()
        self._live.start(refresh=False)
        self._moved.enter_context(_handlers_through(stream, sys.stderr))

    def above(self, words: Words) -> None:
        """Write a line that stays."""
        self._console.print(_text(words), soft_wrap=True)

    def close(self) -> None:
        """Take the block away and give the cursor back."""
        self._moved.close()
        self._live.stop()


def _text(words: Words) -> Text:
    from rich.text import Text

    made = Text(no_wrap=True, overflow="ellipsis")
    for text, style in words:
        made.append(text, _RICH.get(style, ""))
    return made


@contextlib.contextmanager
def _handlers_through(stream: TextIO, proxy: Any) -> Iterator[None]:
    """Send what handlers of `logging` write to a stream of old through what stands for it now."""
    loggers = [logging.getLogger(), *(v for v in logging.Logger.manager.loggerDict.values())]
    found = {
        h for one in loggers for h in getattr(one, "handlers", ()) if getattr(h, "stream", None) is stream
    }
    consoles = [h.console for h in found if getattr(getattr(h, "console", None), "file", None) is stream]
    if proxy is stream:
        found, consoles = set(), []
    try:
        for handler in found:
            handler.setStream(proxy)
        for console in consoles:  # Prefect's handler writes with a console of rich
            console.file = proxy
        yield
    finally:
        for handler in found:
            handler.setStream(stream)
        for console in consoles:
            console.file = stream
