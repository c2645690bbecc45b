"""Plain HDF5: datasets whose first axis is the member."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.errors import Invalid, nearest
from sciflow.formats.ensemble import Ensemble, dataset, h5
from sciflow.formats.labels import word
from sciflow.schema import Field

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".h5", ".hdf5", ".hdf")
COORDINATES = ("time", "t", "x", "y", "z")
_ALIAS = {"t": "time"}
TABLES = ("parameters", "inputs")
"""Datasets of shape (member, parameter) that hold all parameters."""
_HOW = "say which: an attribute 'axes' of the dataset, as ['member', 'time', 'dof'], or a file {note}"


@dataclass
class Plan:
    """What the datasets of a file are.

    Attributes
    ----------
    axes : dict
        Of each field, with ``member``, by the path of the dataset; empty where they are to be guessed.
    coordinates : dict
        Path of the dataset, by axis.
    parameters : dict
        Path and column (None for a dataset with one axis), by name.
    names : dict
        What each field is called, by path.
    units : dict
        Given in the note, by path.
    """

    axes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    coordinates: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)


def recognise(path: Path) -> bool:
    """Whether this is an HDF5 file by its name; others that are HDF5 too are asked first."""
    return path.is_file() and path.suffix.lower() in SUFFIXES


def beside(path: Path) -> list[Path]:
    """The note, where there is one: it decides what the content means."""
    note = path.with_suffix(".json")
    return [note] if note.is_file() else []


def read(path: Path) -> Ensemble:
    """Open for import.

    With a note (the same name, ``.json``) what it lists is imported:
    ``{"fields": {name: {"dataset": ..., "axes": [...], "unit": ...}}, "parameters": {name: {"dataset": ...,
    "column": ..., "unit": ...}}, "coordinates": {axis: {"dataset": ..., "unit": ...}}}``. Without one,
    datasets of two and more axes are fields, those of shape (member,) parameters, ``time`` or ``t``, ``x``,
    ``y``, ``z`` and dimension scales coordinates. Axes are those of the attribute ``axes`` or of the
    dimension labels; else an axis has the name of the one coordinate of its length, and a last one left
    over is ``dof``.

    Raises
    ------
    Invalid
        If it cannot be told which axis is which, or lengths do not fit together.
    """
    from sciflow.formats.numpy_files import stored

    file = h5(path, "r")
    try:
        note = beside(path)
        plan = _noted(note[0], file) if note else _planned(file, path)
        count = _count(file, plan, path)
        lines = {a: dataset(file, p)[...].astype(float) for a, p in plan.coordinates.items()}
        for name, axes in list(plan.axes.items()):
            plan.axes[name] = axes or _guessed(file, name, lines, path)
        units = {a: _unit(file[p], plan.units.get(p)) for a, p in plan.coordinates.items()}
        sizes = _sizes(file, plan, lines, path)
        fields, turns = {}, {}
        for where, axes in plan.axes.items():
            inner = axes[1:]
            first = tuple(sorted(range(len(inner)), key=lambda i, inner=inner: inner[i] != "time"))  # type: ignore[misc]
            found = dataset(file, where)
            name = plan.names[where]
            unit = _unit(found, plan.units.get(where))
            fields[name] = Field(tuple(inner[i] for i in first), unit, stored(found.dtype), where)
            turns[name] = (where, first)
    except BaseException:
        file.close()
        raise

    def values(name: str, number: int) -> np.ndarray:
        where, turn = turns[name]
        one: np.ndarray = file[where][number].transpose(turn)
        return one

    used = {a: sizes[a] for f in fields.values() for a in f.axes}
    return Ensemble(
        path.stem, fields, used, {a: units.get(a, "1") for a in used},
        _parameters(file, plan, count), count, values, close=file.close,
    )  # fmt: skip


def _planned(file: Any, path: Path) -> Plan:
    """From names, attributes and shapes."""
    import h5py

    from sciflow.formats.labels import identifiers

    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim and item.dtype.kind in "fiub":
            found[name] = dataset(file, name)

    file.visititems(visit)
    plan = Plan(names=identifiers(found, path))
    tables = [n for n in found if n.rpartition("/")[2] in TABLES and found[n].ndim == 2]
    for name, item in found.items():
        last = name.rpartition("/")[2]
        if item.ndim == 1 and (item.is_scale or last in COORDINATES):
            plan.coordinates[_axis(item, last)] = name
        elif name in tables:
            labels = [word(v) for v in item.attrs.get("names", ())] or [f"p{i}" for i in range(item.shape[1])]
            if len(labels) != item.shape[1]:
                raise Invalid(f"{path}, {name}: {len(labels)} names for {item.shape[1]} columns")
            called = identifiers(labels, f"{path}, {name}")
            plan.parameters |= {called[v]: (name, i) for i, v in enumerate(labels)}
        elif item.ndim == 1:
            plan.parameters[plan.names[name]] = (name, None)
        else:
            plan.axes[name] = _labelled(item, path)
    return plan


def _axis(item: Any, last: str) -> str:
    from sciflow.formats.labels import identifier

    name = identifier(last, item.file.filename)
    return _ALIAS.get(name, name)


def _labelled(item: Any, path: Path) -> tuple[str, ...]:
    """Axes by attribute, or dimension labels or scales; empty where there are none."""
    given = item.attrs.get("axes")
    if given is not None:
        words = [word(v) for v in ([given] if isinstance(given, str | bytes) else given)]
        axes = tuple(words[0].replace(",", " ").split() if len(words) == 1 else words)
    else:
        labels = [d.label or (d[0].name.rpartition("/")[2] if len(d) else "") for d in item.dims]
        axes = tuple(labels) if any(labels[1:]) else ()
        if axes and not all(axes[1:]):
            raise Invalid(f"{path}, {item.name}: only some dimensions are labelled: {list(axes)}")
        axes = ("member", *axes[1:]) if axes else ()
    return _checked(tuple(_ALIAS.get(a, a) for a in axes), item, path)


def _checked(axes: tuple[str, ...], item: Any, path: Path) -> tuple[str, ...]:
    if axes and (len(axes) != item.ndim or axes[0] != "member" or len(set(axes)) != len(axes)):
        raise Invalid(
            f"{path}, {item.name}: axes {list(axes)} for the shape {item.shape}; each needs one name, "
            "'member' first, none twice"
        )
    return axes


def _noted(note: Path, file: Any) -> Plan:
    """From the note beside the file."""
    from sciflow.formats.labels import identifier

    plan = Plan()
    try:
        document = json.loads(note.read_bytes())
        unknown = sorted(set(document) - {"fields", "parameters", "coordinates"})
        if unknown:
            raise Invalid(f"{note}: {nearest(unknown[0], ('fields', 'parameters', 'coordinates'))}")
        for name, entry in document["fields"].items():
            if identifier(name, note) != name:
                raise Invalid(f"{note}: the field {name!r} must be called like {identifier(name, note)!r}")
            where = str(entry.get("dataset", name))
            plan.names[where], plan.units[where] = name, entry.get("unit", "")
            item = dataset(file, where)
            plan.axes[where] = _checked(tuple(entry.get("axes", ())), item, note) or _labelled(item, note)
        for name, entry in document.get("parameters", {}).items():
            where = str(entry.get("dataset", name))
            plan.parameters[name] = (where, entry.get("column"))
            plan.units[f"{where}:{name}"] = entry.get("unit", "")
            dataset(file, where)
        for axis, entry in document.get("coordinates", {}).items():
            where = str(entry.get("dataset", axis))
            plan.coordinates[axis], plan.units[where] = where, entry.get("unit", "")
            dataset(file, where)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, Invalid):
            raise
        raise Invalid(f"{note}: {error!r}") from None
    return plan


def _count(file: Any, plan: Plan, path: Path) -> int:
    """Number of members: all fields and parameters agree on it."""
    lengths = {n: file[n].shape[0] for n in (*plan.axes, *(p for p, _ in plan.parameters.values()))}
    if not plan.axes:
        raise Invalid(
            f"{path}: there are no fields, that is datasets with a member axis and others behind it"
        )
    fields = {lengths[n] for n in plan.axes}
    if len(fields) != 1:
        shown = ", ".join(f"{n} {file[n].shape}" for n in plan.axes)
        raise Invalid(
            f"{path}: the first axis must be the member, but lengths differ: {shown}. Leave out what is no "
            f"field with a file {path.with_suffix('.json').name} that lists the fields"
        )
    count = fields.pop()
    for name, length in lengths.items():
        if length != count:
            raise Invalid(
                f"{path}, {name}: {length} values, but there are {count} members; it is neither a parameter "
                f"nor one of the coordinates {', '.join(COORDINATES)}. "
                + _HOW.format(note=path.with_suffix(".json").name)
            )
    return int(count)


def _guessed(file: Any, name: str, lines: Mapping[str, np.ndarray], path: Path) -> tuple[str, ...]:
    """Axes by the lengths of coordinates; one that is left over at the end is ``dof``."""
    shape = file[name].shape
    axes: list[str] = []
    for place, size in enumerate(shape[1:], 1):
        fitting = [a for a, line in lines.items() if len(line) == size]
        if not fitting and place == len(shape) - 1:
            fitting = ["dof"]
        if len(fitting) != 1 or fitting[0] in axes:
            words = (
                f"axis {place} may be any of {fitting}" if fitting else f"axis {place} is no known coordinate"
            )
            raise Invalid(
                f"{path}, {name}: shape {shape}, and {words}; "
                + _HOW.format(note=path.with_suffix(".json").name)
            )
        axes.append(fitting[0])
    return ("member", *axes)


def _sizes(file: Any, plan: Plan, lines: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Coordinates of all axes; numbers from 0 where none are given."""
    import numpy as np

    found = dict(lines)
    for name, axes in plan.axes.items():
        for axis, size in zip(axes[1:], file[name].shape[1:], strict=True):
            line = found.setdefault(axis, np.arange(float(size)))
            if line.ndim != 1 or len(line) != size:
                raise Invalid(
                    f"{path}, {name}: {size} points along {axis!r}, but "
                    + (
                        f"its coordinates have shape {line.shape}"
                        if axis in lines
                        else f"{len(line)} elsewhere"
                    )
                    + ". Axes of different lengths need different names: "
                    + _HOW.format(note=path.with_suffix(".json").name)
                )
    return found


def _unit(item: Any, given: str | None) -> str:
    return given or word(item.attrs.get("units", item.attrs.get("unit", ""))) or "any"


def _parameters(file: Any, plan: Plan, count: int) -> dict[str, tuple[str, np.ndarray]]:
    import numpy as np

    found = {}
    for name, (where, column) in plan.parameters.items():
        item = dataset(file, where)
        values = np.asarray(item[...] if column is None else item[:, column], dtype=float)
        if values.shape != (count,):
            raise Invalid(
                f"{file.filename}, {where}: shape {item.shape}, but the parameter {name!r} needs one number "
                f"for each of {count} members; name a 'column'"
            )
        found[name] = (_unit(item, plan.units.get(f"{where}:{name}")), values)
    return found
