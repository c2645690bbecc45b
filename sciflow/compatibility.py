"""Whether a plugin fits this sciflow: the version of the hooks that it states, and how it writes them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sciflow import hooks
from sciflow.errors import Invalid, nearest

STATEMENT = "sciflow_api"
"""The name under which the module of an entry point states what it was written for."""

_VERSION = re.compile(r"(\d+)\.(\d+)\Z")


def written(version: tuple[int, int]) -> str:
    """A version as it is stated, ``"1.0"``."""
    return f"{version[0]}.{version[1]}"


def check_stated(stated: Any, distribution: str) -> str:
    """Refuse a plugin that was written for hooks and abstractions that are not these.

    Parameters
    ----------
    stated : Any
        The value of ``sciflow_api`` in the plugin's module; None where it states nothing.
    distribution : str
        Whose plugin it is, for the advice.

    Returns
    -------
    str
        What it states; empty where it states nothing, which is not checked.

    Raises
    ------
    Invalid
        If it states another major version, a newer minor one, or what is no version.
    """
    if stated is None:
        return ""
    found = _VERSION.match(stated) if isinstance(stated, str) else None
    if found is None:
        raise Invalid(f"{STATEMENT} is {stated!r}; write it as text, {STATEMENT} = {written(hooks.API)!r}")
    major, minor = int(found[1]), int(found[2])
    if major == hooks.API[0] and minor <= hooks.API[1]:
        return str(stated)
    newer = (major, minor) > hooks.API
    advice = (
        f"install a newer sciflow, or an older {distribution}"
        if newer
        else f"install a newer {distribution}, or an older sciflow"
    )
    raise Invalid(
        f"it is written for version {stated} of sciflow's hooks, here is {written(hooks.API)}: {advice}"
    )


def read_statement(module: str) -> str | None:
    """What a module that cannot be imported states, read from its source; None if that is not to be had.

    Parameters
    ----------
    module : str
        Its name. The packages around it are imported, it is not.
    """
    try:
        spec = find_spec(module)
        if spec is None or spec.origin is None:
            return None
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    # Foreign code: whatever is wrong with it was told already, by the import that failed.
    except (Exception, SystemExit):
        return None
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(t, ast.Name) and t.id == STATEMENT for t in targets):
            value = getattr(node, "value", None)
            return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
    return None


def hook_names() -> tuple[str, ...]:
    """Names of the hooks that there are."""
    return tuple(name for name, value in vars(hooks).items() if hasattr(value, "sciflow_spec"))


def check_hooks(module: Any) -> None:
    """Refuse a module with a hook that does not exist or takes arguments that it is not given.

    Parameters
    ----------
    module : module or object
        What an entry point names.

    Raises
    ------
    Invalid
        Naming the hook, what it is called with, and the nearest name.
    """
    for name, function in _implementations(module).items():
        if name not in hook_names():
            raise Invalid(f"there is no hook {name!r}. {nearest(name, hook_names())}")
        given = tuple(inspect.signature(getattr(hooks, name)).parameters)
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise Invalid(
                    f"the hook {name} takes {parameter}; it is called with ({', '.join(given)}): name "
                    "what it uses"
                )
            if parameter.name not in given:
                raise Invalid(
                    f"the hook {name} takes {parameter.name!r}, it is called with ({', '.join(given)}). "
                    f"{nearest(parameter.name, given)} Arguments that it does not use are left out"
                )


def _implementations(module: Any) -> Mapping[str, Any]:
    """What of a module is marked as a hook, by its name."""
    found = {name: getattr(module, name, None) for name in dir(module)}
    return {name: value for name, value in found.items() if hasattr(value, "sciflow_impl")}
