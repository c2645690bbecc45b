"""The report's section on a model that is asked on grids it was not trained on."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from sciflow.reporting import BLUE, Section, figure, legend, percent, picture, table, three

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact


def section(artifact: Artifact) -> Section:
    """See `sciflow.sections`."""
    about = artifact.attributes
    mean, median, ratio = (artifact.read(n) for n in ("error_mean", "error_median", "ratio"))
    rows = []
    for i, (name, shape) in enumerate(zip(about["grids"], about["shapes"], strict=True)):
        label = "the grid of the training" if i == 0 else name
        times = f"{three(float(ratio[i]))} x" if np.isfinite(ratio[i]) else about["reasons"].get(name, "–")
        grid = " x ".join(map(str, shape))
        rows.append([label, grid, percent(float(median[i])), percent(float(mean[i])), times])
    what = html.escape(", ".join(about["outputs"]))
    text = f"<p>{what} on grids that the model was not trained on, the same unseen members on each.</p>"
    body = text + table(["", "points", "median error", "mean error", "times that of the training"], rows)
    if np.isfinite(mean).sum() > 1:
        body += picture(_plot(artifact), "errors against the points along the longest side").html
    worst = ratio[np.isfinite(ratio)].max(initial=1.0)
    return Section("Other grids", body, ((f"{worst:.3g} x", "error on another grid, at worst"),))


def _plot(artifact: Artifact) -> Figure:
    made, axes = figure(width=6.5, height=3.0)
    ax = axes[0, 0]
    points, errors = artifact.read("points"), artifact.read("error_mean")
    order = np.argsort(points, kind="stable")
    ax.plot(points[order], errors[order], "o-", color=BLUE, lw=1.4)
    ax.plot(points[:1], errors[:1], "o", color=BLUE, ms=10, mfc="none", label="trained here")
    ax.set_xscale("log")
    if (errors[np.isfinite(errors)] > 0).any():
        ax.set_yscale("log")
    ax.set_xlabel("points along the longest side")
    ax.set_ylabel("mean relative L2 error")
    legend(ax)
    return made
