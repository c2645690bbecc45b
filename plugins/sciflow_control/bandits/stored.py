"""States of tuners as files: one zarr group each, in a zip archive, replaced in one step.

The arrays of a state are arrays of the group; everything else is JSON in its attributes, with the
configuration of the tuner and a digest of the whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from sciflow.component import canonical
from sciflow.errors import Invalid, NotFound

if TYPE_CHECKING:
    from sciflow_control.bandits.tuner import State, Tuner

FORMAT = "sciflow tuner state 1"
_DAMAGE = (zlib.error, struct.error)


def save(path: str | Path, tuner: Tuner, state: State) -> None:
    """Write the state of a tuner; a reader sees the former file or this one, nothing between.

    Parameters
    ----------
    path : str or Path
        Replaced if it is there; its directory is created.
    tuner : Tuner
        Whose state it is.
    state : dict
        Plain JSON and arrays.

    Raises
    ------
    Invalid
        If something else is in the state.
    Failed
        If the disk does not take it; what was there before is kept.
    """
    import zarr
    from zarr.storage import ZipStore

    from sciflow.artifact.disk import Disk, explain_os_error

    arrays: dict[str, np.ndarray] = {}
    tree = _split(state, "state", arrays)
    about = {"format": FORMAT, "tuner": tuner.to_json(), "digest": tuner.digest(), "state": tree}
    about["content"] = _digest(about, arrays)
    try:
        with TemporaryDirectory() as folder:
            part = Path(folder) / "state.zarr.zip"
            with ZipStore(part, mode="w") as store:
                group = zarr.create_group(store, attributes=about)
                for name, values in arrays.items():
                    group.create_array(name, data=values, compressors=None)
            Disk().replace(Path(path), part.read_bytes())
    except OSError as error:
        raise explain_os_error(error, Path(path), "what was there before is kept") from error


def load(path: str | Path, tuner: Tuner) -> State:
    """Read a state that `save` wrote; decisions go on with the same bits.

    Parameters
    ----------
    path : str or Path
        Of the file.
    tuner : Tuner
        With the configuration that the state is of.

    Returns
    -------
    dict
        For a new run that shall know what this one knew, but draw other numbers:
        ``tuner.merge([tuner.init(rng), load(path, tuner)])``.

    Raises
    ------
    NotFound
        If there is no such file.
    Invalid
        If it is damaged, no state of a tuner, or that of another tuner or space.
    """
    path = Path(path)
    if not path.exists():
        raise NotFound(f"{path}: there is no such file with the state of a tuner")
    try:
        about, arrays = _read(path)
    except (BadZipFile, OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, *_DAMAGE) as error:
        reason = str(error) or type(error).__name__
        raise Invalid(f"{path} cannot be read as the state of a tuner: {reason}; it may be cut off") from None
    if about.get("format") != FORMAT:
        raise Invalid(f"{path} is no state of a tuner: its format is {about.get('format')!r}, not {FORMAT!r}")
    content = about.pop("content", None)
    if content != _digest(about, arrays):
        raise Invalid(f"{path} is damaged: its content does not match its digest; take an older copy")
    if about["digest"] != tuner.digest():
        theirs, ours = (canonical(c).decode() for c in (about["tuner"], tuner.to_json()))
        same = "; the program is of another revision" if theirs == ours else ""
        raise Invalid(f"{path} is the state of\n  {theirs}\nand cannot be used for\n  {ours}{same}")
    state: State = _joined(about["state"], arrays)
    return state


def merge_stored(paths: Iterable[str | Path], tuner: Tuner) -> State:
    """What the states in several files know together, such as those of the jobs of a Slurm array.

    Parameters
    ----------
    paths : iterable of str or Path
        Of states that did not learn from each other; the draws and what is open are those of the first.
    tuner : Tuner
        With the configuration that all of them are of.

    Raises
    ------
    NotFound, Invalid
        As `load`, or if there are no paths.
    """
    return tuner.merge([load(path, tuner) for path in paths])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    import zarr
    from zarr.storage import ZipStore

    with ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise BadZipFile(f"{bad} in it is damaged")
    with ZipStore(path, mode="r") as store:
        group = zarr.open_group(store, mode="r")
        return dict(group.attrs), {str(name): np.asarray(a[...]) for name, a in group.arrays()}


def _split(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """A state as JSON in which arrays are named; they are put into `arrays`."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            raise Invalid(f"{name}: an array of {value.dtype} cannot be stored, only numbers can")
        arrays[name] = value
        return {"$array": name}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key.startswith("$") or "/" in key:
                raise Invalid(f"{name}: {key!r} cannot be the name of something that is stored")
        return {k: _split(v, f"{name}.{k}", arrays) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_split(v, f"{name}.{i}", arrays) for i, v in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise Invalid(f"{name}: a {type(value).__name__} cannot be stored, only plain JSON and arrays of numbers")


def _joined(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of `_split`."""
    if isinstance(tree, Mapping):
        if "$array" in tree:
            return arrays[tree["$array"]]
        if "$float" in tree:
            return float(tree["$float"])
        return {k: _joined(v, arrays) for k, v in tree.items()}
    if isinstance(tree, list):
        return [_joined(v, arrays) for v in tree]
    return tree


def _digest(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256(canonical(json.loads(json.dumps(about))))
    for name in sorted(arrays):
        a = arrays[name]
        total.update(f"{name} {a.dtype.str} {a.shape}".encode() + a.tobytes())
    return total.hexdigest()
