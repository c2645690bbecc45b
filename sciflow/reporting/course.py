"""The course of a run: which stage ran when, with which settings, and where its results come from."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sciflow.console import duration
from sciflow.reporting.section import Section
from sciflow.reporting.words import Markup, table
from sciflow.stage import label

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.flow import Session
    from sciflow.work import Record


def stages(here: Session) -> Section:
    """Every stage with its time, and a bar over the part of the run in which it was awaited."""
    ends = [r.end if r.end is not None else time.time() for r in here.records]
    begin = min((r.start for r in here.records if r.start is not None), default=here.start)
    span = max([end - begin for end in ends] + [1e-9])
    rows = []
    for r, end in zip(here.records, ends, strict=True):
        since = (r.start if r.start is not None else end - r.seconds) - begin
        left, width = 100 * since / span, 100 * max(end - begin - since, 0.0) / span
        left = min(left, 99.5)
        lane = (
            f'<div class="lane"><i class="{r.state}" style="left:{left:.2f}%;'
            f'width:{min(width, 100 - left):.2f}%"></i></div>'
        )
        state = Markup(f'<span class="state-{r.state}">{r.state}</span>')
        where = Markup(f"<code>{html.escape(r.artifact.path.name if r.artifact else r.reason)}</code>")
        rows.append([label(r.stage, r.inputs), state, duration(r.seconds), _computed(r), Markup(lane), where])
    scale = Markup(f'<span class="when"><span>0</span><span>{html.escape(duration(span))}</span></span>')
    head = ["stage", "state", "this run", "when computed", scale, "artifact"]
    note = (
        "<p>Bars: when each stage was awaited, from the begin of the first one. Hatched: its result was "
        "there already.</p>"
    )
    return Section("Stages", table(head, rows) + note)


def _computed(record: Record) -> str:
    """What the result took when it was made."""
    if record.artifact is None:
        return ""
    p = record.artifact.provenance
    ranks = p["resources"]["ranks"]
    return duration(p["end"] - p["start"]) + (f", {ranks} ranks" if ranks > 1 else "")


def settings(here: Session, artifacts: Sequence[Artifact]) -> Section:
    """Parameters of the run, and of every artifact what it was made of."""
    text = "<p>Parameters of the run</p><pre>" + html.escape(_indented(here.parameters)) + "</pre>"
    for artifact in artifacts:
        p = artifact.provenance
        about = {
            "digest": artifact.digest,
            "stage": p["stage"],
            "inputs": {n: i["digest"] for n, i in p["inputs"].items()},
            "versions": p["versions"],
            "commit": p["commit"],
            "seed": p["seed"],
            "host": p["host"],
            "resources": p["resources"],
            "start": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(p["start"])),
            "seconds": round(p["end"] - p["start"], 3),
        }
        summary = f"{artifact.schema.kind} {artifact.digest[:12]}"
        text += f"<details><summary>{summary}</summary><pre>{html.escape(_indented(about))}</pre></details>"
    return Section("Settings and provenance", text)


def _indented(document: Any) -> str:
    return json.dumps(document, indent=2, default=str)
