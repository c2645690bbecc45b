"""Part of the report's section on an ensemble whose members' steps were chosen by a controller."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from sciflow.reporting import BLUE, INK, ORANGE, data_uri, figure, image, table

if TYPE_CHECKING:
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
    rows = [_row(member, {n: v[log["member"] == member] for n, v in log.items()}) for member in members[:8]]
    head = ["member", "steps", "rejected", "by the fallback", "shortest", "median", "longest", "work"]
    drawn = image(data_uri(_picture(log, members[:4])), "the steps of some members against time")
    controller = artifact.attributes["problem"].get("stepping", {}).get("component", "a controller")
    return f"<p>Steps chosen by {html.escape(str(controller))}.</p>" + drawn + table(head, rows)


def _row(member: int, log: dict[str, np.ndarray]) -> list[str]:
    stands = log["accepted"] == 1
    lengths = log["length"][stands]
    spread = [f"{f(lengths):.3g}" for f in (np.min, np.median, np.max)] if len(lengths) else ["", "", ""]
    by_fallback = f"{100 * log['fallback'][stands].mean():.0f} %" if log["fallback"].any() else ""
    return [
        f"{member}",
        f"{stands.sum()}",
        f"{(~stands).sum()}",
        by_fallback,
        *spread,
        f"{log['work'].sum():.6g}",
    ]


def _picture(log: dict[str, np.ndarray], members: np.ndarray) -> Figure:
    made, axes = figure(len(members), 1, width=10, height=2.6)
    for column, member in enumerate(members):
        mine = {n: v[log["member"] == member] for n, v in log.items()}
        _draw(axes[0, column], mine)
        axes[0, column].set_title(f"member {member}")
    axes[0, 0].legend(fontsize=7)
    return made


def _draw(ax: Axes, log: dict[str, np.ndarray]) -> None:
    """The value of every step that stands as a bar over its time, and the rejected ones as crosses."""
    stands, fallback = log["accepted"] == 1, log["fallback"] == 1
    for chosen, color, label in ((~fallback, BLUE, "taken"), (fallback, INK, "taken, by the fallback")):
        of = stands & chosen
        if of.any():
            begin = log["time"][of]
            ax.hlines(log["value"][of], begin, begin + log["length"][of], color=color, lw=1.5, label=label)
    if not stands.all():
        ax.plot(log["time"][~stands], log["value"][~stands], "x", color=ORANGE, ms=4, label="rejected")
    ax.set_yscale("log")
    ax.set_xlabel("time")
    ax.set_ylabel("value chosen")
