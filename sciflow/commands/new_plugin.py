"""``sciflow new-plugin``: a package with one component that passes its conformance checks at once."""

from __future__ import annotations

import argparse
import keyword
import re
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent.parent / "templates"
"""A folder for each kind of component, with a module and its test, and ``common`` for what all have.

The modules are code of this package like any other, checked as such; three words in them stand for the names
of what is made: see `words`."""

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\Z")


def kinds() -> tuple[str, ...]:
    """Kinds of components that there is a template of."""
    return ("problem", "surrogate", "controller", "stage", "step_controller", "linear_solver")


def add(commands: Any) -> None:
    """Add the command to the command line."""
    text = "start a package with a component of your own"
    one = commands.add_parser("new-plugin", help=text, description=text)
    one.add_argument("name", metavar="NAME", help="of the package, as my-wave; its component is my_wave")
    one.add_argument("--kind", choices=kinds(), default="problem", help="of the component (default: problem)")
    one.add_argument("--into", metavar="DIR", default=".", help="where its folder is made (default: here)")


def main(options: argparse.Namespace) -> int:
    """Make the package and say what to type next."""
    folder = make(options.name, options.kind, Path(options.into))
    module = module_name(options.name)
    print(f"{folder}: a {options.kind.replace('_', ' ')} that works; make it yours in {module}.py\n")
    width = max(len(command) for command, _ in steps(folder, module))
    for command, what in steps(folder, module):
        print(f"    {command:<{width}}   {what}")
    return 0


def steps(folder: Path, module: str) -> list[tuple[str, str]]:
    """Commands to type next, and what each does."""
    return [
        (f"pip install -e {folder}", "what you edit is what runs"),
        (f"sciflow check {module}", "the conformance checks"),
        (f"python -m pytest {folder}", "the same and what only your component can be held to"),
    ]


def module_name(name: str) -> str:
    """The module, and component, of a package: ``my_wave`` for ``My-Wave``."""
    return re.sub(r"[-_.]+", "_", name).lower()


def words(name: str) -> dict[str, str]:
    """What stands in the templates, and what is written in its place."""
    module = module_name(name)
    return {
        "template-name": re.sub(r"[-_.]+", "-", name).lower(),
        "template_name": module,
        "TemplateName": "".join(part.capitalize() for part in module.split("_")),
    }


def make(name: str, kind: str, into: Path) -> Path:
    """Write a package with one component.

    Parameters
    ----------
    name : str
        Of the package, as PEP 508 has it.
    kind : str
        Of the component, one of `kinds`.
    into : Path
        The directory in which its folder is made.

    Returns
    -------
    Path
        The folder. It is there whole or, after an error, not at all.

    Raises
    ------
    Invalid
        If the name is no name of a package, or taken by a module or a component.
    NotFound
        If there is no such directory or kind.
    Failed
        If the folder cannot be written.
    """
    from sciflow.errors import Failed, NotFound, nearest

    if kind not in kinds():
        raise NotFound(f"there is no template of a {kind!r}. {nearest(kind, kinds())}")
    check_name(name)
    if not into.is_dir():
        raise NotFound(f"there is no directory {into}: make it, or name another with --into")
    folder = into / name
    _check_free(folder, kind, name)
    try:
        with tempfile.TemporaryDirectory(prefix=".new-plugin-", dir=into) as made:
            whole = Path(made) / name
            whole.mkdir()
            for file, text in files(name, kind):
                (whole / file).write_text(text, encoding="utf-8")
            whole.rename(folder)
    except OSError as error:
        raise Failed(
            f"{folder} cannot be written: {error.strerror or error}; name another place with --into"
        ) from None
    return folder


def files(name: str, kind: str) -> Iterator[tuple[str, str]]:
    """Names and texts of the files of a package."""
    spoken = words(name)
    module = spoken["template_name"]
    places = {
        "pyproject.toml": "common/pyproject.toml",
        "README.md": "common/README.md",
        ".gitignore": "common/gitignore",
        f"{module}.py": f"{kind}/template_name.py",
        f"test_{module}.py": f"{kind}/check_template_name.py",
    }
    for file, place in places.items():
        text = (TEMPLATES / place).read_text(encoding="utf-8")
        # The module lies beside its test there, and inside of sciflow here.
        text = text.replace(f"sciflow.templates.{kind}.template_name", "template_name")
        text = text.replace("template-kind", kind.replace("_", " "))
        for word, said in spoken.items():
            text = text.replace(word, said)
        yield file, text


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a package with a module and a component of the same name.

    Raises
    ------
    Invalid
        Saying what is wrong, and with what it would be right.
    """
    import sciflow
    from sciflow.errors import Invalid

    if not _NAME.match(name):
        raise Invalid(
            f"{name!r} cannot be the name of a package: letters, digits, '-', '_' and '.' are, with a "
            "letter or digit at both ends, as in my-wave"
        )
    module = module_name(name)
    if not module.isidentifier() or keyword.iskeyword(module) or keyword.issoftkeyword(module):
        raise Invalid(
            f"{name!r} makes the module {module!r}, which Python cannot import; begin with a letter, as in "
            f"my-{name}, and take no word of the language"
        )
    if not module.isascii() or not module[0].isalpha():
        raise Invalid(
            f"{name!r} makes the component {module!r}; its name begins with a letter, as in my_{module}"
        )
    known = words(name)["TemplateName"]
    if known in sciflow.__all__:
        raise Invalid(
            f"{name!r} makes the class {known}, which sciflow has itself; take another, as in my-{name}"
        )
    if module in sys.stdlib_module_names:
        raise Invalid(
            f"{name!r} makes the module {module!r}, which Python has itself; take another, as in my-{name}"
        )


def _check_free(folder: Path, kind: str, name: str) -> None:
    """Refuse a folder, a component or a module that is there already."""
    from sciflow.errors import Invalid
    from sciflow.registry import registry

    if folder.exists() or folder.is_symlink():
        raise Invalid(f"{folder} is there already; take another name, or name another place with --into")
    module = module_name(name)
    found = registry()
    for cls, plugin in found.components():
        if cls.name == module:
            raise Invalid(
                f"there is a {cls.kind.replace('_', ' ')} {module!r} already, of {plugin.label} "
                f"({cls.__module__}); take another name, as in my-{name}"
            )
    if find_spec(module) is not None:
        raise Invalid(
            f"there is a module {module!r} already, which {kind} {name!r} would hide; take another name"
        )
