"""Publication: an artifact that was written becomes visible, whole, by one rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.artifact import attempt, journal
from sciflow.artifact.disk import explain_os_error
from sciflow.artifact.scan import scan
from sciflow.artifact.sealed import DATA, FILES, MANIFEST, Artifact, files_digest, seal
from sciflow.errors import Failed
from sciflow.schema import FORMAT

if TYPE_CHECKING:
    from sciflow.artifact.writer import Writer

META = "meta"
DAMAGED = "meta/damaged"


def publish(out: Writer, final: Path, provenance: Mapping[str, Any]) -> Artifact:
    """Hash and check every file, write the manifest, move the artifact to its place.

    Raises
    ------
    Failed
        If members were damaged after they were written, or the file system refuses.
    """
    disk = out.disk
    try:
        files = fingerprints(out)
        journal.compact(out.path / META, disk)
        for left in attempt.attempts(out.path / attempt.PARTS):
            shutil.rmtree(left, ignore_errors=True)
        disk.replace(out.path / MANIFEST, seal(manifest(out, files, provenance)))
        disk.make_folder(final.parent)
        disk.rename(out.path, final)
    except OSError as error:
        raise explain_os_error(error, final, "everything written so far is kept") from error
    shutil.rmtree(out.path.parent, ignore_errors=True)
    return Artifact.open(final, verify=False)


def manifest(out: Writer, files: Mapping[str, list[Any]], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest, but for its own digest."""
    meta = {
        file.name: [file.stat().st_size, scan(file).sha256]
        for file in sorted((out.path / META).glob("*"))
        if file.is_file() and file.name != "manifest.json"
    }
    return {
        "format": FORMAT,
        "recipe": out.recipe,
        "digest": files_digest(files),
        "schema": out.schema.to_json(),
        "files": dict(files),
        "meta": meta,
        "provenance": dict(provenance),
    }


def fingerprints(out: Writer) -> dict[str, list[Any]]:
    """Size, SHA-256 and time of every data file, each made lasting and read only.

    Raises
    ------
    Failed
        If the checksums in a member's file do not hold.
    """
    root, beside = out.path / DATA, out.path / FILES
    for stray in root.rglob("*.partial"):
        stray.unlink()
    files: dict[str, list[Any]] = {}
    damaged: list[Path] = []
    for file in sorted(p for folder in (root, beside) for p in folder.rglob("*") if p.is_file()):
        ours = file.parent.parent == root and file.name != "zarr.json"
        found = scan(file, out.layouts.get(file.parent.name) if ours else None)
        files[str(file.relative_to(out.path))] = [found.size, found.sha256, file.stat().st_mtime_ns]
        if found.problems:
            damaged.append(file)
        out.disk.sync_path(file)
    if damaged:
        _set_aside(out, damaged)
    for name in files:
        os.chmod(out.path / name, 0o444)  # noqa: PTH101
    for folder in (root, beside, *(root / name for name in out.schema.fields)):
        if folder.is_dir():
            out.disk.sync_path(folder)
    return files


def _set_aside(out: Writer, files: Iterable[Path]) -> None:
    """Take damaged members out of the ensemble, keeping their files."""
    members = set()
    for file in files:
        member = int(file.name.split(".")[1])
        members.add(member)
        aside = out.path / DAMAGED / f"{file.parent.name}.{file.name}.{os.urandom(4).hex()}"
        out.disk.make_folder(aside.parent)
        out.disk.rename(file, aside)
        out.note({"damaged": member, "kept": aside.name})
    raise Failed(
        f"{out.path}: the files of members {sorted(members)} were damaged after they were written "
        "(a failing disk, or a power cut without fsync); they are set aside in meta/damaged. "
        "Run again: these members will be computed again."
    )
