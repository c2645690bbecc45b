"""Import: an ensemble from a file of another project becomes an artifact."""

from __future__ import annotations

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


def import_ensemble(path: str | Path, format: str | None, store: Store) -> Artifact:  # noqa: A002
    """Read a file or directory of another project into an ensemble of a store.

    Importing the same content again finds the first result.

    Parameters
    ----------
    path : str or Path
        The file or directory.
    format : str or None
        One of `FORMATS`; None looks at the content.
    store : Store
        Where the ensemble goes.

    Raises
    ------
    NotFound
        If `path` or the format does not exist, or nobody recognises the content.
    Invalid
        If the content is no ensemble; nothing is published then.
    Failed
        If another process is importing it.
    """
    from sciflow.stages.simulate import ENSEMBLE

    path = Path(path)
    if not path.exists():
        raise NotFound(f"{path}: not there")
    name = format or recognised(path)
    if not FORMATS[name].can_import if name in FORMATS else False:
        raise Invalid(f"the format {name!r} can only be exported")
    module = module_of(name)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    files += module.beside(path) if hasattr(module, "beside") else []
    source = {str(f.relative_to(path)) if path.is_dir() else f.name: _print(f) for f in files}
    recipe = digest_of({"import": name, "files": source})
    found = store.find("ensemble", recipe)
    if found is not None:
        return found
    begin = time.time()
    ensemble = module.read(path)
    try:
        ensemble.check(path)
        with store.writer(ENSEMBLE, recipe) as out:
            _write(ensemble, path, out)
            about = {"component": "import", "format": name}
            provenance = {"stage": about, "inputs": {}, "start": begin, "end": time.time(), "source": source}
            return out.publish(provenance)
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
    raise NotFound(
        f"{path}: none of the formats {can} is recognised. "
        "`sciflow store import --help` says what they are; --format names one"
    )


def _print(file: Path) -> list[Any]:
    found = scan(file)
    return [found.size, found.sha256]


def _write(ensemble: Ensemble, path: Path, out: Writer) -> None:
    import numpy as np

    from sciflow.stages.simulate import ENSEMBLE, member_field

    count = ensemble.count
    for axis, values in ensemble.coordinates.items():
        out.write(
            axis, np.asarray(values, dtype=float), Field((axis,), ensemble.units.get(axis, "any"), "float64")
        )
    for name, field in ensemble.fields.items():
        out.create(name, member_field(field), (count, *ensemble.shape(name)), member=True)
    for name, (field, values) in ensemble.arrays.items():
        out.write(name, values, field)
    if ensemble.times is not None:
        times = Field(("member", "step"), ensemble.units.get("time", "s"), "float64", "time of each step")
        out.create("time", times, (count, len(ensemble.coordinates["step"])), member=True)
    table = [values for _, values in ensemble.parameters.values()]
    out.write("parameters", np.stack(table, axis=1).astype(float) if table else np.zeros((count, 0)),
              ENSEMBLE["parameters"])  # fmt: skip
    out.describe(
        parameters=list(ensemble.parameters),
        parameter_units=[unit for unit, _ in ensemble.parameters.values()],
        periodic=list(ensemble.periodic),
        imported=ensemble.name,
        **({"member_names": list(ensemble.labels)} if ensemble.labels else {}),
        **ensemble.about,
    )
    done = out.committed()
    steps = np.zeros(count, dtype=np.int64)
    for number in range(count):
        if number not in done:
            _member(ensemble, number, path, out)
        steps[number] = len(ensemble.levels(number))
    out.write("status", np.ones(count, np.uint8), ENSEMBLE["status"])
    out.write("seed", np.zeros(count, np.int64), ENSEMBLE["seed"])
    if ensemble.times is not None:
        out.write("n_steps", steps, Field(("member",), "1", "int64", "steps of each member"))


def _member(ensemble: Ensemble, number: int, path: Path, out: Writer) -> None:
    """One member, level by level."""
    import numpy as np

    whole = {name: np.asarray(ensemble.read(name, number)) for name in ensemble.fields}
    for name, values in whole.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise Invalid(f"{path}: {ensemble.label(number)}, field {name!r} is not finite")
    timed = any(ensemble.timed(n) for n in whole)
    with out.member(number) as one:
        for level in range(len(ensemble.levels(number)) if timed else 1):
            state = {
                n: v[level] if ensemble.timed(n) else v
                for n, v in whole.items()
                if ensemble.timed(n) or not level
            }
            if ensemble.times is not None:
                state["time"] = np.asarray(ensemble.levels(number)[level], dtype=float)
            one.append(state)
        one.commit({"status": 1, "reason": "", "metrics": {}})
