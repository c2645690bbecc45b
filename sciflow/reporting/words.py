"""Words for numbers, and tables whose numbers stand one above the other."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

import numpy as np

from sciflow.console import duration

_NUMBER = re.compile(r"(more than |at most |at least )?[<>≈±+−-]?\s?\d[\d\s.,\u2009]*([eE][+-]?\d+)?\b")
_NOTHING = ("", "–", "-", "never", "none")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """An HTML table; cells that are `Markup` stand as they are, others are escaped.

    A column of numbers, with units or without, is aligned at the right. A table that is wider than the
    window is scrolled.

    Parameters
    ----------
    head : iterable of str
        Heading of each column.
    rows : iterable of iterable of str
        As many cells as there are headings.
    """
    names, lines = list(head), [list(row) for row in rows]
    right = [_numeric([line[i] for line in lines if i < len(line)]) for i in range(len(names))]

    def cell(tag: str, text: str, place: int) -> str:
        inner = text if isinstance(text, Markup) else html.escape(text)
        scope = ' scope="col"' if tag == "th" else ""
        kind = ' class="n"' if place < len(right) and right[place] else ""
        return f"<{tag}{scope}{kind}>{inner}</{tag}>"

    top = ""
    if any(names):
        top = "<thead><tr>" + "".join(cell("th", h, i) for i, h in enumerate(names)) + "</tr></thead>"
    body = "".join("<tr>" + "".join(cell("td", c, i) for i, c in enumerate(row)) + "</tr>" for row in lines)
    # A reader without a mouse scrolls what can be focused.
    return f'<div class="wide" tabindex="0"><table>{top}<tbody>{body}</tbody></table></div>'


def _numeric(cells: list[str]) -> bool:
    """Whether a column holds numbers, or nothing, and no sentences that begin with one."""
    bare = [re.sub(r"<[^>]*>", " ", c).strip() for c in cells]
    told = [c for c in bare if c not in _NOTHING]
    return bool(told) and all(_NUMBER.match(c) and len(c) < 30 for c in told)


def percent(value: float) -> str:
    """A ratio as a percentage with three significant digits."""
    return "–" if not np.isfinite(value) else f"{100 * value:.3g} %"


def three(value: float, unit: str = "") -> str:
    """A number with three significant digits and its unit."""
    return f"{value:.3g}{unit}"


def seconds(value: float) -> str:
    """A time with three significant digits and a unit that fits, from microseconds to hours."""
    if not np.isfinite(value):
        return "–"
    if value >= 1:
        return duration(value) if value >= 60 else f"{value:.3g} s"
    scale, unit = (1e3, "ms") if value >= 1e-3 else (1e6, "µs")
    return f"{value * scale:.3g} {unit}"


def large(value: float, unit: str) -> str:
    """A large number with three significant digits and a prefix of the unit that fits."""
    if not np.isfinite(value):
        return "–"
    for prefix in ("", "k", "M", "G"):
        if value < 999.5:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:.3g} T{unit}"
