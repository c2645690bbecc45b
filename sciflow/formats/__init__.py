"""Formats: ensembles to and from the files of other projects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.errors import Invalid, NotFound, nearest

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.store import Store


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes
    ----------
    module : str
        Below this package; has ``write(ensemble, target)`` where `can_export`, and
        ``recognise(path)`` and ``read(path)`` where `can_import`; ``beside(path)`` where other files
        than `path` decide what its content means.
    can_export, can_import : bool
        The directions.
    sentence : str
        What it is.
    """

    module: str
    can_export: bool
    can_import: bool
    sentence: str


FORMATS = {
    "numpy": Format("numpy_files", True, True, "a directory of .npy files and ensemble.json"),
    "pdebench": Format("pdebench", True, True, "HDF5 as in PDEBench"),
    "the_well": Format("the_well", True, True, "HDF5 as in The Well"),
    "vtkhdf": Format("vtkhdf", True, True, "VTKHDF for ParaView, one file for each member"),
    "xdmf": Format("xdmf", True, False, "XDMF for ParaView: small text files that point into the artifact"),
    "plaid": Format("plaid", False, True, "a PLAID data set (CGNS)"),
    "meshes": Format("meshes", False, True, "a directory of mesh files: VTU, VTK, XDMF, PVD, MED or CGNS"),
    "hdf5": Format("hdf5", False, True, "HDF5 with members along the first axis"),
}


def module_of(name: str) -> Any:
    """The module of a format.

    Raises
    ------
    NotFound
        If there is no such format.
    """
    if name not in FORMATS:
        raise NotFound(f"no format {name!r}. {nearest(name, FORMATS)}")
    return import_module(f"sciflow.formats.{FORMATS[name].module}")


def export(
    artifact: Artifact,
    format: str,  # noqa: A002 - the word on the command line
    target: Path,
    *,
    fields: Sequence[str] = (),
    members: Sequence[int] | None = None,
) -> list[Path]:
    """Write an ensemble in another format.

    Parameters
    ----------
    artifact : Artifact
        Of kind ``ensemble``.
    format : str
        One of `FORMATS`.
    target : Path
        File or directory to be made; an existing one is refused.
    fields : sequence of str
        Which fields; all by default.
    members : sequence of int or None
        Which members; all that ended well by default.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    NotFound
        If there is no such format, field or member.
    Invalid
        If `target` exists, or the format cannot hold these fields or be written at all.
    Missing
        If h5py is not installed and needed.
    """
    from sciflow.formats.ensemble import Ensemble

    module = module_of(format)
    if not FORMATS[format].can_export:
        can = ", ".join(n for n, f in FORMATS.items() if f.can_export)
        raise Invalid(f"the format {format!r} can only be imported; export writes {can}")
    if target.exists() or target.is_symlink():
        raise Invalid(f"{target} exists; nothing is overwritten")
    ensemble = Ensemble.of(artifact, fields, members)
    aside = target.with_name(f"{target.name}.{os.getpid()}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        module.write(ensemble, aside, target)
        aside.rename(target)
    except BaseException:
        _remove(aside)
        raise
    return sorted(p for p in target.rglob("*") if p.is_file()) if target.is_dir() else [target]


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def import_ensemble(path: str | Path, format: str | None, store: Store) -> Artifact:  # noqa: A002
    """Read a file or directory of another project into an ensemble; see `importing.import_ensemble`."""
    from sciflow.formats.importing import import_ensemble as run

    return run(path, format, store)
