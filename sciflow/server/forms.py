"""Forms: the parameter schema of a flow as the Prefect UI shows it best."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sciflow.component import SECTION, Component, attributes, plain
from sciflow.errors import Invalid

_GENERATED = re.compile(r"[a-z]+\d+|[A-Za-z0-9]+(-[A-Za-z0-9]+){1,3}")
"""What Prefect and its pages make up: ``brave-otter``, ``theta234-cestus``, ``nu6``, ``Handmade-Kiwi``."""
LONGEST = 80
"""Characters of a run's name."""


def form(schema: Mapping[str, Any], flow: str, defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A schema with a description at every field, and choices that both of Prefect's UIs can show.

    Parameters
    ----------
    schema : mapping
        JSON schema of the parameters; each definition has the docstring of its class.
    flow : str
        Its name, for the error.
    defaults : mapping, optional
        Of the parameters; components among them are shown with their names.

    Raises
    ------
    Invalid
        If a parameter has no type: its field would be a box for JSON.
    """
    better: dict[str, Any] = _any_of(dict(schema))
    for definition in better.get("definitions", {}).values():
        text = str(definition.get("description", ""))
        told = dict(attributes(text))
        for name, field in definition.get("properties", {}).items():
            if name in told:
                field.setdefault("description", told[name])
        definition["description"] = SECTION.split(text)[0].strip()
    for name, field in better.get("properties", {}).items():
        if not {"type", "$ref", "anyOf", "allOf", "enum", "const"} & set(field):
            raise Invalid(
                f"flow {flow!r}: the parameter {name!r} has no type that a form can show; annotate it with "
                "int, float, str, bool, Literal[...], a component class, or a union of those"
            )
        if isinstance((usual := (defaults or {}).get(name)), Component):
            field["default"] = usual.to_json()
    return better


def _any_of(value: Any) -> Any:
    """``oneOf`` is shown as a box for JSON, ``anyOf`` as a choice."""
    if isinstance(value, Mapping):
        found = {("anyOf" if k == "oneOf" else k): _any_of(v) for k, v in value.items()}
        # It belongs to oneOf, and is read by nobody else.
        return {k: v for k, v in found.items() if k != "discriminator"}
    return [_any_of(v) for v in value] if isinstance(value, list) else value


def run_name(flow: str, parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """A name by which a person recognises a run: the flow, and what is not as usual.

    Parameters
    ----------
    flow : str
        Its name.
    parameters, defaults : mapping
        Plain JSON.
    """
    changes = list(_changes(parameters, defaults, ""))
    text = f"{flow} {', '.join(changes)}" if changes else f"{flow}, defaults"
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _changes(new: Mapping[str, Any], old: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in new.items():
        usual = old.get(name)
        if value == usual or name == "component":
            continue
        if isinstance(value, Mapping) and isinstance(usual, Mapping):
            if value.get("component") != usual.get("component"):
                yield f"{prefix}{name} {value.get('component')}"
            yield from _changes(value, usual, f"{prefix}{name}.")
        elif isinstance(value, float | int | str | bool):
            yield f"{prefix}{name}={value:g}" if isinstance(value, float) else f"{prefix}{name}={value}"
        elif isinstance(value, Mapping) and "component" in value:
            yield f"{prefix}{name} {value['component']}"
        else:
            yield f"{prefix}{name}"


def generated(name: str) -> bool:
    """Whether Prefect made up this name of a run."""
    return bool(_GENERATED.fullmatch(name))


def defaults_of(function: Any) -> dict[str, Any]:
    """Plain JSON of a flow's default parameters."""
    import inspect

    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            found[name] = plain(parameter.default)
    return found
