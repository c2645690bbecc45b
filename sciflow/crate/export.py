"""Export of one artifact as a crate with its lineage."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from sciflow.crate.execution import Execution, action, dataset, files_of
from sciflow.crate.graph import METADATA, ROOT, Graph, file, frame
from sciflow.errors import Invalid, NotFound

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.store import Store

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
CHECKSUMS = "checksums.sha256"


def crate_of(artifact: Artifact, target: Path, *, store: Store | None = None, terms: str = "") -> Path:
    """Copy one artifact into a directory of its own and describe where it comes from.

    Parameters
    ----------
    artifact : Artifact
        Published.
    target : Path
        Directory to make.
    store : Store or None
        Where its inputs, their inputs and so on are looked for; the store it lies in by default.
        Their data are not copied. The lineage ends at an input that the store no longer has, of
        which the digest is written.
    terms : str
        URL or text under which the data may be used; unknown where empty.

    Returns
    -------
    Path
        `target`. It holds the artifact's data in a directory of its own, ``checksums.sha256``
        (``sha256sum -c`` reads it) and ``ro-crate-metadata.json``, a Process Run Crate. The
        artifact's manifest is not among them, because it holds paths of this machine.

    Raises
    ------
    Invalid
        If `target` exists, or the artifact is damaged.
    """
    from sciflow.artifact.disk import Disk

    target = Path(target).absolute()
    if os.path.lexists(target):
        raise Invalid(f"{target} exists; name a directory that does not")
    artifact.verify()
    aside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        checksums = _copy(artifact, aside)
        disk = Disk()
        disk.replace(aside / CHECKSUMS, checksums)
        document = _describe(artifact, checksums, store, terms)
        disk.replace(aside / METADATA, json.dumps(document, indent=2, allow_nan=False).encode())
        disk.rename(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _copy(artifact: Artifact, aside: Path) -> bytes:
    """Copy the data file by file, each compared with what was published; returns the checksums."""
    from sciflow.artifact.sealed import read_manifest

    lines, folder = [], artifact.path.name
    for name, (_, sha256) in files_of(read_manifest(artifact.path)).items():
        copy = aside / folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.path / name, copy)
        with copy.open("rb") as written:
            found = hashlib.file_digest(written, "sha256").hexdigest()
        if found != sha256:
            raise Invalid(f"{artifact.path / name}: its content changed after publication")
        lines.append(f"{sha256}  {folder}/{name}\n")
    return "".join(lines).encode()


def _describe(artifact: Artifact, checksums: bytes, store: Store | None, terms: str) -> dict[str, object]:
    graph = Graph()
    kind, stage = artifact.schema.kind, artifact.provenance["stage"]["component"]
    root = frame(
        graph,
        [PROFILE],
        name=f"{kind} {artifact.digest[:12]}",
        description=f"The result of the sciflow stage {stage} and what it was made from.",
        published=time.time(),
        terms=terms,
    )
    known = {artifact.digest: dataset(graph, artifact, f"{quote(artifact.path.name)}/")}
    ancestors = [artifact, *lineage(artifact, store)]
    for other in ancestors[1:]:
        known[other.digest] = dataset(graph, other)
    for one in ancestors:
        action(graph, Execution.of(one), known)
    about = "SHA-256 of every file of the data, for sha256sum -c"
    file(graph, CHECKSUMS, checksums, description=about, encodingFormat="text/plain")
    data = [d for d in graph.of_type("Dataset") if d["@id"] != ROOT]
    graph.link(root, "hasPart", *data, *graph.of_type("File"))
    graph.link(root, "mentions", *graph.of_type("CreateAction"))
    return graph.document()


def lineage(artifact: Artifact, store: Store | None = None) -> Iterator[Artifact]:
    """What an artifact was made from, and that in turn, nearest first and each once.

    Parameters
    ----------
    artifact : Artifact
        Published.
    store : Store or None
        Where they are looked for; the store it lies in by default.
    """
    from sciflow.store import Store

    places = _Places(store or Store(artifact.path.parent.parent))
    seen, waiting = {artifact.digest}, [artifact]
    while waiting:
        for origin in waiting.pop(0).provenance["inputs"].values():
            found = None if origin["digest"] in seen else places.find(origin)
            seen.add(origin["digest"])
            if found is not None:
                waiting.append(found)
                yield found


class _Places:
    """Finds the artifacts of a store by digest."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._all: dict[str, Artifact] | None = None

    def find(self, origin: Mapping[str, str]) -> Artifact | None:
        """The artifact that a provenance names, where it was or elsewhere in the store."""
        first = _opened(self._store.root / "artifacts" / Path(origin["path"]).name)
        if first is not None and first.digest == origin["digest"]:
            return first
        if self._all is None:
            opened = (_opened(path) for path in self._store.artifacts())
            self._all = {a.digest: a for a in opened if a is not None}
        return self._all.get(origin["digest"])


def _opened(path: Path) -> Artifact | None:
    from sciflow.artifact import Artifact

    try:
        return Artifact.open(path, verify=False)
    except (NotFound, Invalid):
        return None
