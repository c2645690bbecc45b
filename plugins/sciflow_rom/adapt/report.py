"""The part of a report about an enrichment: what was believed, what was solved in full, how bases grew."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.reporting import BLUE, GREY, INK, ORANGE, RED, figure, legend, percent, picture, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact

STATES = (
    (0, "o", BLUE, "believed"),
    (1, "D", ORANGE, "solved in full"),
    (2, "x", INK, "not to be trusted"),
    (3, "s", RED, "full-order model failed"),
)
REASONS = {
    "bound": "their bound exceeded the tolerance",
    "diverged": "no local model converged",
    "outside": "they lay outside of everything solved so far",
    "audit": "they were drawn by lot",
}


def sections(artifact: Artifact) -> list[tuple[str, str]]:
    """A section for a ``model`` that was enriched; none for anything else."""
    about = artifact.attributes.get("enrichment")
    if artifact.schema.kind != "model" or about is None:
        return []
    body = f"<p>{html.escape(words(about))}</p>"
    if about["queries"]:
        body += picture(_queries(artifact, about), "bounds of the queries, and what was solved in full").html
        body += picture(_growth(artifact), "growth of the bases").html
    return [("Enrichment", body)]


def words(about: dict[str, Any]) -> str:
    """What happened, in sentences.

    Parameters
    ----------
    about : dict
        The attribute ``enrichment`` of a model.
    """
    queries, solved = about["queries"], about["solved"]
    why = [f"{count} because {REASONS[name]}" for name, count in sorted(about["reasons"].items())]
    said = [
        f"Of {queries} queries {about['answered']} were answered by the reduced model within a tolerance of "
        f"{percent(about['tolerance'])} by its own bound, and {solved} "
        f"({percent(solved / max(queries, 1))}) were solved in full{': ' + ', '.join(why) if why else ''}."
    ]
    if about["audited"]:
        said.append(
            f"Of the {about['audited']} drawn by lot, whose answers would have been believed, "
            f"{about['audited_within_tolerance']} were within the tolerance."
        )
    else:
        said.append("None was drawn by lot, so nothing independent says what the bounds are worth.")
    if about["untrusted"]:
        said.append(
            f"The budget of {about['budget']} full-order solutions was used up: {about['untrusted']} queries "
            "are marked as not to be trusted."
        )
    if about["failed"]:
        said.append(f"The full-order model failed for {about['failed']} queries.")
    return " ".join(said)


def _queries(artifact: Artifact, about: dict[str, Any]) -> Figure:
    state, upper = artifact.read("query_state"), artifact.read("query_upper")
    made, axes = figure(2, 1, width=9.0, height=3.4)
    ax = axes[0, 0]
    top = np.nanmax(np.where(np.isfinite(upper), upper, np.nan), initial=about["tolerance"]) * 1.5
    shown = np.where(np.isfinite(upper) & (upper > 0), upper, top)
    for number, mark, colour, name in STATES:
        these = np.flatnonzero(state == number)
        if len(these):
            ax.plot(these, shown[these], mark, color=colour, ms=3.5, label=name)
    ax.axhline(about["tolerance"], color=GREY, lw=1.2, label="tolerance")
    ax.set_yscale("log")
    ax.set_xlabel("query")
    ax.set_ylabel("bound of the relative error")
    legend(ax)
    ax = axes[0, 1]
    made_so_far = np.cumsum((state == 1) | (state == 3))
    ax.plot(100 * made_so_far / np.arange(1, len(state) + 1), color=BLUE, lw=1.4)
    ax.axhline(
        100 * about["budget"] / len(state), color=GREY, lw=1.2, ls="--", label="budget, of all queries"
    )
    ax.set_xlabel("query")
    ax.set_ylabel("solved in full so far, %")
    legend(ax)
    return made


def _growth(artifact: Artifact) -> Figure:
    modes, points = artifact.read("round_modes"), artifact.read("round_points")
    made, axes = figure(2, 1, width=9.0, height=3.0)
    for ax, values, name in zip(axes[0], (modes, points), ("modes", "integration points"), strict=True):
        for cluster in range(values.shape[1]):
            there = values[:, cluster] > 0
            look = style(cluster) | {"ms": 3.5, "lw": 1.2}
            ax.step(np.flatnonzero(there), values[there, cluster], where="post", **look)
        ax.set_xlabel("rounds of full-order solutions")
        ax.set_ylabel(f"{name} of each local model")
    return made
