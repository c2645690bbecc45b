"""What an artifact holds: fields with named axes, a dtype and a unit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as _field
from typing import Any

from sciflow.errors import Invalid, NotFound, nearest

FORMAT = 2
"""Version of the artifact layout; a reader refuses a newer one."""

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_DTYPES = ("float64", "float32", "int64", "int32", "uint8", "bool")


@dataclass(frozen=True)
class Field:
    """One named array: its axes, unit and element type.

    Attributes
    ----------
    axes : tuple of str
        Axis names in storage order, for example ``("time", "y", "x")``. The glossary lists the
        names in use; an ensemble adds ``member`` in front by itself.
    unit : str
        Unit of the values, ``"1"`` for a dimensionless one, ``"any"`` where it is the user's.
    dtype : str
        numpy name of the element type on disk.
    description : str
        One line for a reader of the file.
    attributes : mapping of str to str or int
        Further attributes in the file, those of the CF conventions (``mesh``, ``location``).

    Raises
    ------
    Invalid
        If `dtype`, `unit` or `axes` has a value that it cannot have.
    """

    axes: tuple[str, ...]
    unit: str
    dtype: str = "float32"
    description: str = ""
    attributes: Mapping[str, Any] = _field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise Invalid(f"dtype {self.dtype!r} cannot be stored. {nearest(self.dtype, _DTYPES)}")
        if not self.unit:
            raise Invalid("a field needs a unit; write '1' where it has none, 'any' where it is free")
        for axis in self.axes:
            if not _NAME.match(axis):
                raise Invalid(f"axis name {axis!r} must match [a-z][a-z0-9_]*")

    def to_json(self) -> dict[str, Any]:
        """The field as plain JSON types."""
        return {
            "axes": list(self.axes),
            "unit": self.unit,
            "dtype": self.dtype,
            "description": self.description,
            **({"attributes": dict(self.attributes)} if self.attributes else {}),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Field:
        """Read what `to_json` wrote."""
        return cls(
            tuple(document["axes"]),
            document["unit"],
            document["dtype"],
            document.get("description", ""),
            document.get("attributes", {}),
        )


@dataclass(frozen=True)
class Schema:
    """The kind of an artifact and the fields that must be in it.

    Attributes
    ----------
    kind : str
        ``design``, ``ensemble``, ``model``, ``evaluation`` or a plugin's own word.
    fields : mapping of str to Field
        Fields that every artifact of this kind has. An artifact may hold more.

    Raises
    ------
    Invalid
        If `kind` or `fields` has a value that it cannot have.
    """

    kind: str
    fields: Mapping[str, Field] = _field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (self.kind, *self.fields):
            if not _NAME.match(name):
                raise Invalid(f"name {name!r} must match [a-z][a-z0-9_]*")

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __getitem__(self, name: str) -> Field:
        try:
            return self.fields[name]
        except KeyError:
            raise NotFound(f"no field {name!r} in this {self.kind}. {nearest(name, self.fields)}") from None

    def accepts(self, other: Schema) -> list[str]:
        """Reasons why an artifact with schema `other` cannot be used where `self` is asked for.

        Returns
        -------
        list of str
            Empty when it can be used.
        """
        if other.kind != self.kind:
            return [f"a {self.kind} was asked for, this is a {other.kind}"]
        reasons = []
        for name, wanted in self.fields.items():
            found = other.fields.get(name)
            if found is None:
                reasons.append(f"field {name!r} is missing")
                continue
            if found.axes != wanted.axes:
                reasons.append(f"field {name!r} has axes {found.axes}, asked for {wanted.axes}")
            if "any" not in (found.unit, wanted.unit) and found.unit != wanted.unit:
                reasons.append(f"field {name!r} is in {found.unit!r}, asked for {wanted.unit!r}")
        return reasons

    def to_json(self) -> dict[str, Any]:
        """The schema as plain JSON types."""
        return {"kind": self.kind, "fields": {k: f.to_json() for k, f in self.fields.items()}}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Schema:
        """Read what `to_json` wrote."""
        return cls(document["kind"], {k: Field.from_json(f) for k, f in document["fields"].items()})
