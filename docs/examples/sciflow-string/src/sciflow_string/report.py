"""The section of the report."""

from __future__ import annotations

from sciflow import Artifact
from sciflow.reporting import table


def section(artifact: Artifact) -> tuple[str, str]:
    """Title and HTML of the tones that were found.

    Parameters
    ----------
    artifact : Artifact
        What `Spectrum` wrote.
    """
    rows = [
        (str(i), f"{f:.4f}", f"{d:.4f}")
        for i, (f, d) in enumerate(zip(artifact.read("frequency"), artifact.read("decay"), strict=True), 1)
    ]
    return "Tones of the string", table(("tone", "frequency, 1/s", "decay, 1/s"), rows)
