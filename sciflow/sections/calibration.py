"""The report's section on bands around predictions and their coverage."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from sciflow.reporting import Section, percent, table

if TYPE_CHECKING:
    from sciflow.artifact import Artifact

PROMISES = {
    "field": "of all values of new members, this share is inside",
    "point": "at each point, this share of new members is inside",
    "function": "with this probability, a new prediction has {share} of its values inside",
}
"""What each band says."""


def section(artifact: Artifact) -> Section:
    """See `sciflow.sections`."""
    about = artifact.attributes
    coverage, width = artifact.read("coverage"), artifact.read("relative_width")
    nominal = percent(1 - about["alpha"])
    promise = PROMISES[about["band"]].format(share=percent(1 - about["delta"]))
    calibrated, measured = (len(artifact.read(f"{w}_members")) for w in ("calibration", "measured"))
    scaled = ", in proportion to the spread that the model gives" if about["scaled"] else ""
    text = (
        f"<p>{html.escape(promise)}{scaled}. {calibrated} members decided the width, {measured} others "
        "measured it.</p>"
    )
    rows = [
        [name, nominal, percent(float(c)), percent(float(w))]
        for name, c, w in zip(about["outputs"], coverage, width, strict=True)
    ]
    body = text + table(["", "promised", "measured", "half width over the field's size"], rows)
    figures = ((percent(float(coverage.min())), f"of the truth inside bands for {nominal}"),)
    return Section("Bands around predictions", body, figures)
