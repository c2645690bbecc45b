"""Verify: everything that can be wrong with an artifact, as findings with a code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sciflow.artifact import journal
from sciflow.artifact.checksum import crc32c, little
from sciflow.artifact.layout import Layout
from sciflow.artifact.scan import scan
from sciflow.artifact.sealed import DATA, FILES, MANIFEST, Artifact, files_digest, read_manifest
from sciflow.errors import Invalid, NotFound, nearest

Level = Literal["manifest", "crc", "sha256", "semantic"]
LEVELS: tuple[str, ...] = get_args(Level)
NOTES = ("torn", "conflict", "failed")
"""Codes that are worth knowing and no damage."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    code : str
        ``missing``, ``foreign``, ``link``, ``size``, ``changed``, ``crc``, ``index``,
        ``truncated``, ``journal``, ``manifest``, ``format``; of the level ``semantic`` also ``nan``,
        ``levels``, ``time``, ``duplicate``, ``status``; notes: ``torn``, ``conflict``, ``failed``.
    path : str
        Below the artifact.
    text : str
        What is wrong.
    member : int or None
        Which member it concerns.
    """

    code: str
    path: str
    text: str
    member: int | None = None

    @property
    def severe(self) -> bool:
        """Whether the artifact is damaged; false for a note."""
        return self.code not in NOTES

    def __str__(self) -> str:
        who = "" if self.member is None else f" (member {self.member})"
        return f"{self.path}{who}: {self.text} [{self.code}]"


def findings(path: Path, level: str = "manifest") -> Iterator[Finding]:
    """Everything that is wrong with an artifact, published or still being written.

    Parameters
    ----------
    path : Path
        Its directory.
    level : {"manifest", "crc", "sha256", "semantic"}
        Each does what the ones before do. ``manifest``: names, sizes, times. ``crc``: every
        checksum in the data, the indices and the journal. ``sha256``: the hash of every file.
        ``semantic``: what the numbers say (NaN, time going back, equal members).

    Raises
    ------
    NotFound
        If there is nothing.
    Invalid
        If `level` is none.
    """
    if level not in LEVELS:
        raise Invalid(f"no level {level!r}. {nearest(level, LEVELS)}")
    depth = LEVELS.index(level)
    if not (path / DATA).is_dir():
        raise NotFound(f"{path}: no artifact is here")
    if (path / MANIFEST).exists():
        try:
            manifest = read_manifest(path)
        except Invalid as error:
            yield Finding("format" if "has format" in str(error) else "manifest", MANIFEST, str(error))
            return
        yield from _against_manifest(path, manifest, full=depth >= 2)
    if depth >= 1:
        yield from _checksums(path)
        yield from _journals(path)
    if depth >= 3:
        from sciflow.artifact.meaning import semantic

        yield from semantic(Artifact(path, manifest) if (path / MANIFEST).exists() else None)


def _against_manifest(path: Path, manifest: Mapping[str, Any], *, full: bool) -> Iterator[Finding]:
    listed: dict[str, list[Any]] = manifest["files"]
    if files_digest(listed) != manifest["digest"]:
        yield Finding("manifest", MANIFEST, "the list of files does not match the digest")
    if manifest["format"] == 1:  # which knew no files beside the zarr group
        listed = {f"{DATA}/{name}": entry for name, entry in listed.items()}
    found = {
        str(p.relative_to(path))
        for folder in (DATA, FILES)
        for p in (path / folder).rglob("*")
        if p.is_symlink() or not p.is_dir()
    }
    for name in sorted(found - listed.keys()):
        if (path / name).is_symlink():
            yield Finding("link", name, "a symbolic link that was not published with this artifact")
        else:
            yield Finding("foreign", name, "was not published with this artifact")
    for name, (size, sha256, modified) in listed.items():
        yield from _file(path / name, name, size, sha256, None if full else modified)
    for name, (size, sha256) in manifest.get("meta", {}).items():
        yield from _file(path / "meta" / name, f"meta/{name}", size, sha256, None)


def _file(file: Path, name: str, size: int, sha256: str, modified: int | None) -> Iterator[Finding]:
    """Compare one file with what was noted of it; `modified` spares the hash where the time is equal."""
    if file.is_symlink():
        yield Finding("link", name, "a symbolic link, not a file")
    elif not file.exists():
        yield Finding("missing", name, "missing")
    elif (stat := file.stat()).st_size != size:
        yield Finding("size", name, f"{stat.st_size} bytes, published with {size}")
    elif stat.st_mtime_ns != modified and scan(file).sha256 != sha256:
        yield Finding("changed", name, "its content changed after publication")


def _checksums(path: Path) -> Iterator[Finding]:
    """The checksums that the data carry themselves."""
    for folder in sorted(p for p in (path / DATA).iterdir() if p.is_dir() and not p.is_symlink()):
        try:
            document = json.loads((folder / "zarr.json").read_bytes())
            sharded = document["codecs"][0]["name"] == "sharding_indexed"
            layout = Layout.read(folder) if sharded else None
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            yield Finding("manifest", f"{DATA}/{folder.name}/zarr.json", f"cannot be read: {error}")
            continue
        for file in sorted(p for p in folder.glob("c*") if p.is_file()):
            name = f"{DATA}/{folder.name}/{file.name}"
            if layout is None:
                data = file.read_bytes()
                if little(crc32c(data[:-4])) != data[-4:]:
                    yield Finding("crc", name, "its checksum does not match")
                continue
            member = int(file.name.split(".")[1])
            for code, text in scan(file, layout, sha256=False).problems:
                yield Finding(code, name, text, member)


def _journals(path: Path) -> Iterator[Finding]:
    for record in journal.read(path / "meta"):
        if isinstance(record, journal.Torn):
            name = str(record.file.relative_to(path))
            if record.tail and record.file.name != journal.COMPACT:
                yield Finding("torn", name, f"line {record.line} is incomplete, as a kill leaves it; ignored")
            else:
                yield Finding("journal", name, f"line {record.line} is damaged")
            continue
        member = record.get("member")
        if "conflict" in record:
            yield Finding(
                "conflict", f"meta/conflicts/{record['kept']}",
                f"another process had committed this member with another {record['field']!r}",
                record["conflict"],
            )  # fmt: skip
        elif record.get("status") == 2:
            yield Finding("failed", "meta/journal", record.get("reason", ""), member)
        for name, (size, _) in record.get("files", {}).items():
            file = path / DATA / name
            if not file.is_file():
                yield Finding("missing", f"{DATA}/{name}", "in the journal but not there", member)
            elif file.stat().st_size != size:
                yield Finding("truncated", f"{DATA}/{name}", f"committed with {size} bytes", member)
