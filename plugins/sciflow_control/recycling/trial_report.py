"""The part of a report about a `RecyclingTrial`: every preconditioner row, and what recycling was worth."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sciflow.reporting import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    TEAL,
    Markup,
    figure,
    legend,
    picture,
    seconds,
    table,
)
from sciflow_control.recycling.trial import METHODS, RECYCLING_TRIAL, STATUSES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact

DRAWN = {
    "gmres": (GREY, "-"),
    "gcro_dr_alone": (ORANGE, "--"),
    "gcro_dr": (BLUE, "-"),
    "gcro_dr_sorted": (TEAL, ":"),
    "bcgs": (GREEN, "-."),
    "cg": (INK, "-"),
    "deflated_cg": (PURPLE, (0, (8, 2))),
}
"""Colour and line of each method in the picture."""


@dataclass(frozen=True)
class Row:
    """One method with one preconditioner.

    Attributes
    ----------
    iterations, products : float
        Mean over the systems.
    seconds : float
        Mean over the systems, s.
    usual : float
        Median of the same.
    failed : int
        Systems that were not solved.
    """

    iterations: float
    products: float
    seconds: float
    usual: float
    failed: int


def sections(artifact: Artifact) -> list[tuple[str, str]] | None:
    """Title and HTML of the section on a recycling trial; None for anything else."""
    if artifact.schema.kind != RECYCLING_TRIAL.kind:
        return None
    about = artifact.attributes
    rows = summary(artifact)
    names = list(dict.fromkeys(name for name, _ in rows if name))
    methods = list(dict.fromkeys(method for name, method in rows if name))
    many, systems = artifact.array("iterations").shape[1], about["systems"]
    shape = ", ".join(f"{k} {v}" for k, v in systems.items() if k in ("form", "wave_number"))
    title = f"Recycling on {systems['component'].replace('_', ' ')}{f' ({shape})' if shape else ''}"
    body = (
        f"<p>{many} systems of {about['unknowns']} unknowns, relative residual {systems['tolerance']:g}, "
        f"m = {about['m']}, k = {about['k']}. Mean iterations and mean time of a solve, set-up included; "
        "a number in brackets: systems that were not solved. One iteration of BiCGStab multiplies twice with "
        "the operator.</p>"
    )
    head = ["preconditioner", *(METHODS[m] for m in methods)]
    body += table(head, [[name, *(_cell(rows[name, m]) for m in methods)] for name in names])
    body += _direct(rows) + table(RATIOS, [ratios(rows, name) for name in names])
    body += "".join(f"<p>{html.escape(text)}</p>" for text in verdict(artifact, rows))
    body += picture(_sequence(artifact, names), "products with the operator along the sequence").html
    return [(title, body)]


def summary(artifact: Artifact) -> dict[tuple[str, str], Row]:
    """Preconditioner and method, ``("", method)`` for direct solvers, to what they took."""
    columns = {n: artifact.read(n) for n in ("iterations", "products", "seconds", "status")}
    found = {}
    for at, row in enumerate(artifact.attributes["rows"]):
        its, products, passed, status = (v[at] for v in columns.values())
        found[row["preconditioner"], row["method"]] = Row(
            float(its.mean()),
            float(products.mean()),
            float(passed.mean()),
            float(np.median(passed)),
            int((status != STATUSES.index("solved")).sum()),
        )
    return found


def _cell(row: Row) -> Markup:
    failed = f" ({row.failed})" if row.failed else ""
    return Markup(f"{row.iterations:.4g}{failed}<br>{seconds(row.seconds).replace(' ', chr(160))}")


def _direct(rows: dict[tuple[str, str], Row]) -> str:
    lines = []
    for (name, method), row in rows.items():
        if not name:
            after = f", {seconds(row.usual)} after the first" if method == "direct_kept" else ""
            failed = f" ({row.failed} not solved)" if row.failed else ""
            lines.append(f"{METHODS[method].capitalize()}: {seconds(row.seconds)}{after}{failed}.")
    return f"<p>{html.escape(' '.join(lines))}</p>" if lines else ""


RATIOS = (
    "preconditioner", "GMRES / recycled: iterations", "products", "time", "alone / recycled: iterations",
    "unsorted / sorted: iterations", "fastest iteration", "its time / recycled",
)  # fmt: skip
"""Head of the table of ratios."""


def ratios(rows: dict[tuple[str, str], Row], name: str) -> list[str]:
    """What recycling was worth with one preconditioner, in the order of `RATIOS`.

    Parameters
    ----------
    rows : dict
        See `summary`.
    name : str
        The preconditioner.

    Returns
    -------
    list of str
        A ratio to a method that failed on some systems begins with ``>``: it was stopped there.
    """
    recycled, gmres = rows.get((name, "gcro_dr")), rows.get((name, "gmres"))
    mine = {m: r for (p, m), r in rows.items() if p == name and not r.failed}
    best = min(mine, key=lambda m: mine[m].seconds, default="")

    def over(above: Row | None, below: Row | None, what: str) -> str:
        if above is None or below is None or below.failed or not getattr(below, what):
            return "–"
        more = ">" if above.failed else ""
        return f"{more}{getattr(above, what) / getattr(below, what):.2f}"

    return [
        name,
        over(gmres, recycled, "iterations"),
        over(gmres, recycled, "products"),
        over(gmres, recycled, "seconds"),
        over(rows.get((name, "gcro_dr_alone")), recycled, "iterations"),
        over(recycled, rows.get((name, "gcro_dr_sorted")), "iterations"),
        f"{METHODS[best]}, {seconds(mine[best].seconds)}" if best else "–",
        over(mine.get(best), recycled, "seconds"),
    ]


def verdict(artifact: Artifact, rows: dict[tuple[str, str], Row]) -> list[str]:
    """What the numbers say, one sentence each."""
    about, found = artifact.attributes, []
    fine = {key: row for key, row in rows.items() if not row.failed}
    if fine:
        name, method = min(fine, key=lambda key: fine[key].seconds)
        suffix = f" with {name}" if name else ""
        found.append(
            f"Fastest of all: {METHODS[method]}{suffix}, {seconds(fine[name, method].seconds)} a system."
        )
        recycled = {key: row for key, row in fine.items() if key[1] in ("gcro_dr", "gcro_dr_sorted")}
        if recycled:
            name, method = min(recycled, key=lambda key: recycled[key].seconds)
            found.append(f"Fastest with GCRO-DR: {name}, {seconds(recycled[name, method].seconds)}.")
    given, ordered = about["path_lengths"]
    if given:
        found.append(
            f"The way through the parameters in {about['ordering']} order is {100 * ordered / given:.3g} % "
            "of that through the systems as drawn."
        )
    if about["steady"]:
        found.append(
            f"All systems have one operator and their right-hand sides span {about['rank']} dimensions: kept "
            "factors, or earlier solutions as first guess, are what recycling must be measured against."
        )
    found += [f"{label}: {error}" for label, error in about["errors"].items()]
    return found


def _sequence(artifact: Artifact, names: list[str]) -> Figure:
    """Products over the place in the sequence, for up to three preconditioners."""
    shown = list(dict.fromkeys([names[0], names[len(names) // 2], names[-1]]))
    made, axes = figure(len(shown), width=10, height=3.4)
    products, order = artifact.read("products"), artifact.read("permutation")
    for ax, name in zip(axes[0], shown, strict=True):
        for at, row in enumerate(artifact.attributes["rows"]):
            if row["preconditioner"] == name and row["method"] in DRAWN:
                colour, style = DRAWN[row["method"]]
                values = products[at][order] if row["method"].endswith("_sorted") else products[at]
                places = np.arange(1, len(values) + 1)
                ax.plot(places, values, color=colour, ls=style, lw=1.4, label=METHODS[row["method"]])
        ax.set_yscale("log")
        ax.set_title(name)
        ax.set_xlabel("system in the sequence")
    axes[0, 0].set_ylabel("products with the operator")
    legend(made)
    return made
