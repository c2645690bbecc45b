"""The report's section on a design of experiments."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from sciflow.reporting import BLUE, Section, figure, picture, with_unit

if TYPE_CHECKING:
    from sciflow.artifact import Artifact


def section(artifact: Artifact) -> Section:
    """See `sciflow.sections`."""
    points, names = artifact.read("parameters"), artifact.attributes["parameters"]
    units = artifact.attributes["parameter_units"]
    shown = min(4, len(names))
    made, axes = figure(max(1, shown), width=10, height=2.4)
    for i in range(shown):
        j = (i + 1) % len(names)
        axes[0, i].scatter(
            points[:, i], points[:, j], s=max(5, min(20, 1500 / len(points))), color=BLUE, alpha=0.7, lw=0
        )
        axes[0, i].set_xlabel(with_unit(names[i], units[i]))
        axes[0, i].set_ylabel(with_unit(names[j], units[j]))
        if artifact.attributes["log"][i]:
            axes[0, i].set_xscale("log")
    method = html.escape(artifact.attributes["method"])
    text = f"<p>{len(points)} points of {len(names)} parameters, {method}.</p>"
    return Section("Design of experiments", text + picture(made, "points of the design").html)
