"""Docstrings in the style of numpydoc as Markdown."""

import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from griffe import Docstring, Parser

Link = Callable[[str], str]
_MATH_BLOCK = re.compile(r"^( *)\.\. math:: *(.*(?:\n(?:\1 +\S.*| *(?=\n\1 +\S)))*)", re.MULTILINE)
_CODE = re.compile(r"(``.+?``|`[^`\n]+`|\$[^$]+\$)", re.DOTALL)
TITLES = {"notes": "Notes", "references": "References", "examples": "Examples"}


def markdown(text: str, link: Link = lambda name: "") -> str:
    """Text of a docstring as Markdown: formulas, code, names that lead to their page.

    Parameters
    ----------
    text : str
        Paragraphs and lists in reStructuredText.
    link : callable
        The target for a name in backticks; empty for none.
    """
    text = re.sub(r":math:`([^`]+)`", lambda m: f"${m[1]}$", text)
    text = _MATH_BLOCK.sub(lambda m: f"\n\n$$\n{textwrap.dedent(m[2]).strip()}\n$$\n\n", text)
    # A literal block is code by its indentation in Markdown too.
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    text = re.sub(r"^\.\. \[(\d+)\] ", r"\1. ", text, flags=re.MULTILINE)
    done = []
    for part in _CODE.split(text):
        if part.startswith("$"):
            done.append(part)
        elif part.startswith("`"):
            name = part.strip("`").strip()
            target = "" if part.startswith("``") else link(name)
            done.append(f"[`{name}`]({target})" if target else f"`{name}`")
        else:
            done.append(re.sub(r"(?<=\w)\*\*?(?=\w)|\*(?=\s)|(?<=\s)_|<", lambda m: _escaped(m[0]), part))
    return "".join(done)


def _escaped(text: str) -> str:
    return "&lt;" if text == "<" else "".join("\\" + sign for sign in text)


def cell(text: str) -> str:
    """Markdown as one cell of a table."""
    parts = []
    for part in _CODE.split(text):
        # Within code a bar does not end the cell.
        bar = "|" if part.startswith("`") else r"\vert " if part.startswith("$") else r"\|"
        parts.append(part.replace("|", bar))
    return " ".join("".join(parts).split())


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table of cells."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def sections(text: str, parent: Any = None) -> list[Any]:
    """The sections of a docstring as griffe finds them."""
    return Docstring(text, parent=parent).parse(Parser.numpy, warnings=parent is not None)


def summary(text: str) -> str:
    """The first paragraph of a docstring as one line."""
    return " ".join(text.strip().partition("\n\n")[0].split())


def fields(text: str) -> dict[str, str]:
    """What the section "Attributes" of a docstring says of each name."""
    found: dict[str, str] = {}
    for section in sections(text):
        if section.kind.value == "attributes":
            for item in section.value:
                for name in item.name.split(","):
                    found[name.strip()] = item.description
    return found


def page(text: str, link: Link, parent: Any = None, skip: tuple[str, ...] = ()) -> Iterator[str]:
    """A docstring as blocks of Markdown.

    Parameters
    ----------
    text : str
        The docstring.
    link : callable
        As in `markdown`.
    parent : object of griffe or None
        Whose docstring it is; its names and types are compared, and differences are warned of.
    skip : tuple of str
        Kinds of sections to leave out.
    """
    for section in sections(text, parent):
        kind = section.kind.value
        if kind in skip:
            continue
        if kind == "text":
            yield markdown(section.value, link)
        elif kind in ("parameters", "attributes", "other parameters"):
            yield f"**{kind.capitalize()}**"
            rows = [
                (
                    f"`{item.name}`",
                    cell(markdown(_written(item.annotation), link)),
                    cell(markdown(item.description, link)),
                )
                for item in section.value
            ]
            yield table(("name", "type", "meaning"), rows)
        elif kind in ("returns", "yields", "raises", "warns", "receives"):
            yield f"**{kind.capitalize()}**"
            lines = []
            for item in section.value:
                name = f"`{item.name}` : " if getattr(item, "name", "") else ""
                what = cell(markdown(_written(item.annotation), link))
                lines.append(f"- {name}{what}: {' '.join(markdown(item.description, link).split())}")
            yield "\n".join(lines)
        elif kind == "examples":
            yield "**Examples**"
            for which, value in section.value:
                yield f"```pycon\n{value}\n```" if which.value == "examples" else markdown(value, link)
        elif kind == "admonition":
            yield f"**{TITLES.get(section.value.kind, section.title or section.value.kind.capitalize())}**"
            yield markdown(section.value.contents, link)


def _written(annotation: Any) -> str:
    """A type as the docstring or the signature has it."""
    text = str(annotation or "")
    return text if " " in text and "[" not in text and "|" not in text else f"`{text}`" if text else ""
