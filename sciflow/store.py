"""Store: a directory of artifacts, written aside, verified and published by one rename."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from sciflow.artifact import Artifact
from sciflow.artifact.disk import Disk
from sciflow.artifact.writer import Writer
from sciflow.errors import Invalid, NotFound, nearest
from sciflow.schema import FORMAT, Schema

__all__ = ["Store", "Writer", "open_artifact"]

NOTE = "sciflow-store.json"


class Store:
    """A directory of artifacts.

    Parameters
    ----------
    root : Path or str
        ``artifacts/`` below it holds what is published, ``partial/`` what is being written,
        ``damaged/`` what failed verification.
    durability : str or None
        Of new artifacts, see `Disk`; None takes that of the store, which is ``fsync`` unless the
        environment variable ``SCIFLOW_DURABILITY`` said otherwise when it was made.
    """

    def __init__(self, root: Path | str, durability: str | None = None) -> None:
        self.root = Path(root).resolve()
        self._wish = durability

    @cached_property
    def disk(self) -> Disk:
        """What is asked of the file system.

        Raises
        ------
        Invalid
            If the store is of a newer format, or its note is damaged.
        """
        noted = self._noted()
        wish = self._wish or noted or os.environ.get("SCIFLOW_DURABILITY") or "fsync"
        disk = Disk(wish)  # type: ignore[arg-type]
        if noted is None:
            document = {"format": FORMAT, "durability": disk.durability}
            disk.replace(self.root / NOTE, json.dumps(document).encode())
        return disk

    def _noted(self) -> str | None:
        file = self.root / NOTE
        if not file.exists():
            return None
        try:
            document = json.loads(file.read_bytes())
            version, durability = int(document["format"]), str(document["durability"])
        except (ValueError, KeyError, TypeError) as error:
            raise Invalid(f"{file} is damaged: {error}") from None
        if version > FORMAT:
            raise Invalid(
                f"{self.root} has format {version}; this sciflow knows formats up to {FORMAT}: update it"
            )
        return durability

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
                # Says that it is in use; the garbage collector keeps what was used lately.
                with contextlib.suppress(OSError):
                    os.utime(path)
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

    def snapshot(self, name: str) -> Artifact:
        """What an artifact holds now, whether it is published or still being written.

        Parameters
        ----------
        name : str
            Of its directory, ``<kind>-<recipe>``.

        Returns
        -------
        Artifact
            A `Snapshot` of an ensemble that is being written: take another one to see more.

        Raises
        ------
        NotFound
            If there is neither.
        """
        from sciflow.artifact.snapshot import Snapshot

        try:
            return Snapshot(self.root / "partial" / name / "artifact")
        except NotFound:
            return Artifact.open(self.root / "artifacts" / name)

    @contextlib.contextmanager
    def writer(self, schema: Schema, recipe: str, about: Mapping[str, Any] | None = None) -> Iterator[Writer]:
        """Write the artifact with this recipe; the only process to do so.

        What an interrupted attempt left is kept and handed on.

        Parameters
        ----------
        schema : Schema
            Kind and fields that it must have.
        recipe : str
            Its identity.
        about : mapping or None
            Plain JSON that is noted beside it: with ``stage``, ``inputs``, ``executor`` and
            ``resources`` it can be resumed without its flow.

        Raises
        ------
        BlockingIOError
            If another process is writing it.
        """
        partial = self.root / "partial" / f"{schema.kind}-{recipe[:16]}"
        self.disk.make_folder(partial)
        lock = os.open(partial / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Writer(partial / "artifact", schema, recipe, self, about)
        finally:
            os.close(lock)


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
