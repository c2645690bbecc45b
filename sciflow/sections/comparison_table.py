"""The report's section on a table of several tasks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sciflow.reporting import BLUE, GREY, INK, ORANGE, Section, figure, legend, percent, picture, table
from sciflow.stages.comparison_table import HEAD, cells, markdown, sources

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact


def section(artifact: Artifact) -> Section:
    """The table, and the errors of all models of all tasks as a picture."""
    labels = artifact.attributes["rows"]
    columns = {name: artifact.read(name) for name in artifact.schema.fields}
    rows = [{name: float(values[i]) for name, values in columns.items()} for i in range(len(labels))]
    tasks = list(dict.fromkeys(label["task"] for label in labels))
    figures = []
    for task in tasks:
        mine = [
            (row["error_mean"], label["model"])
            for label, row in zip(labels, rows, strict=True)
            if label["task"] == task and np.isfinite(row["error_mean"])
        ]
        if mine:
            error, model = min(mine)
            figures.append((percent(error), f"mean error of {model} on {task}, the best of {len(mine)}"))
    text = (
        "<p>Errors are relative L2 errors of unseen members in percent, the mean over seeds with standard "
        "deviation where there are several. The solver's own error is that between its solution and a finer "
        "one. Published numbers are those of the cited source, on data of its own.</p>"
    )
    plot = picture(_errors(labels, columns, tasks), "mean errors of all models of all tasks")
    notes = sources(labels)
    body = table(HEAD, [cells(a, b, notes) for a, b in zip(labels, rows, strict=True)]) + text
    body += "".join(f"<p>[{number}] {html.escape(note)}</p>" for number, note in enumerate(notes, 1))
    return Section("All models on all tasks", body + plot.html, tuple(figures), markdown(labels, rows))


def _errors(
    labels: Sequence[Mapping[str, str]], columns: Mapping[str, np.ndarray], tasks: Sequence[str]
) -> Figure:
    """A panel for each task: a line for each model, with what others published and the solver's error."""
    from matplotlib.ticker import LogLocator, NullFormatter

    most = max(sum(label["task"] == task for label in labels) for task in tasks)
    made, axes = figure(len(tasks), width=max(4.0, 2.5 * len(tasks)), height=1.3 + 0.36 * most)
    for ax, task in zip(axes[0], tasks, strict=True):
        at = [i for i, label in enumerate(labels) if label["task"] == task]
        places = np.arange(len(at))[::-1]
        errors = 100 * columns["error_mean"][at]
        spread = np.nan_to_num(100 * columns["error_mean_std"][at])
        ax.errorbar(errors, places, xerr=spread, fmt="o", color=BLUE, ecolor=INK, ms=7, label="measured")
        rolled, cited = (100 * columns[name][at] for name in ("rollout_error", "published"))
        ax.plot(rolled, places, "o", color=BLUE, mfc="none", ms=7, label="measured, whole roll-out")
        ax.plot(cited, places, "D", color=ORANGE, ms=6, label="published")
        floor = 100 * columns["floor"][at][0]
        ax.axvline(floor if floor > 0 else np.nan, color=GREY, ls="--", lw=1.2, label="solver's own error")
        drawn = np.concatenate([errors, rolled, cited, [floor]])
        if (drawn[np.isfinite(drawn)] > 0).any():
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(numticks=5))
            ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_yticks(places, [labels[i]["model"].replace("_", " ") for i in at])
        ax.set_ylim(-0.6, len(at) - 0.4)
        ax.grid(axis="y", color=GREY, alpha=0.3, lw=0.6)
        ax.set_xlabel("mean error, %")
        ax.set_title(task.replace("_", " "))
    legend(made)
    return made
