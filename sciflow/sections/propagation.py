"""The report's section on a quantity over many queries: its distribution, its cost, who answered where."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.reporting import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    RED,
    Section,
    figure,
    legend,
    percent,
    picture,
    seconds,
    table,
    with_unit,
)
from sciflow.sections.evaluation import model_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact

STATES = (
    (0, ".", BLUE, "answered by the model"),
    (1, "D", ORANGE, "in doubt, solved in full"),
    (2, "s", INK, "drawn by lot, solved in full"),
    (3, "x", RED, "in doubt, not solved"),
    (4, "P", GREY, "the full-order model failed"),
)
SHOWN = 2000
"""Answers of the model that are drawn, at most, and as many that were in doubt; full solves are all drawn."""


def section(artifact: Artifact) -> Section:
    """See `sciflow.sections`."""
    about = artifact.attributes["propagation"]
    name, unit = artifact.attributes["quantity"], artifact.attributes["unit"]
    made = picture(_pictures(artifact, about, with_unit(name, unit)), f"{name}: distribution and cost")
    where = picture(_where(artifact), "who answered which query, over two parameters")
    body = f"<p>{html.escape(words(about, name))}</p>" + _estimates(about, unit) + made.html
    body += f"<p>{html.escape(worth(about))}</p>" + where.html
    mean, gain = about["corrected_estimate"]["mean"], about["speedup"]
    half = (mean["high"] - mean["low"]) / 2
    model = model_name(artifact)
    what = f"{'probability of' if artifact.attributes['share'] else 'average over the queries,'} {name}"
    figures: tuple[tuple[str, str], ...] = ((f"{mean['value']:.4g} ± {half:.2g}", with_unit(what, unit)),)
    if gain is not None:
        figures += ((f"{gain:.3g} x", f"less variance by {model} than by the solver alone at equal cost"),)
    return Section(f"A quantity over many queries: {name}, answered by {model}", body, figures, made.markdown)


def words(about: Mapping[str, Any], name: str) -> str:
    """Who answered how much, in sentences.

    Parameters
    ----------
    about : mapping
        The attribute ``propagation`` of the artifact.
    name : str
        Of the quantity.
    """
    said = [
        f"{about['queries']} queries for the {name}; {about['solved']} of at most {about['budget']} were "
        f"solved in full, {about['drawn']} of them drawn by lot. {about['doubtful']} answers were in doubt "
        f"({percent(about['doubtful'] / about['queries'])}), {about['replaced']} of these were replaced."
    ]
    if about["unanswered"]:
        said.append(f"{about['unanswered']} have no answer at all and are left out of the first estimate.")
    if about["failed"]:
        said.append(
            f"The full-order model failed for {about['failed']}: the estimates hold for the queries where it "
            "does not."
        )
    bias = about["replaced_estimate"].get("bias")
    said.append(
        "The first estimate takes the answers as they are; "
        + (
            f"what they are off by on average is at most {bias:.3g}, if the model's doubts hold."
            if bias is not None
            else "nothing bounds what they are off by."
        )
        + " The corrected one has no bias, whatever the model and its doubts are worth."
    )
    return " ".join(said)


def worth(about: Mapping[str, Any]) -> str:
    """What was gained over the solver alone, in sentences.

    Parameters
    ----------
    about : mapping
        The attribute ``propagation`` of the artifact.
    """
    costs, gain = about["costs"], about["speedup"]
    told = seconds if costs["unit"] == "s" else lambda value: f"{value:.3g} answers"
    said = [
        f"A full solve took {told(costs['full'])}, an answer {told(costs['cheap'])}; their correlation is "
        f"{about['correlation']:.4g}. For {told(costs['all'])} the solver alone would have given "
        f"{count(costs['equal_solves'])} solutions"
    ]
    said[0] += f" and a mean with {gain:.3g} times the variance." if gain is not None else "."
    later = about.get("speedup_with_training")
    if later is not None:
        said.append(
            f"With the {told(costs['training'])} that the model and its training members took, "
            f"{later:.3g} times."
        )
    if costs["training"] is not None:
        pays = costs["break_even_solves"]
        said.append(
            "The model pays off where the solver alone would need more than "
            f"{pays:.0f} solutions for the accuracy that is asked for."
            if pays is not None
            else "It never pays off: the solver alone gives the same accuracy for less."
        )
    said.append(f"There were {count(costs['ratio'])} answers for each solve drawn; " + _better(costs))
    return " ".join(said)


def count(number: float) -> str:
    """How many, of which there may be a part: three digits of few, whole ones of many."""
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"


def _better(costs: Mapping[str, Any]) -> str:
    """What the allocation of least variance would be."""
    best, gain = costs["best_ratio"], costs["best_speedup"]
    if best is None or gain is None:
        return "best for this cost would be as few solves as can be."
    if best <= 1:
        return "a model that follows the solver so little, at this cost, is not worth being asked."
    return f"best for this cost are {count(best)}, which gains {gain:.3g} times."


def _estimates(about: Mapping[str, Any], unit: str) -> str:
    replaced, corrected = about["replaced_estimate"], about["corrected_estimate"]
    rows = [["mean", _interval(replaced.get("mean")), _interval(corrected["mean"])]]
    value = replaced.get("variance")
    rows.append(["variance", "–" if value is None else f"{value:.4g}", _interval(corrected["variance"])])
    for place, part in enumerate(about["quantiles"]):
        first = replaced["quantiles"][place] if replaced else None
        rows.append([f"{percent(part)} quantile", _interval(first), _interval(corrected["quantiles"][place])])
    promised = percent(about["coverage"])
    head = [
        f"{'' if unit == '1' else f'in {unit}, '}intervals of {promised}",
        "answers, those in doubt replaced (sampling error alone)",
        "corrected by lot",
    ]
    return table(head, rows)


def _interval(one: Mapping[str, float | None] | None) -> str:
    if one is None or one["value"] is None:
        return "–"
    ends = [("–" if one[k] is None else f"{one[k]:.4g}") for k in ("low", "high")]
    return f"{one['value']:.5g}  [{ends[0]}, {ends[1]}]"


def _pictures(artifact: Artifact, about: Mapping[str, Any], label: str) -> Figure:
    made, axes = figure(2, 1, width=9.0, height=3.2)
    _distribution(axes[0, 0], artifact, about, label)
    _interval_of_cost(axes[0, 1], artifact, about)
    legend(axes[0, 0], columns=1)
    legend(axes[0, 1], columns=1)
    return made


def _distribution(ax: Axes, artifact: Artifact, about: Mapping[str, Any], label: str) -> None:
    """Answers as a histogram, and the mean with its interval."""
    model, full = artifact.read("query_model"), artifact.read("query_full")
    answers = np.where((artifact.read("query_state") == 1) & np.isfinite(full), full, model)
    there = answers[np.isfinite(answers)]
    if artifact.attributes["share"]:
        ax.bar([0, 1], [np.mean(there == 0), np.mean(there == 1)], color=BLUE, width=0.5, label="answers")
        ax.set_xticks([0, 1], ["no", "yes"])
        ax.set_xlabel(label)
        ax.set_ylabel("share of queries")
        return
    ax.hist(
        there, bins=min(60, max(10, len(there) // 20)), density=True, color=BLUE, alpha=0.55, label="answers"
    )
    drawn = full[artifact.read("drawn")]
    ax.plot(drawn, np.zeros(len(drawn)), "|", color=INK, ms=12, label="solved in full, by lot", clip_on=False)
    mean = about["corrected_estimate"]["mean"]
    ax.axvspan(mean["low"], mean["high"], color=ORANGE, alpha=0.6, lw=0, label="mean, corrected")
    ax.set_xlabel(label)
    ax.set_ylabel("density")


def _interval_of_cost(ax: Axes, artifact: Artifact, about: Mapping[str, Any]) -> None:
    """Half width of the interval of the mean against what was spent, beside the solver alone."""
    path = {n: artifact.read(f"path_{n}") for n in ("cost", "half", "plain_half")}
    ax.plot(path["cost"], path["half"], "o-", color=BLUE, ms=3, label="model, corrected by lot")
    ax.plot(path["cost"], path["plain_half"], "--", color=GREY, label="the solver alone")
    if path["cost"][-1] > 5 * path["cost"][0]:
        ax.set_xscale("log")
    if min(path["half"].min(), path["plain_half"].min()) > 0:
        ax.set_yscale("log")
    ax.set_xlabel(f"cost, {about['costs']['unit']}")
    ax.set_ylabel("half width of the interval")


def _where(artifact: Artifact) -> Figure:
    """Who answered, over pairs of parameters that vary, at most three."""
    points, state = artifact.read("queries"), artifact.read("query_state")
    names = artifact.attributes["parameters"]
    varied = [i for i in range(points.shape[1]) if np.ptp(points[:, i]) > 0][:3] or [0]
    pairs = [(a, b) for k, a in enumerate(varied) for b in varied[k + 1 :]] or [(varied[0], varied[0])]
    made, axes = figure(len(pairs), 1, width=9.0 if len(pairs) > 1 else 6.0, height=3.6)
    for ax, (a, b) in zip(axes[0], pairs, strict=True):
        for number, mark, colour, label in STATES:
            these = np.flatnonzero(state == number)
            if number in (0, 3):
                these = these[:: max(1, math.ceil(len(these) / SHOWN))]
            if len(these):
                small = {0: 2.0, 3: 2.5}.get(number, 4.0)
                ax.plot(
                    points[these, a], points[these, b], mark, color=colour, ms=small, label=label, mew=0.8
                )
        for column, scale in ((a, ax.set_xscale), (b, ax.set_yscale)):
            line = points[:, column]
            if line.min() > 0 and line.max() > 50 * line.min():
                scale("log")
        ax.set_xlabel(names[a])
        ax.set_ylabel(names[b])
    legend(made, columns=3 if len(pairs) > 1 else 2)
    return made
