"""The report's section on a fitted model: its learning curves."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from sciflow.reporting import Section, learning, picture, table, three

if TYPE_CHECKING:
    from sciflow.artifact import Artifact


def section(artifact: Artifact) -> Section:
    """See `sciflow.sections`."""
    history = {
        name.removeprefix("history_"): artifact.read(name)
        for name in artifact.schema.fields
        if name.startswith("history_")
    }
    about = artifact.attributes
    weights, name = about["weights"], about["surrogate"]["component"].replace("_", " ")
    parts = [len(artifact.read(f"{p}_members")) for p in ("train", "valid", "test")]
    text = (
        f"<p>{html.escape(about['surrogate']['component'])} with {weights:,} stored numbers, fitted to "
        f"{parts[0]} members, watched on {parts[1]}, {parts[2]} kept for the test.</p>"
    )
    for key, note in about.get("notes", {}).items():
        text += f"<p><b>{html.escape(key)}</b>: {html.escape(str(note))}</p>"
    figures = ((str(parts[0]), "members in training"),)
    if not history:  # fitted in one go
        return Section(f"Model: {name}", text, figures)
    if max(len(values) for values in history.values()) == 1:
        rows = [[key.replace("_", " "), three(float(values[0]))] for key, values in history.items()]
        return Section(f"Model: {name}", text + table(["", "once fitted"], rows), figures)
    drawn = picture(learning(history), f"learning curves of {name}")
    return Section(f"Learning curves of {name}", text + drawn.html, figures, drawn.markdown)
