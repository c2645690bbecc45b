"""Component: a frozen dataclass whose fields are its whole configuration."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import re
from abc import ABC
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from sciflow.errors import Invalid

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
SECTION = re.compile(r"^(\w[\w ]*)\n-+\n", re.MULTILINE)
"""Heading of a section of a numpydoc text."""
_ENTRY = re.compile(r"^(\w[\w, ]*?) : .*$", re.MULTILINE)


def canonical(document: Any) -> bytes:
    """JSON with sorted keys and no spaces, the text that digests are taken of.

    Raises
    ------
    Invalid
        If `document` holds NaN, an infinity or something that is not JSON.
    """
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Invalid(f"not plain JSON: {error}") from None
    return text.encode()


def digest_of(document: Any) -> str:
    """Hexadecimal SHA-256 of `canonical(document)`."""
    return hashlib.sha256(canonical(document)).hexdigest()


class Component(ABC):
    """Something with a name and a configuration that can be replaced by another package.

    A component is a frozen dataclass. Its fields are its configuration, its identity, the payload
    of the jobs that run it and the form that the Prefect UI shows. Its module imports nothing
    heavy: the methods import what they need.

    Attributes
    ----------
    name : str
        The name users write, ``[a-z][a-z0-9_]*``.
    kind : str
        ``stage``, ``problem``, ``surrogate``, ``controller`` or ``executor``; set by the base class.
    requires : tuple of str
        Importable modules that must be there to run it, shown by ``sciflow plugins``.
    revision : int
        Raise it when the same configuration gives a different result.
    """

    name: ClassVar[str]
    kind: ClassVar[str] = "component"
    requires: ClassVar[tuple[str, ...]] = ()
    revision: ClassVar[int] = 1
    # pydantic reads this where a configuration comes from JSON: a misspelt field is an error.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "arbitrary_types_allowed": True}

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON types, with the component's name.

        Returns
        -------
        dict
            ``{"component": name, field: value, ...}``, nested components likewise.
        """
        values = {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {"component": self.name, **values}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Build the component from JSON, checking every name, type and bound.

        Parameters
        ----------
        document : mapping
            What `to_json` returns; fields left out take their defaults. On an abstract class the
            key ``"component"`` names the component and the registry finds its class.

        Raises
        ------
        Invalid
            With the path of every wrong, unknown or missing field.
        NotFound
            If the component's name is not registered.
        """
        from sciflow import validation

        return validation.build(cls, document)

    def digest(self) -> str:
        """SHA-256 of the configuration and the component's revision."""
        return digest_of({"revision": self.revision, "config": self.to_json()})

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked like a new one."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from sciflow import validation

        return validation.core_schema(cls, source, handler)


def plain(value: Any) -> Any:
    """Components, dataclasses, mappings and sequences as plain JSON types.

    Raises
    ------
    Invalid
        If something else is among them.
    """
    if isinstance(value, Component):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise Invalid(f"{type(value).__name__} cannot be part of a configuration: {value!r}")


@cache
def _choices(cls: type) -> dict[str, tuple[Any, ...]]:
    try:
        hints = get_type_hints(cls)
    # A type that only a type checker imports.
    except NameError:
        return {}
    names = [f.name for f in dataclasses.fields(cls)]
    return {name: get_args(hints[name]) for name in names if get_origin(hints[name]) is Literal}


def check_choices(component: Component) -> None:
    """Refuse a setting that is none of those its ``Literal`` names.

    What comes from JSON is checked anyway; this is for what a Python program passes.

    Raises
    ------
    Invalid
        Naming the setting and the choices.
    """
    for name, choices in _choices(type(component)).items():
        value = getattr(component, name)
        if value not in choices:
            known = ", ".join(map(str, choices))
            raise Invalid(f"{component.name}: {name} {value!r} is not one of {known}")


@cache
def _parts(cls: type[Component]) -> tuple[tuple[str, tuple[type[Component], ...], bool], ...]:
    """Fields that hold a component: their names, which ones, and whether None is one of them."""
    try:
        hints = get_type_hints(cls)
    # A type that only a type checker imports.
    except NameError:
        return ()
    found = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        named = get_args(hints[field.name]) or (hints[field.name],)
        some = tuple(t for t in named if isinstance(t, type) and issubclass(t, Component))
        if some and all(t in some or t is type(None) for t in named):
            found.append((field.name, some, type(None) in named))
    return tuple(found)


def check_parts(component: Component) -> None:
    """Refuse a setting that should be a component and is none, or one of another kind.

    What comes from JSON is checked anyway; this is for what a Python program passes.

    Raises
    ------
    Invalid
        Naming the setting, and what belongs there.
    """
    for name, classes, optional in _parts(type(component)):
        value = getattr(component, name)
        if not isinstance(value, classes) and not (optional and value is None):
            kinds = " or ".join(sorted({cls.kind.replace("_", " ") for cls in classes}))
            raise Invalid(f"{component.name}: {name} is a component of the kind {kinds}, got {value!r}")


def check_class(cls: type[Component]) -> None:
    """Refuse a class that breaks the rules of components.

    Raises
    ------
    Invalid
        If it is abstract, not a frozen dataclass, badly named or takes ``**kwargs``.
    """
    label = f"{cls.__module__}.{cls.__qualname__}"
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise Invalid(f"{label} does not define: {missing}")
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not _NAME.match(name):
        raise Invalid(f"{label} needs a class attribute name matching [a-z][a-z0-9_]*, has {name!r}")
    params = getattr(cls, "__dataclass_params__", None)
    if "__dataclass_fields__" not in cls.__dict__ or params is None or not params.frozen:
        raise Invalid(f"{label} must be decorated with @dataclass(frozen=True)")
    kinds = (p.kind for p in inspect.signature(cls.__init__).parameters.values())
    if inspect.Parameter.VAR_KEYWORD in kinds:
        raise Invalid(f"{label} takes **kwargs; every setting must be a field")


@cache
def code_digest(package: str) -> str:
    """SHA-256 over the Python source of a package, found without importing it.

    Parameters
    ----------
    package : str
        Top-level name, for example ``"sciflow_fenics"``.

    Returns
    -------
    str
        Hexadecimal digest over the sorted relative paths and the bytes of every ``.py`` file;
        of the name alone where no source is found (an interactive session).
    """
    from importlib.util import find_spec
    from pathlib import Path

    total = hashlib.sha256(package.encode())
    spec = find_spec(package) if package != "__main__" else None
    if spec is None or spec.origin is None:
        return total.hexdigest()
    origin = Path(spec.origin)
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    for file in files:
        total.update(str(file.relative_to(origin.parent)).encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def attributes(docstring: str) -> Iterator[tuple[str, str]]:
    """Names and descriptions in the section ``Attributes`` or ``Parameters`` of a numpydoc text."""
    parts = SECTION.split(docstring)
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        if title not in ("Attributes", "Parameters"):
            continue
        entries = list(_ENTRY.finditer(body))
        ends = [e.start() for e in entries[1:]] + [len(body)]
        for entry, end in zip(entries, ends, strict=True):
            text = " ".join(body[entry.end() : end].split()).replace("``", "").replace("`", "")
            for name in entry[1].split(","):
                yield name.strip(), text
