"""Care of a store: names for artifacts, what depends on what, and what can go."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sciflow.artifact.sealed import Artifact, read_manifest
from sciflow.artifact.writer import SPEC, committed
from sciflow.errors import Failed, Invalid, NotFound, SciflowError, nearest
from sciflow.store import Store, open_artifact

DAY = 86400.0
HOUR = 3600.0
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*\Z")


# -- names ---------------------------------------------------------------------------------------


def refs(store: Store) -> dict[str, str]:
    """Directory name of an artifact by the name that was given to it.

    Raises
    ------
    Invalid
        If a file with a name is damaged.
    """
    found = {}
    for file in sorted((store.root / "refs").glob("*.json")):
        try:
            found[file.stem] = str(json.loads(file.read_bytes())["artifact"])
        except (ValueError, KeyError, TypeError) as error:
            raise Invalid(f"{file} is damaged: {error}") from None
    return found


def tag(store: Store, name: str, artifact: Artifact, expect: str | None = None) -> None:
    """Give a name to an artifact; a name can move from one to another, its history stays.

    Parameters
    ----------
    store : Store
        Holds the artifact.
    name : str
        Lower-case letters, digits, ``_`` and ``-``.
    artifact : Artifact
        Published in this store.
    expect : str or None
        Directory name of the artifact that must have the name now; None asks for nothing.

    Raises
    ------
    Invalid
        If the name is none, the artifact is elsewhere, or the name means another one than expected.
    """
    if not _NAME.match(name):
        raise Invalid(f"name {name!r} must match [a-z0-9][a-z0-9_-]*")
    if artifact.path.parent != store.root / "artifacts":
        raise Invalid(f"{artifact.path} is not in the store {store.root}")
    folder = store.root / "refs"
    store.disk.make_folder(folder)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        now = refs(store).get(name)
        if expect is not None and now != expect:
            raise Invalid(f"{name!r} names {now or 'nothing'} by now, not {expect}")
        record = {"artifact": artifact.path.name, "digest": artifact.digest, "time": time.time()}
        with (folder / f"{name}.history").open("a") as history:
            history.write(json.dumps(record) + "\n")
        store.disk.replace(folder / f"{name}.json", json.dumps(record).encode())
    finally:
        os.close(lock)


def untag(store: Store, name: str) -> None:
    """Take a name away; its history stays.

    Raises
    ------
    NotFound
        If there is no such name.
    """
    known = refs(store)
    if name not in known:
        raise NotFound(f"no name {name!r}. {nearest(name, known)}")
    (store.root / "refs" / f"{name}.json").unlink()


def resolve(store: Store, text: str) -> Artifact:
    """An artifact by ``@name``, by its path or by the start of its directory's name.

    Raises
    ------
    NotFound
        If nothing fits.
    Invalid
        If it is damaged.
    """
    if not text.startswith("@"):
        return open_artifact(text, store)
    known = refs(store)
    if text[1:] not in known:
        raise NotFound(f"no name {text[1:]!r}. {nearest(text[1:], known)}")
    return Artifact.open(store.root / "artifacts" / known[text[1:]])


# -- what there is -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """A directory of a store.

    Attributes
    ----------
    name, kind : str
        Directory name; the part before the recipe.
    state : str
        ``published``, ``writing``, ``interrupted``, ``damaged`` or ``unreadable``.
    size : int
        Bytes.
    used : float
        When it was last written or used, seconds since the epoch.
    members : tuple of int or None
        How many ended well, failed, and are wanted.
    digest : str
        Of a published one.
    """

    name: str
    kind: str
    state: str
    size: int
    used: float
    members: tuple[int, int, int] | None = None
    digest: str = ""


def items(store: Store) -> Iterator[Item]:
    """Everything in a store: published, being written, interrupted, set aside."""
    for path in store.artifacts():
        try:
            manifest = read_manifest(path)
        except SciflowError:
            yield Item(path.name, _kind(path), "unreadable", size_of(path), path.stat().st_mtime)
            continue
        size = sum(entry[0] for entry in manifest["files"].values())
        yield Item(path.name, _kind(path), "published", size, path.stat().st_mtime, _members(path),
                   manifest["digest"])  # fmt: skip
    for state in ("partial", "damaged"):
        for path in sorted((store.root / state).glob("*")):
            if path.is_dir() and not path.is_symlink():
                word = state if state == "damaged" else "writing" if locked(path) else "interrupted"
                inside = path / "artifact" if state == "partial" else path
                yield Item(path.name, _kind(path), word, size_of(path), last_used(path), _members(inside))


def _kind(path: Path) -> str:
    return path.name.split("-")[0]


def _members(path: Path) -> tuple[int, int, int] | None:
    if not (path / "data.zarr" / "parameters").is_dir() or _kind(path) == "design":
        return None
    document = json.loads((path / "data.zarr" / "parameters" / "zarr.json").read_bytes())
    if document["dimension_names"][:1] != ["member"]:
        return None
    records = committed(path).values()
    good = sum(r.get("status") == 1 for r in records)
    return good, sum(r.get("status") == 2 for r in records), int(document["shape"][0])


def size_of(path: Path) -> int:
    """Bytes of all files below a directory; links are not followed."""
    return sum(p.lstat().st_size for p in path.rglob("*") if not p.is_dir() or p.is_symlink())


def last_used(path: Path) -> float:
    """When anything below a directory was written last."""
    return max((p.lstat().st_mtime for p in (path, *path.rglob("*"))), default=0.0)


def locked(partial: Path) -> bool:
    """Whether a process is writing there."""
    try:
        handle = os.open(partial / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def inputs_of(store: Store, name: str) -> dict[str, str]:
    """Directory names of an artifact's inputs, by the names that its stage gave them.

    Inputs from other stores are left out.
    """
    path = store.root / "artifacts" / name
    try:
        entries = read_manifest(path)["provenance"].get("inputs", {})
    except SciflowError:
        return {}
    return {n: Path(e["path"]).name for n, e in entries.items() if _in(store, Path(e["path"]).name)}


def _in(store: Store, name: str) -> bool:
    return (store.root / "artifacts" / name).is_dir()


def lineage(store: Store, name: str) -> list[tuple[int, str, str]]:
    """An artifact, its inputs, theirs and so on: depth, role and directory name, depth first."""
    found: list[tuple[int, str, str]] = []

    def visit(depth: int, role: str, one: str) -> None:
        found.append((depth, role, one))
        for role_, other in inputs_of(store, one).items():
            visit(depth + 1, role_, other)

    visit(0, "", name)
    return found


# -- going on ------------------------------------------------------------------------------------


def resume(store: Store, name: str) -> Artifact:
    """Go on with an interrupted stage, without its flow.

    Parameters
    ----------
    store : Store
        Where it was interrupted.
    name : str
        Its directory in ``partial``, or the start of that name.

    Raises
    ------
    NotFound
        If nothing of this name was interrupted, or an input is gone.
    Invalid
        If it was not written by a flow, or the code has changed since, so that it would become
        another artifact.
    Failed
        If another process is writing it.
    """
    import asyncio

    from sciflow.executor import Executor, Resources
    from sciflow.flow import Session, run, within
    from sciflow.provenance import recipe_of
    from sciflow.registry import registry
    from sciflow.stage import Stage

    there = sorted(p.name for p in (store.root / "partial").glob("*") if p.is_dir())
    fitting = [n for n in there if n.startswith(name)]
    if len(fitting) != 1:
        raise NotFound(f"{name!r} fits {len(fitting)} interrupted artifacts. {nearest(name, there)}")
    path = store.root / "partial" / fitting[0]
    if locked(path):
        raise Failed(f"{path}: another process is writing it")
    spec: dict[str, Any] = json.loads((path / "artifact" / SPEC).read_bytes())
    if "stage" not in spec:
        raise Invalid(f"{path} was not written by a flow; run again what wrote it")
    stage = registry().build(spec["stage"], kind="stage")
    assert isinstance(stage, Stage)
    inputs = {}
    for role, entry in spec["inputs"].items():
        inputs[role] = Artifact.open(store.root / "artifacts" / entry["name"])
        if inputs[role].digest != entry["digest"]:
            raise Invalid(f"the input {role!r} ({entry['name']}) is not the one that it was begun with")
    if recipe_of(stage, inputs) != spec["recipe"]:
        raise Invalid(f"the code has changed since {path.name} was begun; run its flow again to begin anew")
    executor = registry().build(spec["executor"], kind="executor") if spec["executor"] else None
    assert executor is None or isinstance(executor, Executor)
    from sciflow.console import Console

    here = Session(store, "resume", {"artifact": path.name}, listener=Console())
    with within(here):
        made = asyncio.run(run(stage, executor=executor, resources=Resources(**spec["resources"]), **inputs))
    here.close()
    return made


# -- what can go ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Doomed:
    """A directory that nobody needs, as far as the store knows.

    Attributes
    ----------
    path : Path
        The directory.
    why : str
        A sentence.
    size : int
        Bytes.
    """

    path: Path
    why: str
    size: int


def unneeded(store: Store, keep_days: float) -> list[Doomed]:
    """What can go: neither named, nor used lately, nor an input of something that stays.

    An artifact that a flow finds is marked as used at that moment, and nothing that was used within
    the last hour is ever chosen: a flow that is running keeps its inputs, also while this looks.

    Parameters
    ----------
    store : Store
        The store.
    keep_days : float
        What was used since stays, days.
    """
    limit = time.time() - max(keep_days * DAY, HOUR)
    found = {i.name: i for i in items(store) if i.state in ("published", "unreadable")}
    rest = [i for i in items(store) if i.state in ("interrupted", "damaged")]
    stays: set[str] = set()
    todo = [n for n in refs(store).values() if n in found]
    todo += [n for n, i in found.items() if i.used >= limit]
    todo += [n for path in (store.root / "partial").glob("*") for n in _begun_with(path) if n in found]
    while todo:
        name = todo.pop()
        if name not in stays:
            stays.add(name)
            todo += inputs_of(store, name).values()
    ages = {n: (time.time() - i.used) / DAY for n, i in found.items()}
    doomed = [
        Doomed(
            store.root / "artifacts" / n, f"no name, nothing needs it, used {ages[n]:.0f} days ago", i.size
        )
        for n, i in sorted(found.items())
        if n not in stays
    ]
    for item in rest:
        if item.used < limit:
            folder = "damaged" if item.state == "damaged" else "partial"
            age = (time.time() - item.used) / DAY
            doomed.append(
                Doomed(store.root / folder / item.name, f"{item.state}, {age:.0f} days ago", item.size)
            )
    return doomed


def _begun_with(partial: Path) -> list[str]:
    """Inputs of a stage that is being written or was interrupted."""
    try:
        spec = json.loads((partial / "artifact" / SPEC).read_bytes())
        return [str(entry["name"]) for entry in spec.get("inputs", {}).values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def discard(store: Store, doomed: list[Doomed]) -> Path:
    """Move directories to the trash, from where they can be restored; returns the place."""
    place = store.root / "trash" / time.strftime("%Y%m%d-%H%M%S")
    store.disk.make_folder(place)
    for one in doomed:
        if not locked(one.path):
            one.path.rename(place / f"{one.path.parent.name}.{one.path.name}")
    return place


def restore(store: Store, name: str) -> Path:
    """Take a directory out of the trash again.

    Raises
    ------
    NotFound
        If it is not there.
    Invalid
        If something has taken its place meanwhile.
    """
    there = {p.name.partition(".")[2]: p for p in sorted((store.root / "trash").glob("*/*"))}
    if name not in there:
        raise NotFound(f"no {name!r} in the trash. {nearest(name, there)}")
    target = store.root / there[name].name.partition(".")[0] / name
    if target.exists():
        raise Invalid(f"{target} is there again; nothing is overwritten")
    target.parent.mkdir(exist_ok=True)
    there[name].rename(target)
    return target


def old_trash(store: Store, days: float) -> list[Doomed]:
    """What has been in the trash for longer than `days`."""
    limit = time.time() - days * DAY
    return [
        Doomed(p, "in the trash", size_of(p))
        for p in sorted((store.root / "trash").glob("*"))
        if p.is_dir() and not p.is_symlink() and _thrown(p) < limit
    ]


def _thrown(place: Path) -> float:
    try:
        return time.mktime(time.strptime(place.name, "%Y%m%d-%H%M%S"))
    except ValueError:
        return time.time()
