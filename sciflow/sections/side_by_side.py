"""The report's section on several models of the same data."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sciflow.reporting import GREY, Section, figure, large, legend, percent, picture, seconds, style, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact

    Columns = Mapping[str, np.ndarray]

QUERIES = (0.0, 5.0)
"""Powers of ten between which the chart of costs shows numbers of queries, at least."""


def section(artifact: Artifact) -> Section:
    """See `sciflow.sections`."""
    names, full = artifact.attributes["models"], artifact.attributes["full_seconds"]
    columns = {name: artifact.read(name) for name in artifact.schema.fields}
    errors = picture(_errors(names, columns, full), "error against the time of an answer and of the training")
    body = _accuracy(names, columns) + _prices(names, columns, artifact) + errors.html
    short = errors.markdown
    if np.isfinite(full):
        bill = picture(
            _bill(names, columns, full), "time for so many answers, all that led to the model included"
        )
        body, short = body + bill.html, f"{short}\n\n{bill.markdown}"
    best = int(np.argmin(columns["error_median"]))
    figures = [
        (percent(float(columns["error_median"][best])), f"median error of {names[best]}, the best of them")
    ]
    even = columns["break_even_whole"]
    if np.isfinite(even).any():
        first = int(np.argmin(even))
        figures.append((f"{even[first]:,.0f}", f"answers until {names[first]} has paid for its ensemble too"))
    return Section("Side by side on unseen members", body, tuple(figures), short)


def _accuracy(names: Sequence[str], columns: Columns) -> str:
    """What the models are worth, as a table and what it means."""
    kinds = ("median", "mean", "p95")
    head = ["", "median error", "mean", "95 %"]
    rows = [
        [name, *(percent(float(columns[f"error_{k}"][i])) for k in kinds)] for i, name in enumerate(names)
    ]
    text = "Errors are relative L2 errors on the same unseen members."
    if np.isfinite(columns["conservation"]).any():
        head.append("conservation")
        rows = [[*row, percent(float(v))] for row, v in zip(rows, columns["conservation"], strict=True)]
        text += (
            " Conservation: the error of the mean over the domain, over the root mean square of the truth."
        )
    if np.isfinite(columns["coverage"]).any():
        head += ["inside the band", "promised", "half width"]
        bands = zip(*(columns[c] for c in ("coverage", "promised", "band_width")), strict=True)
        rows = [[*row, *(percent(float(v)) for v in band)] for row, band in zip(rows, bands, strict=True)]
        text += " Bands were calibrated on one part of these members and measured on the other."
    return f"{table(head, rows)}<p>{text}</p>"


def _prices(names: Sequence[str], columns: Columns, artifact: Artifact) -> str:
    """What the models cost, as a table and what it means."""
    full = artifact.attributes["full_seconds"]
    head = [
        "", "one answer", "faster than the solver", "training", "pays off after", "with the ensemble",
        "parameters", "work of an answer", "peak memory of training",
    ]  # fmt: skip
    rows = []
    for i, name in enumerate(names):
        of = {key: float(values[i]) for key, values in columns.items()}
        faster = full / of["query_seconds"]
        known = full + of["offline_seconds"], full + of["ensemble_seconds"]
        rows.append(
            [
                name,
                seconds(of["query_seconds"]),
                f"{faster:.3g} x" if np.isfinite(faster) else "–",
                seconds(of["offline_seconds"]),
                _count(of["break_even"], known[0]),
                _count(of["break_even_whole"], sum(known)),
                f"{of['parameters']:,.0f}",
                large(of["operations"], "FLOP"),
                large(of["training_bytes"], "B"),
            ]
        )
    rows.append(["the solver itself", seconds(full), "1 x", *["–"] * 6])
    source = artifact.attributes["full_source"]
    text = (
        "An answer is timed alone, in this process; training is the time of all stages between ensemble and "
        "model. A model pays off after so many answers: the solver would have taken longer for them. With "
        f"the ensemble: the solving of its members is counted too. The solver's time: {html.escape(source)}."
    )
    whole = [n for n, s in zip(names, columns["ensemble_seconds"], strict=True) if s == 0]
    if whole:
        said = html.escape(", ".join(whole))
        text += f" {said} learned while the solvers ran: its training holds the ensemble."
    return f"{table(head, rows)}<p>{text}</p>"


def _count(value: float, seconds: float) -> str:
    """Answers until a model has paid; of times that nobody knows follows neither a number nor never."""
    if np.isnan(seconds):
        return "not known"
    return f"{value:,.0f}" if np.isfinite(value) else "never"


def _errors(names: Sequence[str], columns: Columns, full: float) -> Figure:
    """Errors over the time of an answer, and over that of the training."""
    made, axes = figure(2, width=9.6, height=3.6)
    for ax, key, label in zip(
        axes[0], ("query_seconds", "offline_seconds"), ("time of one answer, s", "training, s"), strict=True
    ):
        for i, name in enumerate(names):
            x, y = columns[key][i], columns["error_median"][i]
            ax.plot([x, x], [y, columns["error_p95"][i]], color=GREY, lw=1.2, zorder=1)
            ax.plot(x, y, label=name, **style(i) | {"ls": "", "ms": 7})
        ax.set_xscale("log")
        if np.isfinite(columns["error_median"]).any():
            ax.set_yscale("log")
        ax.set_xlabel(label)
    if np.isfinite(full):
        axes[0, 0].axvline(full, color=GREY, ls="--", lw=1.2, label="the solver")
    axes[0, 0].set_ylabel("relative L2 error, median to 95 %")
    legend(made)
    return made


def _bill(names: Sequence[str], columns: Columns, full: float) -> Figure:
    """What so many answers cost in all, and where that is less than solving."""
    made, axes = figure(width=9.6, height=3.6)
    ax: Axes = axes[0, 0]
    even = columns["break_even_whole"]
    shown = even[np.isfinite(even) & (even > 0)]
    last = max(QUERIES[1], float(np.log10(shown.max())) + 1 if len(shown) else 0.0)
    many = np.logspace(QUERIES[0], last, 200)
    ax.plot(many, many * full, color=GREY, ls="--", label="the solver")
    for i, name in enumerate(names):
        paid = columns["offline_seconds"][i] + columns["ensemble_seconds"][i]
        look = style(i)
        ax.plot(many, paid + many * columns["query_seconds"][i], label=name, **look | {"marker": ""})
        if np.isfinite(even[i]):
            ax.plot(even[i], even[i] * full, **look | {"ls": "", "ms": 7})
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("answers; a mark where the model has paid off")
    ax.set_ylabel("time in all, s")
    legend(ax)
    return made
