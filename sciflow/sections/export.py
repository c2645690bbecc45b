"""The report's section on the model that was written for other programs."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from sciflow.reporting import Section, large, table

if TYPE_CHECKING:
    from sciflow.artifact import Artifact


def section(artifact: Artifact) -> Section:
    """See `sciflow.sections`."""
    about = artifact.attributes
    file = artifact.file(about["file"])
    rows = [
        ["chosen", about["chosen"]],
        ["because of", about["reason"]],
        ["file", str(file)],
        ["size", large(file.stat().st_size, "B")],
        *about["checks"],
        *(["passed over", text] for text in about["passed_over"]),
    ]
    text = f"<p>{html.escape(about['chosen'])} has {html.escape(about['reason'])}.</p>"
    name = f"{about['chosen']}{about['format']}"
    return Section("The best model as a file", text + table(["", ""], rows), ((name, "written for others"),))
