"""What a report shows of two-scale computations and of their comparison."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from sciflow.reporting import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    figure,
    legend,
    percent,
    picture,
    seconds,
    shades,
    table,
    three,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact


def sections(artifact: Artifact) -> list[tuple[str, str]]:
    """Sections for a ``two_scale`` or a ``two_scale_comparison`` artifact; none for anything else."""
    if artifact.schema.kind == "two_scale":
        law = artifact.attributes["law"]
        how = "solved at every point" if artifact.attributes["model"] is None else "answered by a model"
        return [(f"Two scales: {law} {how}", _computation(artifact))]
    if artifact.schema.kind == "two_scale_comparison":
        return [("Two scales: a model of the cell beside the cell itself", _comparison(artifact))]
    return []


def _computation(artifact: Artifact) -> str:
    text = "force against displacement, and the deformed structure with the norm of its stress"
    head = ["force, N/mm", "displacement, mm", "Newton steps", "law calls", "beyond bounds", "law", "else"]
    columns = [artifact.read(n) for n in ("force", "displacement", "newton", "calls", "outside")]
    times = [artifact.read(n) for n in ("micro_seconds", "macro_seconds")]
    rows = [
        [three(f), f"{d:.5g}", str(n), str(c), str(o), seconds(micro), seconds(macro)]
        for f, d, n, c, o, micro, macro in zip(*columns, *times, strict=True)
    ]
    points = artifact.attributes["points"]
    note = f"<p>{points} integration points; one law call is one of them, once.</p>"
    return picture(_picture(artifact), text).html + table(head, rows) + note


def _picture(artifact: Artifact) -> Figure:
    made, axes = figure(2, width=10, height=3.8)
    left, right = axes[0]
    left.plot(
        np.append(0, artifact.read("displacement")),
        np.append(0, artifact.read("force")),
        "o-",
        color=BLUE,
        ms=4,
    )
    left.set_xlabel("displacement of the loaded edge, mm")
    left.set_ylabel("force, N/mm")
    nodes = np.stack([artifact.read("node_x"), artifact.read("node_y")], axis=1)
    triangles = artifact.read("triangles")
    side = round(math.sqrt(len(nodes)))
    moved = artifact.read("u")[-1].reshape(2 * side - 1, 2 * side - 1, 2)[::2, ::2].reshape(-1, 2)
    stress = artifact.read("stress")[-1]
    size = np.sqrt(stress[:, 0] ** 2 + stress[:, 1] ** 2 + 2 * stress[:, 2] ** 2)
    at = nodes + moved
    means = size.reshape(-1, 3).mean(axis=1)
    shown = right.tripcolor(at[:, 0], at[:, 1], triangles, facecolors=means, **shades(means))
    right.triplot(nodes[:, 0], nodes[:, 1], triangles, color=GREY, lw=0.3)
    made.colorbar(shown, ax=right, shrink=0.85).set_label("in-plane stress, MPa")
    right.set_aspect("equal")
    right.set_title("deformed as computed; grey: undeformed")
    right.set_xlabel("x, mm")
    right.set_ylabel("y, mm")
    return made


def _comparison(artifact: Artifact) -> str:
    about = artifact.attributes
    took, laws, calls = about["seconds"], about["laws"], about["calls"]
    text = "both curves, and their difference over the largest displacement"
    rows = [
        [
            f"{laws[who]}" + (" (reference)" if who == "reference" else ""),
            seconds(took[f"{who}_micro"]),
            seconds(took[f"{who}_macro"]),
            str(calls[who]),
            seconds(took[f"{who}_micro"] / max(calls[who], 1)),
        ]
        for who in ("reference", "other")
    ]
    whole = {who: took[f"{who}_micro"] + took[f"{who}_macro"] for who in ("reference", "other")}
    errors = {n: artifact.read(f"{n}_error") for n in ("curve", "u", "stress")}
    words = (
        f"<p><b>The curves differ by at most {percent(errors['curve'].max())}</b> of the largest "
        f"displacement; at the last step displacements differ by {percent(errors['u'][-1])} and stresses by "
        f"{percent(errors['stress'][-1])} (relative L2). The model's computation took "
        f"{seconds(whole['other'])} instead of {seconds(whole['reference'])}, "
        f"<b>{whole['reference'] / whole['other']:.3g} times</b> less; {_paid(about['offline'], whole)} "
        f"Points beyond the model's bounds: at most {about['outside']} of {about['points']}.</p>"
    )
    head = ["law", "in the law", "elsewhere", "calls", "one call"]
    return words + picture(_curves(artifact), text).html + table(head, rows)


def _paid(offline: dict[str, float], whole: dict[str, float]) -> str:
    """What the model cost before, and after how many computations that is saved."""
    cost = sum(offline.values())
    saved = whole["reference"] - whole["other"]
    parts = ", ".join(f"{kind} {seconds(value)}" for kind, value in sorted(offline.items()))
    if saved <= 0:
        return f"making the model took {seconds(cost)} ({parts}), which is never saved."
    return (
        f"making the model took {seconds(cost)} ({parts}), saved after {math.ceil(cost / saved)} "
        "computations of this size."
    )


def _curves(artifact: Artifact) -> Figure:
    made, axes = figure(2, width=10, height=3.4)
    left, right = axes[0]
    force = np.append(0, artifact.read("force"))
    laws = artifact.attributes["laws"]
    left.plot(np.append(0, artifact.read("reference")), force, "o-", color=INK, ms=5, label=laws["reference"])
    left.plot(
        np.append(0, artifact.read("displacement")), force, "x--", color=ORANGE, ms=6, label=laws["other"]
    )
    left.set_xlabel("displacement of the loaded edge, mm")
    left.set_ylabel("force, N/mm")
    legend(left)
    right.plot(force[1:], 100 * artifact.read("curve_error"), "s-", color=BLUE, ms=4)
    right.set_xlabel("force, N/mm")
    right.set_ylabel("difference, %")
    right.set_ylim(0, 1.1 * max(100 * float(artifact.read("curve_error").max()), 1e-12))
    return made
