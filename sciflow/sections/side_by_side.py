"""The report's section on several models of the same data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sciflow.reporting import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    Section,
    data_uri,
    figure,
    image,
    large,
    percent,
    seconds,
    table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact


def section(artifact: Artifact) -> Section:
    """See `sciflow.sections`."""
    names, full = artifact.attributes["models"], artifact.attributes["full_seconds"]
    columns = {name: artifact.read(name) for name in artifact.schema.fields}
    rows = []
    for i, name in enumerate(names):
        of = {key: float(values[i]) for key, values in columns.items()}
        faster = full / of["query_seconds"]
        even = f"{of['break_even']:.0f}" if np.isfinite(of["break_even"]) else "never"
        rows.append(
            [
                name,
                *(percent(of[f"error_{which}"]) for which in ("median", "mean", "p95")),
                f"{seconds(of['query_seconds'])}",
                f"{faster:.3g} x" if np.isfinite(faster) else "–",
                seconds(of["offline_seconds"]),
                even,
                f"{of['parameters']:,.0f}",
                large(of["operations"], "FLOP"),
                large(of["training_bytes"], "B"),
            ]
        )
    rows.append(["the solver itself", "–", "–", "–", seconds(full), "1 x", *["–"] * 5])
    head = [
        "",
        "median error",
        "mean",
        "95 %",
        "one answer",
        "faster than the solver",
        "training",
        "pays off after",
        "parameters",
        "work of an answer",
        "peak memory of training",
    ]
    plot = data_uri(_costs(names, columns, full))
    text = (
        "<p>Errors are relative L2 errors on the same unseen members. An answer is timed alone, in this "
        "process; training is the time of all stages between ensemble and model; it pays off after so many "
        "answers, in which the solver would have taken longer (the ensemble is not counted).</p>"
    )
    best = int(np.argmin(columns["error_median"]))
    figures = (
        (percent(float(columns["error_median"][best])), f"median error of {names[best]}, the best of them"),
    )
    body = table(head, rows) + text + image(plot, "error against the time of an answer")
    return Section("Side by side on unseen members", body, figures, f"![errors and times]({plot})")


def _costs(names: Sequence[str], columns: Mapping[str, np.ndarray], full: float) -> Figure:
    made, axes = figure(width=6.5, height=3.4)
    ax = axes[0, 0]
    for i, name in enumerate(names):
        x, y = columns["query_seconds"][i], columns["error_median"][i]
        ax.plot([x, x], [y, columns["error_p95"][i]], color=GREY, lw=1.2, zorder=1)
        ax.plot(x, y, "os^Dv<>ph*"[i % 10], color=(BLUE, ORANGE, INK)[i % 3], ms=7, label=name)
    if np.isfinite(full):
        ax.axvline(full, color=GREY, ls="--", lw=1.2, label="the solver")
    ax.set_xscale("log")
    if np.isfinite(columns["error_median"]).any():
        ax.set_yscale("log")
    ax.set_xlabel("time of one answer, s", fontsize=9)
    ax.set_ylabel("relative L2 error, median to 95 %", fontsize=9)
    ax.legend(frameon=False, fontsize=8)
    return made
