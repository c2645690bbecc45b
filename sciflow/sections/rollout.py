"""The report's section on a roll-out: errors against time, how long it lasts, one member."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from sciflow.reporting import BLUE, GREY, INK, ORANGE, Section, data_uri, figure, image, percent, table, three

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
    curve = data_uri(_curve(artifact, since, unit))
    body = text + table(["after", *(label for _, label in MEASURES), "persistence"], _times(artifact, since))
    body += table(["", "median", "worst", "members"], list(_lasts(artifact, unit))) + image(curve, "errors")
    short = f"![errors]({curve})"
    if "example_truth" in artifact.schema.fields:
        picture = data_uri(_pictures(artifact, members))
        body, short = body + image(picture, "one member"), f"{short}\n\n![one member]({picture})"
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
        (axes[0, 0], errors, "relative L2"),
        (axes[0, 1], artifact.read("pearson"), ""),
    ):
        low, middle, high = (_quantile(values, q) for q in (0.1, 0.5, 0.9))
        ax.fill_between(since, low, high, color=BLUE, alpha=0.2, lw=0, label="10 to 90 %")
        ax.plot(since, middle, color=BLUE, lw=1.6, label="median")
        ax.set_xlabel(f"time since the last level known{unit and f', {unit}'}", fontsize=9)
        ax.set_ylabel(label or "correlation with the truth", fontsize=9)
    persistence = np.median(artifact.read("persistence"), axis=0)
    axes[0, 0].plot(since, persistence, color=GREY, lw=1.2, ls="--", label="persistence")
    if (np.nan_to_num(_quantile(errors, 0.5)) > 0).any():
        axes[0, 0].set_yscale("log")
    for threshold in artifact.attributes["thresholds"]:
        axes[0, 1].axhline(threshold, color=GREY, lw=0.8, ls=":")
    axes[0, 0].legend(frameon=False, fontsize=8)
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


def _pictures(artifact: Artifact, members: np.ndarray) -> Figure:
    truth, guess = artifact.read("example_truth"), artifact.read("example_prediction")
    times = artifact.read("example_time")
    axes_names = artifact.schema["example_truth"].axes[1:]
    row = artifact.attributes["example_row"]
    title = f"member {members[row]}"
    low, high = float(truth.min()), float(truth.max())
    if not axes_names:  # one number at each level
        made, axes = figure(width=6.5, height=3.0)
        axes[0, 0].plot(times, truth, "o-", ms=3, color=INK, lw=1.6, label="truth")
        axes[0, 0].plot(times, guess, "o--", ms=3, color=ORANGE, lw=1.2, label="prediction")
        axes[0, 0].set_title(title)
        axes[0, 0].set_xlabel("time", fontsize=9)
        axes[0, 0].legend(frameon=False, fontsize=8)
        return made
    if len(axes_names) == 1:
        made, axes = figure(3, width=10, height=3.6)
        extent = (*_ends(artifact.read(axes_names[0])), *_ends(times))
        for ax, values, label in zip(
            axes[0], (truth, guess, guess - truth), ("truth", "prediction", "error"), strict=True
        ):
            limits = {} if label == "error" else {"vmin": low, "vmax": high}
            shown = ax.imshow(values, origin="lower", aspect="auto", cmap="inferno", extent=extent, **limits)
            made.colorbar(shown, ax=ax, shrink=0.85)
            ax.set_title(f"{title}, {label}")
            ax.set_xlabel(axes_names[0], fontsize=9)
        axes[0, 0].set_ylabel("time", fontsize=9)
        return made
    while truth.ndim > 3:  # a slice through the middle of a volume
        truth, guess = (a[:, a.shape[1] // 2] for a in (truth, guess))
    made, axes = figure(len(times), 2, width=10, height=4.0)
    for column, time in enumerate(times):
        for ax, values, label in ((axes[0, column], truth, "truth"), (axes[1, column], guess, "prediction")):
            ax.imshow(values[column], origin="lower", vmin=low, vmax=high, cmap="inferno")
            ax.set_title(f"{label}, {time:.3g}", color=INK if label == "truth" else ORANGE)
            ax.set_xticks([])
            ax.set_yticks([])
    axes[0, 0].set_ylabel(title, fontsize=9)
    return made
