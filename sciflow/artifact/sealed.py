"""Artifact: a published zarr v3 group with a schema, a digest and its provenance; read only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.component import canonical, digest_of
from sciflow.errors import Invalid, NotFound, nearest
from sciflow.schema import FORMAT, Schema

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    import zarr

    from sciflow.artifact.gather import Gather, Verify

DATA = "data.zarr"
FILES = "files"
MANIFEST = "meta/manifest.json"
KEY = "sciflow"


class Artifact:
    """A published artifact; open one with `Artifact.open`.

    Parameters
    ----------
    path : Path
        Its directory.
    manifest : mapping
        What ``meta/manifest.json`` says.

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
        artifact = cls(path, read_manifest(path))
        if verify:
            artifact.verify()
        return artifact

    def verify(self, *, full: bool = False) -> None:
        """Check that the data files are the ones that were published.

        Parameters
        ----------
        full : bool
            Hash every file; otherwise only those whose modification time changed. See
            `sciflow.artifact.verify.findings` for deeper checks.

        Raises
        ------
        Invalid
            Naming every file that is missing, foreign, truncated or changed.
        """
        from sciflow.artifact.verify import findings

        found = [str(f) for f in findings(self.path, "sha256" if full else "manifest") if f.severe]
        if found:
            shown = "\n  ".join(found[:10])
            more = f"\n  and {len(found) - 10} more" if len(found) > 10 else ""
            raise Invalid(
                f"{self.path} is damaged:\n  {shown}{more}\n"
                "Move it away and run the flow again; the stage that made it will be repeated."
            )

    def group(self) -> zarr.Group:
        """The zarr group, read only."""
        import zarr

        return zarr.open_group(self.path / DATA, mode="r", use_consolidated=False)

    @property
    def attributes(self) -> dict[str, Any]:
        """What the stage noted beside the fields, plain JSON."""
        document = json.loads((self.path / DATA / "zarr.json").read_bytes())
        return {k: v for k, v in document["attributes"].items() if k not in (KEY, "Conventions")}

    def file(self, name: str) -> Path:
        """A file that the stage wrote beside the fields (weights, a configuration).

        Raises
        ------
        NotFound
            If there is none of this name.
        """
        path = self.path / FILES / name
        there = [p.name for p in (self.path / FILES).glob("*")]
        if name not in there:
            raise NotFound(f"{self.path}: no file {name!r}. {nearest(name, there)}")
        return path

    def array(self, name: str) -> zarr.Array[Any]:
        """The zarr array of one field, as it is stored: degrees of freedom in the solver's order.

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

        Members that are not there are NaN. Degrees of freedom come in the order that does not
        depend on the number of ranks.

        Raises
        ------
        NotFound
            If there is no such field.
        Invalid
            If a checksum does not match.
        """
        import numpy as np

        array = self.array(name)
        if array.shards is not None:
            return self.gather(name, verify="always").whole(np.arange(array.shape[0]))
        try:
            return np.asarray(array[...])
        except (ValueError, RuntimeError) as error:
            raise Invalid(f"{self.path}, field {name!r}: {error}") from None

    def gather(self, name: str, *, verify: Verify = "first") -> Gather:
        """A reader of random time levels of a member-wise field.

        Parameters
        ----------
        name : str
            Of the field.
        verify : {"off", "first", "always"}
            When checksums are compared.

        Raises
        ------
        NotFound
            If there is no such field.
        Invalid
            If it is not stored member by member.
        """
        from sciflow.artifact.gather import Gather

        if name not in self.schema.fields:
            raise NotFound(f"{self.path}: no field {name!r}. {nearest(name, self.schema.fields)}")
        return Gather(self.path / DATA / name, verify=verify, inverse=self.numbering(name))

    def numbering(self, name: str) -> dict[int, np.ndarray]:
        """Where the canonical positions of a field are in the members' stored order.

        Returns
        -------
        dict of int to ndarray of int64, shape (dof,)
            By member: ``canonical = stored[..., order]``. Empty where nothing is reordered.
        """
        import numpy as np

        names: list[str] = self.attributes.get("numberings", {}).get(name, [])
        if not names:
            return {}
        orders = [np.argsort(self.read(n)) for n in names]
        which = self.read(f"{name}_numbering")
        return {member: orders[k] for member, k in enumerate(which.tolist()) if k >= 0}

    def members(self) -> np.ndarray:
        """Indices of the members that ended well, int64."""
        import numpy as np

        return np.flatnonzero(self.read("status") == 1)

    def to_xarray(self) -> xr.Dataset:
        """All fields as a lazily loaded dataset with named axes, units and coordinates."""
        from sciflow.artifact.view import dataset

        return dataset(self)

    def to_datatree(self) -> xr.DataTree:
        """The same as a tree: fields at the root, then ``solver``, ``mesh`` and ``numbering``."""
        from sciflow.artifact.view import tree

        return tree(self)

    def __repr__(self) -> str:
        return f"<{self.schema.kind} {self.digest[:12]} at {self.path}>"


def files_digest(files: Mapping[str, list[Any]]) -> str:
    """SHA-256 of the names, sizes and content digests of a set of files."""
    return digest_of({name: [size, sha256] for name, (size, sha256, *_) in files.items()})


def seal(manifest: dict[str, Any]) -> bytes:
    """The manifest as text with a digest of its own, so that a hand edit is seen."""
    document = {**manifest, "self": digest_of(manifest)}
    return json.dumps(document, indent=1, sort_keys=True, allow_nan=False).encode()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a published artifact, without its own digest.

    Raises
    ------
    NotFound
        If there is none.
    Invalid
        If it was edited or truncated, or is of a newer format.
    """
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
