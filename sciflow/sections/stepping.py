"""Part of the report's section on an ensemble whose members' steps were chosen by a controller."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from sciflow.reporting import BLUE, INK, ORANGE, figure, picture, table, with_unit

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact

NAMES = ("member", "time", "length", "value", "error", "work", "accepted", "fallback")


def steps(artifact: Artifact) -> str:
    """How the steps of a few members were chosen, as HTML; empty where nothing chose them."""
    if any(f"decision_{name}" not in artifact.schema.fields for name in NAMES):
        return ""
    log = {name: artifact.read(f"decision_{name}") for name in NAMES}
    members = np.unique(log["member"])
    if not len(members):
        return ""
    rows = [
        _row(member, {n: v[log["member"] == member] for n, v in log.items()}, log) for member in members[:8]
    ]
    unit = artifact.schema["decision_time"].unit
    guarded = bool(log["fallback"].any())
    head = ["member", "steps", "taken back", *["by the fallback"][:guarded]]
    head += [f"{word}, {unit}" for word in ("shortest", "median", "longest")] + ["work"]
    drawn = picture(_picture(log, members[:4], unit), "the steps of some members against time").html
    controller = artifact.attributes["problem"].get("stepping", {}).get("component", "a controller")
    text = (
        f"Steps chosen by {html.escape(str(controller))}: a line for each that stands, over the time it "
        "covers; a cross where one was tried and taken back. Work is that of all attempts, as the problem "
        "counts it."
    )
    return f"<p>{text}</p>" + drawn + table(head, rows)


def _row(member: int, log: dict[str, np.ndarray], whole: dict[str, np.ndarray]) -> list[str]:
    stands = log["accepted"] == 1
    lengths = log["length"][stands]
    spread = [f"{f(lengths):.3g}" for f in (np.min, np.median, np.max)] if len(lengths) else ["", "", ""]
    share = 100 * log["fallback"][stands].mean() if stands.any() else 0.0
    return [
        f"{member}",
        f"{stands.sum()}",
        f"{(~stands).sum()}",
        *[f"{share:.0f} %"][: bool(whole["fallback"].any())],
        *spread,
        f"{log['work'].sum():.6g}",
    ]


def _picture(log: dict[str, np.ndarray], members: np.ndarray, unit: str) -> Figure:
    made, axes = figure(len(members), 1, width=10, height=3.0)
    lengths = np.allclose(log["value"], log["length"])
    drawn: dict[str, Artist] = {}
    for column, member in enumerate(members):
        mine = {n: v[log["member"] == member] for n, v in log.items()}
        ax = axes[0, column]
        drawn |= _draw(ax, mine, "taken, by the policy" if log["fallback"].any() else "taken")
        ax.set_title(f"member {member}")
        ax.set_xlabel(with_unit("time", unit))
    axes[0, 0].set_ylabel(with_unit("length of the step", unit) if lengths else "value of the parameter")
    made.legend(drawn.values(), drawn, loc="outside lower center", ncol=3)
    return made


def _draw(ax: Axes, log: dict[str, np.ndarray], by: str) -> dict[str, Artist]:
    """The value of every step that stands as a bar over its time, others as crosses; what to call them."""
    drawn: dict[str, Artist] = {}
    stands, fallback = log["accepted"] == 1, log["fallback"] == 1
    for chosen, color, width, label in ((~fallback, BLUE, 1.6, by), (fallback, INK, 3.2, "by the fallback")):
        of = stands & chosen
        if of.any():
            begin, value = log["time"][of], log["value"][of]
            drawn[label] = ax.hlines(value, begin, begin + log["length"][of], color=color, lw=width)
            ax.plot(begin, value, ".", color=color, ms=width)  # short ones are seen
    if not stands.all():
        back = ax.plot(log["time"][~stands], log["value"][~stands], "x", color=ORANGE, ms=5)
        drawn["taken back"] = back[0]
    ax.set_yscale("log")
    return drawn
