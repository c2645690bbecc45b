"""The part of a report about a ROM-net: its local models, and how far their errors are known."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.reporting import BLUE, GREY, ORANGE, figure, legend, percent, picture, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact

SHOWN = 24
"""Local models in the table; of more, the largest are shown."""


def sections(artifact: Artifact) -> list[tuple[str, str]]:
    """A section for a ``model`` that is a ROM-net; none for anything else."""
    about = artifact.attributes.get("rom")
    if artifact.schema.kind != "model" or about is None:
        return []
    body = _words(about, enriched="enrichment" in artifact.attributes) + _clusters(about["clusters"])
    if "check_error" in artifact.schema.fields:
        body += picture(_estimates(artifact), "estimates and errors of unseen members").html
    return [("Local reduced-order models", body)]


def _words(about: dict[str, Any], *, enriched: bool) -> str:
    modes = [c["modes"] for c in about["clusters"]]
    points = [c["points"] for c in about["clusters"]]
    said = [
        f"{len(modes)} local models of {_range(modes)} modes, each solved at {_range(points)} integration "
        "points."
    ]
    if about.get("bound") and not enriched:
        said.append(
            f"The error indicator was calibrated on {about['calibration_members']} members that are in no "
            f"basis: in {percent(about['coverage'])} of the queries, at least, the error should be below "
            "the bound."
        )
    if "test_coverage" in about:
        said.append(f"On unseen members it was in {percent(about['test_coverage'])}.")
    if "test_spearman" in about:
        rank = about["test_spearman"]
        said.append(f"The rank correlation of estimate and error is {rank:.2f} there.")
    return f"<p>{html.escape(' '.join(said))}</p>"


def _range(values: list[int]) -> str:
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _clusters(clusters: list[dict[str, Any]]) -> str:
    order = sorted(range(len(clusters)), key=lambda k: -clusters[k]["members"])[:SHOWN]
    rows = [
        [
            str(k),
            *(str(clusters[k][n]) for n in ("members", "modes", "points")),
            percent(clusters[k]["cubature_error"]),
        ]
        for k in order
    ]
    return table(["cluster", "members", "modes", "integration points", "cubature error"], rows)


def _estimates(artifact: Artifact) -> Figure:
    error, estimate, upper = (artifact.read(f"check_{n}") for n in ("error", "estimate", "upper"))
    made, axes = figure(width=6.0, height=3.6)
    ax = axes[0, 0]
    good = np.isfinite(error) & np.isfinite(estimate) & (error > 0) & (estimate > 0)
    ax.plot(error[good], estimate[good], "o", color=BLUE, ms=4, label="estimate")
    bounded = good & np.isfinite(upper)
    ax.plot(error[bounded], upper[bounded], "^", color=ORANGE, ms=4, label="upper bound")
    if good.any():
        ends = [error[good].min(), max(error[good].max(), estimate[good].max())]
        ax.plot(ends, ends, color=GREY, lw=1.2, label="the error itself")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("relative error of unseen members")
    ax.set_ylabel("what the model says of it")
    legend(ax)
    return made
