"""The part of a report about a learned policy: how it was learned, and which values it chooses."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from sciflow.reporting import BLUE, GREY, INK, ORANGE, figure, legend, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact


def sections(artifact: Artifact) -> list[tuple[str, str]]:
    """A section for a ``policy`` artifact; none for anything else."""
    if artifact.schema.kind != "policy":
        return []
    body = f"<p>{html.escape(words(artifact))}</p>"
    text = "sum of the rewards, error and work of held-out episodes, and exploring, during the training"
    return [("Learned steps", body + picture(_curves(artifact), text).html)]


def words(artifact: Artifact) -> str:
    """What was trained and what it is worth, in sentences."""
    about, values = artifact.attributes, artifact.read("values")
    signature = about["signature"]
    at = int(np.searchsorted(artifact.read("history_steps"), about["chosen_at"]))
    error, cost, whole = (float(artifact.read(f"history_{n}")[at]) for n in ("error", "cost", "whole"))
    knob, features = signature["knob"], ", ".join(signature["features"])
    unit = "" if knob["unit"] == "1" else f" {knob['unit']}"
    choice = f"{len(values)} values" if signature["chooses"] == "level" else "any value"
    weights = sum(artifact.array(f"{n}_{i}").size for i in range(about["layers"]) for n in ("weight", "bias"))
    last = int(artifact.read("history_steps")[-1])
    return (
        f"A network of {weights} weights ({about['learner']['component']}) chooses {knob['name']}, {choice} "
        f"from {values[0]:.3g} to {values[-1]:.3g}{unit}, by {features}. It is the one after "
        f"{about['chosen_at']} of {last} environment steps. Of the held-out episodes {100 * whole:.3g} % "
        f"came to their end, nine of ten with a drift below {error:.1e}, for {_digits(cost)} "
        f"{about['cost_unit']} each on average. Every step stood; a guard takes back what goes wrong."
    )


def _digits(value: float) -> str:
    """Four digits, thousands apart."""
    return f"{float(f'{value:.4g}'):,.0f}".replace(",", "\u2009") if value >= 1000 else f"{value:.4g}"


def _curves(artifact: Artifact) -> Figure:
    made, axes = figure(3, width=12, height=3.0)
    steps = artifact.read("history_steps")
    chosen = artifact.attributes["chosen_at"]
    axes[0, 0].plot(steps, artifact.read("history_reward"), color=GREY, lw=1.4, label="training, exploring")
    axes[0, 0].plot(steps, artifact.read("history_value"), color=BLUE, lw=1.4, label="held out")
    axes[0, 0].set_title("sum of the rewards of an episode")
    legend(axes[0, 0])
    error = artifact.read("history_error")
    cost = artifact.read("history_cost")
    axes[0, 1].plot(steps, np.where(error > 0, error, np.nan), color=BLUE, lw=1.4, label="drift, nine of ten")
    axes[0, 1].set_yscale("log")
    other = axes[0, 1].twinx()
    other.spines["right"].set_visible(True)
    other.grid(visible=False)
    other.plot(steps, cost, color=ORANGE, lw=1.4, ls="--", label=artifact.attributes["cost_unit"])
    other.set_yscale("log")
    lines = [*axes[0, 1].get_lines(), *other.get_lines()]
    axes[0, 1].legend(
        lines, [line.get_label() for line in lines], title="held-out episodes", alignment="left",
        loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2,
    )  # fmt: skip
    axes[0, 2].plot(steps, artifact.read("history_explore"), color=INK, lw=1.4, label="exploring")
    axes[0, 2].plot(steps, artifact.read("history_loss"), color=GREY, lw=1.4, ls="--", label="loss")
    axes[0, 2].set_yscale("symlog", linthresh=1e-3)
    axes[0, 2].set_title("learning")
    legend(axes[0, 2])
    for line in (line for ax in made.axes for line in ax.get_lines()):
        line.set_marker("o" if np.isfinite(np.asarray(line.get_ydata(), dtype=float)).sum() < 3 else "")
        line.set_markersize(4)
    for ax in axes[0]:
        ax.axvline(chosen, color=GREY, lw=0.8, ls=":")
        ax.set_xlabel("environment steps")
    return made
