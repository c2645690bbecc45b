"""Formulas of the pages as MathML: readable without scripts or a network."""

import html
import re
from importlib.resources import files
from pathlib import Path

from latex2mathml.converter import convert

# Sizes of delimiters that the converter knows before simple signs only.
_BIG = re.compile(r"\\([Bb]ig{1,2})[lr]?\s*\\([lr])(Vert|vert|angle|ceil|floor)(?![A-Za-z])")
_SIGNS = {"Vert": "‖", "vert": "|"}
_PAIRS = {
    "langle": "⟨",
    "rangle": "⟩",
    "lceil": "⌈",
    "rceil": "⌉",
    "lfloor": "⌊",
    "rfloor": "⌋",
}
_FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)


def mathml(source: str, *, display: bool) -> str:
    """One formula.

    Parameters
    ----------
    source : str
        LaTeX without its delimiters.
    display : bool
        Whether it stands on a line of its own.

    Returns
    -------
    str
        A ``math`` element.

    Raises
    ------
    ValueError
        If a command is not known, with its name.
    """
    text = _BIG.sub(lambda m: rf"\{m[1]}{_SIGNS.get(m[3]) or _PAIRS[m[2] + m[3]]}", source)
    text = text.replace(r"\arg", r"\operatorname{arg}").replace("{aligned}", "{align*}")
    done = convert(text.strip(), display="block" if display else "inline")
    left = re.search(r"\\[A-Za-z]+|(?<=<mi>)&(?=</mi>)", done)
    if left:
        raise ValueError(f"{left[0]} is not known in the formula {source.strip()!r}")
    # Bars are as high as their line unless somebody asks for more.
    return re.sub(r"<mo>(?=&#x0(2016|007C);)", '<mo stretchy="false">', done)


def rendered(page: str) -> str:
    """A page of HTML whose formulas are MathML.

    Raises
    ------
    ValueError
        As `mathml`.
    """

    def replace(match: re.Match[str]) -> str:
        source = html.unescape(match[2]).strip()
        display = source.startswith(r"\[")
        done = mathml(source[2:-2], display=display)
        return f'<div class="formula">{done}</div>' if display else done

    return _FORMULA.sub(replace, page)


def font() -> Path:
    """The font of the formulas, STIX Two Math (OFL-1.1), as the package ziamath brings it."""
    return Path(str(files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf"))
