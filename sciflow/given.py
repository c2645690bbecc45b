"""Inputs of a fitted model from a user's file, checked: names, units, domain, shapes, finite numbers."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile, is_zipfile

import numpy as np

from sciflow.errors import Invalid, Missing, NotFound, nearest

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.samples import Signature
    from sciflow.schema import Field

BATCH_AXES = ("sample", "batch", "member")
"""Names that a file may give its first axis."""


@dataclass
class Given:
    """What a file holds.

    Attributes
    ----------
    where : str
        The file, for messages.
    arrays : dict of str to ndarray
        By name; with or without a first axis of samples.
    units : dict of str to str
        Where the file says so.
    coordinates : dict of str to ndarray, shape (n_axis,)
        Of axes, where the file has them.
    """

    where: str
    arrays: dict[str, np.ndarray]
    units: dict[str, str] = field(default_factory=dict)
    coordinates: dict[str, np.ndarray] = field(default_factory=dict)


def plain_name(name: str) -> str:
    """The name of an input or output as a word: ``u[0]`` is ``u_0``, ``u[-1]`` is ``u_m1``."""
    return name.replace("[", "_").replace("]", "").replace("-", "m")


def read(path: Path, axes: Sequence[str]) -> Given:
    """Named arrays of a file.

    Parameters
    ----------
    path : Path
        ``.npz``, ``.json``, ``.nc``, or a zarr group.
    axes : sequence of str
        Names that are coordinates where a one-dimensional array has them.

    Raises
    ------
    NotFound
        If there is no such file.
    Invalid
        If it cannot be read as numbers.
    """
    if not path.exists():
        raise NotFound(f"there is no input {path}")
    readers = {".npz": _npz, ".json": _json, ".nc": _netcdf, ".zarr": _zarr}
    reader = readers.get(path.suffix)
    if reader is None and (path / "zarr.json").is_file():
        reader = _zarr
    if reader is None:
        raise Invalid(f"{path}: inputs are read from {', '.join(readers)} or an ensemble artifact")
    given = reader(path)
    for name in [n for n in given.arrays if n in (*axes, *BATCH_AXES) and given.arrays[n].ndim == 1]:
        given.coordinates.setdefault(name, given.arrays[name])
    for name, values in given.arrays.items():
        if values.dtype.kind not in "fiub":
            raise Invalid(f"{path}: {name!r} holds {values.dtype}, not numbers")
    return given


def _npz(path: Path) -> Given:
    try:
        # Opened here: numpy leaves a file open that turns out to be damaged.
        with path.open("rb") as data:
            if not is_zipfile(data) and data.seek(0) == 0 and data.read(6) != b"\x93NUMPY":
                raise ValueError("numpy.savez did not write it, or not to its end")
            data.seek(0)
            file = np.load(data, allow_pickle=False)
            if not isinstance(file, np.ndarray):
                return Given(str(path), {name: file[name] for name in file.files})
    except (ValueError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise Invalid(f"{path} cannot be read as .npz: {error}") from None
    raise Invalid(f"{path} holds one array without a name; write named ones with numpy.savez")


def _json(path: Path) -> Given:
    try:
        document = json.loads(path.read_text())
    except ValueError as error:
        raise Invalid(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise Invalid(f'{path}: write {{"name": number or nested lists, ...}}')
    arrays = {}
    for name, values in document.items():
        try:
            arrays[name] = np.asarray(values, dtype=np.float64)
        except (ValueError, TypeError):
            raise Invalid(f"{path}: {name!r} is no number and no regular array of numbers") from None
    return Given(str(path), arrays)


def _zarr(path: Path) -> Given:
    import zarr

    try:
        group = zarr.open_group(path, mode="r")
        found = {str(name): array for name, array in group.arrays()}
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise Invalid(f"{path} is no zarr group: {error}") from None
    given = Given(str(path), {name: np.asarray(array[...]) for name, array in found.items()})
    for name, array in found.items():
        unit = array.attrs.get("units")
        if isinstance(unit, str):
            given.units[name] = unit
        dims = array.metadata.dimension_names if array.metadata.zarr_format == 3 else None
        if dims is not None and tuple(dims) == (name,):
            given.coordinates[name] = given.arrays[name]
    return given


def _netcdf(path: Path) -> Given:
    import xarray as xr

    try:
        with xr.open_dataset(path, decode_times=False) as data:
            arrays = {str(name): np.asarray(v.values) for name, v in data.variables.items()}
            units = {str(n): str(v.attrs["units"]) for n, v in data.variables.items() if "units" in v.attrs}
            coordinates = {str(n): arrays[str(n)] for n in data.dims if str(n) in arrays}
    except (ValueError, OSError) as error:
        if "engine" in str(error):
            raise Missing(
                f"{path}: this Python has no reader of netCDF 4: pip install h5netcdf, or write .npz or .zarr"
            ) from None
        raise Invalid(f"{path}: {error}") from None
    return Given(str(path), arrays, units, coordinates)


def checked(given: Given, signature: Signature, numbers: Mapping[str, float]) -> dict[str, np.ndarray]:
    """The inputs of a model, each with a first axis of samples.

    Parameters
    ----------
    given : Given
        What there is; an array may lack the axis of samples.
    signature : Signature
        What is needed.
    numbers : mapping of str to float
        Scalar inputs that were given by hand.

    Returns
    -------
    dict of str to ndarray, shape (batch, ...)

    Raises
    ------
    NotFound
        If an input is missing, or something is there that is none.
    Invalid
        If an array has the wrong number of axes, another unit, values that are not finite, or lies on
        another domain.
    """
    wanted = signature.inputs
    words = {plain_name(name): name for name in wanted} | {name: name for name in wanted}
    found: dict[str, np.ndarray] = {}
    for name, values in given.arrays.items():
        if name not in words:
            if name in given.coordinates or name in BATCH_AXES:
                continue
            raise NotFound(f"{given.where}: the model has no input {name!r}. {nearest(name, wanted)}")
        found[words[name]] = values
        _same_unit(given, name, wanted[words[name]])
    for name, value in numbers.items():
        if name not in wanted:
            raise NotFound(f"--set {name}: the model has no such input. {nearest(name, wanted)}")
        if wanted[name].axes:
            raise Invalid(f"--set {name}: this input is a field with axes {wanted[name].axes}; give a file")
        if name in found:
            raise Invalid(f"{name!r} is in {given.where} and given with --set; which of them?")
        found[name] = np.asarray(value)
    absent = [
        f"{n} ({', '.join(f.axes) or 'a number'}; unit {f.unit})" for n, f in wanted.items() if n not in found
    ]
    if absent:
        raise NotFound(f"{given.where}: these inputs of the model are missing: {'; '.join(absent)}")
    _same_domain(given, signature)
    return _batched(given.where, {n: found[n] for n in wanted}, signature)


def _same_unit(given: Given, name: str, field: Field) -> None:
    unit = given.units.get(name, field.unit)
    if unit != field.unit and "any" not in (unit, field.unit):
        raise Invalid(f"{given.where}: {name!r} is in {unit!r}, the model takes {field.unit!r}; convert it")


def _same_domain(given: Given, signature: Signature) -> None:
    """Refuse coordinates that begin or end elsewhere than those of the training samples."""
    axes = {axis for f in signature.inputs.values() for axis in f.axes if axis not in ("time", "lead")}
    for axis in axes & set(given.coordinates):
        theirs, ours = (
            np.asarray(v, dtype=np.float64) for v in (given.coordinates[axis], signature.coordinates[axis])
        )
        if len(theirs) < 2 or len(ours) < 2:
            continue
        ends = [
            (v[0], v[-1] + ((v[-1] - v[0]) / (len(v) - 1) if axis in signature.periodic else 0.0))
            for v in (theirs, ours)
        ]
        if np.abs(np.subtract(ends[0], ends[1])).max() > 1e-3 * abs(ends[1][1] - ends[1][0]):
            raise Invalid(
                f"{given.where}: the axis {axis!r} goes from {ends[0][0]:g} to {ends[0][1]:g}, that of the "
                f"training samples from {ends[1][0]:g} to {ends[1][1]:g}"
            )


def _batched(where: str, found: Mapping[str, np.ndarray], signature: Signature) -> dict[str, np.ndarray]:
    """Every input with a first axis of samples, all equally long."""
    sizes: dict[str, int] = {}
    for name, values in found.items():
        axes = signature.inputs[name].axes
        if values.ndim not in (len(axes), len(axes) + 1):
            raise Invalid(
                f"{where}: {name!r} has shape {values.shape}; the model takes ({', '.join(axes)}), or that "
                "behind an axis of samples"
            )
        if values.ndim > len(axes):
            sizes[name] = len(values)
        bad = np.argwhere(~np.isfinite(np.asarray(values, dtype=np.float64)))
        if len(bad):
            more = f" and {len(bad) - 1} more places" if len(bad) > 1 else ""
            raise Invalid(f"{where}: {name!r} is not finite at {tuple(bad[0].tolist())}{more}")
    if len(set(sizes.values())) > 1:
        raise Invalid(f"{where}: these inputs have different numbers of samples: {sizes}")
    count = next(iter(sizes.values()), 1)
    if not count:
        raise Invalid(f"{where}: there are no samples in it")
    return {
        n: v if n in sizes else np.broadcast_to(v[None], (count, *v.shape))
        for n, v in ((n, np.asarray(v)) for n, v in found.items())
    }


def of_ensemble(
    ensemble: Artifact, model: Artifact, signature: Signature, members: Sequence[int] | None
) -> Given:
    """The inputs of a model for members of an ensemble, read as the model's training read them.

    Parameters
    ----------
    ensemble, model : Artifact
        Where the inputs are; the fitted model, which notes its window.
    signature : Signature
        Of the model.
    members : sequence of int or None
        None takes all that ended well.
    """
    from sciflow.stored import Stored

    about = model.attributes
    window, pairs = (about.get(n) and (about[n][0], about[n][1]) for n in ("window", "pairs"))
    samples = Stored(
        ensemble, tuple(signature.inputs), tuple(signature.outputs), members, window=window, pairs=pairs
    )
    found = dict(samples.all().x)
    units = {n: f.unit for n, f in samples.signature.inputs.items()}
    coordinates = {**samples.signature.coordinates, "member": samples.sample_members}
    return Given(str(ensemble.path), found, units, coordinates)
