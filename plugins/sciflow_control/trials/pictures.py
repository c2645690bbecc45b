"""Pictures of trials of step controllers; told apart by line style and marker, not by colour alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.reporting import BLUE, GREY, INK, MARKERS, ORANGE, RED, figure, style, with_unit
from sciflow_control.trials.frontier import QUANTILES
from sciflow_control.trials.watched import Watched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUANTILE_LINES: Mapping[str, Any] = {"p50": "-", "p90": "--", "max": ":"}
BUSY = 0.6
"""Part of the steps that is shown once more where it fills less than a quarter of the time."""
STEPS = "cividis"
"""Colours of steps: their lightness tells the order, also in grey and to all eyes."""


def against_work(rows: Sequence[Mapping[str, Any]], figures: np.ndarray, names: Sequence[str]) -> Figure:
    """Errors against work, an axis for each group; a marker for each curve, a line style for each quantile.

    Parameters
    ----------
    rows : sequence of mapping
        ``group`` and ``curve`` of every row of a table.
    figures : ndarray, shape (row, figure)
        See `sciflow_control.trials.step_table.FIGURES`.
    names : sequence of str
        Of the figures.
    """
    groups = list(dict.fromkeys(row["group"] for row in rows))
    curves = list(dict.fromkeys(row["curve"] for row in rows))
    columns = min(len(groups), 2)
    down = -(-len(groups) // columns)
    made, axes = figure(
        columns=columns, rows=down, width=9.6, height=(3.6 if columns > 1 else 4.4) * down + 0.8
    )
    for ax in axes.flat[len(groups) :]:
        ax.set_visible(False)
    work = figures[:, list(names).index("work_mean")]
    drawn: dict[str, Any] = {}
    for ax, group in zip(axes.flat, groups, strict=False):
        for curve in (c for c in curves if any(r["curve"] == c and r["group"] == group for r in rows)):
            place = curves.index(curve)
            of = [i for i, r in enumerate(rows) if (r["group"], r["curve"]) == (group, curve)]
            of.sort(key=lambda i: work[i])
            look = {k: v for k, v in style(place).items() if k != "ls"}
            for q in QUANTILES:
                y = figures[of, list(names).index(q)]
                y = np.where(np.isfinite(y), y, np.nan)
                filled = look["color"] if q == "p50" else "none" if q == "max" else "white"
                line = ax.plot(work[of], y, ls=QUANTILE_LINES[q], lw=1.4, ms=5, mfc=filled, **look)
                drawn.setdefault(curve, line[0])
            if len(of) == 1:
                ends = figures[of[0], [list(names).index(q) for q in ("p50", "max")]]
                if np.isfinite(ends).all():
                    ax.vlines(work[of[0]], *ends, color=look["color"], lw=0.8)
        _finish(ax, group or rows[0]["episodes"], rows[0])
    from matplotlib.lines import Line2D

    kinds = [
        Line2D([], [], color=INK, ls=QUANTILE_LINES[q], marker="o", ms=5, mfc=fill)
        for q, fill in zip(QUANTILES, (INK, "white", "none"), strict=True)
    ]
    lines, words = [*drawn.values(), *kinds], [*drawn, "median", "90 % of the runs", "worst run"]
    made.legend(lines, words, loc="outside lower center", ncol=5, handlelength=3)
    return made


def _finish(ax: Any, title: str, row: Mapping[str, Any]) -> None:
    ax.set_xscale("log")
    ax.set_title(title.replace("_", " "))
    ax.set_xlabel(f"{row['cost_unit']} of a run, mean")
    ax.set_ylabel("log10 of the relative error")


def orbit(run: Watched, knob: Mapping[str, Any], time_unit: str) -> Figure:
    """Where the bodies went, coloured by what was chosen, with the closest approach; and that over time.

    Parameters
    ----------
    run : Watched
        With positions.
    knob : mapping
        ``name`` and ``unit`` of what was chosen.
    time_unit : str
        Of the run.
    """
    from matplotlib.colors import LogNorm

    assert run.places is not None
    made, axes = figure(columns=2, width=9.6, height=4.4)
    left, right = axes[0]
    low, high = run.value.min(), run.value.max()
    norm = LogNorm(low, high) if high > 1.2 * low else LogNorm(low / 1.5, 1.5 * high)
    shown: Any = None
    rows = run.together
    for body in range(run.places.shape[1]):
        x, y = run.places[:rows, body, 0], run.places[:rows, body, 1]
        left.plot(x, y, color=GREY, lw=0.5, alpha=0.7, zorder=1)
        mark = MARKERS[body % len(MARKERS)]
        look = {"cmap": STEPS, "norm": norm, "marker": mark, "s": 11, "linewidths": 0, "zorder": 2}
        shown = left.scatter(x[1:], y[1:], c=run.value[: rows - 1], **look)
        left.annotate(str(body + 1), (x[0], y[0]), xytext=(4, 4), textcoords="offset points", color=INK)
        left.plot(x[0], y[0], mark, mfc="none", mec=INK, ms=7, mew=1.0, zorder=3)
    at = int(run.closest[:rows].argmin())
    centre = run.places[at, list(run.pair(at))].mean(axis=0)
    left.plot(centre[0], centre[1], "o", mfc="none", mec=ORANGE, ms=13, mew=1.8, zorder=4)
    left.annotate(
        f"closest: {run.closest[at]:.2g}", (centre[0], centre[1]), color=INK,
        xytext=(12, -12), textcoords="offset points",
    )  # fmt: skip
    left.set_title(f"until {run.ends[rows - 2]:.3g} {time_unit}")
    left.set_aspect("equal", adjustable="datalim")
    left.set_xlabel("x")
    left.set_ylabel("y")
    bar = made.colorbar(shown, ax=left, shrink=0.85, pad=0.02)
    bar.set_label(with_unit(knob["name"], knob["unit"]))
    _over_time(right, run, knob, time_unit)
    return made


def steps(run: Watched, knob: Mapping[str, Any], time_unit: str) -> Figure:
    """What was chosen over time, and what was taken back; the busiest part once more.

    Parameters
    ----------
    run : Watched
        Without positions.
    knob : mapping
        ``name`` and ``unit`` of what was chosen; ``marks`` may hold times to be marked, by the run's seed.
    time_unit : str
        Of the run.
    """
    busy = float(np.quantile(run.ends, BUSY))
    twice = busy < run.ends[-1] / 4
    made, axes = figure(columns=2 if twice else 1, width=9.6 if twice else 9, height=3.0)
    for ax in axes[0]:
        _over_time(ax, run, knob, time_unit)
        for time in knob.get("marks", {}).get(str(run.seed), ()):
            ax.axvline(time, color=GREY, lw=0.9, ls=":", zorder=0)
    if twice:
        axes[0, 1].set_xlim(0, 1.1 * busy)
        axes[0, 1].set_xlabel(f"time, {time_unit}: the first {100 * BUSY:.0f} % of the steps")
    return made


def _over_time(ax: Any, run: Watched, knob: Mapping[str, Any], time_unit: str) -> None:
    ax.step(run.time, run.value, where="post", color=BLUE, lw=1.2, label=f"{knob['name']} chosen")
    if run.fallback.any():
        ax.plot(
            run.time[run.fallback], run.value[run.fallback], "|", color=ORANGE, ms=7, mew=1.2,
            label="by the fallback",
        )  # fmt: skip
    if len(run.back_time):
        ax.plot(run.back_time, run.back_value, "x", color=RED, ms=5, mew=1.0, label="taken back")
    ax.set_yscale("log")
    ax.set_xlabel(f"time, {time_unit}")
    ax.set_ylabel(with_unit(knob["name"], knob["unit"]))
    handles, words = ax.get_legend_handles_labels()
    if run.places is not None:
        other = ax.twinx()
        other.spines["right"].set_visible(True)
        other.plot(run.ends, run.closest[1:], color=INK, lw=1.1, ls=":", label="closest distance (right)")
        other.set_yscale("log")
        other.grid(visible=False)
        other.set_ylabel("distance of the closest pair")
        more = other.get_legend_handles_labels()
        handles, words = handles + more[0], words + more[1]
    ax.legend(handles, words, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2)
