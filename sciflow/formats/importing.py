"""Import: an ensemble from a file of another project becomes an artifact."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.artifact.scan import scan
from sciflow.component import digest_of
from sciflow.errors import Failed, Invalid, NotFound
from sciflow.formats import FORMATS, module_of
from sciflow.schema import Field

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.formats.ensemble import Ensemble
    from sciflow.store import Store, Writer

REVISION = 1
"""Of what is read from a file; with a new one the same file is imported again."""
NO_SEED = -1
"""Stands for the seed of a member that came from elsewhere."""


def import_ensemble(path: Path, format: str | None, store: Store) -> Artifact:  # noqa: A002
    """See `sciflow.formats.import_ensemble`."""
    from sciflow.stages.simulate import ENSEMBLE

    files = _files(path)
    name = format or recognised(path)
    module = module_of(name)
    if not FORMATS[name].can_import:
        raise Invalid(f"the format {name!r} can only be exported")
    begin, stamps = time.time(), {n: _stamp(f) for n, f in files.items()}
    source = [{"name": n or path.name, **_print(f)} for n, f in files.items()]
    prints = {n: one["sha256"] for n, one in zip(files, source, strict=True)}
    recipe = digest_of({"import": name, "revision": REVISION, "files": prints})
    found = store.find("ensemble", recipe)
    if found is not None:
        return found
    ensemble: Ensemble = module.read(path)
    try:
        ensemble.check(path)
        with store.writer(ENSEMBLE, recipe) as out:
            try:
                _write(ensemble, path, out)
                if {n: _stamp(f) for n, f in files.items()} != stamps:
                    raise Invalid(f"{path} was changed while it was read")
            except Invalid:
                # Refused is refused: nothing of it waits for another attempt.
                shutil.rmtree(out.path.parent, ignore_errors=True)
                raise
            return out.publish(_provenance(name, source, begin))
    except BlockingIOError:
        raise Failed(f"another process is importing {path}") from None
    finally:
        ensemble.close()


def recognised(path: Path) -> str:
    """The format of a file by its content.

    Raises
    ------
    NotFound
        If it is none.
    """
    for name, known in FORMATS.items():
        if known.can_import and module_of(name).recognise(path):
            return name
    can = ", ".join(n for n, f in FORMATS.items() if f.can_import)
    raise NotFound(f"{path}: none of the formats {can} is recognised; name one with --format")


def _files(path: Path) -> dict[str, Path]:
    """The files by their place below `path`; a lone one has the name ``""``.

    Raises
    ------
    NotFound
        If there is nothing.
    Invalid
        If there is a symbolic link, a pipe or the like.
    """
    if path.is_symlink():
        raise Invalid(f"{path} is a symbolic link; name what it leads to: {path.readlink()}")
    if not path.exists():
        raise NotFound(f"{path}: not there")
    inside = sorted(path.rglob("*")) if path.is_dir() else [path]
    for one in inside:
        if one.is_symlink():
            raise Invalid(f"{one} is a symbolic link; it is not followed")
        if not one.is_file() and not one.is_dir():
            raise Invalid(f"{one} is no regular file")
    return {str(f.relative_to(path)) if path.is_dir() else "": f for f in inside if f.is_file()}


def _stamp(file: Path) -> tuple[int, int, int]:
    about = file.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns


def _print(file: Path) -> dict[str, Any]:
    found = scan(file)
    return {"size": found.size, "sha256": found.sha256}


def _provenance(name: str, source: list[dict[str, Any]], begin: float) -> dict[str, Any]:
    """What `sciflow.provenance.collect` notes of a stage, and the files."""
    import platform

    from sciflow import environment, provenance

    packages = ("sciflow", "numpy", "h5py")
    found = {package: provenance.version_of(package) for package in packages}
    return {
        "stage": {"component": "import", "format": name},
        "inputs": {},
        "source": source,
        "versions": {"python": platform.python_version(), **{p: v for p, v in found.items() if v}},
        "commit": provenance.git_commit(),
        "seed": 0,
        "host": platform.node(),
        "platform": platform.platform(),
        "user": provenance.user(),
        "resources": {"ranks": 1},
        "start": begin,
        "end": time.time(),
        "plugins": [],
        "environment": environment.record(),
    }


def _write(ensemble: Ensemble, path: Path, out: Writer) -> None:
    import numpy as np

    from sciflow.stages.simulate import ENSEMBLE

    count = ensemble.count
    _begin(ensemble, out)
    done = out.committed()
    for number in range(count):
        if number not in done:
            _member(ensemble, number, path, out)
    out.write("status", np.ones(count, np.uint8), ENSEMBLE["status"])
    out.write("seed", np.full(count, NO_SEED, np.int64), ENSEMBLE["seed"])
    if ensemble.times is not None:
        steps = np.array([len(ensemble.levels(n)) for n in range(count)], dtype=np.int64)
        out.write("n_steps", steps, Field(("member",), "1", "int64", "steps of each member"))


def _begin(ensemble: Ensemble, out: Writer) -> None:
    import numpy as np

    from sciflow.stages.simulate import ENSEMBLE, member_field

    count, units = ensemble.count, ensemble.units
    for axis, line in ensemble.coordinates.items():
        out.write(axis, np.asarray(line, dtype=float), Field((axis,), units.get(axis, "any"), "float64"))
    for name, (field, values) in ensemble.constants.items():
        out.write(name, values, field)
    for name, field in ensemble.fields.items():
        out.create(name, member_field(field), (count, *ensemble.shape(name)), member=True)
    if ensemble.times is not None:
        times = Field(("member", "step"), ensemble.unit_of_time(), "float64", "time of each step")
        out.create("time", times, (count, len(ensemble.coordinates["step"])), member=True)
    table = [values for _, values in ensemble.parameters.values()]
    points = np.stack(table, axis=1).astype(float) if table else np.zeros((count, 0))
    out.write("parameters", points, ENSEMBLE["parameters"])
    out.describe(
        parameters=list(ensemble.parameters),
        parameter_units=[unit for unit, _ in ensemble.parameters.values()],
        periodic=list(ensemble.periodic),
        imported=ensemble.name,
        imported_members=list(ensemble.members),
        left_out=list(ensemble.left_out),
        failures={},
    )


def _member(ensemble: Ensemble, number: int, path: Path, out: Writer) -> None:
    """One member, level by level."""
    import numpy as np

    times = ensemble.levels(number)
    timed = ensemble.times is not None or any(ensemble.timed(n) for n in ensemble.fields)
    count = len(times) if timed else 1
    whole = {name: _checked(ensemble, name, number, count, path) for name in ensemble.fields}
    with out.member(number) as one:
        for level in range(count):
            state = {n: v[level] if ensemble.timed(n) else v for n, v in whole.items()
                     if ensemble.timed(n) or not level}  # fmt: skip
            if ensemble.times is not None:
                state["time"] = np.asarray(times[level], dtype=float)
            one.append(state)
        one.commit({"status": 1, "reason": "", "metrics": {}})


def _checked(ensemble: Ensemble, name: str, number: int, count: int, path: Path) -> Any:
    """Values of one field of one member, in the shape and type that the ensemble has.

    Raises
    ------
    Invalid
        If they have another shape, cannot be stored without loss, or are not finite.
    """
    import numpy as np

    values, field = np.asarray(ensemble.read(name, number)), ensemble.fields[name]
    where = f"{ensemble.where(path, name)}, member {number}"
    shape = ensemble.shape(name)
    wanted = (count, *shape[1:]) if ensemble.timed(name) else shape
    if values.shape != wanted:
        raise Invalid(f"{where}: shape {values.shape}, the coordinates say {wanted}")
    if not np.can_cast(values.dtype, field.dtype, "safe"):
        raise Invalid(f"{where}: {values.dtype} cannot be stored as {field.dtype} without loss")
    if values.dtype.kind == "f":
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            raise Invalid(f"{where} is not finite at {tuple(bad[0].tolist())}")
    return values
