"""Formats: ensembles to and from the files of other projects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.errors import NotFound, nearest

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.store import Store


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes
    ----------
    module : str
        Below this package; has ``write(ensemble, aside, target)`` where `can_export`, and
        ``recognise(path)`` and ``read(path)`` where `can_import`.
    suffix : str
        How its files are named; empty where it is a directory.
    can_export, can_import : bool
        The directions.
    sentence : str
        What it is.
    """

    module: str
    suffix: str
    can_export: bool
    can_import: bool
    sentence: str


FORMATS = {
    "numpy": Format("numpy_files", "", True, True, "a directory of .npy files and ensemble.json"),
    "pdebench": Format("pdebench", ".hdf5", True, True, "HDF5 as in PDEBench"),
    "the_well": Format("the_well", ".hdf5", True, True, "HDF5 as in The Well, single precision"),
    "vtkhdf": Format("vtkhdf", "", True, True, "VTKHDF for ParaView, one file for each member"),
    "xdmf": Format(
        "xdmf", "", True, False, "XDMF for ParaView: small text files that point into the artifact"
    ),
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
        Which members; all that ended well by default. Those that failed are left out, and their
        numbers stand in what is written.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    NotFound
        If there is no such format, field or member.
    Invalid
        If `target` exists, or the format cannot hold these fields, or the artifact is damaged.
    Missing
        If h5py is not installed and needed.
    Failed
        If the file system refuses. What was begun is removed, here and in the cases above.
    """
    from sciflow.formats.exporting import export as run

    return run(artifact, format, target, fields=fields, members=members)


def import_ensemble(path: Path, format: str | None, store: Store) -> Artifact:  # noqa: A002
    """Read a file or directory of another project into an ensemble of a store.

    Importing the same content again finds the first result.

    Parameters
    ----------
    path : Path
        The file or directory.
    format : str or None
        One of `FORMATS`; None looks at the content.
    store : Store
        Where the ensemble goes.

    Returns
    -------
    Artifact

    Raises
    ------
    NotFound
        If `path` or the format does not exist, or nobody recognises the content.
    Invalid
        If the content is no ensemble; nothing is published then.
    Missing
        If h5py is not installed and needed.
    Failed
        If another process is importing it, or the file system refuses.
    """
    from sciflow.formats.importing import import_ensemble as run

    return run(path, format, store)
