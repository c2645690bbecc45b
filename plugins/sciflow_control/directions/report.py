"""The part of a report about learned directions: losses, and what they are worth in iterations."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from sciflow.reporting import BLUE, GREY, ORANGE, figure, legend, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact


def sections(artifact: Artifact) -> list[tuple[str, str]]:
    """A section for a ``directions`` artifact; none for anything else."""
    if artifact.schema.kind != "directions":
        return []
    body = f"<p>{html.escape(words(artifact))}</p>"
    text = "losses during the training, and residuals of a system that was never seen"
    return [("Learned directions", body + picture(_curves(artifact), text).html)]


def words(artifact: Artifact) -> str:
    """What was trained and what it is worth, in sentences."""
    about = artifact.attributes
    learned, plain = (np.trim_zeros(np.nan_to_num(artifact.read(n)), "b") for n in
                      ("residuals_learned", "residuals_cg"))  # fmt: skip
    shape = " x ".join(str(n) for n in about["network"]["points"])
    left = float(artifact.read("history_valid")[-1])
    return (
        f"A network of {about['weights']} weights was trained on a domain of {about['cells']} cells in a "
        f"grid of {shape}. The best step along a direction leaves {100 * np.sqrt(left):.3g} % of an unseen "
        "right-hand side made as in the training (root of the mean square). For one of white noise the "
        f"method ended after {len(learned) - 1} iterations at {learned[-1]:.1e} of the residual, conjugate "
        f"gradients after {len(plain) - 1} at {plain[-1]:.1e}. On a processor an application of the network "
        "costs as much as many iterations of conjugate gradients."
    )


def _curves(artifact: Artifact) -> Figure:
    made, axes = figure(2, width=10, height=3.0)
    steps = artifact.read("history_updates")
    axes[0, 0].plot(steps, artifact.read("history_loss"), color=GREY, lw=1.4, ls="--", label="training")
    axes[0, 0].plot(steps, artifact.read("history_valid"), color=BLUE, lw=1.4, label="unseen")
    axes[0, 0].set_title("loss")
    axes[0, 0].set_xlabel("update")
    learned = artifact.read("residuals_learned")
    axes[0, 1].plot(learned, color=BLUE, lw=1.4, marker="o", ms=3, label="learned directions")
    axes[0, 1].plot(artifact.read("residuals_cg"), color=ORANGE, lw=1.4, ls="--", label="conjugate gradients")
    axes[0, 1].set_title("relative residual, white noise")
    axes[0, 1].set_xlabel("iteration")
    for ax in axes[0]:
        ax.set_yscale("log")
        legend(ax)
    return made
