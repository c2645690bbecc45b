"""The report's section on a roll-out: errors against time, how long it lasts, one member."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from sciflow.reporting import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    Section,
    figure,
    legend,
    percent,
    picture,
    shades,
    table,
    three,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact

MEASURES = (("relative_l2", "relative L2"), ("vrmse", "VRMSE"), ("pearson", "correlation"))


def section(artifact: Artifact) -> Section:
    """See `sciflow.sections`."""
    kept, since = artifact.read("kept"), artifact.read("since")
    members = artifact.read("members")
    stopped = members[kept < len(since)]
    unit = artifact.schema["since"].unit.removeprefix("1")
    text = f"<p>{len(members)} members, {len(since)} time levels of {html.escape(_names(artifact))}.</p>"
    if len(stopped):
        named = ", ".join(map(str, stopped[:20])) + (", ..." if len(stopped) > 20 else "")
        text += (
            f"<p><b>{len(stopped)} of {len(members)} roll-outs went astray and were stopped</b> (members "
            f"{named}); they count as infinite errors from there on.</p>"
        )
    curve = picture(_curve(artifact, since, unit), "error and correlation against time, of all members")
    body = text + table(["after", *(label for _, label in MEASURES), "persistence"], _times(artifact, since))
    body += table(["", "median", "worst", "members"], list(_lasts(artifact, unit))) + curve.html
    short = curve.markdown
    if "example_truth" in artifact.schema.fields:
        member = members[artifact.attributes["example_row"]]
        one = picture(_pictures(artifact), f"member {member}: truth and prediction")
        body, short = body + one.html, f"{short}\n\n{one.markdown}"
    last = float(np.median(artifact.read("relative_l2")[:, -1]))
    figures = (
        (
            percent(last),
            f"median error at the end of the roll-out, {three(float(since[-1]), f' {unit}').rstrip()}",
        ),
        *([(str(len(stopped)), "roll-outs stopped")] if len(stopped) else []),
    )
    return Section("Roll-outs of unseen members", body, figures, short)


def _names(artifact: Artifact) -> str:
    return ", ".join(artifact.attributes["outputs"])


def _times(artifact: Artifact, since: np.ndarray) -> list[list[str]]:
    """Medians at some times."""
    rows = []
    for at in np.unique(np.linspace(0, len(since) - 1, 5).round().astype(int)):
        numbers = [float(np.median(artifact.read(name)[:, at])) for name, _ in MEASURES]
        rows.append(
            [
                three(float(since[at])),
                percent(numbers[0]),
                *(three(n) if np.isfinite(n) else "–" for n in numbers[1:]),
                percent(float(np.median(artifact.read("persistence")[:, at]))),
            ]
        )
    return rows


def _lasts(artifact: Artifact, unit: str) -> list[list[str]]:
    """How long the correlation lasts, and the windows of The Well."""
    rows = []
    times, fell = artifact.read("time_below"), artifact.read("fell_below")
    for i, threshold in enumerate(artifact.attributes["thresholds"]):
        more = "" if fell[:, i].all() else f", {int((1 - fell[:, i]).sum())} of them not yet"
        median, worst = (three(float(f(times[:, i])), f" {unit}").rstrip() for f in (np.median, np.min))
        rows.append(
            [f"time until the correlation is below {threshold:g}", median, worst, f"{len(times)}{more}"]
        )
    for name in artifact.schema.fields:
        if name.startswith("vrmse_"):
            values = artifact.read(name)
            begin, end = name.split("_")[1:]
            numbers = [
                three(float(f(values))) if np.isfinite(f(values)) else "–" for f in (np.median, np.max)
            ]
            rows.append([f"VRMSE of the levels {begin}:{end}", *numbers, str(len(values))])
    return rows


def _curve(artifact: Artifact, since: np.ndarray, unit: str) -> Figure:
    made, axes = figure(2, width=10, height=3.2)
    errors = artifact.read("relative_l2")
    for ax, values, label in (
        (axes[0, 0], errors, "relative L2 error"),
        (axes[0, 1], artifact.read("pearson"), "correlation with the truth"),
    ):
        low, middle, high = (_quantile(values, q) for q in (0.1, 0.5, 0.9))
        ax.fill_between(since, low, high, color=BLUE, alpha=0.2, lw=0, label="10 to 90 %")
        ax.plot(since, middle, color=BLUE, lw=1.6, label="median")
        ax.set_xlabel(with_unit("time since the last level known", unit))
        ax.set_ylabel(label)
    persistence = np.median(artifact.read("persistence"), axis=0)
    axes[0, 0].plot(since, persistence, color=GREY, lw=1.2, ls="--", label="persistence")
    if (np.nan_to_num(_quantile(errors, 0.5)) > 0).any():
        axes[0, 0].set_yscale("log")
    for threshold in artifact.attributes["thresholds"]:
        axes[0, 1].axhline(threshold, color=GREY, lw=0.8, ls=":")
    legend(made)
    return made


def _quantile(values: np.ndarray, q: float) -> np.ndarray:
    """Quantile over the samples; NaN where it is not finite, which a plot leaves out."""
    ordered = np.sort(np.where(np.isnan(values), -np.inf, values), axis=0)
    found = ordered[min(int(q * len(ordered)), len(ordered) - 1)]
    return np.where(np.isfinite(found), found, np.nan)


def _ends(places: np.ndarray) -> tuple[float, float]:
    """First and last of some coordinates; around one alone there is room to draw."""
    first, last = float(places[0]), float(places[-1])
    return (first, last) if last > first else (first - 0.5, first + 0.5)


def _pictures(artifact: Artifact) -> Figure:
    truth, guess = artifact.read("example_truth"), artifact.read("example_prediction")
    times, unit = artifact.read("example_time"), artifact.schema["example_time"].unit
    space = artifact.schema["example_truth"].axes[1:]
    when = with_unit("time", unit)
    if not space:  # one number at each level
        made, axes = figure(width=6.5, height=3.0)
        axes[0, 0].plot(times, truth, "o-", ms=3, color=INK, lw=1.6, label="truth")
        axes[0, 0].plot(times, guess, "s--", ms=3, color=ORANGE, lw=1.2, label="prediction")
        axes[0, 0].set_xlabel(when)
        axes[0, 0].set_ylabel(_of(artifact))
        legend(axes[0, 0])
        return made
    if len(space) == 1:
        return _history(artifact, truth, guess, (*_ends(artifact.read(space[0])), *_ends(times)), when)
    while truth.ndim > 3:  # a slice through the middle of a volume
        truth, guess = (a[:, a.shape[1] // 2] for a in (truth, guess))
    made, axes = figure(len(times), 2, width=9.8, height=4.2)
    scale = shades(truth)
    for column, time in enumerate(times):
        for ax, values in ((axes[0, column], truth), (axes[1, column], guess)):
            shown = ax.imshow(values[column], **scale)
            ax.set_xticks([])
            ax.set_yticks([])
        axes[0, column].set_title(f"time {time:.3g}{with_unit('', unit).replace(',', '')}")
    made.colorbar(shown, ax=list(axes.flat), shrink=0.7, label=_of(artifact))
    axes[0, 0].set_ylabel("truth")
    axes[1, 0].set_ylabel("prediction")
    return made


def _of(artifact: Artifact) -> str:
    """What an example shows, with its unit."""
    return with_unit(_names(artifact), artifact.schema["example_truth"].unit)


def _history(
    artifact: Artifact, truth: np.ndarray, guess: np.ndarray, extent: tuple[float, ...], when: str
) -> Figure:
    """Space against time: truth and prediction in the same colours, and their difference."""
    made, axes = figure(3, width=9.8, height=3.6)
    axis, error = artifact.schema["example_truth"].axes[1], guess - truth
    scale, signed = shades(truth), shades(error, signed=True)
    panels = (
        (truth, "truth", scale),
        (guess, "prediction", scale),
        (error, "prediction \u2212 truth", signed),
    )
    for ax, (values, label, look) in zip(axes[0], panels, strict=True):
        shown = ax.imshow(values, aspect="auto", extent=extent, **look)
        if label != "truth":
            made.colorbar(shown, ax=ax, shrink=0.85, label=_of(artifact) if label != "prediction" else "")
        ax.set_title(label)
        ax.set_xlabel(with_unit(axis, artifact.schema[axis].unit))
    axes[0, 0].set_ylabel(when)
    return made
