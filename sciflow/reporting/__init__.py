"""The report of a run: one self-contained HTML file with plots, and its short form in markdown.

What sections need, of the core and of plugins: colours that all eyes tell apart (`INK` to `GREY`, `style`,
`shades`), figures in one look (`figure`, `legend`, `picture`), tables and words for numbers.
"""

from sciflow.reporting.colours import (
    BLUE,
    BROWN,
    CYCLE,
    DASHES,
    GREEN,
    GREY,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    PURPLE,
    RED,
    TEAL,
    both_signs,
    colour,
    shades,
    style,
)
from sciflow.reporting.figures import Picture, curves, data_uri, figure, image, learning, legend, picture
from sciflow.reporting.page import KINDS, Document, build
from sciflow.reporting.section import Section
from sciflow.reporting.words import Markup, large, percent, seconds, table, three, with_unit

__all__ = [
    "BLUE",
    "BROWN",
    "CYCLE",
    "DASHES",
    "GREEN",
    "GREY",
    "INK",
    "KINDS",
    "MARKERS",
    "MUTED",
    "ORANGE",
    "PURPLE",
    "RED",
    "TEAL",
    "Document",
    "Markup",
    "Picture",
    "Section",
    "both_signs",
    "build",
    "colour",
    "curves",
    "data_uri",
    "figure",
    "image",
    "large",
    "learning",
    "legend",
    "percent",
    "picture",
    "seconds",
    "shades",
    "style",
    "table",
    "three",
    "with_unit",
]
