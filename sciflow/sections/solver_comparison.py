"""The report's section on one design that was solved in two ways."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.reporting import GREY, Section, figure, legend, percent, picture, seconds, style, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact


def section(artifact: Artifact) -> Section:
    """See `sciflow.sections`."""
    about, labels = artifact.attributes, artifact.attributes["labels"]
    columns = {name: artifact.read(name) for name in artifact.schema.fields}
    text = (
        f"<p>{len(columns['members'])} members of one design, solved in two ways; their "
        f"{html.escape(', '.join(about['outputs']))} differ by {percent(float(columns['difference'].max()))} "
        "at most (relative L2). Times are those of the members when their ensembles were made, all that a "
        "member did included. The first member of a process also sets up what the others use.</p>"
    )
    ratio = _number(about["speed_up"])
    body = text + table(["", *labels, "ratio"], _rows(columns, about)) + _model(about)
    drawn = picture(_picture(columns, labels), f"time of each member, {' and '.join(labels)}")
    figures = (
        (f"{ratio:.3g} x", f"faster with {labels[1]} than with {labels[0]}"),
        (percent(float(columns["difference"].max())), f"largest difference of {labels[1]} and {labels[0]}"),
    )
    title = f"Two ways to solve: {' and '.join(labels)}"
    return Section(title, body + drawn.html, figures, drawn.markdown)


def _rows(columns: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> list[list[str]]:
    """Times, figures of the solver that both have, errors and failures."""
    every = [columns[f"{side}_seconds"] for side in ("baseline", "candidate")]
    settled = columns["settled"] == 1
    some = [values[settled] if settled.any() else values for values in every]
    count = f"{len(some[0])} of {len(every[0])} members, without the first of each process"
    rows = [
        [f"time of {count}", *(seconds(float(v.sum())) for v in some), _ratio(_number(about["speed_up"]))],
        [
            "time of all members",
            *(seconds(float(v.sum())) for v in every),
            _ratio(_number(about["speed_up_all"])),
        ],
        [
            "median time of a member",
            *(seconds(float(np.median(v))) for v in some),
            _ratio(_number(about["speed_up_median"])),
        ],
    ]
    if about["speed_up_cpu"] is not None:
        spent = [seconds(about["cpu_seconds"][side]) for side in ("baseline", "candidate")]
        rows.insert(1, [f"processor time of {count}", *spent, _ratio(about["speed_up_cpu"])])
    for name in about["figures"]:
        means = [float(np.mean(columns[f"{side}_{name}"])) for side in ("baseline", "candidate")]
        share = means[0] / means[1] if means[1] else math.nan
        rows.append([f"{name.replace('_', ' ')}, mean", *(f"{m:.4g}" for m in means), _ratio(share)])
    if "baseline_error" in columns:
        for which, take in (("median", np.median), ("worst", np.max)):
            errors = [float(take(columns[f"{side}_error"])) for side in ("baseline", "candidate")]
            share = errors[0] / errors[1] if errors[1] else math.nan
            rows.append([f"{which} error to the reference", *map(percent, errors), _ratio(share)])
    failed = about["failed"]
    if any(failed.values()):
        rows.append(["members that failed", f"{failed['baseline']}", f"{failed['candidate']}", ""])
    return rows


def _model(about: Mapping[str, Any]) -> str:
    """What the model of the guesses cost, as HTML; empty without one."""
    if "offline_seconds" not in about:
        return ""
    data = _number(about["training_data_seconds"])
    even, with_data = (about[name] for name in ("break_even", "break_even_with_data"))
    saved = _number(about["speed_up"])
    words = [_paid(even, saved), _paid(with_data, saved + data)]
    took = (
        f"<p>A guess takes {seconds(_number(about['guess_seconds']))}, which is in the times above. Its "
        f"model took {seconds(about['offline_seconds'])}"
    )
    if data == 0:  # it learned while they were solved
        return f"{took}, the simulations that it learned from included. It pays off {words[0]}.</p>"
    return (
        f"{took} after the simulations that it learned from, and "
        f"these {seconds(data)}. It pays off {words[0]} where the simulations were there anyway, else "
        f"{words[1]}.</p>"
    )


def _paid(members: int | None, known: float) -> str:
    """When a model has paid, in words; without the times, nobody knows."""
    if math.isnan(known):
        return "after nobody knows how many members"
    return "never" if members is None else f"after {members:,} members"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _ratio(value: float) -> str:
    return f"{value:.3g} x" if np.isfinite(value) else "–"


def _picture(columns: Mapping[str, np.ndarray], labels: list[str]) -> Figure:
    """Times of each member, and where there is a reference errors against times."""
    errors = "baseline_error" in columns
    made, axes = figure(2 if errors else 1, width=9.0 if errors else 5.0, height=3.4)
    one, other = columns["baseline_seconds"], columns["candidate_seconds"]
    ax = axes[0, 0]
    ax.plot(one, other, **{**style(0), "ls": ""})
    known = np.concatenate([one, other])
    known = known[np.isfinite(known) & (known > 0)]
    if len(known):
        ends = (known.min() / 1.2, known.max() * 1.2)
        ax.plot(ends, ends, color=GREY, ls="--")
        ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    ax.set(xlabel=f"time with {labels[0]}, s", ylabel=f"time with {labels[1]}, s", title="each member")
    if errors:
        ax = axes[0, 1]
        for i, side in enumerate(("baseline", "candidate")):
            of = columns[f"{side}_seconds"], columns[f"{side}_error"]
            ax.plot(*of, **{**style(i), "ls": ""}, label=labels[i])
        ax.set(xscale="log", yscale="log", xlabel="time of a member, s", ylabel="error to the reference")
        legend(ax)
    return made
