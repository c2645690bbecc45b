"""Predictions for what a user has in a file: named outputs with units and coordinates, in zarr or npz."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Invalid, SciflowError
from sciflow.given import Given, plain_name
from sciflow.surrogate import Model

if TYPE_CHECKING:
    from sciflow.samples import Signature

AT_ONCE = 64
"""Samples that are predicted and written together."""


def predictions(model: Model, x: Mapping[str, np.ndarray], where: str) -> Iterator[dict[str, np.ndarray]]:
    """Outputs of some samples after the other.

    Raises
    ------
    Invalid
        If the model refuses the inputs: a grid that it was not made for.
    """
    count = len(next(iter(x.values())))
    signature = model.signature
    for start in range(0, count, AT_ONCE):
        part = {n: v[start : start + AT_ONCE] for n, v in x.items()}
        try:
            yield model.predict(part)
        except SciflowError as error:
            raise Invalid(f"{where}: {error}") from None
        # A model is foreign code; what numpy says of shapes is of no help without the grids.
        except (ValueError, IndexError, RuntimeError) as error:
            wanted = {n: signature.shape_of(f) for n, f in signature.inputs.items()}
            shapes = {n: v.shape[1:] for n, v in part.items()}
            if shapes == wanted:
                raise
            raise Invalid(f"{where}: the model was fitted on {wanted}, this is {shapes} ({error})") from None


def coordinates_of(
    signature: Signature, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Coordinates of the outputs' axes, on the grid of the outputs.

    Parameters
    ----------
    signature : Signature
        Of the model.
    shapes : mapping of str to tuple of int
        Of one sample of each output.
    given : mapping of str to ndarray
        Of the file with the inputs.
    """
    found: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        for axis, n in zip(signature.outputs[name].axes, shape, strict=True):
            line = np.asarray(signature.coordinates[axis], dtype=np.float64)
            if len(line) != n and len(given.get(axis, ())) == n:
                line = np.asarray(given[axis], dtype=np.float64)
            elif len(line) != n and len(line) > 1:
                step = (line[-1] - line[0]) / (len(line) - 1)
                around = axis in signature.periodic
                length = step * (len(line) if around else len(line) - 1)
                line = line[0] + length * np.arange(n) / (n if around else max(1, n - 1))
            found[axis] = line
    return found


def write(
    path: Path,
    parts: Iterator[dict[str, np.ndarray]],
    count: int,
    signature: Signature,
    given: Given,
    about: Mapping[str, Any],
) -> dict[str, tuple[int, ...]]:
    """Write outputs as they come into ``.zarr`` or ``.npz``; whole or not at all.

    Parameters
    ----------
    path : Path
        Does not exist, or may be replaced.
    parts : iterator of dict of str to ndarray, shape (batch, ...)
        Outputs of all samples, in pieces.
    count : int
        Samples in all.
    signature : Signature
        Of the model.
    given : Given
        Where the inputs came from; a ``member`` among its coordinates is kept.
    about : mapping
        Plain JSON that is written beside them.

    Returns
    -------
    dict of str to tuple of int
        The arrays that were written, with their shapes.
    """
    part, former = (path.with_name(f".{path.name}.{end}") for end in ("part", "former"))
    _remove(part)
    try:
        writer = _write_npz if path.suffix == ".npz" else _write_zarr
        shapes = writer(part, parts, count, signature, given, about)
        if path.is_dir():  # nothing can take the place of a folder in one step
            _remove(former)
            path.rename(former)
        part.replace(path)
        _remove(former)
    finally:
        if former.exists() and not path.exists():
            former.rename(path)
        _remove(part)
    return shapes


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _write_zarr(
    path: Path,
    parts: Iterator[dict[str, np.ndarray]],
    count: int,
    signature: Signature,
    given: Given,
    about: Mapping[str, Any],
) -> dict[str, tuple[int, ...]]:
    import zarr

    group = zarr.create_group(path, attributes=dict(about))
    arrays: dict[str, Any] = {}
    first = 0
    for values in parts:
        if not arrays:
            for name, v in values.items():
                f = signature.outputs[name]
                arrays[name] = group.create_array(
                    plain_name(name), shape=(count, *v.shape[1:]), dtype=v.dtype, chunks=(1, *v.shape[1:]),
                    dimension_names=("sample", *f.axes),
                    attributes={"units": f.unit, "long_name": f.description or name},
                )  # fmt: skip
        size = len(next(iter(values.values())))
        for name, v in values.items():
            arrays[name][first : first + size] = v
        first += size
    lines = coordinates_of(signature, {n: a.shape[1:] for n, a in arrays.items()}, given.coordinates)
    for axis, line in {**lines, **_members(given, count)}.items():
        dims = ("sample",) if axis == "member" else (axis,)
        unit = {"units": given.units[axis]} if axis in given.units else {}
        group.create_array(axis, data=line, dimension_names=dims, attributes=unit)
    return {plain_name(n): a.shape for n, a in arrays.items()}


def _write_npz(
    path: Path,
    parts: Iterator[dict[str, np.ndarray]],
    count: int,
    signature: Signature,
    given: Given,
    about: Mapping[str, Any],
) -> dict[str, tuple[int, ...]]:
    kept: dict[str, list[np.ndarray]] = {}
    for values in parts:
        for name, v in values.items():
            kept.setdefault(name, []).append(v)
    arrays = {n: np.concatenate(v) for n, v in kept.items()}
    lines = coordinates_of(signature, {n: a.shape[1:] for n, a in arrays.items()}, given.coordinates)
    units = {plain_name(n): signature.outputs[n].unit for n in arrays}
    text = json.dumps({**about, "units": units})
    whole = {plain_name(n): a for n, a in arrays.items()} | lines | _members(given, count)
    with path.open("wb") as file:
        np.savez(file, about=np.array(text), **whole)
    return {plain_name(n): a.shape for n, a in arrays.items()}


def _members(given: Given, count: int) -> dict[str, np.ndarray]:
    members = given.coordinates.get("member")
    return {"member": members} if members is not None and len(members) == count else {}
