"""A vibrating string and its dynamic mode decomposition, for sciflow; the module of the entry point."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sciflow import Component, hookimpl

from sciflow_string.decomposition import ModeDecomposition
from sciflow_string.spectrum import Spectrum
from sciflow_string.string import String

if TYPE_CHECKING:
    from sciflow import Artifact

__all__ = ["ModeDecomposition", "Spectrum", "String"]

sciflow_api = "1.0"


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """A problem, a surrogate and a stage."""
    return [String, ModeDecomposition, Spectrum]


@hookimpl
def sciflow_flows() -> list[Path]:
    """What ``sciflow run plucked_strings`` finds."""
    return [Path(__file__).with_name("flows.py")]


@hookimpl
def sciflow_report(artifact: Artifact) -> list[tuple[str, str]] | None:
    """The table of tones, below what the flow reports anyway."""
    if artifact.schema.kind != "string_spectrum":
        return None
    from sciflow_string.report import section

    return [section(artifact)]
