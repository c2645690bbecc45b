"""Store and Writer: artifacts are written aside, verified and published by one rename."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sciflow.artifact import DATA, KEY, MANIFEST, Artifact, explain_os_error, file_digest, files_digest, seal
from sciflow.errors import Invalid, NotFound, nearest
from sciflow.schema import FORMAT, Field, Schema

if TYPE_CHECKING:
    import numpy as np

SMALL = 4096
"""Below this many bytes several time levels share one chunk."""


class Store:
    """A directory of artifacts.

    Parameters
    ----------
    root : Path or str
        ``artifacts/`` below it holds what is published, ``partial/`` what is being written,
        ``damaged/`` what failed verification.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).resolve()

    def path(self, kind: str, recipe: str) -> Path:
        """Where the artifact with this recipe is, or will be."""
        return self.root / "artifacts" / f"{kind}-{recipe[:16]}"

    def find(self, kind: str, recipe: str) -> Artifact | None:
        """The verified artifact with this recipe, or None.

        A damaged one is moved to ``damaged/`` (nothing is deleted) so that it is made again.
        """
        path = self.path(kind, recipe)
        try:
            artifact = Artifact.open(path)
        except NotFound:
            if not path.exists():
                return None
        except Invalid:
            pass
        else:
            if artifact.recipe == recipe:
                return artifact
        aside = self.root / "damaged" / f"{path.name}.{time.time_ns()}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        path.rename(aside)
        import logging

        logging.getLogger("sciflow").warning(
            "%s was damaged; moved to %s, it will be made again", path, aside
        )
        return None

    def artifacts(self) -> Iterator[Path]:
        """Directories of all published artifacts, in name order."""
        base = self.root / "artifacts"
        if base.is_dir():
            yield from sorted(p for p in base.iterdir() if p.is_dir())

    @contextlib.contextmanager
    def writer(self, schema: Schema, recipe: str) -> Iterator[Writer]:
        """Write the artifact with this recipe; the only process to do so.

        What an interrupted attempt left is kept and handed on.

        Raises
        ------
        BlockingIOError
            If another process is writing it.
        """
        partial = self.root / "partial" / f"{schema.kind}-{recipe[:16]}"
        partial.mkdir(parents=True, exist_ok=True)
        lock = os.open(partial / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Writer(partial / "artifact", schema, recipe, self)
        finally:
            os.close(lock)


class Writer:
    """Write side of one artifact, not visible to readers until `publish`.

    Attributes
    ----------
    path : Path
        Directory being written.
    scratch : Path
        Directory beside it for checkpoints; it survives a kill and goes when the artifact is
        published.
    """

    def __init__(self, path: Path, schema: Schema, recipe: str, store: Store | None = None) -> None:
        self.path = path
        self.recipe = recipe
        self._store = store
        self._kind = schema.kind
        self._required = schema
        self._fields: dict[str, Field] = {}
        self._attributes: dict[str, Any] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read again what a job of this stage added."""
        file = self.path / DATA / "zarr.json"
        if file.exists():
            document = json.loads(file.read_bytes())["attributes"]
            self._fields = dict(Schema.from_json(document.pop(KEY)["schema"]).fields)
            self._attributes = document

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
        import numpy as np

        if len(shape) != len(field.axes):
            raise Invalid(f"field {name!r}: shape {tuple(shape)} for axes {field.axes}")
        if name in self._fields:
            if self._fields[name] != field:
                raise Invalid(f"field {name!r} already exists as {self._fields[name]}")
            return
        dtype = np.dtype(field.dtype)
        chunk, shard = (
            _layout(field, shape, dtype.itemsize) if member else (tuple(max(1, n) for n in shape), None)
        )
        fill: Any = "NaN" if dtype.kind == "f" else (False if dtype.kind == "b" else 0)
        plain = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        if dtype.itemsize == 1:
            plain[0] = {"name": "bytes"}
        sharded = {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": list(chunk),
                "codecs": plain,
                "index_codecs": [
                    {"name": "bytes", "configuration": {"endian": "little"}},
                    {"name": "crc32c"},
                ],
                "index_location": "end",
            },
        }
        document = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": field.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shard or chunk)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": fill,
            "codecs": [sharded] if shard else plain,
            "attributes": {"units": field.unit, "long_name": field.description or name},
            "dimension_names": list(field.axes),
            "storage_transformers": [],
        }
        # Members may be committed long before publication: what they belong to must not get lost.
        _atomic(self.path / DATA / name / "zarr.json", json.dumps(document, indent=1).encode(), sync=member)
        self._fields[name] = field
        self._write_root(sync=member)

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
        import google_crc32c
        import numpy as np

        array = np.asarray(values)
        if array.dtype.kind not in "fiub" or (array.dtype.kind == "f" and np.dtype(field.dtype).kind != "f"):
            raise Invalid(f"field {name!r}: {array.dtype} cannot be stored as {field.dtype}")
        self.create(name, field, array.shape)
        if array.size:
            data = np.ascontiguousarray(array, dtype=field.dtype).tobytes()
            key = ".".join(["c", *["0"] * array.ndim])
            _atomic(
                self.path / DATA / name / key,
                data + google_crc32c.value(data).to_bytes(4, "little"),
                sync=False,
            )

    def write_member(self, member: int, values: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
        """Write one member's fields and commit it with a journal record.

        The order (file, its directory, journal) is the one that loses nothing when the power goes.

        Parameters
        ----------
        member : int
            Its index.
        values : mapping of str to ndarray
            Every member-wise field, shape without the ``member`` axis; empty for a failed member.
        record : mapping
            Plain JSON, kept in the journal: status, solver figures, times.

        Raises
        ------
        Failed
            If the disk is full; members committed earlier are kept.
        """
        files = {}
        try:
            for name, array in values.items():
                relative = self._write_shard(name, member, array)
                files[relative] = zlib.crc32((self.path / DATA / relative).read_bytes())
            self._journal({**record, "member": int(member), "files": files})
        except OSError as error:
            raise explain_os_error(error, self.path / DATA, "members committed before are kept") from error

    def _write_shard(self, name: str, member: int, array: np.ndarray) -> str:
        import numpy as np

        document = json.loads((self.path / DATA / name / "zarr.json").read_bytes())
        shape = tuple(document["shape"][1:])
        field = self._fields[name]
        if tuple(array.shape) != shape:
            raise Invalid(f"member {member}, field {name!r}: shape {array.shape}, the ensemble has {shape}")
        chunk = document["codecs"][0]["configuration"]["chunk_shape"][1:]
        data = np.ascontiguousarray(array, dtype=np.dtype(field.dtype).newbyteorder("<"))
        pieces = data.reshape(-1, int(np.prod(chunk, dtype=np.int64)))
        relative = f"{name}/" + ".".join(["c", str(int(member)), *["0"] * len(shape)])
        _atomic(self.path / DATA / relative, shard_bytes(pieces))
        return relative

    def _journal(self, record: Mapping[str, Any]) -> None:
        text = json.dumps(record, sort_keys=True, allow_nan=False)
        line = f"{zlib.crc32(text.encode()):08x} {text}\n".encode()
        folder = self.path / "meta" / "journal"
        folder.mkdir(parents=True, exist_ok=True)
        from sciflow.jobs import host

        file = os.open(folder / f"{host()}-{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, line)
            os.fsync(file)
        finally:
            os.close(file)

    def committed(self, *, verify: bool = True) -> dict[int, dict[str, Any]]:
        """Members in the journal whose files are there.

        Parameters
        ----------
        verify : bool
            Also compare each file's checksum.

        Returns
        -------
        dict of int to dict
            The journal record by member; the first one wins, but any wins over a crash. A torn
            last line is ignored.
        """
        records: dict[int, dict[str, Any]] = {}
        for log in sorted((self.path / "meta" / "journal").glob("*.log")):
            for line in log.read_bytes().split(b"\n"):
                check, _, text = line.partition(b" ")
                if not text or f"{zlib.crc32(text):08x}".encode() != check:
                    continue
                record = json.loads(text)
                known = records.get(record["member"])
                better = known is None or (known.get("crash") and not record.get("crash"))
                if better and self._intact(record["files"], verify):
                    records[record["member"]] = record
        return records

    def _intact(self, files: Mapping[str, int], verify: bool) -> bool:
        for name, check in files.items():
            file = self.path / DATA / name
            if not file.exists() or (verify and zlib.crc32(file.read_bytes()) != check):
                return False
        return True

    def _write_root(self, *, sync: bool = False) -> None:
        schema = Schema(self._kind, dict(sorted(self._fields.items())))
        attributes = {**self._attributes, KEY: {"format": FORMAT, "schema": schema.to_json()}}
        document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        try:
            text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise Invalid(f"attributes must be plain JSON: {error}") from None
        _atomic(self.path / DATA / "zarr.json", text.encode(), sync=sync)

    def publish(self, provenance: Mapping[str, Any]) -> Artifact:
        """Make the artifact visible: manifest, then one rename.

        Raises
        ------
        Invalid
            If the stage did not write the fields that its schema promises.
        """
        assert self._store is not None, "attach() joins a writer, it does not publish"
        if not self._fields and not (self.path / DATA / "zarr.json").exists():
            self._write_root()
        reasons = self._required.accepts(self.schema)
        if reasons:
            raise Invalid(f"the stage wrote a {self._kind} that breaks its own schema: {'; '.join(reasons)}")
        root = self.path / DATA
        for stray in root.rglob("*.partial"):
            stray.unlink()
        files: dict[str, list[Any]] = {}
        for file in sorted(p for p in root.rglob("*") if p.is_file()):
            stat = file.stat()
            files[str(file.relative_to(root))] = [stat.st_size, file_digest(file), stat.st_mtime_ns]
            _sync(file)
        for folder in {root, *(root / name for name in self._fields)}:
            _sync(folder)
        manifest = {
            "format": FORMAT,
            "recipe": self.recipe,
            "digest": files_digest(files),
            "schema": self.schema.to_json(),
            "files": files,
            "provenance": dict(provenance),
        }
        final = self._store.path(self._kind, self.recipe)
        try:
            _atomic(self.path / MANIFEST, seal(manifest))
            final.parent.mkdir(parents=True, exist_ok=True)
            self.path.rename(final)
            _sync(final.parent)
        except OSError as error:
            raise explain_os_error(error, final, "everything written so far is kept") from error
        shutil.rmtree(self.path.parent, ignore_errors=True)
        return Artifact.open(final, verify=False)

    def discard(self) -> None:
        """Delete what was written, for a stage that starts over."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._fields.clear()
        self._attributes.clear()


def shard_bytes(pieces: np.ndarray) -> bytes:
    """One zarr v3 shard: chunks with crc32c, then the index with its crc32c.

    Parameters
    ----------
    pieces : ndarray, shape (chunk, element)
        Little-endian, one row per inner chunk in C order.

    References
    ----------
    zarr v3 codec ``sharding_indexed``, section "Binary shard format".
    """
    import google_crc32c
    import numpy as np

    out = bytearray()
    index = np.empty((len(pieces), 2), dtype="<u8")
    for row, piece in enumerate(pieces):
        data = piece.tobytes()
        index[row] = len(out), len(data) + 4
        out += data
        out += google_crc32c.value(data).to_bytes(4, "little")
    tail = index.tobytes()
    return bytes(out + tail + google_crc32c.value(tail).to_bytes(4, "little"))


def _layout(field: Field, shape: Sequence[int], itemsize: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunk and shard shapes of a member-wise field: one shard a member, one sample a chunk."""
    shard = (1, *shape[1:])
    if len(field.axes) < 2 or field.axes[1] != "time":
        return shard, shard
    sample = itemsize
    for n in shape[2:]:
        sample *= n
    levels = shape[1]
    together = next((k for k in range(1, levels + 1) if levels % k == 0 and k * sample >= SMALL), levels)
    return (1, together, *shape[2:]), shard


def _atomic(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a file so that a reader sees all of it or nothing; with `sync` also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
        if sync:
            os.fsync(file)
    except BaseException:
        os.close(file)
        temporary.unlink(missing_ok=True)
        raise
    os.close(file)
    temporary.replace(path)
    if sync:
        _sync(path.parent)


def _sync(path: Path) -> None:
    """Make a file or the names in a directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_artifact(text: str, store: Store) -> Artifact:
    """Open an artifact by its path, its directory name in a store, or the start of its name.

    Raises
    ------
    NotFound
        If none or several fit; the message names those that exist.
    Invalid
        If it is damaged.
    """
    if Path(text).is_dir():
        return Artifact.open(text)
    names = [p.name for p in store.artifacts()]
    fitting = [n for n in names if n.startswith(text)]
    if len(fitting) == 1:
        return Artifact.open(store.root / "artifacts" / fitting[0])
    if fitting:
        raise NotFound(f"{text!r} fits several artifacts in {store.root}: {', '.join(fitting)}")
    raise NotFound(f"no artifact {text!r} in {store.root}. {nearest(text, names)}")
