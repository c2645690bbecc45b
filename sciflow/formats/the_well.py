"""HDF5 as in The Well: groups for scalar, vector and tensor fields, one file for a set of trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sciflow.errors import Invalid
from sciflow.formats.ensemble import Ensemble, dataset, h5
from sciflow.formats.labels import word
from sciflow.schema import Field

_AXES = ("x", "y", "z")
_RANKS = ("t0_fields", "t1_fields", "t2_fields")


def write(ensemble: Ensemble, aside: Path, target: Path) -> None:
    """Write every field as a scalar one; a member is a trajectory.

    Raises
    ------
    Invalid
        If members chose their own steps, or a field has other axes than time and x, y, z.
    """
    import numpy as np

    if ensemble.times is not None:
        raise Invalid("The Well has one time axis for all trajectories; these members chose their own steps")
    spaces = {tuple(sorted(ensemble.space(n))) for n in ensemble.fields}
    if len(spaces) != 1 or not set(*spaces) <= set(_AXES):
        raise Invalid(
            f"The Well takes fields on one grid of x, y, z; there are {sorted(spaces)} (select --field)"
        )
    axes = tuple(a for a in _AXES if a in next(iter(spaces)))
    with h5(aside, "w") as file:
        _head(file, ensemble, axes)
        t0 = _fields_group(file, "t0_fields", list(ensemble.fields))
        for name, field in ensemble.fields.items():
            timed = ensemble.timed(name)
            turn = [*([0] if timed else []), *(int(timed) + ensemble.space(name).index(a) for a in axes)]
            shape = (ensemble.count, *(np.array(ensemble.shape(name))[turn]))
            out = t0.create_dataset(name, shape, field.dtype)
            out.attrs["dim_varying"] = np.ones(len(axes), bool)
            out.attrs["sample_varying"], out.attrs["time_varying"] = True, timed
            out.attrs["units"] = field.unit
            for number in range(ensemble.count):
                out[number] = ensemble.read(name, number).transpose(turn)
        for rank in _RANKS[1:]:
            _fields_group(file, rank, [])


def _fields_group(file: Any, name: str, names: list[str]) -> Any:
    group = file.create_group(name)
    group.attrs["field_names"] = names
    return group


def _head(file: Any, ensemble: Ensemble, axes: tuple[str, ...]) -> None:
    file.attrs["dataset_name"] = ensemble.name
    file.attrs["grid_type"] = "cartesian"
    file.attrs["n_spatial_dims"] = len(axes)
    file.attrs["n_trajectories"] = ensemble.count
    file.attrs["simulation_parameters"] = list(ensemble.parameters)
    dimensions = file.create_group("dimensions")
    dimensions.attrs["spatial_dims"] = list(axes)
    for axis, values in (("time", ensemble.levels(0)), *((a, ensemble.coordinates[a]) for a in axes)):
        made = dimensions.create_dataset(axis, data=values)
        made.attrs["sample_varying"] = made.attrs["time_varying"] = False
        made.attrs["units"] = ensemble.units.get(axis, "1")
    conditions = file.create_group("boundary_conditions")
    for axis in axes:
        made = conditions.create_group(f"{axis}_boundary")
        made.attrs["bc_type"] = "PERIODIC" if axis in ensemble.periodic else "OPEN"
        made.attrs["associated_dims"], made.attrs["associated_fields"] = [axis], list[str]()
        made.attrs["sample_varying"] = made.attrs["time_varying"] = False
        mask = [True, *[False] * (len(ensemble.coordinates[axis]) - 2), True]
        made.create_dataset("mask", data=mask)
        made.create_dataset("values", data=[0.0] * len(mask))
    scalars = file.create_group("scalars")
    scalars.attrs["field_names"] = list(ensemble.parameters)
    for name, (unit, values) in ensemble.parameters.items():
        made = scalars.create_dataset(name, data=values)
        made.attrs["sample_varying"], made.attrs["time_varying"], made.attrs["units"] = True, False, unit


def recognise(path: Path) -> bool:
    """Whether an HDF5 file has the groups of The Well."""
    if path.is_dir() or path.suffix not in (".h5", ".hdf5"):
        return False
    with h5(path, "r") as file:
        return "dimensions" in file and "t0_fields" in file


def read(path: Path) -> Ensemble:
    """Open for import: scalar fields as they are, components of vectors and tensors as fields of their own.

    Raises
    ------
    Invalid
        If groups are missing, coordinates differ between trajectories, or shapes do not fit.
    """
    file = h5(path, "r")
    try:
        return _open(file, path)
    except BaseException:
        file.close()
        raise


def _open(file: Any, path: Path) -> Ensemble:
    import numpy as np

    if "dimensions" not in file:
        raise Invalid(f"{path}: no group 'dimensions'")
    if word(file.attrs.get("grid_type", "cartesian")) != "cartesian":
        raise Invalid(
            f"{path}: the grid is {word(file.attrs['grid_type'])}; only cartesian ones can be imported"
        )
    axes = [
        word(a)
        for a in file["dimensions"].attrs.get("spatial_dims", [a for a in _AXES if a in file["dimensions"]])
    ]
    coordinates, units = {}, {}
    for axis in ("time", *axes):
        found = dataset(file["dimensions"], axis)
        if found.ndim != 1:
            raise Invalid(f"{path}, /dimensions/{axis}: differs between trajectories, which is not supported")
        coordinates[axis] = np.asarray(found[...], dtype=float)
        units[axis] = word(found.attrs.get("units", "any"))
    count = int(file.attrs["n_trajectories"])
    fields, places = _fields(file, path, axes, coordinates, count)
    parameters = {}
    for name in map(word, file["scalars"].attrs.get("field_names", ())) if "scalars" in file else ():
        found = dataset(file["scalars"], name)
        if found.attrs.get("time_varying", False):
            continue
        values = np.broadcast_to(np.asarray(found[...], dtype=float), (count,))
        parameters[name] = (word(found.attrs.get("units", "any")), np.array(values))

    def one(name: str, number: int) -> Any:
        where, component, varying, timed = places[name]
        values = file[where][number] if varying else file[where][...]
        values = values[(..., *component)]
        first = 1 if timed else 0
        return values.transpose([*range(first), *range(values.ndim - 1, first - 1, -1)])

    periodic = tuple(a for a in axes if _periodic(file, a))
    name = word(file.attrs.get("dataset_name", path.stem))
    return Ensemble(
        name, fields, coordinates, units, parameters, count, one, periodic=periodic, close=file.close
    )


def _fields(
    file: Any, path: Path, axes: list[str], coordinates: dict[str, Any], count: int
) -> tuple[dict[str, Field], dict[str, Any]]:
    import itertools

    fields, places = {}, {}
    for rank, group in enumerate(_RANKS):
        for name in map(word, file[group].attrs.get("field_names", ())) if group in file else ():
            found = dataset(file[group], name)
            varying, timed = (
                bool(found.attrs.get("sample_varying", True)),
                bool(found.attrs.get("time_varying", True)),
            )
            wanted = (*((count,) if varying else ()), *((len(coordinates["time"]),) if timed else ()),
                      *(len(coordinates[a]) for a in axes), *(len(axes),) * rank)  # fmt: skip
            if found.shape != wanted:
                raise Invalid(f"{path}, /{group}/{name}: shape {found.shape}, the dimensions say {wanted}")
            dtype = "float64" if str(found.dtype) == "float64" else "float32"
            unit = word(found.attrs.get("units", "any"))
            for component in itertools.product(range(len(axes)), repeat=rank):
                ours = "_".join([name.lower(), *(axes[c] for c in component)])
                fields[ours] = Field((*(("time",) if timed else ()), *reversed(axes)), unit, dtype)
                places[ours] = (f"{group}/{name}", component, varying, timed)
    return fields, places


def _periodic(file: Any, axis: str) -> bool:
    return any(
        axis in map(word, b.attrs.get("associated_dims", ()))
        and word(b.attrs.get("bc_type", "")).upper() == "PERIODIC"
        for b in file.get("boundary_conditions", {}).values()
    )
