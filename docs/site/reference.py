"""The pages of the reference, made from the docstrings, the registry and the command line."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from docstrings import page, summary

ROOT = Path(__file__).parent.parent.parent

# Title and modules of each page about the core; names of `sciflow` itself, then public ones of a seam.
PAGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "components": (
        "Components",
        "What everything that can be configured has in common.",
        ("component", "errors"),
    ),
    "problems": (
        "Problems",
        "Full-order models: parameters in, fields out, one time level after the other.",
        ("problem", "schema", "artifact.share", "reduction", "homogenisation"),
    ),
    "models": ("Surrogates and models", "What is learned, and from what.", ("surrogate", "samples")),
    "control": (
        "Controllers",
        "What chooses solvers, points and steps, and learns from what they cost.",
        ("controller", "linear_solver", "step_controller", "stepping", "experience", "guess"),
    ),
    "flows": ("Stages and flows", "Steps of a flow, and how they are run.", ("stage", "flow", "context")),
    "storage": ("Storage", "Artifacts and where they lie.", ("store", "artifact")),
    "executors": ("Executors", "Where jobs run, and what they ask for.", ("executor",)),
    "reporting": ("Reports", "Sections, tables and figures of a report.", ("reporting",)),
}
# Modules that are pages of their own right, whose names `sciflow` does not export.
SEAMS = ("reduction", "homogenisation", "experience", "reporting", "guess")


class Reference:
    """Pages about the Python interface, read without importing anything.

    Attributes
    ----------
    anchors : dict
        Page and anchor of each name, as ``{"Problem": "problems.md#problem"}``.
    """

    def __init__(self) -> None:
        self.package: Any = griffe.load(
            "sciflow", search_paths=[str(ROOT)], docstring_parser=griffe.Parser.numpy, resolve_aliases=False
        )
        exported = ast.literal_eval(str(self.package["_WHERE"].value))
        self.listed: dict[str, list[tuple[str, Any]]] = {}
        for key, (_, _, modules) in PAGES.items():
            for name in modules:
                self.listed.setdefault(key, []).extend((n, o) for n, o in self._of(name, exported))
        shown = {name for pairs in self.listed.values() for name, _ in pairs}
        # `hookimpl` is a marker without docstring; the page of the hooks shows it at work.
        left = sorted(set(exported) - shown - {"hookimpl"})
        if left:
            raise ValueError(f"no page of the reference shows {', '.join(left)}: add its module to PAGES")
        self.anchors = {name: f"{key}.md#{name}" for key, pairs in self.listed.items() for name, _ in pairs}

    def _of(self, module: str, exported: dict[str, str]) -> Iterator[tuple[str, Any]]:
        """Names and objects of a module that the reference shows, in the order of its source."""
        if not _exists(module):
            return
        inside = f"sciflow.{module}."
        for name, member in self.package[module].members.items():
            found = _behind(member, self.package) if member.is_alias else member
            public = exported.get(name) == module
            # What a package offers under its own name stands in one of its modules.
            own = not member.is_alias or member.target_path.startswith(inside)
            seam = module in SEAMS and own and not name.startswith("_")
            shown = found is not None and (found.is_class or found.is_function) and found.docstring
            if shown and (public or seam):
                yield name, found

    def link(self, name: str) -> str:
        """Where a name in backticks leads to; empty where it is none of this reference."""
        return self.anchors.get(name.rpartition(".")[2], "")

    def pages(self) -> Iterator[tuple[str, str]]:
        """File name and Markdown of each page about the core."""
        for key, (title, text, _) in PAGES.items():
            blocks = [f"# {title}", text]
            for name, member in self.listed[key]:
                blocks += self.described(member, f"{name}", 2, name)
            yield f"{key}.md", "\n\n".join(blocks) + "\n"
        yield "hooks.md", self.hooks()
        yield "testing.md", self.testing()

    def described(self, member: Any, title: str, level: int, anchor: str) -> list[str]:
        """One class or function, and what is public in it."""
        blocks = [f"{'#' * level} `{title}` {{#{anchor}}}"]
        if member.is_class:
            bases = ", ".join(str(b) for b in member.bases)
            blocks.append(f"```python\nfrom {member.parent.path} import {member.name}\n```")
            if bases and bases not in ("ABC", "Protocol"):
                known = [f"[`{b}`]({self.link(b)})" if self.link(b) else f"`{b}`" for b in bases.split(", ")]
                blocks.append(f"A kind of {', '.join(known)}.")
        else:
            blocks.append(f"```python\n{signature(member)}\n```")
        blocks += page(member.docstring.value, self.link, member)
        if member.is_class:
            for name, inner in member.members.items():
                if name.startswith("_") or inner.is_alias or not inner.docstring:
                    continue
                if inner.is_function or (inner.is_attribute and "property" in inner.labels):
                    blocks += self.described(inner, f"{member.name}.{name}", level + 1, f"{anchor}.{name}")
        return blocks

    def hooks(self) -> str:
        """The page about what a plugin may implement."""
        blocks = ["# Hooks", markdown_head(self.package["hooks"].docstring.value)]
        blocks.append("[First plugin](../first-plugin.md) shows one at work.")
        for name, member in self.package["hooks"].members.items():
            if name.startswith("sciflow_") and member.is_function:
                blocks += self.described(member, name, 2, name)
        return "\n\n".join(blocks) + "\n"

    def testing(self) -> str:
        """The page about the checks for plugins."""
        module = self.package["testing"]
        blocks = ["# Conformance checks", markdown_head(module.docstring.value)]
        blocks.append("```python\nfrom sciflow.testing import check_problem\n```")
        for name, member in sorted(_checks(module, self.package), key=lambda pair: pair[0]):
            blocks += self.described(member, name, 2, name)
        return "\n\n".join(blocks) + "\n"


def _exists(module: str) -> bool:
    path = ROOT / "sciflow" / module.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def _behind(alias: Any, package: Any) -> Any:
    """What a name that was imported stands for; None where it is nothing of this package with a docstring."""
    if not alias.target_path.startswith("sciflow."):
        return None
    try:
        return package[alias.target_path.removeprefix("sciflow.")]
    # Several names that one assignment gives are not seen by griffe; constants are not shown anyway.
    except KeyError:
        return None


def _checks(module: Any, package: Any) -> list[tuple[str, Any]]:
    """The public ``check_`` functions of a module or a package, wherever they are defined."""
    found = {n: _behind(m, package) if m.is_alias else m for n, m in module.members.items()}
    return [
        (name, member)
        for name, member in found.items()
        if name.startswith("check_")
        and member is not None
        and member.is_function
        # A rule of components, which the registry applies.
        and not member.path.startswith("sciflow.component.")
    ]


def markdown_head(text: str) -> str:
    """The first paragraph of a module's docstring, as a sentence of a page."""
    return summary(text)


def signature(member: Any) -> str:
    """A function or property as it is called, on as many lines as it takes."""
    if member.is_attribute:
        return f"{member.name}: {member.annotation}"
    written = []
    bar = False
    for item in member.parameters:
        kind = item.kind.value if item.kind else ""
        if item.name in ("self", "cls"):
            continue
        if kind == "keyword-only" and not bar:
            written.append("*")
            bar = True
        stars = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        bar = bar or stars == "*"
        text = f"{stars}{item.name}" + (f": {item.annotation}" if item.annotation else "")
        if item.default is not None and not stars:
            text += f" = {item.default}"
        written.append(text)
    ends = f" -> {member.returns}" if member.returns else ""
    start = "async def" if "async" in member.labels else "def"
    line = f"{start} {member.name}({', '.join(written)}){ends}"
    if len(line) <= 88:
        return line
    inner = "".join(f"    {text},\n" for text in written)
    return f"{start} {member.name}(\n{inner}){ends}"
