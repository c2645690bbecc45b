"""The report of a run: one self-contained HTML file with plots, and its short form in markdown."""

from __future__ import annotations

import base64
import html
import io
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
    known = {
        "side_by_side": _side_by_side,
        "evaluation": _evaluation,
        "model": _model,
        "ensemble": _ensemble,
        "design": _design,
    }
    order = {kind: place for place, kind in enumerate(known)}
    sections = []
    # matplotlib's font cache and mathtext are not thread safe.
    with _DRAWING:
        for artifact in sorted(artifacts, key=lambda a: order.get(a.schema.kind, 1.5)):
            if artifact.schema.kind in known:
                sections.append(known[artifact.schema.kind](artifact))
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


def _img(uri: str, text: str) -> str:
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


def _three(value: float, unit: str = "") -> str:
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


def _side_by_side(artifact: Artifact) -> Section:
    names, full = artifact.attributes["models"], artifact.attributes["full_seconds"]
    columns = {name: artifact.read(name) for name in artifact.schema.fields}
    rows = []
    for i, name in enumerate(names):
        of = {key: float(values[i]) for key, values in columns.items()}
        faster = full / of["query_seconds"]
        even = f"{of['break_even']:.0f}" if np.isfinite(of["break_even"]) else "never"
        rows.append(
            [
                name,
                *(percent(of[f"error_{which}"]) for which in ("median", "mean", "p95")),
                f"{seconds(of['query_seconds'])}",
                f"{faster:.3g} x" if np.isfinite(faster) else "–",
                seconds(of["offline_seconds"]),
                even,
                f"{of['parameters']:,.0f}",
                large(of["operations"], "FLOP"),
                large(of["training_bytes"], "B"),
            ]
        )
    rows.append(["the solver itself", "–", "–", "–", seconds(full), "1 x", *["–"] * 5])
    head = [
        "",
        "median error",
        "mean",
        "95 %",
        "one answer",
        "faster than the solver",
        "training",
        "pays off after",
        "parameters",
        "work of an answer",
        "peak memory of training",
    ]
    plot = data_uri(_costs(names, columns, full))
    text = (
        "<p>Errors are relative L2 errors on the same unseen members. An answer is timed alone, in this "
        "process; training is the time of all stages between ensemble and model; it pays off after so many "
        "answers, in which the solver would have taken longer (the ensemble is not counted).</p>"
    )
    best = int(np.argmin(columns["error_median"]))
    figures = (
        (percent(float(columns["error_median"][best])), f"median error of {names[best]}, the best of them"),
    )
    body = table(head, rows) + text + _img(plot, "error against the time of an answer")
    return Section("Side by side on unseen members", body, figures, f"![errors and times]({plot})")


def _costs(names: Sequence[str], columns: Mapping[str, np.ndarray], full: float) -> Figure:
    made, axes = figure(width=6.5, height=3.4)
    ax = axes[0, 0]
    for i, name in enumerate(names):
        x, y = columns["query_seconds"][i], columns["error_median"][i]
        ax.plot([x, x], [y, columns["error_p95"][i]], color=GREY, lw=1.2, zorder=1)
        ax.plot(x, y, "os^Dv<>ph*"[i % 10], color=(BLUE, ORANGE, INK)[i % 3], ms=7, label=name)
    if np.isfinite(full):
        ax.axvline(full, color=GREY, ls="--", lw=1.2, label="the solver")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("time of one answer, s", fontsize=9)
    ax.set_ylabel("relative L2 error, median to 95 %", fontsize=9)
    ax.legend(frameon=False, fontsize=8)
    return made


def _evaluation(artifact: Artifact) -> Section:
    errors = artifact.read("relative_l2")
    rows: list[tuple[str, np.ndarray, Callable[[float], str]]] = [
        ("relative L2", errors, percent),
        ("VRMSE", artifact.read("vrmse"), _three),
        ("baseline: mean of the training samples", artifact.read("baseline_mean"), percent),
        ("baseline: nearest training sample", artifact.read("baseline_nearest"), percent),
    ]
    for name, field in artifact.schema.fields.items():
        if name.startswith("maximum_error_"):
            label = f"maximum error of {name.removeprefix('maximum_error_')}"
            unit = "" if field.unit == "1" else f" {field.unit}"
            rows.append((label, artifact.read(name), partial(_three, unit=unit)))
    bands = artifact.read("band_errors")
    for i, label in enumerate(("below 4", "4 to 11", "12 and more")):
        rows.append((f"relative L2 in wavenumbers {label} per domain", bands[:, i], percent))
    cells = [[label, show(np.median(v)), show(np.mean(v)), show(np.max(v))] for label, v, show in rows]
    histogram = data_uri(_histogram(errors, artifact))
    pictures = data_uri(_examples(artifact, errors))
    body = (
        table(["", "median", "mean", "worst"], cells)
        + _img(histogram, "error distribution")
        + _img(pictures, "best, median and worst member")
    )
    name = artifact.attributes["example_of"]
    grid = " x ".join(str(n) for n in artifact.array("example_truth").shape[1:])
    nearest = float(np.median(artifact.read("baseline_nearest")))
    figures = (
        (percent(float(np.median(errors))), f"median relative L2 error of {name}, {grid} values"),
        (str(len(np.unique(artifact.read("members")))), "members never seen in training"),
        *([(percent(nearest), "error of the nearest training sample")] if np.isfinite(nearest) else []),
    )
    short = f"![errors]({histogram})\n\n![members]({pictures})"
    return Section(f"Errors on unseen members, {name} with {grid} values", body, figures, short)


def _histogram(errors: np.ndarray, artifact: Artifact) -> Figure:
    made, axes = figure(width=9, height=2.8)
    ax = axes[0, 0]
    positive = errors[errors > 0]
    if len(positive):
        edges = np.geomspace(positive.min() / 1.1, positive.max() * 1.1, min(40, 8 + len(errors) // 4))
        ax.hist(positive, bins=edges, color=BLUE, alpha=0.85)
    ax.axvline(np.median(errors), color=INK, lw=1.4, label=f"median {percent(float(np.median(errors)))}")
    for name, colour in (("nearest", ORANGE), ("mean", GREY)):
        value = float(np.median(artifact.read(f"baseline_{name}")))
        if np.isfinite(value):
            ax.axvline(value, color=colour, lw=1.4, ls="--", label=f"baseline {name}: {percent(value)}")
    ax.set_xscale("log")
    ax.set_xlabel("relative L2 error", fontsize=9)
    ax.set_ylabel("samples", fontsize=9)
    ax.legend(frameon=False, fontsize=8)
    return made


def _examples(artifact: Artifact, errors: np.ndarray) -> Figure:
    truth, guess = artifact.read("example_truth"), artifact.read("example_prediction")
    which = artifact.read("example_sample")
    members = artifact.read("members")[which]
    axes_names = artifact.schema["example_truth"].axes[1:]
    unit = artifact.schema["example_truth"].unit
    for axis in ("time", "lead"):
        if axis in axes_names:
            truth, guess = (np.moveaxis(a, 1 + axes_names.index(axis), 1)[:, -1] for a in (truth, guess))
    space = [a for a in axes_names if a not in ("time", "lead")]
    titles = [
        f"{word}: member {m}, {percent(float(errors[s]))}"
        for word, m, s in zip(("best", "median", "worst"), members, which, strict=True)
    ]
    if len(space) == 1:
        return _lines(artifact.read(space[0]), truth, guess, titles, space[0], unit)
    return _images(truth, guess, titles, unit)


def _lines(
    x: np.ndarray, truth: np.ndarray, guess: np.ndarray, titles: list[str], axis: str, unit: str
) -> Figure:
    made, axes = figure(3, 2, width=10, height=4.6)
    for column, title in enumerate(titles):
        axes[0, column].plot(x, truth[column], color=INK, lw=1.6, label="truth")
        axes[0, column].plot(x, guess[column], color=ORANGE, lw=1.2, ls="--", label="prediction")
        axes[0, column].set_title(title)
        axes[1, column].plot(x, guess[column] - truth[column], color=BLUE, lw=1.0)
        axes[1, column].set_xlabel(axis, fontsize=9)
    axes[0, 0].legend(frameon=False, fontsize=8)
    axes[0, 0].set_ylabel(f"value, {unit}", fontsize=9)
    axes[1, 0].set_ylabel(f"error, {unit}", fontsize=9)
    return made


def _images(truth: np.ndarray, guess: np.ndarray, titles: list[str], unit: str) -> Figure:
    made, axes = figure(3, 3, width=10, height=8.4)
    for row, title in enumerate(titles):
        low, high = float(truth[row].min()), float(truth[row].max())
        error = np.abs(guess[row] - truth[row])
        for column, (values, label) in enumerate(((truth[row], "truth"), (guess[row], "prediction"))):
            shown = axes[row, column].imshow(values, origin="lower", vmin=low, vmax=high, cmap="inferno")
            axes[row, column].set_title(label)
        made.colorbar(shown, ax=axes[row, 1], shrink=0.85, label=unit)
        shown = axes[row, 2].imshow(error, origin="lower", vmin=0, cmap="viridis")
        axes[row, 2].set_title("absolute error")
        axes[row, 0].set_ylabel(title, fontsize=9)
        made.colorbar(shown, ax=axes[row, 2], shrink=0.85, label=unit)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    return made


def curves(metrics: Sequence[tuple[int, Mapping[str, float]]]) -> str:
    """Learning curves as a PNG data URI.

    Parameters
    ----------
    metrics : sequence of (int, mapping of str to float)
        Step and its numbers.
    """
    names = sorted({name for _, values in metrics for name in values})
    with _DRAWING:
        return data_uri(_curves({n: np.array([v.get(n, np.nan) for _, v in metrics]) for n in names}))


def _curves(metrics: Mapping[str, np.ndarray]) -> Figure:
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


def _model(artifact: Artifact) -> Section:
    history = {
        name.removeprefix("history_"): artifact.read(name)
        for name in artifact.schema.fields
        if name.startswith("history_")
    }
    about = artifact.attributes
    weights = about["weights"]
    parts = [len(artifact.read(f"{p}_members")) for p in ("train", "valid", "test")]
    text = (
        f"<p>{html.escape(about['surrogate']['component'])} with {weights:,} stored numbers, fitted to "
        f"{parts[0]} members, watched on {parts[1]}, {parts[2]} kept for the test.</p>"
    )
    figures = ((str(parts[0]), "members in training"),)
    if not history:  # fitted in one go
        return Section("Model", text, figures)
    uri = data_uri(_curves(history))
    return Section("Learning curves", text + _img(uri, "learning curves"), figures, f"![curves]({uri})")


def _ensemble(artifact: Artifact) -> Section:
    status = artifact.read("status")
    failed = artifact.attributes.get("failures", {})
    text = f"<p>{int((status == 1).sum())} of {len(status)} members of {_word(artifact)} solved.</p>"
    if failed:
        text += table(["member", "why it failed"], [[m, r] for m, r in list(failed.items())[:20]])
    pictures = _members(artifact, np.flatnonzero(status == 1)[:4])
    if pictures is not None:
        text += _img(data_uri(pictures), "some members")
    figures = ((f"{int((status == 1).sum())}", "simulations"),)
    return Section("Simulations", text, figures)


def _word(artifact: Artifact) -> str:
    return html.escape(str(artifact.attributes["problem"]["component"]))


def _members(artifact: Artifact, members: np.ndarray) -> Figure | None:
    """The last time level of every gridded field for a few members."""
    fields = [n for n, f in artifact.schema.fields.items() if f.axes[:1] == ("member",) and _drawable(f.axes)]
    if not fields or not len(members):
        return None
    made, axes = figure(len(members), len(fields), width=10, height=2.5 * len(fields))
    for row, name in enumerate(fields):
        field = artifact.schema[name]
        stored = artifact.array(name)
        for column, member in enumerate(members):
            values = np.asarray(stored[(int(member), -1) if "time" in field.axes else int(member)])
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


def _drawable(axes: tuple[str, ...]) -> bool:
    space = [a for a in axes[1:] if a != "time"]
    return bool(space) and set(space) <= {"x", "y"}


def _design(artifact: Artifact) -> Section:
    points, names = artifact.read("parameters"), artifact.attributes["parameters"]
    units = artifact.attributes["parameter_units"]
    shown = min(4, len(names))
    made, axes = figure(max(1, shown), width=10, height=2.4)
    for i in range(shown):
        j = (i + 1) % len(names)
        axes[0, i].scatter(points[:, i], points[:, j], s=5, color=BLUE, alpha=0.7, lw=0)
        axes[0, i].set_xlabel(f"{names[i]}, {units[i]}", fontsize=8)
        axes[0, i].set_ylabel(f"{names[j]}, {units[j]}", fontsize=8)
        if artifact.attributes["log"][i]:
            axes[0, i].set_xscale("log")
    method = html.escape(artifact.attributes["method"])
    text = f"<p>{len(points)} points of {len(names)} parameters, {method}.</p>"
    return Section("Design of experiments", text + _img(data_uri(made), "design"))


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
