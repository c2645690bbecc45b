"""Export: members of a published ensemble, read one by one, to the files of another project."""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.artifact.disk import explain_os_error
from sciflow.errors import Invalid, NotFound, nearest
from sciflow.formats import FORMATS, module_of
from sciflow.formats.ensemble import Ensemble
from sciflow.formats.mesh import arrays_of
from sciflow.schema import Field

if TYPE_CHECKING:
    import numpy as np

    from sciflow.artifact import Artifact

LOG = logging.getLogger("sciflow")
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def export(
    artifact: Artifact,
    format: str,  # noqa: A002 - the word on the command line
    target: Path,
    *,
    fields: Sequence[str] = (),
    members: Sequence[int] | None = None,
) -> list[Path]:
    """See `sciflow.formats.export`."""
    module = module_of(format)
    if not FORMATS[format].can_export:
        raise Invalid(f"the format {format!r} can only be imported")
    if target.exists() or target.is_symlink():
        raise Invalid(f"{target} exists; nothing is overwritten")
    ensemble = published(artifact, fields, members)
    if ensemble.left_out:
        LOG.warning("%s: the members %s failed and are left out", artifact.path, list(ensemble.left_out))
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        module.write(ensemble, aside, target)
        _rename(aside, target)
    except OSError as error:
        raise explain_os_error(error, target, "nothing is kept of it") from error
    finally:
        _remove(aside)
    return sorted(p for p in target.rglob("*") if p.is_file()) if target.is_dir() else [target]


def _rename(aside: Path, target: Path) -> None:
    """Give a file or directory its name, unless somebody has taken it meanwhile."""
    try:
        if aside.is_dir():
            aside.rename(target)
            return
        try:
            target.hardlink_to(aside)  # Fails where the name is taken; a rename would not.
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            aside.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise Invalid(f"{target} exists; nothing is overwritten") from None
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def published(artifact: Artifact, fields: Sequence[str], members: Sequence[int] | None) -> Ensemble:
    """Members of a published ensemble.

    Raises
    ------
    NotFound
        If a field or member is not there.
    Invalid
        If the artifact is no ensemble, or a member is asked for twice.
    """
    import numpy as np

    if artifact.schema.kind != "ensemble":
        raise Invalid(f"{artifact.path} is a {artifact.schema.kind}; only an ensemble can be exported so")
    adaptive = "n_steps" in artifact.schema.fields
    steps = artifact.read("n_steps") if adaptive else None
    times = artifact.read("time") if adaptive else None
    chosen = _members(artifact, members)
    kept = _fields(artifact, fields)
    readers = {n: artifact.gather(n, verify="always") for n in kept}

    def read(name: str, number: int) -> np.ndarray:
        layout, member = readers[name].layout, chosen[number]
        count = layout.levels if steps is None or not layout.timed else int(steps[member])
        # Unlike `Gather.whole` this raises where a file is gone, instead of filling in.
        window = readers[name].read(np.array([member]), np.array([0]), count)[0]
        return window if layout.timed else window[0]

    def times_of(number: int) -> np.ndarray:
        assert times is not None
        assert steps is not None
        return np.asarray(times[chosen[number]][: steps[chosen[number]]])

    lines = {axis: _line(artifact, axis, kept) for axis in _axes(artifact, kept)}
    status = artifact.read("status")
    return Ensemble(
        artifact.path.name,
        kept,
        {axis: values for axis, (values, _) in lines.items()},
        {axis: unit for axis, (_, unit) in lines.items()},
        _parameters(artifact, chosen),
        len(chosen),
        read,
        times=times_of if adaptive else None,
        time_unit=artifact.schema["time"].unit if "time" in artifact.schema.fields else "s",
        periodic=tuple(artifact.attributes.get("periodic", ())),
        members=tuple(chosen),
        left_out=tuple(np.flatnonzero(status != 1).tolist()) if members is None else (),
        constants=arrays_of(artifact, kept),
        artifact=artifact,
        chosen=tuple(fields),
    )


def _members(artifact: Artifact, members: Sequence[int] | None) -> list[int]:
    good: list[int] = artifact.members().tolist()
    chosen = good if members is None else [int(m) for m in members]
    absent = sorted(set(chosen) - set(good))
    if absent:
        raise NotFound(f"{artifact.path}: members {absent[:10]} have no result")
    if len(set(chosen)) != len(chosen):
        raise Invalid(f"{artifact.path}: a member is asked for twice in {chosen[:20]}")
    if not chosen:
        raise NotFound(f"{artifact.path}: there are no members to export")
    return chosen


def _fields(artifact: Artifact, fields: Sequence[str]) -> dict[str, Field]:
    stored = {
        n: Field(f.axes[1:], f.unit, f.dtype, f.description, f.attributes)
        for n, f in artifact.schema.fields.items()
        if f.axes[:1] == ("member",) and n != "time" and artifact.array(n).shards is not None
    }
    for name in fields:
        if name not in stored:
            raise NotFound(f"{artifact.path}: no field {name!r}. {nearest(name, stored)}")
    return {n: f for n, f in stored.items() if not fields or n in fields}


def _axes(artifact: Artifact, kept: Mapping[str, Field]) -> list[str]:
    found = {a for f in kept.values() for a in f.axes}
    return sorted(found | ({"step"} if "n_steps" in artifact.schema.fields else set()))


def _line(artifact: Artifact, axis: str, kept: Mapping[str, Field]) -> tuple[Any, str]:
    """Coordinates of an axis and their unit; the count where none were stored."""
    import numpy as np

    if axis in artifact.schema.fields and artifact.schema[axis].axes == (axis,):
        return artifact.read(axis), artifact.schema[axis].unit
    name = next((n for n in kept if axis in kept[n].axes), "time")
    size = artifact.array(name).shape[artifact.schema[name].axes.index(axis)]
    return np.arange(float(size)), "1"


def _parameters(artifact: Artifact, chosen: list[int]) -> dict[str, tuple[str, Any]]:
    about = artifact.attributes
    if "parameters" not in artifact.schema.fields:
        return {}
    points = artifact.read("parameters")[chosen]
    names = about.get("parameters", [f"parameter_{i}" for i in range(points.shape[1])])
    units = about.get("parameter_units", ["any"] * len(names))
    return {n: (u, points[:, i]) for i, (n, u) in enumerate(zip(names, units, strict=True))}
