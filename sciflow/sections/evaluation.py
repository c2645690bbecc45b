"""The report's section on an evaluation: errors, baselines, best and worst members."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sciflow.errors import SciflowError
from sciflow.reporting import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    Section,
    both_signs,
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


def section(artifact: Artifact) -> Section:
    """See `sciflow.sections`."""
    errors = artifact.read("relative_l2")
    good = np.isfinite(errors)
    cells = [
        [label, *(_shown(f, v[good], show) for f in (np.median, np.mean, worst))]
        for label, v, show, worst in _rows(artifact)
    ]
    name, model = artifact.attributes["example_of"], model_name(artifact)
    drawn = [
        picture(made, text)
        for made, text in (
            (_histogram(errors, artifact), "distribution of the errors of all unseen samples"),
            (
                _examples(artifact, errors),
                f"{name} of the best, the median and the worst unseen sample{_read(artifact)}",
            ),
        )
        if made is not None
    ]
    body = _lost(artifact, good) + table(["", "median", "mean", "worst"], cells)
    body += "".join(one.html for one in drawn)
    grid = " x ".join(str(n) for n in artifact.array("example_truth").shape[1:]) or "single"
    nearest = float(np.median(artifact.read("baseline_nearest")))
    figures = (
        (percent(float(np.median(errors))), f"median relative L2 error of {model} for {name}, {grid} values"),
        (str(len(np.unique(artifact.read("members")))), "members never seen in training"),
        *([] if good.all() else [(str(int((~good).sum())), "predictions are not finite")]),
        *([(percent(nearest), "error of the nearest training sample")] if np.isfinite(nearest) else []),
    )
    short = "\n\n".join(one.markdown for one in drawn)
    return Section(f"Errors on unseen members: {model}, {name} with {grid} values", body, figures, short)


def _read(artifact: Artifact) -> str:
    """How the picture of the examples is to be read."""
    space = set(artifact.schema["example_truth"].axes) - {"example", "time", "lead"}
    return "; at the left the truth" if len(space) > 1 else "; below, the prediction less the truth"


def model_name(artifact: Artifact) -> str:
    """Name of the surrogate that was asked, as far as its artifact is still where it was."""
    from sciflow.artifact import Artifact

    with contextlib.suppress(SciflowError, OSError, ValueError, LookupError, TypeError):
        model = Artifact.open(Path(artifact.provenance["inputs"]["model"]["path"]))
        return str(model.attributes["surrogate"]["component"]).replace("_", " ")
    return "a model"


Row = tuple[str, np.ndarray, Callable[[float], str], Callable[..., np.floating]]


def _rows(artifact: Artifact) -> Iterator[Row]:
    """Label, values, how a number is shown and which one is the worst."""
    yield "relative L2", artifact.read("relative_l2"), percent, np.max
    for name, label, show, worst in (
        ("relative_l1", "relative L1", percent, np.max),
        ("vrmse", "VRMSE", three, np.max),
        ("nrmse", "nRMSE", three, np.max),
        ("nmae", "NMAE", three, np.max),
        ("pearson", "Pearson correlation", three, np.min),
        ("baseline_mean", "baseline: mean of the training samples", percent, np.max),
        ("baseline_nearest", "baseline: nearest training sample", percent, np.max),
    ):
        if name in artifact.schema.fields:
            yield label, artifact.read(name), show, worst
    bands = artifact.read("band_errors")
    for i, label in enumerate(("below 4", "4 to 11", "12 and more")):
        yield f"relative L2 in wavenumbers {label} per domain", bands[:, i], percent, np.max
    for name, field in artifact.schema.fields.items():
        unit = "" if field.unit == "1" else f" {field.unit}"
        for start, text in (
            ("maximum_error_", "maximum error of"),
            ("rmse_", "RMSE of"),
            ("boundary_rmse_", "RMSE on the boundary of"),
            ("conserved_error_", "error of the mean over the domain of"),
        ):
            if name.startswith(start):
                yield (
                    f"{text} {name.removeprefix(start)}",
                    artifact.read(name),
                    partial(three, unit=unit),
                    np.max,
                )
        if name.startswith("fourier_rmse_"):
            values = artifact.read(name)
            for i, band in enumerate(("0 to 4", "5 to 12", "13 and more")):
                label = f"fRMSE of {name.removeprefix('fourier_rmse_')}, wavenumbers {band}"
                yield label, values[:, i], partial(three, unit=unit), np.max


def _shown(of: Callable[..., np.floating], values: np.ndarray, show: Callable[[float], str]) -> str:
    number = float(of(values)) if len(values) else np.nan
    return show(number) if np.isfinite(number) else "–"


def _lost(artifact: Artifact, good: np.ndarray) -> str:
    """What is said of predictions that are NaN or infinite; nothing where all are finite."""
    if good.all():
        return ""
    members = sorted(set(artifact.read("members")[~good].tolist()))
    shown = ", ".join(map(str, members[:20])) + (", ..." if len(members) > 20 else "")
    return (
        f"<p><b>{int((~good).sum())} of {len(good)} predictions are not finite</b> (members {shown}). The "
        "numbers and pictures below leave them out.</p>"
    )


def _histogram(errors: np.ndarray, artifact: Artifact) -> Figure | None:
    positive = errors[(errors > 0) & np.isfinite(errors)]
    if not len(positive):
        return None
    made, axes = figure(width=9, height=2.8)
    ax = axes[0, 0]
    edges = np.geomspace(positive.min() / 1.1, positive.max() * 1.1, min(40, 8 + len(errors) // 4))
    ax.hist(positive, bins=edges, color=BLUE, alpha=0.85)
    middle = float(np.median(errors))
    if np.isfinite(middle):
        ax.axvline(middle, color=INK, lw=1.4, label=f"median {percent(middle)}")
    for name, colour in (("nearest", ORANGE), ("mean", GREY)):
        value = float(np.median(artifact.read(f"baseline_{name}")))
        if np.isfinite(value):
            ax.axvline(value, color=colour, lw=1.4, ls="--", label=f"baseline {name}: {percent(value)}")
    ax.set_xscale("log")
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("relative L2 error")
    ax.set_ylabel("samples")
    legend(ax)
    return made


def _examples(artifact: Artifact, errors: np.ndarray) -> Figure | None:
    if not np.isfinite(errors).any():
        return None
    truth, guess = artifact.read("example_truth"), artifact.read("example_prediction")
    which = artifact.read("example_sample")
    members = artifact.read("members")[which]
    axes_names = artifact.schema["example_truth"].axes[1:]
    unit = artifact.schema["example_truth"].unit
    space = [a for a in axes_names if a not in ("time", "lead")]
    if not axes_names:  # one number of each sample
        return None
    for axis in ("time", "lead"):
        if axis in axes_names and space:
            truth, guess = (np.moveaxis(a, 1 + axes_names.index(axis), 1)[:, -1] for a in (truth, guess))
    titles = [
        f"{word}: member {m}, {percent(float(errors[s]))}"
        for word, m, s in zip(("best", "median", "worst"), members, which, strict=True)
    ]
    if len(space) < 2:
        along = space[0] if space else axes_names[0]
        return _lines(artifact.read(along), truth, guess, titles, along, unit)
    while truth.ndim > 3:  # a slice through the middle of a volume
        truth, guess = (a[:, a.shape[1] // 2] for a in (truth, guess))
    return _images(truth, guess, titles, unit)


def _lines(
    x: np.ndarray, truth: np.ndarray, guess: np.ndarray, titles: list[str], axis: str, unit: str
) -> Figure:
    made, axes = figure(3, 2, width=10, height=4.6)
    for column, title in enumerate(titles):
        axes[0, column].plot(x, truth[column], color=INK, lw=1.6, label="truth")
        axes[0, column].plot(x, guess[column], color=ORANGE, lw=1.2, ls="--", label="prediction")
        axes[0, column].set_title(title)
        axes[1, column].plot(x, guess[column] - truth[column], color=BLUE, lw=1.0)
        axes[1, column].set_xlabel(axis)
        if len(x) < 12:
            axes[1, column].xaxis.get_major_locator().set_params(integer=True)
    legend(made)
    axes[0, 0].set_ylabel(with_unit("value", unit))
    axes[1, 0].set_ylabel(with_unit("prediction \u2212 truth", unit))
    return made


def _images(truth: np.ndarray, guess: np.ndarray, titles: list[str], unit: str) -> Figure:
    made, axes = figure(3, 3, width=9.8, height=8.2)
    signed = both_signs(truth)
    for row, title in enumerate(titles):
        scale = shades(truth[row], signed=signed)
        error = guess[row] - truth[row]
        for ax, values, look, label in zip(
            axes[row],
            (truth[row], guess[row], error),
            (scale, scale, shades(error, signed=True)),
            (title, "prediction", "prediction \u2212 truth"),
            strict=True,
        ):
            shown = ax.imshow(values, **look)
            ax.set_title(label)
            if label != title:
                made.colorbar(shown, ax=ax, shrink=0.85, label=unit.removeprefix("1"))
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    return made
