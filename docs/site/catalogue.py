"""The pages of the reference about registered components and about the command line."""

import argparse
import dataclasses
import inspect
import os
import re
from collections.abc import Iterator
from typing import Any

from docstrings import Link, cell, fields, markdown, page, summary, table

DISTRIBUTION = "sciflow"
# Links to pages about a component.
MOST = 4
# What the kinds are, in the order of the pages.
KINDS = {
    "problem": "Full-order models: parameters in, fields out.",
    "surrogate": "What learns a solution operator from an ensemble.",
    "stage": "Steps of a flow: artifacts in, one artifact out.",
    "controller": "Tuners that choose settings from what they cost, and steerings of designs.",
    "step_controller": "What chooses the next step of a solver.",
    "linear_solver": "How the linear systems of a problem are solved.",
    "executor": "Where jobs run.",
}


def kinds() -> dict[str, list[tuple[type, Any]]]:
    """Registered classes of this distribution and their plugins, by kind.

    Raises
    ------
    ValueError
        If a plugin of this distribution does not load.
    """
    from sciflow.registry import registry

    broken = [p for p in registry().plugins if p.error and p.distribution == DISTRIBUTION]
    if broken:
        raise ValueError(f"the plugin {broken[0].name} does not load: {broken[0].error}")
    found: dict[str, list[tuple[type, Any]]] = {kind: [] for kind in KINDS}
    for cls, plugin in registry().components():
        if plugin.distribution == DISTRIBUTION:
            found.setdefault(cls.kind, []).append((cls, plugin))
    return found


def pages(link: Link, documents: dict[str, str]) -> Iterator[tuple[str, str]]:
    """File name and Markdown of the page of each kind.

    Parameters
    ----------
    link : callable
        Where a name of the core leads to, relative to ``reference/components``.
    documents : dict
        Text of the other pages by path: those that name a component are linked.
    """
    for kind, members in kinds().items():
        title = kind.replace("_", " ").capitalize()
        blocks = [f"# {title}: components", KINDS.get(kind, f"Components of the kind `{kind}`.")]
        head = ("name", "class", "what it is")
        rows = [
            (f"[`{c.name}`](#{c.name})", f"`{c.__name__}`", cell(markdown(summary(c.__doc__ or ""))))
            for c, _ in members
        ]
        blocks.append(table(head, rows))
        for cls, plugin in members:
            blocks += component(cls, plugin, link, documents)
        yield f"{kind}.md", "\n\n".join(blocks) + "\n"


def component(cls: Any, plugin: Any, link: Link, documents: dict[str, str]) -> Iterator[str]:
    """One component: how it is imported, what it is, its fields, the pages about it."""
    from importlib import import_module

    from sciflow.registry import _how

    yield f"## `{cls.name}` {{#{cls.name}}}"
    module = plugin.module if hasattr(import_module(plugin.module), cls.__name__) else cls.__module__
    yield f"```python\nfrom {module} import {cls.__name__}\n```"
    if cls.requires:
        how = re.sub(r"pip install '[^']+'", lambda m: f"`{m[0]}`", _how(list(cls.requires)))
        yield f"Needs {', '.join(f'`{name}`' for name in cls.requires)}. {how}"
    about = {path: count for path, text in documents.items() if (count := mentioned(cls.__name__, text))}
    if about:
        # Those that begin with it, then those that have most of it.
        start = re.compile(rf"# .*\s+[^.`]*`{cls.__name__}\b")
        first = sorted(about, key=lambda path: (not start.match(documents[path]), -about[path]))[:MOST]
        links = [f"[{_title(documents[path])}](../../{path})" for path in first]
        yield f"Read {', '.join(links)}."
    yield from page(cls.__doc__ or "", link, skip=("attributes", "parameters"))
    rows = [
        (
            f"`{field.name}`",
            cell(f"`{_short(field.type)}`"),
            cell(f"`{default(field)}`"),
            cell(markdown(text, link)),
        )
        for field, text in described(cls)
    ]
    if rows:
        yield table(("field", "type", "default", "meaning"), rows)


def described(cls: Any) -> list[tuple[Any, str]]:
    """The fields of a component and what the docstrings of its classes say of them.

    Raises
    ------
    ValueError
        If a field has no description.
    """
    known: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        # Components of the core and of plugins; dataclasses write docstrings of their own.
        if base is not object and base.__doc__ and "Attributes" in base.__doc__:
            known.update(fields(base.__doc__))
    found = []
    # What the class itself adds comes before what it has from others.
    own = inspect.get_annotations(cls)
    for field in sorted(dataclasses.fields(cls), key=lambda field: field.name not in own):
        if field.name not in known:
            raise ValueError(
                f"{cls.__module__}.{cls.__name__}: no docstring describes the field {field.name}"
            )
        found.append((field, known[field.name]))
    return found


def default(field: Any) -> str:
    """The default of a field as one writes it."""
    if field.default is not dataclasses.MISSING:
        return _written(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return _written(field.default_factory())
    return "required"


def _written(value: Any) -> str:
    """A value as short as it can be written: components with what differs from their defaults."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = []
        for field in dataclasses.fields(value):
            given = getattr(value, field.name)
            if default(field) != _written(given):
                parts.append(f"{field.name}={_written(given)}")
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, tuple):
        inner = ", ".join(_written(one) for one in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


def _short(annotation: Any) -> str:
    """A type without the modules of its names."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", text)


def mentioned(name: str, text: str) -> int:
    """How often a page has the name of a class in code."""
    return len(re.findall(rf"`[^`\n]*\b{name}\b[^`\n]*`|^[^\n|`]*\b{name}\(", text, re.MULTILINE))


def _title(text: str) -> str:
    return next(line[2:] for line in text.splitlines() if line.startswith("# ")).partition(":")[0]


def command_line() -> str:
    """The page about the commands, from the parser itself."""
    from sciflow.cli import DESCRIPTION, parser

    os.environ["COLUMNS"] = "96"
    blocks = ["# Command line", DESCRIPTION, "`sciflow COMMAND --help` says the same in a terminal."]
    blocks += _commands(parser(), 2)
    return "\n\n".join(blocks) + "\n"


def _commands(top: argparse.ArgumentParser, level: int) -> Iterator[str]:
    # argparse has no public list of its arguments.
    for action in top._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        for one in action.choices.values():
            yield f"{'#' * level} `{one.prog}` {{#{one.prog.replace(' ', '-')}}}"
            if one.description:
                yield markdown(one.description[0].upper() + one.description[1:] + ".")
            yield f"```text\n{one.format_usage().removeprefix('usage: ').strip()}\n```"
            rows = [
                (cell(f"`{_argument(a)}`"), cell(markdown(a.help or "")))
                for a in one._actions
                if not isinstance(a, argparse._SubParsersAction | argparse._HelpAction)
            ]
            if rows:
                yield table(("argument", "meaning"), rows)
            yield from _commands(one, level + 1)


def _argument(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    if action.choices:
        value = " {" + ",".join(map(str, action.choices)) + "}"
    return ", ".join(action.option_strings) + value
