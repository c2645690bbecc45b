"""Section of the report on an ensemble whose members chose how to solve, or solved with every arm."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import SciflowError
from sciflow_control.learned.decisions import OWN, Decisions, arms_of

if TYPE_CHECKING:
    from sciflow.artifact import Artifact

SHOWN = 10
"""Arms with a row of their own."""
UNITS = {"work": "products with the operator", "seconds": "s", "iterations": "iterations"}


def sections(artifact: Artifact) -> list[tuple[str, str]] | None:
    """Title and HTML of the section on what an ensemble learned; None for one that did not."""
    if artifact.schema.kind != "ensemble":
        return None
    found = Decisions.of(artifact)
    if found is None or not len(found.arm):
        return None
    if len(found.solve):
        return [("What every arm costs", _every(found, artifact))]
    if not len(found.chosen):
        return [("What the solver learned", _nothing(found, artifact))]
    return [("What the solver learned", _learned(found, artifact))]


def _nothing(found: Decisions, artifact: Artifact) -> str:
    """Why nobody chose, as far as the log says it."""
    import html

    lacking = sorted(_wanted(artifact.attributes["problem"]["solver"]) - set(found.features))
    text = f"Nothing: all {len(found.arm)} solves that were noted are of {OWN}. "
    if lacking:
        known = ", ".join(sorted(found.features)) or "none"
        text += f"The tuner looks at {', '.join(lacking)}, and the problem tells: {known}."
    else:
        text += (
            "Either they were too few for a choice, or the tuner refused, for example a feature outside its "
            "range."
        )
    return f"<p>{html.escape(text)}</p>"


def _wanted(solver: Mapping[str, Any]) -> set[str]:
    """Features that the tuner of a solver looks at; none where it is of a package that is not here."""
    from sciflow.registry import registry

    with contextlib.suppress(SciflowError):
        tuner = registry().build(solver.get("controller") or {}, kind="controller")
        return set(getattr(tuner, "ranges", {}))
    return set()


def _learned(found: Decisions, artifact: Artifact) -> str:
    from sciflow.reporting import picture, table
    from sciflow_control.learned import pictures

    levels = _levels(found, artifact)
    body = _words(found, artifact) + table(["mean cost of", "", ""], _means(found, levels))
    body += table(["arm", "share", "mean cost", "failed or given up", "fell back"], _rows(found))
    made = pictures.learning(found, {name: mean for name, mean, _ in levels})
    body += picture(made, "running mean of the cost, and shares of the arms, against the decisions").html
    drawn = pictures.context(found)
    return body + (picture(drawn, "what was chosen against what was known").html if drawn else "")


def _words(found: Decisions, artifact: Artifact) -> str:
    import html

    solver = artifact.attributes["problem"]["solver"]
    tuner = solver.get("controller", {}).get("component", solver["component"])
    unit = UNITS.get(solver.get("cost", ""), "the unit of the solver")
    members = len(set(found.member[found.chosen].tolist()))
    return (
        f"<p>{html.escape(str(tuner))}: {len(found.chosen)} decisions in {members} members, in the order of "
        f"the members. Costs are in {html.escape(unit)}, set-ups included; "
        f"{found.fell[found.chosen].mean():.1%} of the decisions were finished by {OWN}.</p>"
    )


def _means(found: Decisions, levels: list[tuple[str, float, str]]) -> list[list[str]]:
    costs = found.cost[found.chosen]
    third = max(len(costs) // 3, 1)
    rows = [["all decisions", _number(costs.mean()), ""]]
    if len(costs) > 100:
        rows.append(["the first 100", _number(costs[:100].mean()), ""])
    rows.append(["the last third", _number(costs[-third:].mean()), ""])
    rows += [[name, _number(mean), note] for name, mean, note in levels]
    best = found.best_fixed()
    if best is not None:
        mean = found.means()[best][1]
        note = "an estimate from observed means: arms met other systems, and those that were taken seldom few"
        rows.append(
            ["regret per decision", f"{(costs.mean() - mean) / mean:+.1%}", f"of the best fixed arm; {note}"]
        )
    return rows


def _levels(found: Decisions, artifact: Artifact) -> list[tuple[str, float, str]]:
    """Mean costs to compare with."""
    levels = []
    best, means = found.best_fixed(), found.means()
    if best is not None:
        levels.append((f"best fixed: {found.named(best)}", means[best][1], f"{means[best][0]} decisions"))
    if -1 in means:
        levels.append((f"{OWN}, unasked", means[-1][1], f"nobody had chosen, {means[-1][0]} times"))
    every = _companion(artifact)
    if every is not None:
        known = Decisions.of(every)
        oracle = known.oracle() if known is not None else None
        if known is not None and oracle is not None:
            name = every.path.name
            levels.append(("oracle", oracle[0], f"the best arm of every system, from {name}"))
            own = known.means().get(-1)
            if own is not None and -1 not in means:
                levels.append((OWN, own[1], f"from {name}"))
    return levels


def _companion(artifact: Artifact) -> Artifact | None:
    """The ensemble of the same problem and points in which every system was solved with the same arms."""
    from sciflow.artifact import Artifact

    about = artifact.attributes
    arms = arms_of(about["problem"]["solver"])
    for path in sorted(artifact.path.parent.glob("ensemble-*")):
        with contextlib.suppress(SciflowError, OSError, ValueError):
            other = Artifact.open(path)
            theirs = other.attributes
            if "decision_solve" not in other.schema.fields or theirs.get("design") != about.get("design"):
                continue
            solver, mine = theirs["problem"].get("solver") or {}, about["problem"]["solver"]
            same = {**theirs["problem"], "solver": mine} == about["problem"]
            if same and arms and arms_of(solver) == arms and solver.get("cost") == mine.get("cost"):
                return other
    return None


def _rows(found: Decisions) -> list[list[str]]:
    """A row for each of the arms that were taken most, and one for the rest."""
    means = {a: v for a, v in found.means().items() if a >= 0}
    order = sorted(means, key=lambda a: -means[a][0])
    rows = [_row(found, found.named(a), found.arm == a) for a in order[:SHOWN]]
    rest = np.isin(found.arm, order[SHOWN:])
    if rest.any():
        rows.append(_row(found, f"{len(order) - SHOWN} others", rest))
    never = len(found.arms) - len(means)
    if never > 0:
        rows.append([f"{never} never taken", "", "", "", ""])
    return rows


def _row(found: Decisions, name: str, which: np.ndarray) -> list[str]:
    total = len(found.chosen)
    failed, fell = (found.status[which] > 0).mean(), found.fell[which].mean()
    return [
        name,
        f"{which.sum() / total:.1%}",
        _number(found.cost[which].mean()),
        f"{failed:.1%}",
        f"{fell:.1%}",
    ]


def _every(found: Decisions, artifact: Artifact) -> str:
    from sciflow.reporting import table

    oracle = found.oracle()
    assert oracle is not None
    mean, best = oracle
    rows = [["the best arm of every system", _number(mean), "", ""]]
    means = found.means()
    for arm in sorted(means, key=lambda a: means[a][1]):
        which = found.arm == arm
        failed = (found.status[which] > 0).mean()
        rows.append(
            [found.named(arm), _number(means[arm][1]), f"{(best == arm).mean():.1%}", f"{failed:.1%}"]
        )
    members = len(set(found.member.tolist()))
    text = f"<p>{len(best)} systems in {members} members; cost of a solve, set-up included.</p>"
    return text + table(["arm", "mean cost", "best", "failed or given up"], rows[: 2 * SHOWN])


def _number(value: float) -> str:
    return f"{value:.4g}"
