"""The part of a report about an online training: who waited for whom, and what was learned how often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.reporting import BLUE, ORANGE, figure, legend, picture, shades, table, with_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact


def sections(artifact: Artifact) -> list[tuple[str, str]]:
    """Sections for a ``model`` that was trained online; none for anything else."""
    about = artifact.attributes.get("online")
    if artifact.schema.kind != "model" or about is None:
        return []
    body = _words(artifact, about) + picture(_curves(artifact), "throughput, reservoir and waiting").html
    body += picture(_uses(artifact), "how often each sample was used").html
    if about.get("steering"):
        body += picture(_points(artifact), "points in the order in which they were chosen").html
    failed = artifact.attributes.get("failures", {})
    if failed:
        body += table(["member", "why it failed"], [[m, r] for m, r in list(failed.items())[:20]])
    return [("Training while the solvers ran", body)]


def _history(artifact: Artifact, name: str) -> np.ndarray:
    key = f"history_{name}"
    return artifact.read(key) if key in artifact.schema.fields else np.full(1, np.nan)


def _words(artifact: Artifact, about: dict[str, Any]) -> str:
    idle, blocked = _history(artifact, "trainer_idle")[-1], _history(artifact, "solvers_blocked")[-1]
    reservoir = about["reservoir"]
    rows = [
        ["samples received", f"{about['samples']}"],
        ["each drawn on average", f"{about['uses']:g} times"],
        ["reservoir", f"{reservoir['component']}, {reservoir['capacity']} samples"],
        [
            "steering",
            about["steering"]["component"] if about.get("steering") else "none, points of the design",
        ],
        ["the trainer waited for samples", f"{100 * idle:.1f} % of its time"],
        ["solvers waited for the trainer", f"{100 * blocked:.1f} % of their time"],
        *[
            [
                f"{name[2:]}: mean and spread, beside those at the start",
                f"{shift:.2f} spreads away, {ratio:.2f} times",
            ]
            for name, (shift, ratio) in about.get("drift", {}).items()
        ],
        ["members computed again", f"{about['resubmitted']}"],
        ["samples that came twice and were dropped", f"{about['duplicates']}"],
        ["refused connections and messages", f"{about['refused']}"],
    ]
    return table(["", ""], rows)


def _curves(artifact: Artifact) -> Figure:
    made, axes = figure(3, width=10, height=2.9)
    step = np.arange(1, len(_history(artifact, "received")) + 1)
    panels = (
        ("samples a second", (("received_per_second", "received"), ("drawn_per_second", "drawn"))),
        ("reservoir", (("reservoir_fill", "full"), ("age", "mean age / largest"))),
        ("share of time spent waiting", (("trainer_idle", "trainer"), ("solvers_blocked", "solvers"))),
    )
    age = _history(artifact, "reservoir_age_mean")
    for ax, (title, lines) in zip(axes[0], panels, strict=True):
        for (name, label), colour, style in zip(lines, (BLUE, ORANGE), ("-", "--"), strict=False):
            values = age / max(float(np.nanmax(age)), 1.0) if name == "age" else _history(artifact, name)
            if len(values) == len(step):
                ax.plot(step, values, color=colour, ls=style, lw=1.6, label=label)
        ax.set_title(title)
        ax.set_xlabel("report")
        if title == "samples a second":
            ax.set_yscale("log")
        else:
            ax.set_ylim(bottom=0)
        legend(ax)
    return made


def _uses(artifact: Artifact) -> Figure:
    uses = artifact.read("uses")
    last = int(np.flatnonzero(uses)[-1]) + 1 if uses.any() else 1
    made, axes = figure(width=9, height=2.3)
    axes[0, 0].bar(np.arange(last), uses[:last], color=BLUE, alpha=0.85)
    more = f", the last bar: {last - 1} times or more" if last == len(uses) else ""
    axes[0, 0].set_xlabel(f"times that a sample was used{more}")
    axes[0, 0].set_ylabel("samples")
    return made


def _points(artifact: Artifact) -> Figure:
    points, names = artifact.read("points"), artifact.attributes["parameters"]
    members = artifact.read("train_members")
    shown = max(1, min(4, len(names)))
    made, axes = figure(shown, width=10, height=2.6)
    for i in range(shown):
        axes[0, i].scatter(members, points[members, i], s=5, c=members, cmap=shades()["cmap"], lw=0)
        axes[0, i].set_xlabel("member")
        axes[0, i].set_ylabel(with_unit(names[i], artifact.attributes["parameter_units"][i]))
    return made
