"""Figures in one look: sizes, grids, ticks, legends that cover nothing, and pictures for the page."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.reporting.colours import CYCLE, INK, MUTED, RULE, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

LOOK: Mapping[str, Any] = {
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "axes.formatter.useoffset": False,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 2.6,
    "image.origin": "lower",
    "svg.hashsalt": "sciflow",
}
"""How matplotlib draws inside of `drawing`; ``axes.prop_cycle`` is set there."""
INCH = 100
"""Pixels of the page to an inch of a figure: 9 points are 12.5 pixels."""
FINE, COARSE = 140, 100
"""Dots to an inch in the page, for screens of many dots and for print, and in markdown."""
DRAWN = 40_000
"""Bytes up to which a figure of lines is stored as such; those of many points would be slow to show."""
WIDE = 7.0
"""Inches from which on a narrow window scrolls a figure instead of making its letters small."""

_LOCK = threading.RLock()


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """One at a time, and in the report's look: matplotlib's settings and its fonts are the process's."""
    import matplotlib as mpl
    from cycler import cycler

    with _LOCK, mpl.rc_context({**LOOK, "axes.prop_cycle": cycler(color=CYCLE)}):
        yield


def figure(columns: int = 1, rows: int = 1, *, width: float = 9.0, height: float = 3.2) -> tuple[Figure, Any]:
    """A figure in the report's look, drawn without a display.

    Parameters
    ----------
    columns, rows : int
        Axes.
    width, height : float
        Inches; the page is 9.8 wide.

    Returns
    -------
    figure, axes
        The axes as an array of shape (row, column).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with drawing():
        made = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(made)
        return made, made.subplots(rows, columns, squeeze=False)


def legend(of: Axes | Figure, columns: int = 4) -> None:
    """Names of what is drawn, where they cover nothing: above an axes, or below all axes of a figure.

    Parameters
    ----------
    of : Axes or Figure
        Of a figure, what has a name in any of its axes is named once.
    columns : int
        At most.
    """
    from matplotlib.axes import Axes

    panels = [of] if isinstance(of, Axes) else of.axes
    found: dict[str, Any] = {}
    for ax in panels:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if not found:
        return
    many = min(columns, len(found))
    if not isinstance(of, Axes):
        with drawing():
            of.legend(list(found.values()), list(found), loc="outside lower center", ncols=many)
        return
    with drawing():
        of.legend(
            list(found.values()), list(found), loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=many,
            borderaxespad=0.2, borderpad=0.1, columnspacing=1.4,
        )  # fmt: skip
    rows = -(-len(found) // many)
    title = of.get_title(loc="left") or of.get_title()
    of.set_title("", loc="center")
    of.set_title(title, loc="left", pad=8 + 14 * rows)


def _finish(made: Figure) -> None:
    """What a figure needs once all is drawn: no grid over pictures, ticks that can be read, its layout."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if not isinstance(made.get_layout_engine(), ConstrainedLayoutEngine):
        return
    for ax in made.axes:
        if ax.images or any(c.get_array() is not None for c in ax.collections):
            ax.grid(visible=False)
        for axis in (ax.xaxis, ax.yaxis):
            _readable(axis)
    made.draw_without_rendering()
    for ax in made.axes:
        power = ax.xaxis.get_offset_text()
        if power.get_text().startswith("1e") and ax.get_xlabel():  # it would stand on the label
            ax.set_xlabel(f"{ax.get_xlabel()}, $\\times 10^{{{power.get_text()[2:]}}}$")
            power.set_visible(False)
    # Found once: it takes longer than the drawing.
    made.set_layout_engine("none")


def _readable(axis: Axis) -> None:
    """Labels at 1, 2 and 5 where a logarithmic axis is shorter than two decades, else at powers of ten."""
    from matplotlib.ticker import (
        FuncFormatter,
        LogFormatterSciNotation,
        LogLocator,
        MaxNLocator,
        NullFormatter,
    )

    if axis.get_scale() != "log" or not isinstance(axis.get_major_formatter(), LogFormatterSciNotation):
        return
    low, high = sorted(axis.get_view_interval())
    if not (low > 0 and high > low):
        return
    if high > 60 * low:
        axis.set_major_locator(LogLocator(numticks=7))
    elif high > 4 * low:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    else:
        axis.set_major_locator(MaxNLocator(4))
    if high <= 60 * low or (low > 9e-4 and high < 1.1e4):
        axis.set_major_formatter(FuncFormatter(_plainly))
    axis.set_minor_formatter(NullFormatter())


def _plainly(value: float, _: int = 0) -> str:
    return f"{value:,.0f}".replace(",", "\u2009") if value >= 1000 else f"{value:.4g}"


@dataclass(frozen=True)
class Picture:
    """A figure for the page and for markdown.

    Attributes
    ----------
    made : Figure
        As drawn.
    text : str
        What it shows: its caption, and its text for those who cannot see it.
    """

    made: Figure
    text: str

    @cached_property
    def html(self) -> str:
        """The figure with its caption."""
        return image(data_uri(self.made), self.text, width=float(self.made.get_figwidth()))

    @cached_property
    def markdown(self) -> str:
        """The figure for the Prefect UI, coarser."""
        # What shows markdown often refuses SVG.
        with drawing():
            _finish(self.made)
            return f"![{self.text}]({_uri('png', _dots(self.made, COARSE))})"


def picture(made: Figure, text: str) -> Picture:
    """A figure as it goes into a section.

    Parameters
    ----------
    made : Figure
        See `figure`.
    text : str
        What it shows, in a few words.
    """
    return Picture(made, text)


def data_uri(made: Figure) -> str:
    """A figure as a data URI: as lines and letters where these are few, as dots otherwise."""
    with drawing():
        _finish(made)
        if not _coloured(made):
            lines = _lines(made)
            if len(lines) <= DRAWN:
                return _uri("svg+xml", lines)
        return _smallest(made, FINE)


def _lines(made: Figure) -> bytes:
    """SVG, with places to a hundredth of a point and without indents: a third less."""
    plain = io.BytesIO()
    made.savefig(plain, format="svg", metadata={"Date": None})
    text = re.sub(r"\s*\n\s*", "\n", plain.getvalue().decode())
    return re.sub(r"scale\([^)]*\)|(\d+\.\d\d)\d+", lambda m: m[1] or m[0], text).encode()


def _coloured(made: Figure) -> bool:
    """Whether a figure has fields in the colours of a map, of which a palette would change some."""
    return any(ax.images or any(c.get_array() is not None for c in ax.collections) for ax in made.axes)


def _dots(made: Figure, dpi: int) -> bytes:
    """PNG; with a palette where that changes no colour."""
    from PIL import Image

    plain, fewer = io.BytesIO(), io.BytesIO()
    made.savefig(plain, format="png", dpi=dpi)
    if not _coloured(made):
        Image.open(plain).convert("RGB").quantize(96).save(fewer, format="png", optimize=True)
    return fewer.getvalue() or plain.getvalue()


def _smallest(made: Figure, dpi: int) -> str:
    """PNG or lossless WebP, which takes half of it for fields; not every program that shows it knows that."""
    from PIL import Image, features

    dots, other = _dots(made, dpi), io.BytesIO()
    if _coloured(made) and features.check("webp"):
        Image.open(io.BytesIO(dots)).convert("RGB").save(
            other, format="webp", lossless=True, quality=50, method=2
        )
        if other.tell() < len(dots):
            return _uri("webp", other.getvalue())
    return _uri("png", dots)


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def image(uri: str, text: str, width: float = 0.0) -> str:
    """A picture with its caption, which is also its text for those who cannot see it.

    Parameters
    ----------
    uri : str
        See `data_uri`.
    text : str
        What it shows, in a few words.
    width : float
        Inches; 0 leaves it to the picture.
    """
    said = html.escape(text)
    size = f' width="{width * INCH:.0f}"' if width else ""
    kind = ' class="broad"' if width >= WIDE or not width else ""
    # A name such as u stays as it is.
    caption = html.escape(text[:1].upper() + text[1:] if text[:2].isalpha() else text)
    return (
        f'<figure{kind} tabindex="0"><img alt="{said}" src="{uri}"{size}>'
        f"<figcaption>{caption}.</figcaption></figure>"
    )


def curves(metrics: Sequence[tuple[int, Mapping[str, float]]]) -> str:
    """Learning curves as a PNG data URI.

    Parameters
    ----------
    metrics : sequence of (int, mapping of str to float)
        Step and its numbers.
    """
    names = sorted({name for _, values in metrics for name in values})
    with drawing():
        made = learning({n: np.array([v.get(n, np.nan) for _, v in metrics]) for n in names})
        _finish(made)
        return _uri("png", _dots(made, COARSE))


def learning(metrics: Mapping[str, np.ndarray]) -> Figure:
    """Losses and errors over the epochs, on a logarithmic scale."""
    shown = {n: v for n, v in metrics.items() if "loss" in n or "error" in n} or metrics
    made, axes = figure(width=9, height=2.8)
    ax = axes[0, 0]
    for place, (name, values) in enumerate(shown.items()):
        look = style(place) | {"marker": style(place)["marker"] if len(values) < 30 else ""}
        ax.plot(np.arange(1, len(values) + 1), values, label=name.replace("_", " "), **look)
    ax.set_yscale("log")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("epoch")
    ax.set_ylabel("loss and error")
    legend(ax)
    return made
