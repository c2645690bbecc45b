"""``sciflow plugins`` and ``sciflow check``: what is installed, and whether it holds to the rules."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any


def add(commands: Any) -> None:
    """Add the commands to the command line."""
    text = "list components: what each needs, what is missing, what is broken"
    plugins = commands.add_parser("plugins", help=text, description=text)
    plugins.add_argument("--json", action="store_true", help="as JSON")
    text = "make every conformance check that fits a component"
    one = commands.add_parser("check", help=text, description=text)
    one.add_argument("component", metavar="NAME", help="as sciflow plugins lists it")
    one.add_argument("--kind", help="needed only where two kinds share the name")


def main(options: argparse.Namespace) -> int:
    """Run one of the commands."""
    return _check(options) if options.command == "check" else _list(options)


def _list(options: argparse.Namespace) -> int:
    from sciflow.compatibility import written
    from sciflow.hooks import API
    from sciflow.registry import missing, registry
    from sciflow.terminal import painted, table

    found = registry()
    rows = []
    for cls, plugin in found.components():
        absent = missing(cls)
        rows.append((cls.name, cls.kind, plugin.label, f"needs {', '.join(absent)}" if absent else "ready"))
    broken = [p for p in found.plugins if p.error]
    if options.json:
        keys = ("name", "kind", "distribution", "state")
        document = {
            "components": [dict(zip(keys, row, strict=True)) for row in rows],
            "broken": [{"plugin": p.name, "distribution": p.label, "error": p.error} for p in broken],
            "plugins": [
                {"plugin": p.name, "distribution": p.label, "hooks": p.api or None}
                for p in found.plugins
                if not p.error
            ],
            "hooks": written(API),
        }
        print(json.dumps(document, indent=2))
        return 0
    marks = {"ready": "good", "needs": "odd"}
    print(table(("name", "kind", "distribution", "state"), rows, marks=marks))
    print(f"\nplugins, and the version of the hooks that each was written for (here is {written(API)}):")
    whole = [(p.name, p.label, p.api or "not stated") for p in found.plugins if not p.error]
    print(table(("plugin", "distribution", "hooks"), whole))
    for plugin in broken:
        head = painted([("broken:", "bad")], sys.stdout)
        print(f"\n{head} {plugin.name} of {plugin.label} ({plugin.module})\n  {plugin.error}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from sciflow.errors import Failed
    from sciflow.registry import registry
    from sciflow.testing import check, example

    found = registry()
    cls = found.find(options.component, kind=options.kind)
    try:
        made = check(example(cls))
    except AssertionError as error:
        raise Failed(
            f"{cls.kind} {cls.name} of {found.origin(cls).label} breaks a rule:\n  {error}"
        ) from None
    print(f"{cls.kind} {cls.name} of {found.origin(cls).label}: {', '.join(made)}: all hold")
    return 0
