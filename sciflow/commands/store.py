"""``sciflow store``: ls, show, verify, resume, tag, gc, export, import, doctor."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.commands import chosen_store
from sciflow.terminal import table

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.care import Doomed
    from sciflow.store import Store


def add(commands: Any) -> None:
    """Add the subcommands to a parser."""
    text = "look after a store: list, verify, resume, name, clean, export, import"
    store = commands.add_parser("store", help=text, description=text)
    sub = store.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, words: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = sub.add_parser(name, help=words, description=words)
        made.add_argument("--store", metavar="DIR", help="where artifacts are (default: sciflow-store)")
        return made

    def named(name: str, words: str) -> argparse.ArgumentParser:
        made = action(name, words)
        made.add_argument("artifact", help="its path, the start of its name, or @name")
        return made

    action("ls", "what is in the store").add_argument("--json", action="store_true", help="as JSON")
    named("show", "fields, lineage, names of an artifact").add_argument(
        "--verify", action="store_true", help="hash every file"
    )
    verify = action("verify", "look for damage; exit code 1 if there is any")
    verify.add_argument("artifact", nargs="*", help="which (default: all that are published)")
    verify.add_argument("--level", default="crc", help="manifest, crc (default), sha256 or semantic")
    verify.add_argument("--json", action="store_true", help="as JSON")
    named("resume", "go on with an interrupted stage, without its flow")
    tag = named("tag", "give a name to an artifact")
    tag.add_argument("name", help="lower-case letters, digits, _ and -")
    tag.add_argument("--expect", metavar="ARTIFACT", help="only if the name means this one now")
    action("untag", "take a name away").add_argument("name")
    gc = action("gc", "move to the trash what nobody needs; only says what it would do")
    gc.add_argument("--yes", action="store_true", help="do it")
    gc.add_argument("--keep-days", type=float, default=30, metavar="N", help="keep what was used since (30)")
    gc.add_argument("--empty-trash", action="store_true", help="delete what has been in the trash for long")
    gc.add_argument("--trash-days", type=float, default=7, metavar="N", help="for how long (7)")
    action("restore", "take a directory out of the trash").add_argument("name")
    export = named("export", "write an artifact in another format")
    export.add_argument("target", help="file or directory to be made")
    export.add_argument("--format", required=True, help="numpy, pdebench, the_well, vtkhdf, xdmf or ro-crate")
    export.add_argument(
        "--field", action="append", default=[], metavar="NAME", help="only this one; can be repeated"
    )
    export.add_argument("--members", metavar="0,3,5-9", help="only these")
    importing = action("import", "read an ensemble from files of another project or solver")
    importing.add_argument("path", help="a file, or the directory with the files of all members")
    importing.add_argument("--format", metavar="NAME", help="one of those below (default: by the content)")
    importing.formatter_class = argparse.RawDescriptionHelpFormatter
    importing.epilog = _formats()
    doctor = sub.add_parser("doctor", help="try what the file system of a directory can do")
    doctor.add_argument("path")
    doctor.add_argument("--json", action="store_true", help="as JSON")
    for name, words in (
        ("members", "of a planned ensemble"),
        ("fields", "files for each member"),
        ("bytes", "in each"),
    ):
        doctor.add_argument(f"--{name}", type=int, metavar="N", help=words)


def main(options: argparse.Namespace) -> int:
    """Run one of them; returns the exit code."""
    return ACTIONS[options.action](options)


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _age(then: float) -> str:
    seconds = max(0.0, time.time() - then)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _ls(options: argparse.Namespace) -> int:
    from sciflow.care import items, refs

    store = chosen_store(options)
    names: dict[str, list[str]] = {}
    for name, artifact in refs(store).items():
        names.setdefault(artifact, []).append(f"@{name}")
    found = list(items(store))
    if options.json:
        print(json.dumps([{**dataclasses.asdict(i), "refs": names.get(i.name, [])} for i in found], indent=1))
        return 0
    if not found:
        print(f"{store.root} is empty")
        return 0
    head, rows = ["name", "state", "digest", "members", "size", "used", ""], []
    for i in found:
        good, failed, total = i.members or (0, 0, 0)
        members = f"{good}/{total}" + (f", {failed} failed" if failed else "") if i.members else ""
        rows.append(
            [
                i.name,
                i.state,
                i.digest[:12],
                members,
                size(i.size),
                _age(i.used),
                " ".join(names.get(i.name, [])),
            ]
        )
    marks = {"damaged": "bad", "interrupted": "odd"}
    print(table(head, rows, right=(4, 5), marks=marks))
    return 0


def _show(options: argparse.Namespace) -> int:
    from sciflow.care import lineage, refs, resolve
    from sciflow.cli import show

    store = chosen_store(options)
    partial = sorted((store.root / "partial").glob(f"{options.artifact}*"))
    published = options.artifact.startswith("@") or any(
        p.name.startswith(options.artifact) for p in store.artifacts()
    )
    if partial and not published:
        return _show_partial(partial[0])
    artifact = resolve(store, options.artifact)
    show(artifact, verify=options.verify)
    if artifact.path.parent == store.root / "artifacts":
        print("\nlineage")
        for depth, role, name in lineage(store, artifact.path.name):
            print("  " * (depth + 1) + (f"{role}: " if role else "") + name)
        for name, target in refs(store).items():
            if target == artifact.path.name:
                print(f"named @{name}")
    return 0


def _show_partial(path: Path) -> int:
    from sciflow.artifact.attempt import PARTS, attempts
    from sciflow.artifact.verify import findings
    from sciflow.artifact.writer import committed
    from sciflow.care import locked

    inside = path / "artifact"
    records = committed(inside)
    print(f"{path.name}  {'is being written' if locked(path) else 'was interrupted'}")
    print(
        f"{len(records)} members are committed, "
        f"{sum(r.get('status') == 2 for r in records.values())} of them failed"
    )
    for attempt in attempts(inside / PARTS):
        member, pid, _, _, host = attempt.name.split(".", 4)
        print(f"member {member} was begun by process {pid} on {host}")
    for finding in findings(inside, "crc") if (inside / "data.zarr").is_dir() else ():
        print(finding)
    print(f"go on with: sciflow store resume {path.name}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from sciflow.artifact.verify import findings

    store = chosen_store(options)
    paths = [_path(store, text) for text in options.artifact] or list(store.artifacts())
    damaged, report = 0, []
    for number, path in enumerate(paths):
        begin = time.monotonic()
        found = list(findings(path, options.level))
        damaged += any(f.severe for f in found)
        report += [{"artifact": path.name, **dataclasses.asdict(f)} for f in found]
        if not options.json:
            state = "damaged" if any(f.severe for f in found) else "ok"
            print(
                f"{path.name}  {state}  ({number + 1} of {len(paths)}, {time.monotonic() - begin:.1f} s)",
                flush=True,
            )
            for finding in found:
                print(f"  {finding}")
    if options.json:
        print(json.dumps(report, indent=1))
    return 1 if damaged else 0


def _path(store: Store, text: str) -> Path:
    """Directory of an artifact that may be damaged."""
    from sciflow.care import refs
    from sciflow.errors import NotFound, nearest

    if Path(text).is_dir():
        return Path(text).resolve()
    name = refs(store).get(text[1:], "") if text.startswith("@") else text
    known = {
        p.name: p for folder in ("artifacts", "damaged") for p in sorted((store.root / folder).glob("*"))
    }
    known |= {p.parent.name: p for p in sorted((store.root / "partial").glob("*/artifact"))}
    fitting = [p for n, p in known.items() if name and n.startswith(name)]
    if len(fitting) != 1:
        raise NotFound(f"{text!r} fits {len(fitting)} artifacts in {store.root}. {nearest(text, known)}")
    return fitting[0]


def _resume(options: argparse.Namespace) -> int:
    from sciflow.care import resume

    print(resume(chosen_store(options), options.artifact).path)
    return 0


def _tag(options: argparse.Namespace) -> int:
    from sciflow.care import resolve, tag

    store = chosen_store(options)
    artifact = resolve(store, options.artifact)
    expect = resolve(store, options.expect).path.name if options.expect else None
    tag(store, options.name, artifact, expect)
    print(f"@{options.name} names {artifact.path.name}")
    return 0


def _untag(options: argparse.Namespace) -> int:
    from sciflow.care import untag

    untag(chosen_store(options), options.name)
    return 0


def _gc(options: argparse.Namespace) -> int:
    from sciflow.care import discard, old_trash, unneeded

    store = chosen_store(options)
    if options.empty_trash:
        return _empty(old_trash(store, options.trash_days), options)
    doomed = unneeded(store, options.keep_days)
    _list(doomed)
    if not doomed:
        print("everything is needed or was used lately")
    elif options.yes:
        print(f"moved to {discard(store, doomed)}; sciflow store restore NAME brings one back")
    else:
        print(
            f"{len(doomed)} directories, {size(sum(d.size for d in doomed))}: --yes moves them to the trash"
        )
    return 0


def _list(doomed: Iterable[Doomed]) -> None:
    rows = [[str(d.path.name), size(d.size), d.why] for d in doomed]
    if rows:
        print(table((), rows, right=(1,)))


def _empty(doomed: list[Doomed], options: argparse.Namespace) -> int:
    import shutil

    _list(doomed)
    if not doomed:
        print(f"nothing has been in the trash for {options.trash_days:g} days")
    elif options.yes:
        for one in doomed:
            shutil.rmtree(one.path)
        print("deleted")
    else:
        print("--yes deletes this for good")
    return 0


def _restore(options: argparse.Namespace) -> int:
    from sciflow.care import restore

    print(restore(chosen_store(options), options.name))
    return 0


def _export(options: argparse.Namespace) -> int:
    from sciflow.care import resolve

    store = chosen_store(options)
    artifact, target = resolve(store, options.artifact), Path(options.target)
    if options.format == "ro-crate":
        from sciflow.crate import crate_of

        print(crate_of(artifact, target, store=store))
        return 0
    from sciflow.formats import export

    members = _numbers(options.members) if options.members else None
    for file in export(artifact, options.format, target, fields=options.field, members=members):
        print(file)
    return 0


def _numbers(text: str) -> list[int]:
    """``0,3,5-9`` as numbers."""
    from sciflow.errors import Invalid

    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise Invalid(f"members {text!r}: write numbers and ranges as 0,3,5-9")
        found += range(int(first), int(last or first) + 1)
    return found


def _formats() -> str:
    """What can be imported, for the help."""
    from sciflow.formats import FORMATS

    known = [f"  {n:<10}{f.sentence}" for n, f in FORMATS.items() if f.can_import]
    return "\n".join(
        ["formats:", *known, "", "docs/storage.md, 'Bring existing results', says how files are laid out"]
    )


def _import(options: argparse.Namespace) -> int:
    from sciflow.formats import import_ensemble

    made = import_ensemble(Path(options.path), options.format, chosen_store(options))
    # What was guessed is shown, apart from the path that scripts read.
    print(_contents(made), file=sys.stderr)
    print(made.path)
    return 0


def _contents(ensemble: Artifact) -> str:
    """Members, fields and parameters of an imported ensemble, one line each."""
    about = ensemble.attributes
    units = zip(about["parameters"], about["parameter_units"], strict=True)
    lines = [
        f"{len(ensemble.members())} members; parameters: "
        + (", ".join(f"{n} [{u}]" for n, u in units) or "none")
    ]
    for name, field in ensemble.schema.fields.items():
        if field.axes[:1] == ("member",) and name not in ("parameters", "status", "seed"):
            shape = " x ".join(
                f"{a} {n}" for a, n in zip(field.axes, ensemble.array(name).shape, strict=True)
            )
            lines.append(f"  {name}: {shape}, {field.dtype}, unit {field.unit}")
    return "\n".join(lines)


def _doctor(options: argparse.Namespace) -> int:
    from sciflow.probe import bad, probe, room_for

    path = Path(options.path)
    results = probe(path)
    if options.members and options.bytes:
        results.append(room_for(path, options.members, options.fields or 1, options.bytes))
    if options.json:
        print(json.dumps([dataclasses.asdict(r) for r in results], indent=1))
    else:
        print(
            table(
                (),
                [
                    [r.name, r.state, r.text, r.advice if r.state != "ok" or r.name == "file system" else ""]
                    for r in results
                ],
                marks={"ok": "good", "bad": "bad"},
            )
        )
    failed = list(bad(results))
    if failed:
        print(
            f"sciflow: {', '.join(r.name for r in failed)}: a store cannot be used safely here",
            file=sys.stderr,
        )
    return 1 if failed else 0


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "ls": _ls,
    "show": _show,
    "verify": _verify,
    "resume": _resume,
    "tag": _tag,
    "untag": _untag,
    "gc": _gc,
    "restore": _restore,
    "export": _export,
    "import": _import,
    "doctor": _doctor,
}
