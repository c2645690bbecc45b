"""The report's section on an ensemble: how many members solved, and pictures of some."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.reporting import BLUE, Section, data_uri, figure, image, table
from sciflow.sections.stepping import steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact


def section(artifact: Artifact) -> Section:
    """See `sciflow.sections`."""
    status = artifact.read("status")
    failed = artifact.attributes.get("failures", {})
    text = f"<p>{int((status == 1).sum())} of {len(status)} members of {_word(artifact)} solved.</p>"
    if failed:
        text += table(["member", "why it failed"], [[m, r] for m, r in list(failed.items())[:20]])
    pictures = _members(artifact, np.flatnonzero(status == 1)[:4])
    if pictures is not None:
        text += image(data_uri(pictures), "some members")
    text += steps(artifact)
    figures = ((f"{int((status == 1).sum())}", "simulations"),)
    return Section("Simulations", text, figures)


def _word(artifact: Artifact) -> str:
    return html.escape(str(artifact.attributes["problem"]["component"]))


def _members(artifact: Artifact, members: np.ndarray) -> Figure | None:
    """The last time level of every gridded field for a few members, or the last that is not constant."""
    fields = [n for n, f in artifact.schema.fields.items() if f.axes[:1] == ("member",) and _drawable(f.axes)]
    if not fields or not len(members):
        return None
    made, axes = figure(len(members), len(fields), width=10, height=2.5 * len(fields))
    for row, name in enumerate(fields):
        field = artifact.schema[name]
        stored = artifact.array(name)
        for column, member in enumerate(members):
            values = _last(stored, int(member)) if "time" in field.axes else np.asarray(stored[int(member)])
            ax = axes[row, column]
            if values.ndim == 1:
                ax.plot(values, color=BLUE, lw=1.2)
            else:
                shown = ax.imshow(values, origin="lower", cmap="inferno")
                made.colorbar(shown, ax=ax, shrink=0.8).ax.tick_params(labelsize=7)
                ax.set_xticks([])
                ax.set_yticks([])
            ax.set_title(f"{name}, {field.unit}" if column == 0 else f"member {member}")
    return made


def _last(stored: Any, member: int) -> np.ndarray:
    """The last level of a member with something to see: a source may be off at the end."""
    for level in range(stored.shape[1] - 1, -1, -1):
        values = np.asarray(stored[member, level])
        if np.ptp(values) > 0:
            return values
    return np.asarray(stored[member, -1])


def _drawable(axes: tuple[str, ...]) -> bool:
    space = [a for a in axes[1:] if a != "time"]
    return bool(space) and set(space) <= {"x", "y"}
