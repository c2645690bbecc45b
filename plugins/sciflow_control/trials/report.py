"""Sections of the report on step controllers: error against work, an orbit, and what was passed on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from sciflow.artifact import Artifact

COUNTED = {
    "policy": "steps that stand and that the policy chose",
    "fallback": "those that the fallback chose",
    "rejected": "attempts taken back",
    "rolled_back": "of these the policy's",
    "refused": "answers of the policy that are no values of the knob",
    "unaffordable": "steps that the account of work did not leave to the policy",
    "cooldowns": "times that the policy was suspended",
}
"""What the counters of a guard mean."""


def sections(artifact: Artifact) -> list[tuple[str, str]] | None:
    """Titles and HTML of the sections on a trial or a table of trials; None for anything else."""
    if artifact.schema.kind == "step_trial":
        return [_trial(artifact)]
    if artifact.schema.kind == "step_table":
        return [_table(artifact)]
    return None


def _trial(artifact: Artifact) -> tuple[str, str]:
    import html

    from sciflow.reporting import picture, table
    from sciflow_control.trials.moving import moving
    from sciflow_control.trials.pictures import orbit, steps
    from sciflow_control.trials.step_table import HEAD, shortened, summary
    from sciflow_control.trials.watched import eventful, watched

    about = artifact.attributes
    count = len(artifact.read("seed"))
    who = html.escape(shortened(about["controller"]))
    body = (
        f"<p>{who} on {html.escape(about['episodes'])}: {count} runs to "
        f"{about['until']:.4g} {html.escape(about['time_unit'])}, cost in {html.escape(about['cost_unit'])}, "
        f"error: {html.escape(about['error'])}.</p>"
    )
    values = summary(artifact)
    body += table(list(HEAD.values()), [values]) + _counts(artifact) + _reasons(about["reasons"])
    run = eventful(watched(artifact))
    if run is not None:
        draw = steps if run.places is None else orbit
        body += f"<p>Run {run.seed}: {len(run.time)} steps, {len(run.back_time)} attempts taken back.</p>"
        text = f"what was chosen in run {run.seed}, and where it was"
        body += picture(draw(run, about["knob"], about["time_unit"]), text).html
        if run.places is None and about["knob"].get("marks", {}).get(str(run.seed)):
            body += "<p>Dotted: times at which what drives the run is switched.</p>"
        if run.places is not None:
            body += moving(run, about["knob"]["name"], about["time_unit"])
    return f"Steps chosen by {_words(about['controller'].partition('(')[0])}", body


def _counts(artifact: Artifact) -> str:
    """What a guard counted, in a sentence."""
    import html

    names = artifact.attributes["counters"]
    if not names:
        return ""
    sums = artifact.read("counts").sum(axis=0).tolist()
    said = ", ".join(f"{_words(n)} {int(v)}" for n, v in zip(names, sums, strict=True))
    meant = "; ".join(f"{_words(n)}: {COUNTED[n]}" for n in names if n in COUNTED)
    return f"<p>Counted in all runs: {html.escape(said)}.{f' ({html.escape(meant)}.)' if meant else ''}</p>"


def _reasons(reasons: Mapping[str, str]) -> str:
    """Runs that failed, the first of them with its reason."""
    import html

    if not reasons:
        return ""
    seed, reason = next(iter(reasons.items()))
    return f"<p>{len(reasons)} runs failed, such as run {html.escape(seed)}: {html.escape(reason)}.</p>"


def _table(artifact: Artifact) -> tuple[str, str]:
    from sciflow.reporting import picture, table
    from sciflow_control.trials.pictures import against_work
    from sciflow_control.trials.step_table import HEAD, cells, shortened

    about = artifact.attributes
    rows, figures = about["rows"], artifact.read("figures")
    lines, last = [], None
    for row, values in zip(rows, figures, strict=True):
        group = row["group"] or row["episodes"]
        what = f"{row['curve']}: {shortened(row['controller'])}"
        lines.append([group if group != last else "", what, *cells(list(values))])
        last = group
    body = (
        f"<p>Relative error at the end of {rows[0]['runs']} runs against their work in "
        f"{rows[0]['cost_unit']}. A run that failed counts as infinitely wrong. Solid: median, dashed: 90 % "
        "of the runs are better, dotted: the worst one.</p>"
    )
    made = against_work(rows, figures, about["figures"])
    body += picture(made, "quantiles of the error against work").html
    body += _dense(table(["runs of", "controller", *HEAD.values()], lines))
    body += _compared(about, artifact.read("compared"))
    return about["title"], body


def _compared(about: Mapping[str, Any], compared: np.ndarray) -> str:
    """Every controller beside each frontier: error at equal work, work at equal error."""
    import html

    from sciflow.reporting import table
    from sciflow_control.trials.step_table import ratios, shortened

    said = (
        "<p>Powers of ten by which the error is larger (+) or smaller (-) at equal work, and work over its "
        "work at equal error; in between its points, log error is linear in log work. A dash: it has no "
        "point so cheap, or none so exact.</p>"
    )
    body, known = "", {(row["group"], row["curve"]) for row in about["rows"]}
    for place, name in enumerate(about["frontiers"]):
        lines = []
        # Two frontiers are compared once.
        seen = about["frontiers"][: place + 1]
        for row, values in zip(about["rows"], compared[:, place], strict=True):
            if (row["group"], name) in known and not (row["frontier"] and row["curve"] in seen):
                what = f"{row['curve']}: {shortened(row['controller'])}"
                lines.append([row["group"], what, *ratios(list(values))])
        if not lines:
            continue
        body += f"<h3>Beside {html.escape(name)}</h3>{said}"
        said = ""
        head = [f"{word} {q}" for word in ("dex,", "work ratio,") for q in ("p50", "p90", "max")]
        grouped = any(line[0] for line in lines)
        body += _dense(
            table(["runs of", "controller", *head][not grouped :], [x[not grouped :] for x in lines])
        )
    return body


def _dense(table: str) -> str:
    """A table with many columns, in small letters."""
    return f'<div class="dense">{table}</div>'


def _words(name: str) -> str:
    return name.replace("_", " ")
