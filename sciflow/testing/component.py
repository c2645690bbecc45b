"""What holds for every component: JSON there and back, wrong settings refused, nothing heavy at import."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sciflow.component import Component, canonical, check_class
from sciflow.errors import Invalid

HEAVY = ("torch", "prefect", "dolfinx", "petsc4py", "mpi4py")
"""Modules that importing a component must not load."""


def example(cls: type[Component]) -> Component:
    """A small configuration of a component: its ``example()`` where it has one, else the defaults.

    Raises
    ------
    Invalid
        If it has settings without defaults and no ``example()``.
    """
    make: Any = getattr(cls, "example", None)
    if make is None:
        unset = [
            f.name
            for f in dataclasses.fields(cls)  # type: ignore[arg-type]
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        if unset:
            raise Invalid(
                f"{cls.name} has no default for {', '.join(unset)}: give it a classmethod example() that "
                "returns a small one"
            )
        make = cls
    made: Component = make()
    return made


def check_component(component: Component) -> None:
    """Check what holds for every component.

    Parameters
    ----------
    component : Component
        Any configuration of it.

    Raises
    ------
    AssertionError
        If JSON does not round trip, a setting that does not exist or has the wrong type is accepted,
        a field can be assigned, a method takes other arguments than it is called with, or its module does
        not import by itself or imports something heavy.
    Invalid
        If the class breaks the rules of components (abstract, not frozen, badly named).
    """
    cls = type(component)
    check_class(cls)
    _check_methods(cls)
    again = cls.from_json(json.loads(canonical(component.to_json())))
    assert again == component, (
        f"{cls.name}: to_json and from_json change it to {again}; what is a setting must be a field, "
        "and what was a field must come back as it was"
    )
    assert again.digest() == component.digest(), (
        f"{cls.name}: its digest is not stable: equal settings must give equal JSON, without times or chance"
    )
    assert component.replace() == component, (
        f"{cls.name}: replace() without changes changes it; __post_init__ checks settings, it computes none"
    )
    _refused(cls, {**component.to_json(), "no_such_setting": 1}, "no_such_setting")
    hints = get_type_hints(cls)
    for field in dataclasses.fields(component):  # type: ignore[arg-type]
        if _typed(hints[field.name]):
            _refused(cls, {**component.to_json(), field.name: "no such value"}, field.name)
        try:
            setattr(component, field.name, getattr(component, field.name))
        except dataclasses.FrozenInstanceError:
            continue
        raise AssertionError(
            f"{cls.name}: {field.name!r} can be assigned; nothing of it may change: write "
            "@dataclass(frozen=True) and no __setattr__"
        )
    _light(cls)


def _check_methods(cls: type[Component]) -> None:
    """Every method that the base class leaves to it can be called with what the base class names."""
    for base in cls.__mro__:
        for name in getattr(base, "__abstractmethods__", ()):
            ours, theirs = getattr(cls, name), getattr(base, name)
            if not callable(ours) or not callable(theirs):
                continue
            asked = inspect.signature(theirs)
            given = {p.name: p for p in asked.parameters.values()}
            found = inspect.signature(ours)
            try:
                found.bind(*[n for n, p in given.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY])
            except TypeError as error:
                raise AssertionError(
                    f"{cls.name}: {name} takes ({', '.join(found.parameters)}), it is called with "
                    f"({', '.join(given)}): {error}"
                ) from None


def _typed(annotation: Any) -> bool:
    """Whether the text "no such value" is a wrong value for it."""
    if get_origin(annotation) is Literal:
        return "no such value" not in get_args(annotation)
    return annotation in (int, float, bool)


def _refused(cls: type[Component], document: Mapping[str, Any], path: str) -> None:
    try:
        cls.from_json(document)
    except Invalid as error:
        assert path in str(error), (
            f"{cls.name}: the refusal does not name {path!r}: {error}; say which setting is wrong"
        )
        return
    raise AssertionError(
        f"{cls.name} accepts a wrong {path!r}, {document[path]!r}; leave from_json to Component, and give "
        "every setting its type"
    )


def _light(cls: type[Component]) -> None:
    if cls.__module__ == "__main__":
        return
    code = f"import sys, {cls.__module__}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"{cls.__module__} does not import by itself: {done.stderr.strip()[-300:]}\n"
        "Jobs import it in a new process: install its package, or start where it lies"
    )
    loaded = done.stdout.split()
    assert not loaded, (
        f"importing {cls.__module__} loads {' '.join(loaded)}; import it inside the methods that use it: "
        "components are listed on machines that cannot load it"
    )
