"""The report's section on a solver compared with itself on a finer grid."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from sciflow.reporting import Section, percent, table

if TYPE_CHECKING:
    from sciflow.artifact import Artifact


def section(artifact: Artifact) -> Section:
    """See `sciflow.sections`."""
    errors = artifact.read("relative_l2")
    about = artifact.attributes
    grid = ", ".join(
        f"{axis} at {n} of {about['finer_points'][axis]} points" for axis, n in about["points"].items()
    )
    what = html.escape(", ".join(about["outputs"]))
    text = (
        f"<p>{what}: the solver against itself on a finer grid, {html.escape(grid)}. No model that learned "
        "from the coarser one can be trusted below this.</p>"
    )
    numbers = [percent(float(f(errors))) for f in (np.median, np.mean, np.max)]
    body = text + table(["", "median", "mean", "worst"], [["relative L2", *numbers]])
    return Section("The solver's own error", body, ((numbers[0], f"error of the solver itself, {what}"),))
