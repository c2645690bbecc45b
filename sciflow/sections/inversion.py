"""The report's section on parameters that were found behind observations."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.reporting import BLUE, GREY, ORANGE, Section, figure, legend, picture, table, with_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact


def section(artifact: Artifact) -> Section:
    """See `sciflow.sections`."""
    about = artifact.attributes["inversion"]
    names, units = artifact.attributes["parameters"], artifact.attributes["parameter_units"]
    found, errors = artifact.read("found"), artifact.read("found_error")
    first = artifact.read("step_points")[0]
    rows = [
        [with_unit(name, unit), f"{first[i]:.5g}", f"{found[i]:.5g}", f"{errors[i]:.2g}"]
        for i, (name, unit) in enumerate(zip(names, units, strict=True))
    ]
    head = ["", "by the model alone", "put right by the solver", "standard error by the noise"]
    made = picture(_misfits(artifact, about), "misfit of the observations against full solves")
    body = f"<p>{html.escape(words(about))}</p>" + table(head, rows) + made.html
    figures = ((f"{about['misfit']:.3g}", f"misfit over the noise after {about['solves']} full solves"),)
    return Section("Parameters behind observations", body, figures, made.markdown)


def words(about: Mapping[str, Any]) -> str:
    """What it took, in sentences.

    Parameters
    ----------
    about : mapping
        The attribute ``inversion`` of the artifact.
    """
    said = [
        f"The model gave {about['answers']} answers; by the solver, what it found misses the observations by "
        f"{about['first_misfit']:.3g} times their noise, and by {about['misfit']:.3g} times after "
        f"{about['solves']} full solves of at most {about['budget']}."
    ]
    alone = about["alone"]
    if alone and alone["solves"]:
        pairs = zip(alone["solves"], alone["misfits"], strict=True)
        reached = next((n for n, m in pairs if m <= about["misfit"]), None)
        said.append(
            f"A fit with the solver alone, from one start, was as near after {reached} full solves."
            if reached is not None
            else f"A fit with the solver alone, from one start, was not as near after {alone['solves'][-1]}: "
            f"{min(alone['misfits']):.3g} times."
        )
    return " ".join(said)


def _misfits(artifact: Artifact, about: Mapping[str, Any]) -> Figure:
    made, axes = figure(width=6.5, height=3.2)
    ax = axes[0, 0]
    misfit = artifact.read("step_misfit")
    solves = np.arange(1, len(misfit) + 1)
    ax.plot(solves, misfit, "o", color=BLUE, ms=4, label="with the model")
    ax.step(solves, np.fmin.accumulate(misfit), where="post", color=BLUE, lw=1.2)
    if about["alone"] and about["alone"]["solves"]:
        many, values = about["alone"]["solves"], about["alone"]["misfits"]
        ax.step(
            many, np.minimum.accumulate(values), where="post", color=GREY, ls="--", label="the solver alone"
        )
    ax.axhline(1.0, color=ORANGE, lw=1.0, ls=":", label="the noise")
    ax.set_yscale("log")
    ax.set_xlabel("full solves")
    ax.set_ylabel("misfit over the noise")
    legend(ax)
    return made
