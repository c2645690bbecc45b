"""The page: heading, key figures, contents, sections of every artifact, stages and settings."""

from __future__ import annotations

import html
import importlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sciflow.artifact import Artifact
from sciflow.console import duration
from sciflow.registry import registry
from sciflow.reporting.course import settings, stages
from sciflow.reporting.figures import drawing
from sciflow.reporting.section import Section
from sciflow.reporting.sheet import style_sheet

if TYPE_CHECKING:
    from sciflow.flow import Session

KINDS = (
    "comparison_table", "side_by_side", "propagation", "inversion", "evaluation", "rollout", "resolution",
    "sample_efficiency", "export", "calibration", "convergence", "solver_comparison", "model", "ensemble",
    "design",
)  # fmt: skip
"""Artifacts that have a module in `sciflow.sections`, in the order of the page."""
CONTENTS = 6
"""Sections from which on the page has a table of contents."""
KEY_FIGURES = 10
"""At the top of the page at most."""


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes
    ----------
    html : str
        The whole page; loads nothing from elsewhere.
    markdown : str
        Main figures and pictures, for the Prefect UI.
    """

    html: str
    markdown: str


def build(title: str, artifacts: Sequence[Artifact], here: Session) -> Document:
    """Make the report of a run.

    Parameters
    ----------
    title : str
        Its heading.
    artifacts : sequence of Artifact
        What to show; evaluations come first.
    here : Session
        The run: parameters, stages and their times.
    """
    order = {kind: place for place, kind in enumerate(KINDS)}
    sections = []
    with drawing():
        for artifact in sorted(artifacts, key=lambda a: order.get(a.schema.kind, 1.5)):
            if artifact.schema.kind in KINDS:
                module = importlib.import_module(f"sciflow.sections.{artifact.schema.kind}")
                sections.append(module.section(artifact))
            sections += _from_plugins(artifact)
    sections += [stages(here), settings(here, artifacts)]
    sections = _told_apart(sections)
    figures = list(dict.fromkeys(pair for section in sections for pair in section.figures))
    numbers = "\n".join(f"- **{value}** {label}" for value, label in figures)
    short = "\n\n".join(s.short for s in sections if s.short)
    return Document(_page(title, sections, figures[:KEY_FIGURES], here), f"{numbers}\n\n{short}")


def _from_plugins(artifact: Artifact) -> list[Section]:
    found = []
    for pairs in registry().manager.hook.sciflow_report(artifact=artifact):
        found += [Section(title, body) for title, body in pairs or []]
    return found


def _told_apart(sections: Sequence[Section]) -> list[Section]:
    """The sections, those of one heading numbered."""
    titles = [s.title for s in sections]
    found = []
    for place, one in enumerate(sections):
        many = titles.count(one.title)
        number = titles[: place + 1].count(one.title)
        found.append(replace(one, title=f"{one.title}, {number} of {many}") if many > 1 else one)
    return found


def _page(title: str, sections: Sequence[Section], figures: Sequence[tuple[str, str]], here: Session) -> str:
    names = _anchors([s.title for s in sections])
    top = "".join(
        f'<div class="figure{" long" * (len(value) > 12)}"><b>{html.escape(value)}</b>'
        f"<span>{html.escape(label)}</span></div>"
        for value, label in figures
    )
    links = "".join(
        f'<li><a href="#{name}">{html.escape(s.title)}</a></li>'
        for name, s in zip(names, sections, strict=True)
    )
    contents = (
        f'<nav aria-labelledby="contents"><h2 id="contents">Contents</h2><ol>{links}</ol></nav>'
        if len(sections) >= CONTENTS
        else ""
    )
    body = "".join(
        f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">{html.escape(s.title)}</h2>'
        f"{s.body}</section>"
        for name, s in zip(names, sections, strict=True)
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{style_sheet()}</style>'
        f"</head>\n<body><main><h1>{html.escape(title)}</h1>{_about(here)}"
        f'<div class="figures">{top}</div>{contents}\n{body}</main></body></html>\n'
    )


def _about(here: Session) -> str:
    """What ran, when, for how long, with which versions."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(here.start))
    total = duration(sum(r.seconds for r in here.records))
    states = [r.state for r in here.records]
    counted = f"{len(states)} stage{'s' * (len(states) != 1)}" + (
        f", {states.count('cached')} cached" if "cached" in states else ""
    )
    lines = [" · ".join((here.name, when, f"{total} of work", counted, f"{here.engine} engine"))]
    made = [r.artifact.provenance for r in here.records if r.artifact is not None]
    versions: dict[str, str] = {}
    for provenance in made:
        versions |= provenance["versions"]
    first = [f"{n} {versions[n]}" for n in ("sciflow", "python") if n in versions]
    others = [f"{n} {v}" for n, v in sorted(versions.items()) if n not in ("sciflow", "python")]
    if versions:
        lines.append(", ".join(first + others))
    return "".join(f'<p class="sub">{html.escape(line)}</p>' for line in lines)


def _anchors(titles: Sequence[str]) -> list[str]:
    """A name for each section to link to, of its title; no two alike."""
    found: list[str] = []
    for title in titles:
        name = plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        number = 2
        while name in found:
            name, number = f"{plain}-{number}", number + 1
        found.append(name)
    return found
