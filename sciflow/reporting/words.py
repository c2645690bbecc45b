"""Words for numbers, and tables whose numbers stand one above the other."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

import numpy as np

from sciflow.console import duration

_NUMBER = re.compile(r"(more than |at most |at least )?[<>≈±+−-]?\s?\d[\d\s.,\u2009]*([eE][+-]?\d+)?\b")
DENSE = 10
"""Columns beyond which a table has smaller letters."""
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

    def cells(tag: str, texts: Iterable[str]) -> str:
        inner = (text if isinstance(text, Markup) else html.escape(text) for text in texts)
        return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in inner) + "</tr>"

    right = [i + 1 for i in range(len(names)) if _numeric([row[i] for row in lines if i < len(row)])]
    kinds = [f"n{i}" for i in right] + ["dense"] * (len(names) > DENSE)
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    top = f"<thead>{cells('th', names)}</thead>" if any(names) else ""
    body = "".join(cells("td", row) for row in lines)
    # A reader without a mouse scrolls what can be focused.
    return f'<div class="wide" tabindex="0"><table{kind}>{top}<tbody>{body}</tbody></table></div>'


def _numeric(cells: list[str]) -> bool:
    """Whether a column holds numbers, or nothing, and no sentences that begin with one."""
    bare = [re.sub(r"<[^>]*>", " ", c).strip() for c in cells]
    told = [c for c in bare if c not in _NOTHING]
    return bool(told) and all(_NUMBER.match(c) and len(c) < 30 for c in told)


def with_unit(what: str, unit: str) -> str:
    """What an axis or a column shows, with its unit where it has one.

    Parameters
    ----------
    what : str
        In a few words.
    unit : str
        ``1`` or nothing for a plain number, ``any`` where nobody said.
    """
    return what if unit in ("", "1", "any") else f"{what}, {unit}"


def percent(value: float) -> str:
    """A ratio as a percentage with three significant digits."""
    return "–" if not np.isfinite(value) else f"{_digits(100 * value)} %"


def three(value: float, unit: str = "") -> str:
    """A number with three significant digits and its unit."""
    return f"{_digits(value)}{unit}"


def _digits(value: float) -> str:
    """Three significant digits; up to a million without a power of ten, thousands apart."""
    short = f"{value:.3g}"
    return f"{float(short):,.0f}".replace(",", "\u2009") if "e+" in short and abs(value) < 1e6 else short


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
