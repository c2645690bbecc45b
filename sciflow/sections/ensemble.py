"""The report's section on an ensemble: how many members solved, and pictures of some."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.reporting import BLUE, Section, both_signs, figure, picture, shades, table, with_unit
from sciflow.sections.stepping import steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
        text += picture(_members(artifact, members, varied), _caption(artifact, varied)).html
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


def _caption(artifact: Artifact, shown: Mapping[str, Any]) -> str:
    timed = any("time" in artifact.schema[name].axes for name in shown)
    return f"{', '.join(shown)} of some members{', the last level with something to see' if timed else ''}"


def _members(artifact: Artifact, members: np.ndarray, shown: dict[str, list[np.ndarray]]) -> Figure:
    made, axes = figure(len(members), len(shown), width=9.8, height=2.4 * len(shown))
    for row, (name, fields) in enumerate(shown.items()):
        unit, signed = artifact.schema[name].unit, both_signs(*fields)
        for column, (member, values) in enumerate(zip(members, fields, strict=True)):
            ax = axes[row, column]
            if values.ndim == 1:
                _line(ax, artifact, name, values)
            else:
                drawn = ax.imshow(values, **shades(values, signed=signed))
                made.colorbar(drawn, ax=ax, shrink=0.8)
                ax.set_xticks([])
                ax.set_yticks([])
            ax.set_title(f"member {member}" if row == 0 else "")
        axes[row, 0].set_ylabel(with_unit(name, unit))
    return made


def _line(ax: Axes, artifact: Artifact, name: str, values: np.ndarray) -> None:
    """A field along its only axis, at the places of its points where they are stored."""
    axis = next(a for a in artifact.schema[name].axes if a not in ("member", "time"))
    stored = axis in artifact.schema.fields and artifact.array(axis).shape == values.shape
    places = artifact.read(axis) if stored else np.arange(len(values))
    ax.plot(places, values, color=BLUE)
    ax.set_xlabel(with_unit(axis, artifact.schema[axis].unit if stored else "points"))


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
