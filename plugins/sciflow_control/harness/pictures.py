"""Pictures of what tuners learned; told apart by line style and marker, not by colour alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.reporting import BLUE, GREEN, GREY, INK, ORANGE, figure, legend, style
from sciflow_control.harness.tuner_table import OTHERS, called

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact

STYLES: Mapping[str, Mapping[str, Any]] = {
    "tuner": {"color": BLUE, "ls": "-", "lw": 2.0},
    "oracle": {"color": INK, "ls": ":", "lw": 1.6},
    "best_fixed": {"color": ORANGE, "ls": "--", "lw": 1.4},
    "default": {"color": GREY, "ls": "-.", "lw": 1.4},
    "random": {"color": GREEN, "ls": (0, (1, 3)), "lw": 1.4},
}


def learned(policies: Sequence[str], pulls: np.ndarray, mean: np.ndarray, regret: np.ndarray) -> Figure:
    """Running mean and cumulated regret against the number of solves.

    Parameters
    ----------
    policies : sequence of str
        Names.
    pulls : ndarray, shape (point,)
        Numbers of solves.
    mean, regret : ndarray, shape (policy, point)
        See `sciflow_control.harness.play.curves`.
    """
    made, axes = figure(columns=2, width=9, height=3.2)
    for place, policy in enumerate(policies):
        style = STYLES[policy]
        name = policy.replace("_", " ")
        axes[0, 0].plot(pulls, mean[place], label=name, **style)
        if policy != "oracle":
            axes[0, 1].plot(pulls, regret[place], label=name, **style)
    for ax, what in zip(axes[0], ("mean cost so far", "cost so far beyond the oracle"), strict=True):
        ax.set_xscale("log")
        ax.set_yscale("log" if what.startswith("mean") else "symlog")
        if not what.startswith("mean"):
            ax.set_ylim(bottom=0)
        ax.set_xlabel("solves")
        ax.set_ylabel(what)
    legend(made, 5)
    return made


def chosen(artifact: Artifact, most: int = 1500) -> Figure | None:
    """Arms of the last play's second half and the best arms, against each feature that the tuner looks at.

    For a tuner that looks at none, against all.

    Parameters
    ----------
    artifact : Artifact
        Of a trial.
    most : int
        Points at most.

    Returns
    -------
    Figure or None
        None where no feature varies.
    """
    about = artifact.attributes
    features, order = artifact.read("features"), artifact.read("order")[-1]
    choice, best = artifact.read("choice")[-1], artifact.read("oracle")
    names, used = about["features"], about["looks_at"]
    shown = [i for i, n in enumerate(names) if (n in used or not used) and np.ptp(features[:, i]) > 0][:3]
    if not shown:
        return None
    half = np.arange(len(order) // 2, len(order))
    turns = half[:: max(1, -(-len(half) // most))]
    systems = order[turns]
    omegas, word = _heights(about["arms"])
    made, axes = figure(columns=len(shown), width=4.5 * max(len(shown), 2), height=3.2)
    for ax, place in zip(axes[0], shown, strict=True):
        x = features[systems, place]
        ax.plot(x, omegas[best[systems]], "x", color=INK, ms=4, mew=0.7, label="best")
        ax.plot(x, omegas[choice[turns]], "o", mfc="none", mec=BLUE, ms=4, mew=0.7, label="chosen")
        ax.set_xlabel(names[place].replace("_", " "))
        ax.set_ylabel(word)
    axes[0, 0].set_title("second half of the last play")
    legend(made)
    return made


def _heights(arms: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, str]:
    """What stands for an arm on an axis: its omega if that is all it has, else its index."""
    if all(set(arm) == {"omega"} for arm in arms):
        return np.array([arm["omega"] for arm in arms]), "omega"
    return np.arange(len(arms), dtype=float), "arm"


def beside(rows: Sequence[Mapping[str, str]], pulls: np.ndarray, mean: np.ndarray) -> Figure:
    """Running means of the policies of each sequence, an axis for each.

    Parameters
    ----------
    rows : sequence of mapping
        ``sequence`` and ``policy`` of every row.
    pulls, mean : ndarray, shape (row, point)
        See `sciflow_control.harness.tuner_table.TUNER_TABLE`.
    """
    sequences = list(dict.fromkeys(row["sequence"] for row in rows))
    columns = min(len(sequences), 3)
    down = -(-len(sequences) // columns)
    made, axes = figure(columns=columns, rows=down, width=max(3.6 * columns, 7), height=3.2 * down + 1.2)
    drawn: dict[str, Any] = {}  # for one legend, of every policy on any sequence
    names = list(dict.fromkeys(row["policy"] for row in rows if row["policy"] not in OTHERS))
    for ax in axes.flat[len(sequences) :]:
        ax.set_visible(False)
    for ax, sequence in zip(axes.flat, sequences, strict=False):
        for i in (i for i, row in enumerate(rows) if row["sequence"] == sequence):
            name, there = rows[i]["policy"], pulls[i] > 0
            style = STYLES[name] if name in OTHERS else _style(names.index(name))
            (drawn[name],) = ax.plot(pulls[i][there], mean[i][there], **style)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_title(sequence.replace("_", " "))
        ax.set_xlabel("solves")
    for ax in axes[:, 0]:
        ax.set_ylabel("mean cost so far")
    order = [*names, *(name for name in OTHERS if name in drawn)]
    words = [called(name) for name in order]
    lines = [drawn[name] for name in order]
    made.legend(lines, words, loc="outside lower center", ncol=5, handlelength=3)
    return made


def _style(place: int) -> dict[str, Any]:
    return style(place) | {"markevery": (place * 3, 25), "ms": 4, "lw": 1.3}
