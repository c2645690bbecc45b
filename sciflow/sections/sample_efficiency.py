"""The report's section on how many members models need."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from sciflow.reporting import Section, figure, legend, percent, picture, style, table, three

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact


def section(artifact: Artifact) -> Section:
    """See `sciflow.sections`."""
    about = artifact.attributes
    models, sizes = about["models"], about["sizes"]
    error = artifact.read("error")
    gains = {name: artifact.read(name) for name in ("efficiency_gain", "accuracy_gain", "rate")}
    rows = [
        [name, *(percent(float(e)) for e in error[i]), *(_number(values[i]) for values in gains.values())]
        for i, name in enumerate(models)
    ]
    head = [
        "",
        *(f"{n} members" for n in sizes),
        f"EG (error of {models[0]} with {about['reference']})",
        f"AG (with {about['accuracy_at']})",
        "rate",
    ]
    reasons = "".join(
        f"<li>{html.escape(name)}: {html.escape('; '.join(why))}</li>"
        for name, why in about["reasons"].items()
    )
    measure = about["measure"].replace("_", " ")
    first = html.escape(models[0])
    text = (
        f"<p>The {about['statistic']} {measure} of the same unseen members against the members in training. "
        f"EG: how many times fewer members than {first} lead to its error; AG: how many times smaller the "
        "error is with as many members.</p>"
    )
    drawn = picture(_plot(models, np.array(sizes), error), "errors against members in training")
    body = text + table(head, rows) + (f"<ul>{reasons}</ul>" if reasons else "")
    body += drawn.html
    return Section("Errors against the size of the training set", body, (), drawn.markdown)


def _number(value: float) -> str:
    return three(float(value)) if np.isfinite(value) else "–"


def _plot(models: list[str], sizes: np.ndarray, error: np.ndarray) -> Figure:
    made, axes = figure(width=6.5, height=3.4)
    ax = axes[0, 0]
    for i, name in enumerate(models):
        there = np.isfinite(error[i]) & (error[i] > 0)
        ax.plot(sizes[there], error[i][there], label=name, **style(i))
    ax.set_xscale("log")
    if (error[np.isfinite(error)] > 0).any():
        ax.set_yscale("log")
    ax.set_xlabel("members in training")
    ax.set_ylabel("error")
    legend(ax)
    return made
