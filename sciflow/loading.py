"""From a flow file and a few words on the command line to a flow and its checked parameters."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sciflow.component import Component, plain
from sciflow.errors import Invalid, Missing, NotFound, nearest


def load_flow(text: str) -> Any:
    """The Prefect flow in a file.

    Parameters
    ----------
    text : str
        ``file.py`` where it holds one flow, else ``file.py:name``; or the name of a flow that an
        installed plugin offers.

    Raises
    ------
    NotFound
        If there is no such file or flow.
    Invalid
        If the file does not run, or holds several flows and none was named.
    """
    name = ""
    if not text.endswith(".py") and ":" in text:
        text, _, name = text.rpartition(":")
    elif not text.endswith(".py") and not Path(text).exists():
        return _offered(text)
    flows = flows_in(Path(text))
    if name:
        if name not in flows:
            raise NotFound(f"{text} has no flow {name!r}. {nearest(name, flows)}")
        return flows[name]
    if len(flows) != 1:
        raise Invalid(f"{text} holds {len(flows)} flows ({', '.join(flows)}): write {text}:name")
    return next(iter(flows.values()))


def plugin_flows() -> list[tuple[str, Path]]:
    """Files with flows that installed plugins offer, each with the label of its plugin.

    A plugin whose hook fails, or names a file that is not there, is logged and left out.
    """
    import logging

    from sciflow.registry import registry

    found, manager = [], registry().manager
    for plugin in registry().plugins:
        module = manager.get_plugin(f"{plugin.distribution}:{plugin.name}")
        offer = getattr(module, "sciflow_flows", None)
        if plugin.error or offer is None:
            continue
        try:
            files = [Path(file).resolve() for file in offer()]
            absent = [str(file) for file in files if not file.is_file()]
            if absent:
                raise NotFound(f"sciflow_flows() names {', '.join(absent)}, which is not there")
            for file in files:
                flows_in(file)
        # A plugin is foreign code; the flows of the others are offered all the same.
        except Exception as error:
            logging.getLogger("sciflow").warning("the flows of %s are left out: %s", plugin.label, error)
            continue
        found += [(plugin.label, file) for file in files]
    return found


def _offered(name: str) -> Any:
    """The flow of this name that an installed plugin offers."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for label, file in plugin_flows():
        for key, flow in flows_in(file).items():
            found.setdefault(key, []).append((label, flow))
    if name not in found:
        files = [str(p) for p in Path("flows").glob("*.py")]
        raise NotFound(f"no flow file and no plugin's flow {name!r}. {nearest(name, [*found, *files])}")
    if len(found[name]) > 1:
        labels = ", ".join(label for label, _ in found[name])
        raise Invalid(f"several plugins offer a flow {name!r} ({labels}): name its file")
    return found[name][0][1]


def check_file(path: Path) -> None:
    """Refuse a file that is not there, before anything is started for it.

    Raises
    ------
    NotFound
        With the nearest of the files beside it.
    """
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise NotFound(f"{path}: no such file. {nearest(path.name, near)}")


def flows_in(path: Path) -> dict[str, Any]:
    """Every flow that a file defines, by name; runs the file.

    Raises
    ------
    NotFound
        If there is no such file, or no flow in it.
    Missing, Invalid
        If it does not import.
    """
    check_file(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise Missing(f"{path} does not import: {error}") from error
    # The file is the user's own code; its error is shown with its type.
    except Exception as error:
        raise Invalid(f"{path} does not run: {type(error).__name__}: {error}") from error
    from prefect import Flow

    flows = {k: v for k, v in vars(module).items() if isinstance(v, Flow) and v.fn.__module__ == path.stem}
    if not flows:
        raise NotFound(f"{path} defines no Prefect flow (an async function under @flow)")
    return flows


def parameters_of(function: Callable[..., Any], settings: Sequence[str], file: str | None) -> dict[str, Any]:
    """The parameters of a flow: its defaults, then a file, then single settings; all checked.

    Parameters
    ----------
    function : callable
        The flow's function.
    settings : sequence of str
        ``name=value`` or ``name.field=value``; the value is JSON where it parses as such.
    file : str or None
        A JSON, TOML or YAML file.

    Raises
    ------
    Invalid
        With the path of everything that is unknown or does not fit.
    NotFound
        If the file does not exist.
    """
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function, include_extras=True)
    values: dict[str, Any] = _read(Path(file)) if file else {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise Invalid(f"--set {setting}: write NAME=VALUE")
        _set(values, path.strip().split("."), _value(text), setting)
    for name in values:
        if name not in signature.parameters:
            raise Invalid(f"the flow has no parameter {name!r}. {nearest(name, signature.parameters)}")
    result, problems = {}, []
    for name, parameter in signature.parameters.items():
        try:
            result[name] = _one(name, parameter.default, values, hints.get(name, Any))
        except Invalid as error:
            problems.append(str(error))
    if problems:
        raise Invalid("\n".join(problems))
    return result


def _one(name: str, default: Any, values: dict[str, Any], hint: Any) -> Any:
    """One checked parameter: its default, changed where the user said so."""
    from sciflow.validation import check

    if name not in values:
        if default is inspect.Parameter.empty:
            raise Invalid(f"{name}: this parameter is required; set it with --set {name}=...")
        return default
    value = values[name]
    if isinstance(value, dict) and isinstance(default, Component):
        value = _merge(plain(default), value)
    return check(hint, value, name)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _set(values: dict[str, Any], path: list[str], value: Any, setting: str) -> None:
    for key in path[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise Invalid(f"--set {setting}: {key!r} was given a plain value before")
    values[path[-1]] = value


def _merge(base: Any, change: Any) -> Any:
    if (
        isinstance(base, dict)
        and isinstance(change, dict)
        and change.get("component") in (None, base.get("component"))
    ):
        return {**base, **{k: _merge(base.get(k), v) for k, v in change.items()}}
    return change


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFound(f"{path}: no such parameter file")
    text = path.read_text()
    try:
        if path.suffix == ".toml":
            import tomllib

            document: Any = tomllib.loads(text)
        elif path.suffix in (".yaml", ".yml"):
            import yaml  # type: ignore[import-untyped]

            document = yaml.safe_load(text)
        else:
            document = json.loads(text)
    # Each parser has an error class of its own.
    except Exception as error:
        raise Invalid(f"{path}: {error}") from None
    if not isinstance(document, dict):
        raise Invalid(f"{path}: a mapping of parameters was expected, got {type(document).__name__}")
    return document
