"""Writer: the write side of one artifact, not visible to readers until it is published."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sciflow.artifact import attempt, journal
from sciflow.artifact.disk import Disk, explain_os_error
from sciflow.artifact.journal import Journal
from sciflow.artifact.layout import Layout, whole_document
from sciflow.artifact.member import DATA, Member
from sciflow.artifact.sealed import FILES, KEY, Artifact
from sciflow.artifact.share import write_whole
from sciflow.errors import Invalid, NotFound
from sciflow.schema import FORMAT, Field, Schema

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Comm
    from sciflow.store import Store

META = "meta"
SPEC = "meta/spec.json"
DAMAGED = "meta/damaged"

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


class Writer:
    """Write side of one artifact, not visible to readers until `publish`.

    Parameters
    ----------
    path : Path
        A directory for it alone; what a killed run left there is gone on with.
    schema : Schema
        What it must hold to be published.
    recipe : str
        Digest of how it is made.
    store : Store or None
        Where it is published; None in a job.
    about : mapping or None
        More that is noted of it while it is written.

    Attributes
    ----------
    path : Path
        Directory being written.
    scratch : Path
        Directory beside it for checkpoints; it survives a kill and goes when the artifact is
        published.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        recipe: str,
        store: Store | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.recipe = recipe
        self._store = store
        self._kind = schema.kind
        self._required = schema
        self._fields: dict[str, Field] = {}
        self._attributes: dict[str, Any] = {}
        self.disk = store.disk if store is not None else Disk()
        spec = path / SPEC
        if spec.is_file():
            self.disk = Disk(json.loads(spec.read_bytes())["durability"])
        elif store is not None:
            document = {"format": FORMAT, "kind": self._kind, "recipe": recipe, **(about or {})}
            document["durability"] = self.disk.durability
            self.disk.replace(spec, json.dumps(document).encode())
        self._journal = Journal(path / META / journal.FOLDER, self.disk)
        self._layouts: dict[str, Layout] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Read again what a job of this stage added.

        Raises
        ------
        Invalid
            If what is there cannot be read.
        """
        root = self.path / DATA / "zarr.json"
        if root.exists():
            try:
                document = json.loads(root.read_bytes())["attributes"]
                self._fields = dict(Schema.from_json(document.pop(KEY)["schema"]).fields)
            except (ValueError, KeyError, TypeError) as error:
                raise Invalid(f"{root} is damaged ({error}); move {self.path} away to start over") from None
            self._attributes = document
            self._layouts = None

    @classmethod
    def attach(cls, path: Path) -> Self:
        """Join the writing of an artifact that another process has begun (members of an ensemble).

        Raises
        ------
        NotFound
            If nothing is being written there.
        """
        file = path / DATA / "zarr.json"
        if not file.exists():
            raise NotFound(f"{path}: no artifact is being written here")
        kind = json.loads(file.read_bytes())["attributes"][KEY]["schema"]["kind"]
        return cls(path, Schema(kind), recipe="")

    @property
    def scratch(self) -> Path:
        """See the class."""
        path = self.path.parent / "scratch"
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def store(self) -> Store:
        """The store that this is published in; only on the driver's side, not in its jobs.

        Raises
        ------
        Invalid
            In a job.
        """
        if self._store is None:
            raise Invalid(f"{self.path} was joined by a job; only its driver knows the store")
        return self._store

    @property
    def schema(self) -> Schema:
        """Fields created so far."""
        return Schema(self._kind, self._fields)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What `describe` noted so far."""
        return self._attributes

    def describe(self, **attributes: Any) -> None:
        """Note plain JSON beside the fields (parameter names, split, configuration)."""
        self._attributes.update(attributes)
        self._write_root()

    # -- fields ------------------------------------------------------------------------------

    def create(self, name: str, field: Field, shape: Sequence[int], *, member: bool = False) -> None:
        """Create one array, filled with NaN (floats) or zero.

        Parameters
        ----------
        name : str
            Name of the field.
        field : Field
            Axes, unit and dtype.
        shape : sequence of int
            One size per axis.
        member : bool
            One file per member, a time level per chunk, so that members are written apart.

        Raises
        ------
        Invalid
            If axes and shape disagree, or the field exists with another description.
        """
        if len(shape) != len(field.axes):
            raise Invalid(f"field {name!r}: shape {tuple(shape)} for axes {field.axes}")
        if name in self._fields:
            if self._fields[name] != field:
                raise Invalid(f"field {name!r} already exists as {self._fields[name]}")
            return
        if member:
            layout = Layout.choose(name, field, shape[1:])
            document = layout.document(int(shape[0]))
        else:
            document = whole_document(name, field, [int(n) for n in shape])
        # Members may be committed long before publication: what they belong to must not get lost.
        text = json.dumps(document, indent=1).encode()
        self.disk.replace(self.path / DATA / name / "zarr.json", text, sync=member)
        self._register(name, field, sync=member)

    def write(self, name: str, values: Any, field: Field) -> None:
        """Create a field and write it whole.

        Parameters
        ----------
        name : str
            Name of the field.
        values : array_like
            In the axes of `field`.
        field : Field
            Axes, unit and dtype; `values` must convert to the dtype without changing kind.

        Raises
        ------
        Invalid
            If the shape or kind of `values` does not fit the field.
        """
        import numpy as np

        array = np.asarray(values)
        if array.dtype.kind not in "fiub" or (array.dtype.kind == "f" and np.dtype(field.dtype).kind != "f"):
            raise Invalid(f"field {name!r}: {array.dtype} cannot be stored as {field.dtype}")
        if array.ndim != len(field.axes):
            raise Invalid(f"field {name!r}: shape {array.shape} for axes {field.axes}")
        if name in self._fields and self._fields[name] != field:
            raise Invalid(f"field {name!r} already exists as {self._fields[name]}")
        write_whole(self.path / DATA, name, array, field, self.disk, sync=self._lasting)
        if name not in self._fields:
            self._register(name, field)

    def write_file(self, name: str, data: bytes) -> None:
        """Write a file beside the zarr group (``files/<name>``): weights, a configuration.

        Parameters
        ----------
        name : str
            Letters, digits, ``.``, ``_`` and ``-``.
        data : bytes
            Its content.

        Raises
        ------
        Invalid
            If the name could be a path.
        """
        if not _FILE.match(name):
            raise Invalid(f"file name {name!r} must match {_FILE.pattern}")
        self.disk.replace(self.path / FILES / name, data, sync=False)

    def _register(self, name: str, field: Field, *, sync: bool = False) -> None:
        self._fields[name] = field
        self._layouts = None
        self._write_root(sync=sync)

    def adopt(self, name: str) -> None:
        """Make an array that a job wrote (a numbering) one of the artifact's fields."""
        document = json.loads((self.path / DATA / name / "zarr.json").read_bytes())
        notes = document["attributes"]
        axes = tuple(document["dimension_names"])
        self._register(name, Field(axes, notes["units"], document["data_type"], notes["long_name"]))

    @property
    def _lasting(self) -> bool:
        """Whether members may be committed here, so that what they belong to must not get lost."""
        return bool(self.layouts)

    def _write_root(self, *, sync: bool = False) -> None:
        schema = Schema(self._kind, dict(sorted(self._fields.items())))
        attributes = {
            "Conventions": "CF-1.11 UGRID-1.0",
            **self._attributes,
            KEY: {"format": FORMAT, "schema": schema.to_json()},
        }
        document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        try:
            text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise Invalid(f"attributes must be plain JSON: {error}") from None
        self.disk.replace(self.path / DATA / "zarr.json", text.encode(), sync=sync or self._lasting)

    # -- members -----------------------------------------------------------------------------

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """Where the member-wise fields lie."""
        if self._layouts is None:
            self._layouts = {}
            for name in self._fields:
                document = json.loads((self.path / DATA / name / "zarr.json").read_bytes())
                if document["codecs"][0]["name"] == "sharding_indexed":
                    self._layouts[name] = Layout.read(self.path / DATA / name)
        return self._layouts

    def member(self, member: int, comm: Comm | None = None) -> Member:
        """Begin a member, or go on with what an earlier attempt left; see `Member`.

        Parameters
        ----------
        member : int
            Its index.
        comm : Comm or None
            The ranks that write it together.

        Raises
        ------
        Invalid
            If the index is negative.
        Failed
            If the file system refuses to begin it.
        """
        if member < 0:
            raise Invalid(f"member {member}: members count from 0")
        try:
            return Member(self.path, int(member), self.layouts, self.disk, self._journal, comm)
        except OSError as error:
            raise explain_os_error(error, self.path / DATA, "members committed before are kept") from error

    def write_member(self, member: int, values: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> bool:
        """Write one member's fields whole and commit it with a journal record.

        Parameters
        ----------
        member : int
            Its index.
        values : mapping of str to ndarray
            Every member-wise field, shape without the ``member`` axis; empty for a failed member.
        record : mapping
            Plain JSON, kept in the journal: status, solver figures, times.

        Returns
        -------
        bool
            False if another process had committed it with other content, see `Member.commit`.

        Raises
        ------
        Invalid
            If a field is missing, unknown or of another shape.
        Failed
            If the disk is full; members committed earlier are kept.
        """
        try:
            if not values:
                self._journal.append({**record, "member": int(member), "files": {}})
                return True
            with self.member(member) as one:
                one.fill(values)
                return one.commit(record)
        except OSError as error:
            raise explain_os_error(error, self.path / DATA, "members committed before are kept") from error

    def note(self, record: Mapping[str, Any]) -> None:
        """Add a line to the journal that is no member: what happened, plain JSON."""
        self._journal.append(record)

    def committed(self) -> dict[int, dict[str, Any]]:
        """Members in the journal whose files are there in full length.

        Returns
        -------
        dict of int to dict
            The journal record by member; the first one wins, but any wins over a crash. What is
            no record (a line torn by a kill) is ignored here and reported by ``verify``.
        """
        return committed(self.path)

    def recover(self) -> None:
        """Remove the names that killed commits left without a record; for the only driver.

        The bytes stay in the attempt's directory and are taken up when the member is begun again.
        """
        known = self.committed()
        alive = {int(a.name.split(".")[0]) for a in attempt.attempts(self.path / attempt.PARTS)
                 if not attempt.may_continue(a)}  # fmt: skip
        for name in self.layouts:
            for file in (self.path / DATA / name).glob("c.*"):
                member = int(file.name.split(".")[1])
                record = known.get(member)
                if member not in alive and (record is None or f"{name}/{file.name}" not in record["files"]):
                    file.unlink()

    # -- publication -------------------------------------------------------------------------

    def publish(self, provenance: Mapping[str, Any]) -> Artifact:
        """Make the artifact visible: checksums, manifest, then one rename.

        Raises
        ------
        Invalid
            If the stage did not write the fields that its schema promises.
        Failed
            If members were damaged after they were written; they are set aside and will be
            computed again.
        """
        from sciflow.artifact.publication import publish

        assert self._store is not None, "attach() joins a writer, it does not publish"
        if not self._fields and not (self.path / DATA / "zarr.json").exists():
            self._write_root()
        reasons = self._required.accepts(self.schema)
        if reasons:
            raise Invalid(f"the stage wrote a {self._kind} that breaks its own schema: {'; '.join(reasons)}")
        self._journal.close()
        return publish(self, self._store.path(self._kind, self.recipe), provenance)


def committed(path: Path) -> dict[int, dict[str, Any]]:
    """See `Writer.committed`; also for an artifact that another process is writing."""
    records: dict[int, dict[str, Any]] = {}
    for record in journal.read(path / META):
        if isinstance(record, journal.Torn) or "member" not in record:
            continue
        known = records.get(record["member"])
        better = known is None or (known.get("crash") and not record.get("crash"))
        if better and _whole(path / DATA, record["files"]):
            records[record["member"]] = record
    return records


def _whole(data: Path, files: Mapping[str, Sequence[int]]) -> bool:
    for name, (size, _) in files.items():
        try:
            if os.stat(data / name).st_size != size:  # noqa: PTH116
                return False
        except FileNotFoundError:
            return False
    return True
