"""A store over time: names, lineage, going on, what can go, and its command line."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sciflow import Artifact, run
from sciflow.care import (
    discard,
    inputs_of,
    items,
    lineage,
    old_trash,
    refs,
    resolve,
    restore,
    resume,
    tag,
    unneeded,
    untag,
)
from sciflow.cli import main
from sciflow.errors import Failed, Invalid, NotFound
from sciflow.flow import Session, within
from sciflow.probe import probe, room_for
from sciflow.schema import Field, Schema
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.store import Store
from tests.toys import March, Steps


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", "rename")


def ensemble(store, count=3, problem=None):
    async def flow():
        design = await run(Design(problem=problem or Steps(), count=count))
        return await run(Simulate(problem or Steps()), design=design)

    with within(Session(store)):
        return asyncio.run(flow())


def age(path, days):
    then = time.time() - days * 86400
    for file in [*path.rglob("*"), path]:
        os.utime(file, (then, then))


def names(doomed):
    return sorted(d.path.name.split("-")[0] for d in doomed)


def test_names_move_only_from_where_they_are_expected(store):
    one, other = ensemble(store), ensemble(store, 4)
    tag(store, "best", one)
    assert resolve(store, "@best").digest == one.digest
    tag(store, "best", other, expect=one.path.name)
    with pytest.raises(Invalid, match=f"'best' names {other.path.name} by now"):
        tag(store, "best", one, expect=one.path.name)
    assert refs(store) == {"best": other.path.name}
    lines = (store.root / "refs" / "best.history").read_text().splitlines()
    assert [json.loads(line)["artifact"] for line in lines] == [one.path.name, other.path.name]
    for bad in ("../x", "A", "", "a b", "a/b"):
        with pytest.raises(Invalid, match="must match"):
            tag(store, bad, one)
    with pytest.raises(Invalid, match="is not in the store"):
        tag(Store(store.root.parent / "other"), "x", one)
    with pytest.raises(NotFound, match="no name 'bets'. Did you mean 'best'"):
        resolve(store, "@bets")
    untag(store, "best")
    with pytest.raises(NotFound, match="no name 'best'"):
        untag(store, "best")


def test_lineage_leads_to_the_design(store):
    one = ensemble(store)
    found = lineage(store, one.path.name)
    assert [(depth, role) for depth, role, _ in found] == [(0, ""), (1, "design")]
    assert found[1][2].startswith("design-")


def test_nothing_that_is_needed_ever_goes(store):
    old, young, kept = ensemble(store, 3), ensemble(store, 4), ensemble(store, 5)
    for path in store.artifacts():
        age(path, 90)
    os.utime(young.path)
    tag(store, "paper", kept)
    doomed = unneeded(store, 30)
    assert names(doomed) == ["design", "ensemble"]
    assert {d.path for d in doomed} == {
        old.path,
        store.root / "artifacts" / inputs_of(store, old.path.name)["design"],
    }
    place = discard(store, doomed)
    assert Artifact.open(kept.path).digest == kept.digest
    for root in (kept, young):
        for _, _, name in lineage(store, root.path.name):
            Artifact.open(store.root / "artifacts" / name)
    assert restore(store, old.path.name) == old.path
    assert Artifact.open(old.path).digest == old.digest
    with pytest.raises(NotFound, match="in the trash"):
        restore(store, "ensemble-0")
    assert old_trash(store, 7) == []
    place.rename(place.with_name("20200101-000000"))
    assert [d.path.name for d in old_trash(store, 7)] == ["20200101-000000"]


def test_what_a_flow_finds_is_in_use_from_then_on(store):
    one = ensemble(store)
    for path in store.artifacts():
        age(path, 90)
    assert names(unneeded(store, 30)) == ["design", "ensemble"]
    assert ensemble(store).path == one.path
    assert unneeded(store, 30) == []
    assert unneeded(store, 0) == [], "not even at once: a running flow may have found it a moment ago"


def test_inputs_of_what_is_being_written_stay(store):
    design = ensemble(store)
    for path in store.artifacts():
        age(path, 90)
    about = {"inputs": {"data": {"name": design.path.name, "digest": design.digest}}}
    with store.writer(Schema("thing"), "a" * 64, about) as out:
        out.write("x", np.arange(3.0), Field(("x",), "m", "float64"))
        age(out.path.parent, 90)
        assert unneeded(store, 30) == [], "neither the inputs nor what a process is writing"
        assert [i.state for i in items(store) if i.kind == "thing"] == ["writing"]
    assert [i.state for i in items(store) if i.kind == "thing"] == ["interrupted"]
    assert names(unneeded(store, 30)) == ["thing"], "its inputs stay as long as it is there"


DRIVER = """
import sys
from pathlib import Path
from sciflow.store import Store
from tests.test_care import ensemble
from tests.toys import March
ensemble(Store(Path(sys.argv[1])), 3, March(levels=30, pause=0.02))
"""


def test_a_killed_ensemble_is_resumed_without_its_flow(store, tmp_path, capsys, monkeypatch):
    problem = March(levels=30, pause=0.02)
    whole = ensemble(Store(tmp_path / "whole"), 3, problem)
    process = subprocess.Popen([sys.executable, "-c", DRIVER, str(store.root)], stderr=subprocess.DEVNULL)
    note = store.root / "partial" / "computed"
    until = time.monotonic() + 60
    while time.monotonic() < until and (not note.exists() or len(note.read_text().splitlines()) < 70):
        time.sleep(0.01)
    partial = next(p.name for p in (store.root / "partial").glob("ensemble-*"))
    with pytest.raises(Failed, match="another process is writing it"):
        resume(store, partial)
    process.kill()
    process.wait()
    time.sleep(0.5)
    assert main(["store", "show", "ensemble-", "--store", str(store.root)]) == 0
    shown = capsys.readouterr().out
    assert "was interrupted" in shown
    assert "2 members are committed" in shown
    assert main(["store", "resume", "ensemble-", "--store", str(store.root)]) == 0
    made = Artifact.open(Path(capsys.readouterr().out.strip()))
    assert made.digest == whole.digest
    assert made.recipe == whole.recipe
    with pytest.raises(NotFound, match="fits 0 interrupted"):
        resume(store, partial)


def test_resuming_is_refused_where_it_would_become_something_else(store, monkeypatch):
    with store.writer(Schema("thing"), "a" * 64) as out:
        out.describe(x=1)
    with pytest.raises(Invalid, match="was not written by a flow"):
        resume(store, "thing")
    stage = Design(problem=Steps(), count=2)
    about = {"stage": stage.to_json(), "inputs": {}, "executor": None, "resources": {}}
    with store.writer(stage.output, "b" * 64, about) as out:
        out.describe(x=1)
    with pytest.raises(Invalid, match="the code has changed"):
        resume(store, "design")


def shell(store, *arguments):
    return main(["store", *arguments, "--store", str(store.root)])


def test_the_command_line(store, tmp_path, capsys):
    assert shell(store, "ls") == 0
    assert "is empty" in capsys.readouterr().out
    one = ensemble(store)
    assert shell(store, "tag", "ensemble-", "first") == 0
    assert shell(store, "ls") == 0
    out = capsys.readouterr().out
    assert "3/3" in out
    assert "@first" in out
    assert shell(store, "ls", "--json") == 0
    assert {i["state"] for i in json.loads(capsys.readouterr().out)} == {"published"}
    assert shell(store, "show", "@first") == 0
    out = capsys.readouterr().out
    assert "design: design-" in out
    assert "named @first" in out
    assert shell(store, "verify", "--level", "semantic") == 0
    assert out_of(capsys).count("  ok  ") == 2
    assert shell(store, "export", "@first", str(tmp_path / "x"), "--format", "numpy", "--members", "0,2") == 0
    assert shell(store, "export", "@first", str(tmp_path / "y"), "--format", "numpy", "--members", "0-x") == 1
    assert "write numbers and ranges" in capsys.readouterr().err
    assert shell(store, "import", str(tmp_path / "x")) == 0
    imported = Artifact.open(Path(out_of(capsys).splitlines()[-1]))
    np.testing.assert_array_equal(imported.read("u")[1], one.read("u")[2])
    assert shell(store, "export", "@first", str(tmp_path / "crate"), "--format", "ro-crate") == 0
    assert (tmp_path / "crate" / "ro-crate-metadata.json").is_file()
    assert shell(store, "show", imported.path.name) == 0
    assert shell(store, "gc", "--keep-days", "0") == 0
    assert "everything is needed" in out_of(capsys)


def out_of(capsys):
    return capsys.readouterr().out


def test_gc_does_nothing_without_yes_and_deletes_only_from_the_trash(store, capsys):
    one = ensemble(store)
    for path in store.artifacts():
        age(path, 90)
    assert shell(store, "gc") == 0
    assert "--yes moves them to the trash" in out_of(capsys)
    assert one.path.is_dir()
    assert shell(store, "gc", "--yes") == 0
    assert not one.path.exists()
    assert shell(store, "gc", "--empty-trash", "--trash-days", "0") == 0
    assert "--yes deletes this for good" in out_of(capsys)
    assert shell(store, "restore", one.path.name) == 0
    assert Artifact.open(one.path).digest == one.digest
    assert shell(store, "gc", "--empty-trash", "--trash-days", "-1", "--yes") == 0
    assert list((store.root / "trash").iterdir()) == []


def test_verify_names_the_damage_and_says_it_by_its_exit_code(store, capsys):
    one = ensemble(store)
    (shard,) = (one.path / "data.zarr" / "u").glob("c.1.*")
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    assert shell(store, "verify") == 1
    out = out_of(capsys)
    assert "damaged" in out
    assert "c.1.0.0 (member 1)" in out
    assert "[index]" in out
    assert shell(store, "verify", one.path.name, "--json") == 1
    assert {f["code"] for f in json.loads(out_of(capsys))} >= {"index", "changed"}
    assert shell(store, "verify", "design-") == 0
    assert shell(store, "verify", "nothing") == 1
    assert "fits 0 artifacts" in capsys.readouterr().err
    assert shell(store, "verify", "--level", "deep") == 1
    assert "no level 'deep'" in capsys.readouterr().err


def states(path):
    return {r.name: r.state for r in probe(path)}


def test_the_probe_leaves_nothing_behind_and_finds_what_is_missing(tmp_path, monkeypatch):
    found = states(tmp_path)
    assert set(found.values()) <= {"ok", "slow"}
    assert len(found) == 13
    assert list(tmp_path.iterdir()) == []

    def refuse(*arguments, **options):
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        assert states(tmp_path)["hard link"] == "absent"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        assert states(tmp_path)["fsync"] == "bad"
    with pytest.raises(NotFound, match="is no directory"):
        probe(tmp_path / "no")
    assert room_for(tmp_path, 10, 2, 1000).state == "ok"
    assert room_for(tmp_path, 10**9, 2, 10**9).state == "bad"


def test_the_doctor_of_a_path(tmp_path, capsys, monkeypatch):
    assert main(["store", "doctor", str(tmp_path), "--members", "5", "--fields", "2", "--bytes", "100"]) == 0
    assert "10 files" in out_of(capsys)
    assert main(["store", "doctor", str(tmp_path), "--json"]) == 0
    assert len(json.loads(out_of(capsys))) == 13

    def refuse(*arguments, **options):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    assert main(["store", "doctor", str(tmp_path)]) == 1
    assert "cannot be used safely" in capsys.readouterr().err
