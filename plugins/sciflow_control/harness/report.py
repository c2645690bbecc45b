"""Sections of the report on tuners: what was learned, and what that was worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciflow.artifact import Artifact


def sections(artifact: Artifact) -> list[tuple[str, str]] | None:
    """Titles and HTML of the sections on a trial or a table of trials; None for anything else."""
    if artifact.schema.kind == "tuner_trial":
        return [_trial(artifact)]
    if artifact.schema.kind == "tuner_table":
        return [_table(artifact)]
    return None


def _trial(artifact: Artifact) -> tuple[str, str]:
    import html

    from sciflow.reporting import picture, table
    from sciflow_control.harness.pictures import chosen, learned
    from sciflow_control.harness.tuner_table import HEAD, cells

    about = artifact.attributes
    names, figures = about["figures"], artifact.read("figures")
    rows = [
        [_called(policy, about), *cells(names, list(values))]
        for policy, values in zip(about["policies"], figures, strict=True)
    ]
    text = (
        f"<p>{html.escape(about['tuner'])} on {html.escape(about['sequence'])}, "
        f"{artifact.array('choice').shape[0]} plays of {artifact.array('choice').shape[1]} systems, "
        f"{len(about['arms'])} arms; {html.escape(str(about['cost']))} per system. The oracle takes "
        "the best arm of every system; a failed solve also pays for the default.</p>"
    )
    body = text + table(["", *(HEAD.get(n, n) for n in names)], rows)
    curves = {k: artifact.read(k) for k in ("pulls", "running_mean", "regret")}
    made = learned(about["policies"], curves["pulls"], curves["running_mean"], curves["regret"])
    body += picture(made, "running mean of the cost and cumulated regret against solves").html
    drawn = chosen(artifact)
    if drawn is not None:
        body += picture(drawn, "chosen and best arms against what was known").html
    return f"What {about['tuner'].partition('(')[0].replace('_', ' ')} learned", body


def _called(policy: str, about: dict[str, Any]) -> str:
    if policy == "best_fixed":
        return f"best fixed: {_arm(about['arms'][about['best_fixed']])}"
    if policy == "default":
        default = about["default"]
        return f"default: {default if isinstance(default, str) else _arm(default)}"
    return policy


def _arm(arm: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v if isinstance(v, str) else format(v, '.4g')}" for k, v in arm.items())


def _table(artifact: Artifact) -> tuple[str, str]:
    from sciflow.reporting import picture, table
    from sciflow_control.harness.pictures import beside
    from sciflow_control.harness.tuner_table import HEAD, called, cells

    about = artifact.attributes
    names, rows = about["figures"], about["rows"]
    lines, last = [], ""
    for row, values in zip(rows, artifact.read("figures"), strict=True):
        shown = row["sequence"] if row["sequence"] != last else ""
        last = row["sequence"]
        lines.append([shown, called(row["policy"]), *cells(names, list(values))])
    body = (
        "<p>Cost per system, mean of the plays. The oracle takes the best arm of every system, best fixed "
        "the best single one in hindsight; the default is what is taken where nobody chooses.</p>"
    )
    body += table(["sequence", "policy", *(HEAD.get(n, n) for n in names)], lines)
    made = beside(rows, artifact.read("pulls"), artifact.read("running_mean"))
    return "Tuners side by side", body + picture(made, "running mean of the cost against solves").html
