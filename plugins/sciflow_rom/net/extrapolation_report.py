"""The part of a report about a model that took more steps than it was trained with: maps, errors, peaks."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.reporting import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    figure,
    legend,
    percent,
    picture,
    seconds,
    shades,
    table,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact

SHOWN = 12
"""Members in the table."""


def sections(artifact: Artifact) -> list[tuple[str, str]]:
    """A section for an ``extrapolation``; none for anything else."""
    if artifact.schema.kind != "extrapolation":
        return []
    about = artifact.attributes
    body = _words(artifact) + _members(artifact)
    for name in about["duals"][:1]:
        body += picture(maps(artifact, name), f"{name} at the last level: full and reduced").html
        body += picture(peaks(artifact, name), f"largest {name} at each level").html
    body += picture(errors(artifact), "errors of all levels").html
    return [("More steps than the training had", body)]


def _words(artifact: Artifact) -> str:
    about, answers = artifact.attributes, artifact.read("seconds")
    steps, trained = len(artifact.read("time")), about["trained"]
    said = f"The model was made of {trained} steps and answered {len(answers)} members for {steps}. "
    query = float(np.median(answers))
    if about["full_seconds"] is not None:
        said += (
            f"An answer takes {seconds(query)}, the full-order model {seconds(about['full_seconds'])}: "
            f"{about['full_seconds'] / query:.0f} times as long. "
        )
    if about["all_points"]:
        said += (
            f"The law is evaluated at {about['points']:.0f} of {about['all_points']} integration points. "
            f"Rebuilding all fields takes {seconds(float(np.median(artifact.read('lift_seconds'))))} more. "
        )
    said += (
        "The bound of the error was calibrated for the steps of the training; beyond, it is a guess. What "
        "the modes of a dual field cannot follow at the points says at which level the model leaves what it "
        "knows."
    )
    return f"<p>{html.escape(said)}</p>"


def _members(artifact: Artifact) -> str:
    about = artifact.attributes
    names = [f"_{n}" for n in about["duals"]]
    head = ["member", f"error of {about['unknown']}", f"last {about['last']} levels"]
    for name in about["duals"]:
        head += [f"error of {name}", f"last {about['last']} levels"]
    columns = [artifact.read(f"{kind}{n}") for n in ["", *names] for kind in ("relative_l2", "last_l2")]
    members, estimate = artifact.read("members"), artifact.read("estimate")
    rows = [
        [str(members[i]), *(percent(c[i]) for c in columns), percent(estimate[i])]
        for i in range(min(SHOWN, len(members)))
    ]
    return table([*head, "the model's estimate"], rows)


def maps(artifact: Artifact, name: str) -> Figure:
    """Full and reduced field at the last level of the member with the largest error, and their gap.

    Colours go with the square root, so that a zone is seen beside its peak.
    """
    truth, found = artifact.read(f"example_truth_{name}"), artifact.read(f"example_{name}")
    made, axes = figure(3, width=10.4, height=3.1)
    top = float(max(truth.max(), found.max()))
    low = float(min(truth.min(), 0.0))
    parts = [("full", truth, low, top), ("reduced", found, low, top)]
    parts.append(("|reduced - full|", np.abs(found - truth), 0.0, float(np.abs(found - truth).max())))
    mesh = _mesh(artifact, len(truth))
    for ax, (title, values, least, most) in zip(axes[0], parts, strict=True):
        drawn = _draw(ax, mesh, values, least, most if most > least else least + 1e-300)
        ax.set_title(f"{name}, {title}" if title == "full" else title)
        made.colorbar(drawn, ax=ax, shrink=0.85)
    return made


def _mesh(artifact: Artifact, points: int) -> dict[str, Any]:
    """Places of the points; triangles too, where each holds as many points, one after the other."""
    if "point_x" not in artifact.schema.fields:
        return {}
    found = {n: np.stack([artifact.read(f"{n}_{d}") for d in "xy"], axis=1) for n in ("point", "node")}
    faces = artifact.read("triangles")
    if points % len(faces) == 0:
        centres = found["point"].reshape(len(faces), -1, 2).mean(axis=1)
        size = float(np.ptp(found["node"]))
        if np.allclose(centres, found["node"][faces].mean(axis=1), atol=1e-6 * size):
            found["faces"] = faces
    return found


def _draw(ax: Any, mesh: dict[str, np.ndarray], values: np.ndarray, least: float, most: float) -> Any:
    from matplotlib.colors import PowerNorm

    style: dict[str, Any] = {"cmap": shades(values)["cmap"], "norm": PowerNorm(0.5, least, most)}
    if not mesh:
        ax.set_xlabel("integration point")
        return ax.scatter(np.arange(len(values)), values, c=values, s=6, **style)
    ax.set_aspect("equal")
    ax.set_axis_off()
    if "faces" in mesh:
        x, y = mesh["node"].T
        means = values.reshape(len(mesh["faces"]), -1).mean(axis=1)
        return ax.tripcolor(x, y, mesh["faces"], facecolors=means, **style)
    x, y = mesh["point"].T
    return ax.scatter(x, y, c=values, s=4, **style)


def _trained(ax: Any, artifact: Artifact) -> np.ndarray:
    """Mark where the training ended; the times."""
    times = artifact.read("time")
    trained = artifact.attributes["trained"]
    if 0 < trained < len(times):
        ax.axvspan(0, times[trained - 1], color=GREY, alpha=0.2, lw=0, label="steps of the training")
    ax.set_xlabel(with_unit("time", artifact.schema.fields["time"].unit))
    return times


def peaks(artifact: Artifact, name: str) -> Figure:
    """The largest value of a dual field at each level: full and reduced, some members."""
    made, axes = figure(width=8.4, height=3.2)
    ax = axes[0, 0]
    times = _trained(ax, artifact)
    truth, found = artifact.read(f"peak_truth_{name}"), artifact.read(f"peak_{name}")
    for i in range(min(4, len(truth))):
        ax.plot(times, truth[i], color=INK, lw=2.4, alpha=0.35, label="full" if i == 0 else None)
        ax.plot(times, found[i], color=ORANGE, lw=1, label="reduced" if i == 0 else None)
    ax.set_ylabel(f"largest {name}")
    legend(ax)
    return made


def errors(artifact: Artifact) -> Figure:
    """Errors of the levels of the worst member, and what its dual modes cannot follow."""
    about = artifact.attributes
    made, axes = figure(width=8.4, height=3.2)
    ax, worst = axes[0, 0], about["worst"]
    times = _trained(ax, artifact)
    curves = [(about["unknown"], "", BLUE), *((n, f"_{n}", ORANGE) for n in about["duals"][:1])]
    for name, end, colour in curves:
        ax.plot(times, _positive(artifact.read(f"level_errors{end}")[worst]), color=colour, label=name)
        if end:
            gap = _positive(artifact.read(f"gaps{end}")[worst])
            ax.plot(times, gap, color=colour, ls=":", label=f"{name}, not followed at the points")
    ax.set_yscale("log")
    ax.set_ylabel("error over the mean size")
    legend(ax, 3)
    return made


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)
