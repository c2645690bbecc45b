"""A directory of ``.npy`` files and ``ensemble.json``; also lone ``.npy`` and ``.npz`` files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sciflow.errors import Invalid
from sciflow.formats.ensemble import Ensemble
from sciflow.schema import Field

NOTE = "ensemble.json"


def write(ensemble: Ensemble, aside: Path, target: Path) -> None:
    """Write one file for each field, coordinate and parameter; fields are memory-mapped files."""
    import numpy as np
    from numpy.lib.format import open_memmap

    aside.mkdir()
    for name, field in ensemble.fields.items():
        shape = (ensemble.count, *ensemble.shape(name))
        out = open_memmap(  # type: ignore[no-untyped-call]
            aside / f"{name}.npy", "w+", np.dtype(field.dtype), shape
        )
        for number in range(ensemble.count):
            values = ensemble.read(name, number)
            out[number] = np.nan if field.dtype.startswith("float") else 0
            out[(number, slice(0, len(values))) if values.ndim else number] = values
        out.flush()
    for axis, values in ensemble.coordinates.items():
        np.save(aside / f"axis_{axis}.npy", values, allow_pickle=False)
    for name, (_, values) in ensemble.parameters.items():
        np.save(aside / f"parameter_{name}.npy", values, allow_pickle=False)
    if ensemble.times is not None:
        times = np.full((ensemble.count, len(ensemble.coordinates["step"])), np.nan)
        for number in range(ensemble.count):
            times[number, : len(ensemble.levels(number))] = ensemble.levels(number)
        np.save(aside / "times.npy", times, allow_pickle=False)
    note = {
        "name": ensemble.name,
        "members": list(ensemble.members),
        "fields": {n: f.to_json() for n, f in ensemble.fields.items()},
        "axes": dict(ensemble.units),
        "parameters": {n: unit for n, (unit, _) in ensemble.parameters.items()},
        "periodic": list(ensemble.periodic),
        "adaptive": ensemble.times is not None,
    }
    (aside / NOTE).write_text(json.dumps(note, indent=1))


def recognise(path: Path) -> bool:
    """Whether this is a directory that `write` made, or a numpy file."""
    return (path / NOTE).is_file() if path.is_dir() else path.suffix in (".npy", ".npz")


def read(path: Path) -> Ensemble:
    """Open for import.

    A lone ``.npy`` is one field ``u`` of shape ``(member, dof)`` or ``(member, time, z, y, x)``, as many of
    the last axes as it has; an ``.npz`` has one such array for each field, ``time``, ``x``, ``y``, ``z`` as
    coordinates, and arrays of shape ``(member,)`` as parameters. Two axes are ``(member, time)`` where
    there is a ``time`` of that length.

    Raises
    ------
    Invalid
        If arrays are missing, of other shapes than the note says, or hold objects.
    """
    if path.is_dir():
        return _directory(path)
    return _lone(path)


def _load(path: Path, **options: Any) -> Any:
    import numpy as np

    try:
        return np.load(path, allow_pickle=False, **options)
    except FileNotFoundError:
        raise Invalid(f"{path}: not there, but {NOTE} names it") from None
    except ValueError as error:
        raise Invalid(f"{path}: {error}") from None


def _directory(path: Path) -> Ensemble:
    try:
        note = json.loads((path / NOTE).read_bytes())
        fields = {n: Field.from_json(f) for n, f in note["fields"].items()}
        axes, parameters = dict(note["axes"]), dict(note["parameters"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(f"{path / NOTE}: {error}") from None
    unnamed = {a for f in fields.values() for a in f.axes} - set(axes)
    if unnamed:
        raise Invalid(
            f"{path / NOTE}: fields have the axes {sorted(unnamed)}, but 'axes' lists {sorted(axes)}"
        )
    coordinates = {a: _load(path / f"axis_{a}.npy") for a in axes}
    arrays = {n: _load(path / f"{n}.npy", mmap_mode="r") for n in fields}
    count = len(next(iter(arrays.values()))) if arrays else 0
    for name, array in arrays.items():
        wanted = (count, *(len(coordinates[a]) for a in fields[name].axes))
        if array.shape != wanted:
            raise Invalid(f"{path / (name + '.npy')}: shape {array.shape}, {NOTE} says {wanted}")
    table = {n: (unit, _load(path / f"parameter_{n}.npy")) for n, unit in parameters.items()}
    adaptive = bool(note.get("adaptive"))
    times: Any = _load(path / "times.npy") if adaptive else None
    steps: Any = (~_isnan(times)).sum(axis=1) if adaptive else None

    def one(name: str, number: int) -> Any:
        values = arrays[name][number]
        return values[: steps[number]] if adaptive and "step" in fields[name].axes else values

    return Ensemble(
        note.get("name", path.name), fields, coordinates, axes, table, count, one,
        (lambda number: times[number, : steps[number]]) if adaptive else None,
        tuple(note.get("periodic", ())),
    )  # fmt: skip


def _isnan(values: Any) -> Any:
    import numpy as np

    return np.isnan(values)


def _lone(path: Path) -> Ensemble:
    import numpy as np

    found = _load(path, mmap_mode="r") if path.suffix == ".npy" else _load(path)
    arrays = {"u": found} if path.suffix == ".npy" else {n: found[n] for n in found.files}
    given = {a: arrays.pop(a) for a in ("time", "x", "y", "z") if a in arrays}
    parameters = {n: ("1", arrays.pop(n)) for n in [n for n, a in arrays.items() if a.ndim == 1]}
    fields: dict[str, Field] = {}
    coordinates: dict[str, Any] = {}
    for name, array in arrays.items():
        if not 2 <= array.ndim <= 5 or array.dtype.kind not in "fiu":
            raise Invalid(
                f"{path}, {name!r}: shape {array.shape} of {array.dtype} is neither (member, dof) "
                "nor (member, time, z, y, x)"
            )
        if array.ndim == 2 and np.shape(given.get("time", ())) != array.shape[1:]:
            axes: tuple[str, ...] = ("dof",)
        else:
            axes = ("time", *(("z", "y", "x")[5 - array.ndim :] if array.ndim > 2 else ()))
        fields[name] = Field(axes, "any", stored(array.dtype))
        for axis, size in zip(fields[name].axes, array.shape[1:], strict=True):
            values = np.asarray(given.get(axis, np.arange(float(size))), dtype=float)
            if len(values) != size or len(coordinates.get(axis, values)) != size:
                raise Invalid(
                    f"{path}, {name!r}: {size} points along {axis!r}, the coordinates have {len(values)}"
                )
            coordinates[axis] = values
    counts = {len(a) for a in (*arrays.values(), *(v for _, v in parameters.values()))}
    if len(counts) != 1:
        raise Invalid(f"{path}: the arrays have different numbers of members: {sorted(counts)}")
    units = dict.fromkeys(coordinates, "any")
    return Ensemble(
        path.stem, fields, coordinates, units, parameters, counts.pop(), lambda n, m: arrays[n][m]
    )


def stored(dtype: Any) -> str:
    """The type on disk: its own where there is one, else the next that holds it."""
    name = str(dtype.name)  # without the byte order
    if name in ("float64", "float32", "int64", "int32", "uint8"):
        return name
    return "float32" if dtype.kind == "f" else "int64"
