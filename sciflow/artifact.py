"""Artifact: a published zarr v3 group with a schema, a digest and its provenance; read only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.component import canonical, digest_of
from sciflow.errors import Failed, Invalid, NotFound, nearest
from sciflow.schema import FORMAT, Schema

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    import zarr

DATA = "data.zarr"
MANIFEST = "meta/manifest.json"
KEY = "sciflow"


class Artifact:
    """A published artifact; open one with `Artifact.open`.

    Attributes
    ----------
    path : Path
        Directory that holds ``data.zarr`` (plain zarr v3, nothing foreign inside) and ``meta``.
    schema : Schema
        Kind and fields.
    digest : str
        SHA-256 over the names, sizes and SHA-256 of all data files: equal digests, equal bytes.
    provenance : dict
        Configuration, inputs with their digests, versions, commit, seed, host, times, MPI size.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self._manifest = manifest
        self.schema = Schema.from_json(manifest["schema"])
        self.digest: str = manifest["digest"]
        self.recipe: str = manifest["recipe"]
        self.provenance: dict[str, Any] = manifest["provenance"]

    @classmethod
    def open(cls, path: Path | str, *, verify: bool = True) -> Artifact:
        """Open a published artifact.

        Parameters
        ----------
        path : Path or str
            Its directory.
        verify : bool
            Check every file's size and, where its modification time changed, its content.

        Raises
        ------
        NotFound
            If there is no artifact at `path`.
        Invalid
            If it is damaged, edited, or of a newer format.
        """
        path = Path(path).resolve()
        artifact = cls(path, _read_manifest(path))
        if verify:
            artifact.verify()
        return artifact

    def verify(self, *, full: bool = False) -> None:
        """Check that the data files are the ones that were published.

        Parameters
        ----------
        full : bool
            Hash every file; otherwise only those whose modification time changed.

        Raises
        ------
        Invalid
            Naming every file that is missing, foreign, truncated or changed.
        """
        findings = list(self._findings(full))
        if findings:
            shown = "\n  ".join(findings[:10])
            more = f"\n  and {len(findings) - 10} more" if len(findings) > 10 else ""
            raise Invalid(
                f"{self.path} is damaged:\n  {shown}{more}\n"
                "Move it away and run the flow again; the stage that made it will be repeated."
            )

    def _findings(self, full: bool) -> Iterator[str]:
        root = self.path / DATA
        listed: dict[str, list[Any]] = self._manifest["files"]
        if files_digest(listed) != self.digest:
            yield f"{MANIFEST}: the list of files does not match the digest"
        found = {str(p.relative_to(root)): p for p in root.rglob("*") if p.is_symlink() or not p.is_dir()}
        for name in sorted(found.keys() - listed.keys()):
            yield f"{DATA}/{name}: was not published with this artifact"
        for name, (size, sha256, modified) in listed.items():
            file = found.get(name)
            if file is None:
                yield f"{DATA}/{name}: missing"
                continue
            if file.is_symlink():
                yield f"{DATA}/{name}: a symbolic link, not a file"
                continue
            stat = file.stat()
            if stat.st_size != size:
                yield f"{DATA}/{name}: {stat.st_size} bytes, published with {size}"
            elif (full or stat.st_mtime_ns != modified) and file_digest(file) != sha256:
                yield f"{DATA}/{name}: its content changed after publication"

    def group(self) -> zarr.Group:
        """The zarr group, read only."""
        import zarr

        return zarr.open_group(self.path / DATA, mode="r", use_consolidated=False)

    @property
    def attributes(self) -> dict[str, Any]:
        """What the stage noted beside the fields, plain JSON."""
        document = json.loads((self.path / DATA / "zarr.json").read_bytes())
        return {k: v for k, v in document["attributes"].items() if k != KEY}

    def array(self, name: str) -> zarr.Array[Any]:
        """The zarr array of one field.

        Raises
        ------
        NotFound
            If there is no such field.
        """
        import zarr

        if name not in self.schema.fields:
            raise NotFound(f"{self.path}: no field {name!r}. {nearest(name, self.schema.fields)}")
        return zarr.open_array(self.path / DATA / name, mode="r")

    def read(self, name: str) -> np.ndarray:
        """One whole field as an array, in the schema's axes and unit.

        Raises
        ------
        NotFound
            If there is no such field.
        Invalid
            If a checksum does not match.
        """
        import numpy as np

        array = self.array(name)
        try:
            return np.asarray(array[...])
        except (ValueError, RuntimeError) as error:
            raise Invalid(f"{self.path}, field {name!r}: {error}") from None

    def to_xarray(self) -> xr.Dataset:
        """All fields as a lazily loaded dataset with named axes, units and coordinates."""
        import xarray as xr

        data: xr.Dataset = xr.open_zarr(self.path / DATA, consolidated=False, chunks=None)
        labels = self.attributes.get("parameters")
        if labels and "parameter" in data.dims:
            data = data.assign_coords(parameter=labels)
        return data

    def __repr__(self) -> str:
        return f"<{self.schema.kind} {self.digest[:12]} at {self.path}>"


def files_digest(files: Mapping[str, list[Any]]) -> str:
    """SHA-256 of the names, sizes and content digests of a set of files."""
    return digest_of({name: [size, sha256] for name, (size, sha256, *_) in files.items()})


def file_digest(path: Path) -> str:
    """SHA-256 of one file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(manifest: dict[str, Any]) -> bytes:
    """The manifest as text with a digest of its own, so that a hand edit is seen."""
    document = {**manifest, "self": digest_of(manifest)}
    return json.dumps(document, indent=1, sort_keys=True, allow_nan=False).encode()


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise NotFound(f"{path}: no such artifact")
    file = path / MANIFEST
    if not file.is_file():
        raise NotFound(f"{path} is not a published artifact: it has no {MANIFEST}")
    try:
        manifest: dict[str, Any] = json.loads(file.read_bytes())
        version = manifest["format"]
        own = manifest.pop("self")
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid(f"{file} is damaged: {error}") from None
    if not isinstance(version, int) or version > FORMAT:
        raise Invalid(
            f"{path} has format {version}; this sciflow reads formats up to {FORMAT}: update sciflow"
        )
    if hashlib.sha256(canonical(manifest)).hexdigest() != own:
        raise Invalid(f"{file} was edited or truncated: its own digest does not match")
    return manifest


def explain_os_error(error: OSError, path: Path, kept: str) -> Failed:
    """A full disk or a vanished directory in words a user can act on.

    Parameters
    ----------
    error : OSError
        What the system said.
    path : Path
        What was being written.
    kept : str
        What is safe, for example ``"17 members are kept"``.
    """
    import errno

    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = "the disk is full" if full else (error.strerror or str(error))
    todo = "free some space and run again" if full else "run again when it is mended"
    return Failed(f"cannot write {path}: {reason}; {kept}; {todo}")
