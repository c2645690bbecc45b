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
    members = np.flatnonzero(status == 1)[:4]
    shown = _shown(artifact, members) if len(members) else {}
    same = [name for name, fields in shown.items() if not any(np.ptp(values) > 0 for values in fields)]
    varied = {name: fields for name, fields in shown.items() if name not in same}
    if varied:
        text += image(data_uri(_members(artifact, members, varied)), "some members")
    if same:
        text += f"<p>The same everywhere at each stored level: {html.escape(', '.join(same))}.</p>"
    text += steps(artifact)
    figures = ((f"{int((status == 1).sum())}", "simulations"),)
    return Section("Simulations", text, figures)


def _word(artifact: Artifact) -> str:
    return html.escape(str(artifact.attributes["problem"]["component"]))


def _shown(artifact: Artifact, members: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Of every gridded field the last time level of some members, or the last that is not constant."""
    shown = {}
    for name, field in artifact.schema.fields.items():
        if field.axes[:1] == ("member",) and _drawable(field.axes):
            stored, timed = artifact.array(name), "time" in field.axes
            shown[name] = [_last(stored, int(m)) if timed else np.asarray(stored[int(m)]) for m in members]
    return shown


def _members(artifact: Artifact, members: np.ndarray, shown: dict[str, list[np.ndarray]]) -> Figure:
    made, axes = figure(len(members), len(shown), width=10, height=2.5 * len(shown))
    for row, (name, fields) in enumerate(shown.items()):
        for column, (member, values) in enumerate(zip(members, fields, strict=True)):
            ax = axes[row, column]
            if values.ndim == 1:
                ax.plot(values, color=BLUE, lw=1.2)
            else:
                drawn = ax.imshow(values, origin="lower", cmap="inferno")
                made.colorbar(drawn, ax=ax, shrink=0.8).ax.tick_params(labelsize=7)
                ax.set_xticks([])
                ax.set_yticks([])
            unit = artifact.schema[name].unit
            ax.set_title(f"{name}, {unit}" if column == 0 else f"member {member}")
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
