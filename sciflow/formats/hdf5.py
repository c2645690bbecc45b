"""HDF5 of unknown origin: only what is inside the file, was written and holds numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sciflow.errors import Invalid, Missing, nearest
from sciflow.schema import Field

_MAGIC = b"\x89HDF\r\n\x1a\n"
_WIDER = {"float16": "float32", "int8": "int32", "int16": "int32", "uint16": "int32", "uint32": "int64"}


def is_hdf5(path: Path) -> bool:
    """Whether a file begins like HDF5, by its content; also where h5py is not installed."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        # A user block may stand before it: 512 bytes, or twice that, and so on.
        for place in (0, 512, 1024, 2048):
            file.seek(place)
            if file.read(len(_MAGIC)) == _MAGIC:
                return True
    return False


def open_hdf5(path: Path, mode: str = "r") -> Any:
    """An HDF5 file.

    Parameters
    ----------
    path : Path
        Of the file.
    mode : str
        ``r``, or ``w`` for a new one.

    Raises
    ------
    Missing
        If h5py is not installed.
    Invalid
        If it is no HDF5 file or truncated.
    """
    try:
        import h5py
    except ImportError:
        raise Missing("HDF5 needs h5py: pip install 'sciflow[export]'") from None
    if mode != "r":
        return h5py.File(path, mode)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise Invalid(f"{path} is no HDF5 file, or a truncated one: {error}") from None


def _inside(parent: Any, name: str) -> Any:
    """What is called `name` in a group; links are not followed."""
    import h5py

    where = f"{parent.file.filename}, {parent.name.rstrip('/')}/{name}"
    if not name or "/" in name or name.startswith("."):
        raise Invalid(f"{where}: this is no name")
    link = parent.get(name, getlink=True)
    if link is None:
        raise Invalid(f"{where}: not there. {nearest(name, parent)}")
    if not isinstance(link, h5py.HardLink):
        raise Invalid(f"{where}: is a link; it is not followed")
    try:
        return parent[name]
    except (KeyError, OSError) as error:
        raise Invalid(f"{where}: cannot be opened: {error}") from None


def group(parent: Any, name: str) -> Any:
    """A group.

    Raises
    ------
    Invalid
        If it is not there, is a link or is none.
    """
    import h5py

    found = _inside(parent, name)
    if not isinstance(found, h5py.Group):
        raise Invalid(f"{parent.file.filename}, {found.name}: is no group")
    return found


def dataset(parent: Any, name: str) -> Any:
    """A dataset of numbers that is in the file, wholly written.

    Raises
    ------
    Invalid
        If it is not there, is a link, has its values in another file, holds no numbers, or was
        never written (HDF5 would give zeros).
    """
    import h5py

    found = _inside(parent, name)
    where = f"{parent.file.filename}, {found.name}"
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiub" or found.shape is None:
        raise Invalid(f"{where}: holds no numbers")
    if found.is_virtual or found.external:
        raise Invalid(f"{where}: its values are in another file; it is not followed")
    if found.chunks:
        wanted = math.prod(-(-n // c) for n, c in zip(found.shape, found.chunks, strict=True))
        there = found.id.get_num_chunks()
        if there < wanted:
            raise Invalid(f"{where}: {wanted - there} of {wanted} chunks were never written")
    elif found.size and not found.id.get_storage_size():
        raise Invalid(f"{where}: was never written")
    return found


def line(parent: Any, name: str) -> Any:
    """A dataset of one axis, as float64 of shape (n,).

    Raises
    ------
    Invalid
        As `dataset`, or if it has another number of axes.
    """
    import numpy as np

    found = dataset(parent, name)
    if found.ndim != 1:
        raise Invalid(f"{parent.file.filename}, {found.name}: shape {found.shape}, one axis was expected")
    return np.asarray(values(found), dtype=float)


def values(found: Any, where: Any = ...) -> Any:
    """Values of a dataset.

    Raises
    ------
    Invalid
        If they cannot be read: damaged, or compressed in a way that is not installed.
    """
    try:
        return found[where]
    except OSError as error:
        raise Invalid(f"{found.file.filename}, {found.name}: cannot be read: {error}") from None


def text(value: Any) -> str:
    """An attribute as text."""
    import numpy as np

    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def texts(owner: Any, name: str) -> list[str]:
    """An attribute that is a list of names; a single one is a list too."""
    import numpy as np

    found = owner.attrs.get(name, ())
    return [text(v) for v in np.atleast_1d(found)]


def flag(owner: Any, name: str, default: bool) -> bool:
    """An attribute that is true or false."""
    import numpy as np

    return bool(np.all(owner.attrs.get(name, default)))


def stored(dtype: Any, where: str) -> str:
    """The type in an artifact that holds all values of a numpy type.

    Raises
    ------
    Invalid
        If there is none.
    """
    import numpy as np

    name = np.dtype(dtype).name
    try:
        return Field((), "1", _WIDER.get(name, name)).dtype
    except Invalid:
        raise Invalid(f"{where}: values of type {name} cannot be stored without loss") from None
