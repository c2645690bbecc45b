"""A lone ``.npy`` or ``.npz`` file as an ensemble.

A ``.npy`` is one field ``u`` of shape ``(member, time)``, ``(member, time, x)``,
``(member, time, y, x)`` or ``(member, time, z, y, x)``. An ``.npz`` has one such array for each
field; ``time``, ``x``, ``y``, ``z`` are coordinates (numbers from 0 where they are not there), and
every other array of shape ``(member,)`` is a parameter.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any

from sciflow.errors import Invalid
from sciflow.formats.ensemble import Ensemble
from sciflow.formats.hdf5 import stored
from sciflow.formats.numpy_files import load
from sciflow.schema import Field

_NPY = b"\x93NUMPY"
_ZIP = b"PK\x03\x04"
_LINES = ("time", "x", "y", "z")


def is_numpy(path: Path) -> bool:
    """Whether a file is ``.npy``, or a ``.zip`` of such files, by its content."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(len(_NPY))
    if start == _NPY:
        return True
    if not start.startswith(_ZIP):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return all(n.endswith(".npy") for n in archive.namelist())
    except zipfile.BadZipFile:
        # Cut off; whoever reads it says so.
        return path.suffix == ".npz"


def read(path: Path) -> Ensemble:
    """Open for import; see the module for what stands for what.

    Raises
    ------
    Invalid
        If there is anything but numbers, or shapes do not fit.
    """
    with path.open("rb") as file:
        single = file.read(len(_NPY)) == _NPY
    if single:
        return _ensemble(path, {"u": load(path, mapped=True)}, lambda: None)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise Invalid(f"{path} is no numpy file, or a truncated one: {error}") from None
    try:
        arrays: dict[str, Any] = {n.removesuffix(".npy"): Rows(path, archive, n) for n in archive.namelist()}
        return _ensemble(path, arrays, archive.close)
    except BaseException:
        archive.close()
        raise


def _ensemble(path: Path, arrays: dict[str, Any], close: Any) -> Ensemble:
    import numpy as np

    arrays = dict(arrays)
    given = {a: np.asarray(arrays.pop(a)[...]) for a in _LINES if a in arrays}
    flat = [n for n, a in arrays.items() if len(a.shape) == 1]
    parameters = {n: ("any", np.asarray(arrays.pop(n)[...], dtype=float)) for n in flat}
    fields: dict[str, Field] = {}
    coordinates: dict[str, Any] = {}
    units: dict[str, str] = {}
    for name, array in arrays.items():
        where = f"{path}, {name!r}"
        if not 2 <= len(array.shape) <= 5:
            raise Invalid(f"{where}: shape {array.shape} is no (member, time, z, y, x)")
        axes = ("time", *("z", "y", "x")[5 - len(array.shape) :])
        fields[name] = Field(axes, "any", stored(array.dtype, where))
        for axis, size in zip(axes, array.shape[1:], strict=True):
            line = np.asarray(given.get(axis, np.arange(float(size))), dtype=float)
            if line.shape != (size,) or len(coordinates.get(axis, line)) != size:
                raise Invalid(
                    f"{where}: {size} points along {axis!r}, the coordinates have shape {line.shape}"
                )
            coordinates[axis], units[axis] = line, "any" if axis in given else "1"
    unused = sorted(set(given) - set(coordinates))
    if unused:
        raise Invalid(f"{path}: no field has the axis {unused[0]!r} for which there are coordinates")
    counts = {a.shape[0] for a in (*arrays.values(), *(v for _, v in parameters.values()))}
    if len(counts) > 1:
        raise Invalid(f"{path}: the arrays have different numbers of members: {sorted(counts)}")
    return Ensemble(
        path.stem, fields, coordinates, units, parameters, max(counts, default=0), lambda n, m: arrays[n][m],
        close=close,
    )  # fmt: skip


class Rows:
    """An array in a zip file, of which one row after the other is read.

    One that is stored in Fortran's order is read whole, since its rows are everywhere.

    Parameters
    ----------
    path : Path
        Of the zip file, for messages.
    archive : ZipFile
        Where it is.
    name : str
        Of the entry.

    Raises
    ------
    Invalid
        If it holds no numbers or its header is damaged.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile, name: str) -> None:
        import math

        self._path, self._archive, self._name = path, archive, name
        self._file: IO[bytes] | None = None
        self._next = 0
        self._whole: Any = None
        with archive.open(name) as file:
            self.shape, self._fortran, self.dtype = self._header(file)
        if self.dtype.kind not in "fiub":
            raise Invalid(f"{path}, {name!r}: {self.dtype} is no number; nothing is unpickled")
        self._bytes = self.dtype.itemsize * math.prod(self.shape[1:])

    def _header(self, file: IO[bytes]) -> Any:
        from numpy.lib import format as npy

        try:
            version = npy.read_magic(file)  # type: ignore[no-untyped-call]
            reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            return reader(file)  # type: ignore[no-untyped-call]
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise Invalid(f"{self._path}, {self._name!r}: {error}") from None

    def __getitem__(self, row: Any) -> Any:
        """One row, or all of them for ``...``."""
        import numpy as np

        if row is ... or self._fortran:
            if self._whole is None:
                self._whole = self._all()
            return self._whole[row]
        if self._file is None or row < self._next:
            self._file = self._archive.open(self._name)
            self._header(self._file)
            self._next = 0
        while self._next <= row:
            data = self._take(self._bytes)
            self._next += 1
        return np.frombuffer(data, self.dtype).reshape(self.shape[1:])

    def _all(self) -> Any:
        import math

        import numpy as np

        self._file = self._archive.open(self._name)
        self._header(self._file)
        data = self._take(self.dtype.itemsize * math.prod(self.shape))
        return np.frombuffer(data, self.dtype).reshape(self.shape, order="F" if self._fortran else "C")

    def _take(self, count: int) -> bytes:
        assert self._file is not None
        try:
            data = self._file.read(count)
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise Invalid(f"{self._path}, {self._name!r}: {error}") from None
        if len(data) != count:
            raise Invalid(f"{self._path}, {self._name!r}: ends after {len(data)} of {count} bytes")
        return data
