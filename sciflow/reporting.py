"""The report of a run: one self-contained HTML file with plots, and its short form in markdown."""

from __future__ import annotations

import base64
import html
import importlib
import io
import json
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.artifact import Artifact
from sciflow.console import duration
from sciflow.registry import registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.flow import Session

INK, BLUE, ORANGE, GREY = "#1b2430", "#2368b0", "#d9772b", "#9aa5b1"
_DRAWING = threading.Lock()

KINDS = (
    "comparison_table", "side_by_side", "evaluation", "rollout", "resolution", "sample_efficiency",
    "calibration", "convergence", "model", "ensemble", "design",
)  # fmt: skip
"""Artifacts that have a module in `sciflow.sections`, in the order of the page."""

_STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
color:#1b2430;background:#f4f6f8;margin:0}
main{max-width:1080px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:30px;margin:0 0 4px}h2{font-size:19px;margin:0 0 12px}
.sub{color:#5b6773;margin:0 0 24px}
section{background:#fff;border:1px solid #e1e6eb;border-radius:10px;padding:20px 24px;margin:0 0 20px}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px;margin:0 0 20px}
.figure{background:#fff;border:1px solid #e1e6eb;border-radius:10px;padding:14px 18px}
.figure b{display:block;font-size:25px;font-weight:650}.figure span{color:#5b6773;font-size:13px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:6px 12px 6px 0;border-bottom:1px solid #eef1f4;vertical-align:top}
th{color:#5b6773;font-weight:600;font-size:13px}
img{max-width:100%;height:auto;display:block;margin:6px auto}
.bar{height:8px;border-radius:4px;background:#2368b0;min-width:2px}.cached{background:#b9c6d3}
pre{background:#f4f6f8;border-radius:8px;padding:12px;overflow:auto;font-size:12.5px;margin:8px 0}
details>summary{cursor:pointer;color:#2368b0}code{font-size:12.5px}
"""


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


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Attributes
    ----------
    title : str
        Its heading.
    body : str
        HTML.
    figures : tuple of (str, str)
        Numbers for the top of the page: value and what it is.
    short : str
        Markdown for the Prefect UI; empty to leave the section out there.
    """

    title: str
    body: str
    figures: tuple[tuple[str, str], ...] = ()
    short: str = ""


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
    # matplotlib's font cache and mathtext are not thread safe.
    with _DRAWING:
        for artifact in sorted(artifacts, key=lambda a: order.get(a.schema.kind, 1.5)):
            if artifact.schema.kind in KINDS:
                module = importlib.import_module(f"sciflow.sections.{artifact.schema.kind}")
                sections.append(module.section(artifact))
            sections += _from_plugins(artifact)
    sections += [_stages(here), _settings(here, artifacts)]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(here.start))
    total = sum(r.seconds for r in here.records)
    subtitle = f"{here.name} · {when} · {duration(total)} of work · {here.engine} engine"
    top = "".join(
        f'<div class="figure"><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>'
        for section in sections
        for value, label in section.figures
    )
    body = "".join(f"<section><h2>{html.escape(s.title)}</h2>{s.body}</section>" for s in sections)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><main>'
        f'<h1>{html.escape(title)}</h1><p class="sub">{html.escape(subtitle)}</p>'
        f'<div class="figures">{top}</div>{body}</main></body></html>\n'
    )
    numbers = "\n".join(f"- **{value}** {label}" for s in sections for value, label in s.figures)
    short = "\n\n".join(s.short for s in sections if s.short)
    return Document(page, f"{numbers}\n\n{short}")


def _from_plugins(artifact: Artifact) -> list[Section]:
    found = []
    for pairs in registry().manager.hook.sciflow_report(artifact=artifact):
        found += [Section(title, body) for title, body in pairs or []]
    return found


def figure(columns: int = 1, rows: int = 1, *, width: float = 9.0, height: float = 3.2) -> tuple[Figure, Any]:
    """A figure in the report's style, drawn without a display.

    Parameters
    ----------
    columns, rows : int
        Axes.
    width, height : float
        Inches.

    Returns
    -------
    figure, axes
        The axes as an array of shape (row, column).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    axes = made.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(colors="#5b6773", labelsize=8)
        ax.title.set_fontsize(10)
    return made, axes


def data_uri(made: Figure) -> str:
    """A figure as a PNG data URI."""
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def image(uri: str, text: str) -> str:
    """A picture with its text for those who cannot see it."""
    return f'<img alt="{html.escape(text)}" src="{uri}">'


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """An HTML table; cells that are `Markup` stand as they are, others are escaped."""

    def cell(text: str) -> str:
        return text if isinstance(text, Markup) else html.escape(text)

    top = "".join(f"<th>{cell(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{cell(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def percent(value: float) -> str:
    """A ratio as a percentage with three significant digits."""
    return "–" if not np.isfinite(value) else f"{100 * value:.3g} %"


def three(value: float, unit: str = "") -> str:
    """A number with three significant digits and its unit."""
    return f"{value:.3g}{unit}"


def seconds(value: float) -> str:
    """A time with three significant digits and a unit that fits, from microseconds to hours."""
    if not np.isfinite(value):
        return "–"
    if value >= 1:
        return duration(value) if value >= 60 else f"{value:.3g} s"
    scale, unit = (1e3, "ms") if value >= 1e-3 else (1e6, "µs")
    return f"{value * scale:.3g} {unit}"


def large(value: float, unit: str) -> str:
    """A large number with three significant digits and a prefix of the unit that fits."""
    if not np.isfinite(value):
        return "–"
    for prefix in ("", "k", "M", "G"):
        if value < 999.5:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:.3g} T{unit}"


def curves(metrics: Sequence[tuple[int, Mapping[str, float]]]) -> str:
    """Learning curves as a PNG data URI.

    Parameters
    ----------
    metrics : sequence of (int, mapping of str to float)
        Step and its numbers.
    """
    names = sorted({name for _, values in metrics for name in values})
    with _DRAWING:
        return data_uri(learning({n: np.array([v.get(n, np.nan) for _, v in metrics]) for n in names}))


def learning(metrics: Mapping[str, np.ndarray]) -> Figure:
    """Losses and errors over the epochs, on a logarithmic scale."""
    shown = {n: v for n, v in metrics.items() if "loss" in n or "error" in n} or metrics
    made, axes = figure(width=9, height=2.8)
    for (name, values), colour in zip(shown.items(), (BLUE, ORANGE, INK, GREY), strict=False):
        steps = np.arange(1, len(values) + 1)
        axes[0, 0].plot(steps, values, color=colour, lw=1.5, label=name.replace("_", " "))
    axes[0, 0].set_yscale("log")
    axes[0, 0].set_xlabel("epoch", fontsize=9)
    axes[0, 0].legend(frameon=False, fontsize=8)
    return made


def _stages(here: Session) -> Section:
    longest = max((r.seconds for r in here.records), default=1.0) or 1.0
    rows = []
    for r in here.records:
        width = max(0.5, 100 * r.seconds / longest)
        kind = "bar cached" if r.state == "cached" else "bar"
        bar = f'<div class="{kind}" style="width:{width:.1f}%"></div>'
        made = ""
        if r.artifact is not None:
            p = r.artifact.provenance
            made = duration(p["end"] - p["start"]) + (
                f", {p['resources']['ranks']} ranks" if p["resources"]["ranks"] > 1 else ""
            )
        where = f"<code>{html.escape(r.artifact.path.name if r.artifact else r.reason)}</code>"
        rows.append([r.stage.name, r.state, duration(r.seconds), made, Markup(bar), Markup(where)])
    head = ["stage", "state", "this run", "when computed", "", "artifact"]
    return Section("Stages", table(head, rows))


def _settings(here: Session, artifacts: Sequence[Artifact]) -> Section:
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
