"""Pictures of what an ensemble learned; told apart by line style and marker, not by colour alone."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.reporting import BLUE, GREY, INK, figure, legend, style
from sciflow_control.learned.decisions import Decisions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOWS = 24
MOST = 1500
"""Points in a picture."""


def learning(found: Decisions, levels: Mapping[str, float]) -> Figure:
    """Running mean of the cost, and the shares of the arms, against the number of decisions.

    Parameters
    ----------
    found : Decisions
        Of an ensemble.
    levels : mapping of str to float
        Mean costs to compare with, by name.
    """
    made, axes = figure(columns=2, width=10, height=4.0)
    costs = found.cost[found.chosen]
    pulls = np.arange(1, len(costs) + 1)
    left, right = axes[0]
    left.plot(pulls, np.cumsum(costs) / pulls, color=BLUE, lw=2.0, label="mean so far")
    for place, arm in enumerate(found.top(4)):
        which = np.flatnonzero(found.arm[found.chosen] == arm)
        mean = np.cumsum(costs[which]) / np.arange(1, len(which) + 1)
        left.plot(pulls[which], mean, lw=1.2, ms=4, markevery=0.15, label=found.named(arm), **_style(place))
    for (name, value), line in zip(levels.items(), ((0, (6, 2)), ":", (0, (2, 2)), "-."), strict=False):
        left.axhline(value, color=INK if name == "oracle" else GREY, ls=line, lw=1.4, label=name)
    left.set_xscale("log")
    left.set_yscale("log")

    left.set_ylabel("mean cost")
    _shares(right, found)
    for ax in (left, right):
        ax.set_xlabel("decisions, in the order of the members")
        legend(ax, 2)
    return made


def _shares(ax: Any, found: Decisions) -> None:
    """How often each of the arms that were taken most was taken, window after window."""
    arms = found.arm[found.chosen]
    edges = np.unique(np.linspace(0, len(arms), min(WINDOWS, -(-len(arms) // 5)) + 1).astype(int))
    middle = (edges[:-1] + edges[1:]) / 2
    for place, arm in enumerate(found.top(5)):
        share = [float((arms[a:b] == arm).mean()) for a, b in pairwise(edges)]
        ax.plot(middle, share, lw=1.4, ms=4, label=found.named(arm), **_style(place))
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("share of the decisions")


def _style(place: int) -> dict[str, Any]:
    """Of the arm with this place among those that were taken most, in all curves."""
    return style(1 + place)


def context(found: Decisions) -> Figure | None:
    """What was chosen in the second half, against each feature that varies.

    Returns
    -------
    Figure or None
        None where no feature varies, or nothing but one arm was chosen.
    """
    late = found.chosen[len(found.chosen) // 2 :]
    late = late[:: max(1, -(-len(late) // MOST))]
    varied = [n for n, v in found.features.items() if np.isfinite(v[late]).all() and np.ptp(v[late]) > 0][:3]
    if not varied or len(set(found.arm[late].tolist())) < 2:
        return None
    made, axes = figure(columns=len(varied), width=max(4.0 * len(varied), 6), height=3.4)
    omegas = np.array([float(arm.get("omega", np.nan)) for arm in found.arms])
    relaxed = len(omegas) > 0 and np.isfinite(omegas[np.minimum(found.arm[late], len(omegas) - 1)]).all()
    taken = set(found.arm[late].tolist())
    names = [arm for arm in found.top(len(set(found.arm.tolist()))) if arm in taken][:8]
    axes[0, 0].set_title("second half of the decisions")
    for ax, name in zip(axes[0], varied, strict=True):
        if relaxed:
            ax.plot(
                found.features[name][late], omegas[found.arm[late]], "o", mfc="none", mec=BLUE, ms=4, mew=0.7
            )
            ax.set_ylabel("omega")
        else:
            for place, arm in enumerate(names):
                here = late[found.arm[late] == arm]
                jitter = 0.5 * (np.arange(len(here)) * 0.618 % 1 - 0.5)
                look = {"mec": style(place)["color"], "marker": style(place)["marker"]}
                ax.plot(found.features[name][here], place + jitter, ls="", mfc="none", ms=4, mew=0.7, **look)
            ax.set_yticks(range(len(names)))
            ax.set_ylim(-0.5, len(names) - 0.5)
            ax.set_yticklabels([found.named(a) for a in names] if ax is axes[0, 0] else [])
        ax.set_xlabel(name.replace("_", " "))
    return made
