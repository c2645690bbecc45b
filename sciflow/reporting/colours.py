"""Colours, markers and dashes of reports and colour maps of fields, told apart by all eyes and in grey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

INK = "#1b2430"
"""Text, axes, and the truth beside a prediction."""
MUTED = "#4f5b67"
"""Text of less weight."""
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#2e9959", "#9b45e5"
BROWN, TEAL, RED = "#66490f", "#115273", "#e5003d"
GREY = "#7f8a96"
"""Guides, baselines, what others did."""
RULE, PAPER, PAGE = "#dfe5ea", "#ffffff", "#f4f6f8"
"""Lines of tables and grids, behind text, behind sections; never a series."""

CYCLE = (BLUE, ORANGE, GREEN, PURPLE, BROWN, TEAL, RED)
"""Colours of series, in this order.

Blue and orange are Okabe's and Ito's; the others were sought so that all pairs, `INK` and `GREY` included,
stay apart for people with protanopia, deuteranopia and tritanopia, each with a contrast of 3 : 1 or more on
white. ``tests/test_reporting.py`` measures both.
"""
MARKERS = "osD^v<>Ph*"
DASHES: tuple[Any, ...] = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1)))

FIELD, SIGNED = "viridis", "RdBu_r"
"""Colour maps whose lightness tells the order, and of values around zero."""


def colour(place: int) -> str:
    """Colour of a series, again from the first after the last.

    Parameters
    ----------
    place : int
        Which series, from 0.
    """
    return CYCLE[place % len(CYCLE)]


def style(place: int) -> dict[str, Any]:
    """Colour, marker and dash of one of several series, for ``plot``; the first 42 are all different.

    Parameters
    ----------
    place : int
        Which series, from 0.

    Returns
    -------
    dict
        ``color``, ``marker`` and ``ls``.
    """
    return {
        "color": colour(place),
        "marker": MARKERS[place % len(MARKERS)],
        "ls": DASHES[place % len(DASHES)],
    }


def shades(*values: np.ndarray, signed: bool | None = None) -> dict[str, Any]:
    """Colour map and limits that some fields share, for ``imshow``, ``tripcolor`` or ``scatter``.

    Parameters
    ----------
    *values : ndarray
        Any shapes, one unit; what is not finite is left out.
    signed : bool or None
        Whether zero is the middle of the colours, as for a difference; None where values of both signs are
        of similar size.

    Returns
    -------
    dict
        ``cmap``, ``vmin`` and ``vmax``.

    References
    ----------
    F. Crameri, G. E. Shephard, P. J. Heron, The misuse of colour in science communication, Nature
    Communications 11, 5444 (2020).
    """
    low, high = _ends(values)
    if signed is None:
        signed = both_signs(*values)
    if signed:
        most = max(abs(low), abs(high)) or 1.0
        return {"cmap": SIGNED, "vmin": -most, "vmax": most}
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return {"cmap": FIELD, "vmin": low, "vmax": high}


def both_signs(*values: np.ndarray) -> bool:
    """Whether some fields together have values of both signs of similar size, so that zero is their middle.

    Parameters
    ----------
    *values : ndarray
        Any shapes, one unit: all that are to be shown in the same kind of colours.
    """
    low, high = _ends(values)
    return low < 0 < high and min(-low, high) > 0.2 * max(-low, high)


def _ends(values: tuple[np.ndarray, ...]) -> tuple[float, float]:
    """Smallest and largest of all that is finite; 0 where nothing is."""
    import numpy as np

    # Values of single precision may be so close that their limits are one in colours.
    finite = [a[np.isfinite(a)].astype(float) for a in map(np.asarray, values)]
    low = min((float(a.min()) for a in finite if a.size), default=0.0)
    return low, max((float(a.max()) for a in finite if a.size), default=0.0)
