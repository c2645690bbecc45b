"""HDF5 as in PDEBench: one ``tensor``, named fields of a flow, or one group for each seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sciflow.errors import Invalid
from sciflow.formats.ensemble import Ensemble, dataset, h5
from sciflow.schema import Field

FLOW = ("density", "pressure", "Vx", "Vy", "Vz")
_OURS = {"Vx": "velocity_x", "Vy": "velocity_y", "Vz": "velocity_z"}
_AXES = ("x", "y", "z")


def write(ensemble: Ensemble, aside: Path, target: Path) -> None:
    """Write ``tensor`` (one field) or one array for each field, shape ``(member, time, x, y, z)``.

    Raises
    ------
    Invalid
        If a field has no time, other axes than space, or members chose their own steps.
    """
    import numpy as np

    if ensemble.times is not None:
        raise Invalid("PDEBench files have one time axis for all members; these chose their own steps")
    with h5(aside, "w") as file:
        for name, field in ensemble.fields.items():
            if not ensemble.timed(name) or not set(ensemble.space(name)) <= set(_AXES):
                raise Invalid(
                    f"field {name!r} has axes {field.axes}; PDEBench takes time and x, y, z (select --field)"
                )
            axes = tuple(a for a in _AXES if a in ensemble.space(name))
            turn = [0, *(1 + ensemble.space(name).index(a) for a in axes)]
            shape = (ensemble.count, *(np.array(ensemble.shape(name))[turn]))
            theirs = {v: k for k, v in _OURS.items()}.get(name, name)
            out = file.create_dataset("tensor" if len(ensemble.fields) == 1 else theirs, shape, field.dtype)
            for number in range(ensemble.count):
                out[number] = ensemble.read(name, number).transpose(turn)
        file["t-coordinate"] = ensemble.coordinates["time"]
        for axis in _AXES:
            if axis in ensemble.coordinates:
                file[f"{axis}-coordinate"] = ensemble.coordinates[axis]


def recognise(path: Path) -> bool:
    """Whether an HDF5 file has the names that PDEBench uses."""
    if path.is_dir() or path.suffix not in (".h5", ".hdf5"):
        return False
    with h5(path, "r") as file:
        return (
            "x-coordinate" in file
            or "tensor" in file
            or any("data" in _group(file, k) for k in list(file)[:1])
        )


def _group(file: Any, name: str) -> Any:
    import h5py

    return (
        file[name]
        if isinstance(file.get(name, getlink=True), h5py.HardLink) and hasattr(file[name], "keys")
        else {}
    )


def read(path: Path) -> Ensemble:
    """Open for import; see `Ensemble`.

    Raises
    ------
    Invalid
        If there are no such data sets, or their shapes do not fit their coordinates.
    """
    file = h5(path, "r")
    try:
        flow = [n for n in FLOW if n in file]
        if "tensor" in file:
            return _arrays(file, path, {"u": dataset(file, "tensor")})
        if flow:
            return _arrays(file, path, {_OURS.get(n, n): dataset(file, n) for n in flow})
        seeds = sorted(n for n in file if "data" in _group(file, n))
        if seeds:
            return _seeds(file, path, seeds)
        raise Invalid(f"{path}: neither 'tensor', nor a flow ({', '.join(FLOW)}), nor groups with 'data'")
    except BaseException:
        file.close()
        raise


def _arrays(file: Any, path: Path, arrays: Mapping[str, Any]) -> Ensemble:
    shapes = {a.shape for a in arrays.values()}
    if len(shapes) != 1:
        raise Invalid(f"{path}: the fields have different shapes {sorted(shapes)}")
    (shape,) = shapes
    if not 2 <= len(shape) <= 5:
        raise Invalid(f"{path}: shape {shape} is no (member, time, x, y, z)")
    coordinates = _coordinates(file, path, shape)
    axes = tuple(coordinates)
    # Theirs is (x, y, z), ours (z, y, x).
    ours = (axes[0], *reversed(axes[1:]))
    fields = {n: Field(ours, "any", _stored(a.dtype)) for n, a in arrays.items()}
    turn = [0, *range(len(shape) - 2, 0, -1)]

    def one(name: str, number: int) -> Any:
        return arrays[name][number].transpose(turn)

    units = dict.fromkeys(axes, "any")
    return Ensemble(path.stem, fields, coordinates, units, {}, shape[0], one, close=file.close)


def _coordinates(file: Any, path: Path, shape: tuple[int, ...]) -> dict[str, Any]:
    import numpy as np

    found = {}
    for axis, size in zip(("time", *_AXES), shape[1:], strict=False):
        name = f"{axis[0]}-coordinate"
        values = np.asarray(dataset(file, name)[...], dtype=float) if name in file else np.arange(float(size))
        # Their time axis often has the end of the last step in it, which was not stored.
        if axis == "time" and len(values) == size + 1:
            values = values[:-1]
        if values.shape != (size,):
            raise Invalid(f"{path}, /{name}: shape {values.shape}, the data have {size}")
        found[axis] = values
    return found


def _seeds(file: Any, path: Path, seeds: list[str]) -> Ensemble:
    import numpy as np

    first = file[seeds[0]]
    shape = dataset(first, "data").shape
    for seed in seeds:
        if dataset(file[seed], "data").shape != shape:
            raise Invalid(
                f"{path}, /{seed}/data: shape {file[seed]['data'].shape}, /{seeds[0]}/data has {shape}"
            )
    if not 3 <= len(shape) <= 5:
        raise Invalid(f"{path}, /{seeds[0]}/data: shape {shape} is no (time, x, y, channel)")
    space = _AXES[: len(shape) - 2]
    coordinates = {}
    for axis, size in zip(("time", *space), shape, strict=False):
        name = f"grid/{axis[0]}"
        values = (
            np.asarray(dataset(first, name)[...], dtype=float).reshape(-1)
            if name in first
            else np.arange(float(size))
        )
        if values.shape != (size,):
            raise Invalid(f"{path}, /{seeds[0]}/{name}: {len(values)} values, the data have {size}")
        coordinates[axis] = values
    ours = ("time", *reversed(space))
    turn = [0, *range(len(space), 0, -1)]
    names = [f"u{c}" for c in range(shape[-1])] if shape[-1] > 1 else ["u"]
    dtype = _stored(first["data"].dtype)

    def one(name: str, number: int) -> Any:
        return file[seeds[number]]["data"][..., names.index(name)].transpose(turn)

    fields = {n: Field(ours, "any", dtype) for n in names}
    units = dict.fromkeys(coordinates, "any")
    return Ensemble(path.stem, fields, coordinates, units, {}, len(seeds), one, close=file.close)


def _stored(dtype: Any) -> str:
    return "float64" if str(dtype) == "float64" else "float32"
