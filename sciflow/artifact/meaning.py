"""What the numbers of an ensemble say: NaN, missing levels, time that goes back, equal members."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sciflow.artifact.verify import Finding
from sciflow.errors import SciflowError

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact.sealed import Artifact


def semantic(artifact: Artifact | None) -> Iterator[Finding]:
    """Findings about the content of a published artifact.

    Parameters
    ----------
    artifact : Artifact or None
        Nothing is said of one that is not published.
    """
    if artifact is None:
        return
    import numpy as np

    for name, field in artifact.schema.fields.items():
        where = f"data.zarr/{name}"
        try:
            if field.axes == (name,):
                steps = np.diff(artifact.read(name))
                if not ((steps > 0).all() or (steps < 0).all()):
                    yield Finding("time" if name == "time" else "axis", where, "is not monotone")
        except SciflowError as error:
            yield Finding("crc", where, str(error))
    if "status" in artifact.schema.fields:
        yield from _members(artifact)


def _members(artifact: Artifact) -> Iterator[Finding]:
    import numpy as np

    good = set(artifact.members().tolist())
    count = len(artifact.read("status"))
    steps = artifact.read("n_steps") if "n_steps" in artifact.schema.fields else None
    points = artifact.read("parameters") if "parameters" in artifact.schema.fields else None
    if points is not None:
        for member in np.flatnonzero(~np.isfinite(points).all(axis=1)).tolist():
            yield Finding("nan", "data.zarr/parameters", "a parameter is not finite", member)
    for name in artifact.schema.fields:
        array = artifact.array(name)
        if array.shards is None:
            continue
        reader = artifact.gather(name, verify="always")
        seen: dict[int, int] = {}
        for member in range(count):
            where = f"data.zarr/{name}"
            there = (artifact.path / where / reader.layout.key(member)).exists()
            if there != (member in good):
                text = "there but marked as failed" if there else "marked as good but not there"
                yield Finding("status", where, text, member)
            if not there or member not in good:
                continue
            levels = int(steps[member]) if steps is not None and reader.layout.timed else None
            try:
                values = reader.whole(np.array([member]))[0][:levels]
            except SciflowError as error:
                yield Finding("crc", where, str(error), member)
                continue
            yield from _one(name, values, member)
            key = hash(values.tobytes())
            if key in seen and (points is None or not np.array_equal(points[member], points[seen[key]])):
                yield Finding("duplicate", where, f"equal to member {seen[key]} of another parameter", member)
            seen.setdefault(key, member)


def _one(name: str, values: np.ndarray, member: int) -> Iterator[Finding]:
    import numpy as np

    where = f"data.zarr/{name}"
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        yield Finding("nan", where, f"not finite, first at level {int(np.argmin(finite))}", member)
    elif name == "time" and not (np.diff(values) > 0).all():
        yield Finding("time", where, "time does not increase", member)
