"""One part of a report, as the core and plugins hand it over."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Attributes
    ----------
    title : str
        Its heading.
    body : str
        HTML.
    figures : tuple of (str, str)
        Numbers for the top of the page: value and what it is.
    short : str
        Markdown for the Prefect UI; empty to leave the section out there.
    """

    title: str
    body: str
    figures: tuple[tuple[str, str], ...] = ()
    short: str = ""
