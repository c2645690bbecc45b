"""From JSON to checked components, with pydantic; imported only when a configuration is read."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Mapping
from functools import cache, partial
from typing import Any, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from pydantic_core import core_schema as cs

from sciflow.component import Component, attributes
from sciflow.errors import Invalid, SciflowError, nearest

T = TypeVar("T", bound=Component)


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def build(cls: type[T], document: Mapping[str, Any]) -> T:
    """Validate `document` as a `cls`; see `Component.from_json`."""
    if not isinstance(document, Mapping):
        raise Invalid(f"{_label(cls)}: a mapping of settings was expected, got {type(document).__name__}")
    return check(cls, dict(document), _label(cls))  # type: ignore[no-any-return]


def check(annotation: Any, value: Any, label: str) -> Any:
    """Validate one value against a type annotation.

    Raises
    ------
    Invalid
        One line for every problem, each with its path below `label`.
    """
    adapter = _adapter(annotation) if isinstance(annotation, type) else TypeAdapter(annotation)
    try:
        return adapter.validate_python(value, strict=False)
    except ValidationError as error:
        raise Invalid("\n".join(_lines(error, label))) from None


def _label(cls: type) -> str:
    return getattr(cls, "name", cls.__name__.lower())


def _lines(error: ValidationError, label: str) -> list[str]:
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join([label, *(str(p) for p in item["loc"] if not _is_noise(str(p)))])
        text = item["msg"]
        if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            text = "there is no such setting"
        elif item["type"] in ("missing", "missing_argument"):
            text = "this setting is required"
        elif "input" in item and not isinstance(item["input"], Mapping) and "got " not in text:
            text = f"{text}, got {item['input']!r}"
        lines.append(f"{path}: {text.removeprefix('Value error, ')}")
    return lines


def _is_noise(part: str) -> bool:
    return part.startswith(("function-", "lax-or-strict", "is-instance", "dataclass-args"))


def core_schema(cls: type[Component], source: Any, handler: GetCoreSchemaHandler) -> cs.CoreSchema:
    """The pydantic schema of a component: an instance, or a mapping that names it.

    A concrete class accepts an instance, or its fields with an optional ``"component"`` key that
    must be its name (so that a union of components is decided by that key). An abstract class
    accepts any instance, or a mapping whose ``"component"`` key the registry looks up.
    """
    if inspect.isabstract(cls) or "__dataclass_fields__" not in cls.__dict__:
        return cs.no_info_wrap_validator_function(
            lambda value, _: _from_registry(cls, value),
            _choices(cls, handler),
            serialization=cs.plain_serializer_function_ser_schema(lambda c: c.to_json()),
        )
    inner = handler(source)
    shown: dict[str, Any] = handler.resolve_ref_schema(inner)  # type: ignore[assignment]
    shown.setdefault("metadata", {})["pydantic_js_functions"] = [partial(json_schema, cls)]

    def accept(value: Any, validate: Any) -> Any:
        if isinstance(value, cls):
            return value
        if isinstance(value, Component):
            raise ValueError(f"a {cls.name} was expected, got the {value.kind} {value.name!r}")
        if isinstance(value, Mapping):
            value = dict(value)
            named = value.pop("component", cls.name)
            if named != cls.name:
                raise ValueError(f"a {cls.name} was expected, got {named!r}")
            known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
            for key in value:
                if key not in known:
                    raise ValueError(f"{cls.name} has no setting {key!r}. {nearest(str(key), known)}")
        try:
            return validate(value)
        except SciflowError as error:
            raise ValueError(str(error)) from None

    return cs.no_info_wrap_validator_function(
        accept, inner, serialization=cs.plain_serializer_function_ser_schema(lambda c: c.to_json())
    )


def _choices(cls: type[Component], handler: GetCoreSchemaHandler) -> cs.CoreSchema:
    """Components that an abstract class stands for, as far as plugins offer them; forms show the choice."""
    from sciflow.registry import registry

    found: list[cs.CoreSchema | tuple[cs.CoreSchema, str]] = []
    for choice, _ in registry().components():
        if issubclass(choice, cls):
            # A plugin with a field that no form can show takes part in no choice.
            with contextlib.suppress(PydanticSchemaGenerationError):
                found.append(handler.generate_schema(choice))
    return cs.union_schema(found) if found else cs.any_schema()


def json_schema(cls: type[Component], schema: cs.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
    """The JSON schema of a component for forms: its name, defaults as plain JSON, described fields.

    A field that a class inherits is described where the class says nothing of it but a base does.
    """
    made: dict[str, Any] = handler(schema)
    resolved = handler.resolve_ref_schema(made)
    properties = resolved.setdefault("properties", {})
    told: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        told |= dict(attributes(inspect.getdoc(base) or "")) if "__doc__" in base.__dict__ else {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        shown = properties.get(field.name)
        if shown is None:
            continue
        if field.name in told:
            shown.setdefault("description", told[field.name])
        if isinstance(field.default, Component):
            shown["default"] = field.default.to_json()
    name = {"default": cls.name, "enum": [cls.name], "title": "Component", "type": "string"}
    resolved["properties"] = {"component": {**name, "description": "What this is."}, **properties}
    return made


def _from_registry(cls: type[Component], value: Any) -> Component:
    if isinstance(value, cls):
        return value
    if isinstance(value, Component):
        raise ValueError(f"a {cls.kind} was expected, got the {value.kind} {value.name!r}")
    if not isinstance(value, Mapping) or "component" not in value:
        raise ValueError(f'a {cls.kind} is written {{"component": "its name", ...}}, got {value!r}')
    from sciflow.registry import registry

    try:
        found = registry().find(str(value["component"]), kind=cls.kind)
        return build(found, value)
    except SciflowError as error:
        raise ValueError(str(error)) from None
