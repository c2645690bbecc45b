"""A directory of ``.npy`` files and ``ensemble.json``; also lone ``.npy`` and ``.npz`` files.

In the directory are ``<field>.npy`` (member, axes of the field), ``axis-<axis>.npy``,
``parameters.npy`` (member, parameter), where members chose their own steps ``time.npy`` (member,
step) with NaN behind the last one, and ``constant-<name>.npy`` for the arrays of a mesh.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sciflow.errors import Invalid, NotFound
from sciflow.formats.ensemble import NAME, Ensemble
from sciflow.schema import Field

NOTE = "ensemble.json"


def write(ensemble: Ensemble, aside: Path, target: Path) -> None:
    """Write the directory, one member after the other.

    Raises
    ------
    Invalid
        If values are missing behind the last step of a member in a field of whole numbers, which
        have no NaN.
    """
    import numpy as np

    aside.mkdir()
    for name, field in ensemble.fields.items():
        shape = (ensemble.count, *ensemble.shape(name))
        rows = (_padded(ensemble, name, number, shape[1:]) for number in range(ensemble.count))
        _save(aside / f"{name}.npy", field.dtype, shape, rows)
    for axis, values in ensemble.coordinates.items():
        np.save(aside / f"axis-{axis}.npy", values, allow_pickle=False)
    for name, (_, values) in ensemble.constants.items():
        np.save(aside / f"constant-{name}.npy", values, allow_pickle=False)
    points = np.zeros((ensemble.count, len(ensemble.parameters)))
    for column, (_, values) in enumerate(ensemble.parameters.values()):
        points[:, column] = values
    np.save(aside / "parameters.npy", points, allow_pickle=False)
    if ensemble.times is not None:
        times = np.full((ensemble.count, len(ensemble.coordinates["step"])), np.nan)
        for number in range(ensemble.count):
            times[number, : len(ensemble.levels(number))] = ensemble.levels(number)
        np.save(aside / "time.npy", times, allow_pickle=False)
    (aside / NOTE).write_text(json.dumps(ensemble.about(), indent=1))


def _padded(ensemble: Ensemble, name: str, number: int, shape: tuple[int, ...]) -> Any:
    """Values of a member with NaN behind its last step."""
    import numpy as np

    values = ensemble.read(name, number)
    if values.shape == shape:
        return values
    if values.dtype.kind != "f":
        raise Invalid(
            f"field {name!r} ({values.dtype}) of member {number} has {len(values)} of {shape[0]} levels, and "
            "a .npy file has no word for what is missing (choose other fields)"
        )
    whole = np.full(shape, np.nan, values.dtype)
    whole[: len(values)] = values
    return whole


def _save(file: Path, dtype: str, shape: tuple[int, ...], rows: Iterable[Any]) -> None:
    """A ``.npy`` file, row by row; not mapped, so that a full disk is an error and not a signal."""
    import numpy as np
    from numpy.lib import format as npy

    kind = np.dtype(dtype).newbyteorder("<")
    header = {"descr": npy.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    with file.open("wb") as out:
        npy.write_array_header_1_0(out, header)  # type: ignore[no-untyped-call]
        for row in rows:
            out.write(np.ascontiguousarray(row, kind).data)


def recognise(path: Path) -> bool:
    """Whether this is a directory that `write` made, or a numpy file, by its content."""
    if path.is_dir():
        return (path / NOTE).is_file()
    from sciflow.formats.lone_numpy import is_numpy

    return is_numpy(path)


def read(path: Path) -> Ensemble:
    """Open a directory, or a lone file (see `sciflow.formats.lone_numpy`), for import.

    Raises
    ------
    NotFound
        If the directory has no ``ensemble.json``.
    Invalid
        If arrays are missing, of other shapes or types than the note says, or hold objects.
    """
    if not path.is_dir():
        from sciflow.formats.lone_numpy import read as read_lone

        return read_lone(path)
    if not (path / NOTE).is_file():
        raise NotFound(f"{path}: there is no {NOTE}")
    try:
        note = json.loads((path / NOTE).read_bytes())
        fields = {str(n): Field.from_json(f) for n, f in note["fields"].items()}
        fixed = {str(n): Field.from_json(f) for n, f in note.get("constants", {}).items()}
        units = {str(a): str(u) for a, u in note["axes"].items()}
        parameters = {str(n): str(u) for n, u in note["parameters"].items()}
        about = {k: tuple(note.get(k, ())) for k in ("periodic", "members", "left_out")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(f"{path / NOTE}: {type(error).__name__}: {error}") from None
    for name in (*fields, *fixed, *units):
        if not NAME.match(name):
            raise Invalid(f"{path / NOTE}: the name {name!r} must match {NAME.pattern}")
    arrays = {n: load(path / f"{n}.npy", mapped=True) for n in fields}
    coordinates = {a: load(path / f"axis-{a}.npy") for a in units}
    count = _check(path, fields, arrays, coordinates)
    constants = {n: (f, load(path / f"constant-{n}.npy")) for n, f in fixed.items()}
    for name, (field, values) in constants.items():
        if values.ndim != len(field.axes) or values.dtype.name != field.dtype:
            raise Invalid(
                f"{path / f'constant-{name}.npy'}: {values.dtype}{values.shape}, {NOTE} says {field}"
            )
    times = _Times(path, count, coordinates) if note.get("adaptive") else None

    def one(name: str, number: int) -> Any:
        values = arrays[name][number]
        return values[: len(times(number))] if times and fields[name].axes[:1] == ("step",) else values

    return Ensemble(
        str(note.get("name", path.name)), fields, coordinates, units, _table(path, parameters, count), count,
        one, times=times, time_unit=str(note.get("time_unit", "any")), constants=constants,
        datasets={n: f"{n}.npy" for n in fields}, **about,
    )  # fmt: skip


def load(file: Path, *, mapped: bool = False) -> Any:
    """An array of numbers; nothing is ever unpickled.

    Raises
    ------
    Invalid
        If the file is missing, damaged or holds something else.
    """
    import numpy as np

    try:
        array = np.load(file, allow_pickle=False, mmap_mode="r" if mapped else None)
    except FileNotFoundError:
        raise Invalid(f"{file}: not there, but {NOTE} names it") from None
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise Invalid(f"{file}: {error}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise Invalid(f"{file}: holds no array of numbers")
    return array


def _check(
    path: Path, fields: Mapping[str, Field], arrays: Mapping[str, Any], coordinates: Mapping[str, Any]
) -> int:
    """Number of members, which all arrays must have."""
    count = 0
    for name, array in arrays.items():
        file, field = path / f"{name}.npy", fields[name]
        unknown = [a for a in field.axes if a not in coordinates]
        if unknown:
            raise Invalid(f"{file}: {NOTE} names no axis {unknown[0]!r}")
        count = count or (len(array) if array.ndim else 0)
        wanted = (count, *(coordinates[a].size for a in field.axes))
        if array.shape != wanted:
            raise Invalid(f"{file}: shape {array.shape}, {NOTE} says {wanted}")
        if array.dtype.name != field.dtype:
            raise Invalid(f"{file}: {array.dtype}, {NOTE} says {field.dtype}")
    return count


def _table(path: Path, parameters: Mapping[str, str], count: int) -> dict[str, tuple[str, Any]]:
    points = load(path / "parameters.npy")
    if points.shape != (count, len(parameters)):
        raise Invalid(
            f"{path / 'parameters.npy'}: shape {points.shape}, {NOTE} says {(count, len(parameters))}"
        )
    return {n: (unit, points[:, i]) for i, (n, unit) in enumerate(parameters.items())}


class _Times:
    """Times of each member: what stands before the first NaN, with nothing behind it."""

    def __init__(self, path: Path, count: int, coordinates: Mapping[str, Any]) -> None:
        import numpy as np

        file = path / "time.npy"
        self._values = load(file)
        wanted = (count, coordinates["step"].size if "step" in coordinates else 0)
        if self._values.shape != wanted:
            raise Invalid(f"{file}: shape {self._values.shape}, the fields and steps say {wanted}")
        there = ~np.isnan(self._values)
        self._counts = there.sum(axis=1)
        torn = np.flatnonzero((there != (np.arange(wanted[1]) < self._counts[:, None])).any(axis=1))
        if len(torn):
            raise Invalid(f"{file}: member {torn[0]} has NaN between its times")

    def __call__(self, number: int) -> Any:
        """Times of a member."""
        return self._values[number, : self._counts[number]]
