"""Whatever is done to an artifact is found, refused or explained, and nothing is lost."""

import errno
import json
import os
import shutil
import subprocess

import numpy as np
import pytest

from sciflow.artifact import Artifact
from sciflow.artifact.disk import Disk
from sciflow.artifact.verify import findings
from sciflow.artifact.writer import committed
from sciflow.errors import Failed, Invalid, NotFound
from sciflow.schema import Field, Schema
from sciflow.store import Store

FIELD = Field(("member", "time", "x"), "K")


def values(member):
    return np.random.default_rng(member).random((2, 3)).astype("f4")


def writer(root, durability="rename"):
    return Store(root, durability).writer(Schema("thing"), "0" * 64)


def fill(out, members=(0, 1)):
    out.create("u", FIELD, (3, 2, 3), member=True)
    for m in members:
        out.write_member(m, {"u": values(m)}, {"status": 1})


def artifact(root):
    with writer(root) as out:
        fill(out)
        out.write("x", np.arange(3.0), Field(("x",), "m", "float64"))
        out.write_file("note.json", b"{}")
        made = out.publish({"stage": {"component": "test"}, "start": 0.0, "end": 0.0})
    for file in made.path.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
    return made.path


def severe(path, level="crc"):
    return [f for f in findings(path, level) if f.severe]


@pytest.mark.parametrize(
    "name", ["data.zarr/u/c.1.0.0", "data.zarr/x/c.0", "meta/journal.log", "meta/spec.json"]
)
def test_every_flipped_bit_is_found(tmp_path, name):
    path = artifact(tmp_path)
    assert severe(path, "semantic") == []
    file = path / name
    good, stat = file.read_bytes(), file.stat()
    for bit in range(8 * len(good)):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a failing disk would leave it
        assert severe(path), f"bit {bit} of {len(good)} bytes"
    file.write_bytes(good)
    assert severe(path, "semantic") == []


def test_a_flipped_bit_in_the_manifest_is_found(tmp_path):
    path = artifact(tmp_path)
    file = path / "meta" / "manifest.json"
    good = file.read_bytes()
    for bit in range(0, 8 * len(good), 7):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        # White space means nothing in JSON; every other change does.
        same = bytes(data).translate(None, b" \t\n\r") == good.translate(None, b" \t\n\r")
        assert severe(path) or same, bit


def test_every_flipped_bit_in_an_open_journal_loses_no_more_than_its_member(tmp_path):
    with writer(tmp_path) as out:
        fill(out)
        (log,) = (out.path / "meta" / "journal").iterdir()
        good = log.read_bytes()
        for bit in range(8 * len(good)):
            data = bytearray(good)
            data[bit // 8] ^= 1 << bit % 8
            log.write_bytes(data)
            found = list(findings(out.path, "crc"))
            assert {f.code for f in found} & {"journal", "torn"}, bit
            assert len(committed(out.path)) >= (0 if data.count(b"\n") != good.count(b"\n") else 1)


@pytest.mark.parametrize("name", ["data.zarr/u/c.1.0.0", "data.zarr/x/c.0", "meta/journal.log"])
def test_every_truncation_is_found(tmp_path, name):
    path = artifact(tmp_path)
    good = (path / name).read_bytes()
    for size in range(len(good)):
        (path / name).write_bytes(good[:size])
        assert severe(path, "manifest"), size
        assert severe(path), size


def codes(path, level="manifest"):
    return {f.code for f in findings(path, level)}


def test_missing_foreign_and_linked_files_have_their_codes(tmp_path):
    path = artifact(tmp_path)
    shard = path / "data.zarr" / "u" / "c.1.0.0"
    outside = tmp_path / "outside"
    shard.rename(outside)
    assert codes(path) == {"missing"}
    shard.symlink_to(outside)
    assert codes(path) == {"link"}
    with pytest.raises(Invalid, match="symbolic link"):
        Artifact.open(path, verify=False).read("u")
    shard.unlink()
    shutil.copy2(outside, shard)
    (path / "data.zarr" / "u" / "c.9.0.0").write_bytes(b"x")
    (path / "files" / "more").write_bytes(b"x")
    assert codes(path) == {"foreign"}
    (path / "data.zarr" / "u" / "c.9.0.0").unlink()
    (path / "files" / "more").unlink()
    assert codes(path, "semantic") == set()
    # A whole directory that leads elsewhere is not followed.
    (path / "data.zarr" / "u").rename(tmp_path / "moved")
    (path / "data.zarr" / "u").symlink_to(tmp_path / "moved")
    assert "link" in codes(path)
    with pytest.raises(Invalid, match="symbolic link"):
        Artifact.open(path, verify=False).gather("u")


def test_newer_formats_are_refused_wherever_they_are_noted(tmp_path):
    path = artifact(tmp_path)
    manifest = path / "meta" / "manifest.json"
    document = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**document, "format": 99}))
    with pytest.raises(Invalid, match="format 99.*update sciflow"):
        Artifact.open(path)
    assert codes(path) == {"format"}
    note = tmp_path / "sciflow-store.json"
    note.write_text(json.dumps({"format": 99, "durability": "fsync"}))
    with pytest.raises(Invalid, match="has format 99"), writer(tmp_path, None):
        pass
    note.write_text("{")
    with pytest.raises(Invalid, match="is damaged"), writer(tmp_path, None):
        pass
    with pytest.raises(Invalid, match="durability 'fsnc'. Did you mean 'fsync'"):
        Disk("fsnc")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("name", ["pwritev", "fsync", "link", "mkdir"])
def test_a_full_disk_at_any_call_is_explained_and_loses_nothing(tmp_path, monkeypatch, code, name):
    real, words = getattr(os, name), {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up"}
    for at in range(1, 40):
        root = tmp_path / str(at)
        count, refused = 0, False

        def refuse(*arguments, at=at, **options):
            nonlocal count, refused
            count += 1
            if count >= at:
                refused = True
                raise OSError(code, os.strerror(code))
            return real(*arguments, **options)

        with writer(root, "fsync") as out:
            fill(out, [0])
            with monkeypatch.context() as patch:
                patch.setattr(os, name, refuse)
                said = attempt(out)
            assert (words[code] in said and "are kept" in said) or not refused
            assert 0 in out.committed()
            if not refused:
                return
            # One whose record was written but not synced may be seen: it is whole, only not acknowledged.
            assert set(out.committed()) <= ({0, 1} if name == "fsync" else {0})
            if 1 not in out.committed():
                with out.member(1) as one:
                    for t in range(one.resume_from, 2):
                        one.append({"u": values(1)[t]})
                    one.commit({"status": 1})
            data = out.publish({"stage": {"component": "t"}, "start": 0.0, "end": 0.0})
        np.testing.assert_array_equal(data.read("u")[1], values(1))
        assert severe(data.path) == []
    raise AssertionError("it never went through")


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_is_really_full(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        with writer(place) as out:
            out.create("u", Field(("member", "x"), "K"), (9, 60_000), member=True)
            with pytest.raises(Failed, match="the disk is full; members committed before are kept"):
                fill_up(out)
            there = sorted(out.committed())
            assert there == list(range(len(there)))
            assert 0 < len(there) < 9
            assert not [f for f in findings(out.path, "crc") if f.severe]
            subprocess.run(["mount", "-o", "remount,size=8m", str(place)], check=True)
            for m in range(len(there), 9):
                out.write_member(m, {"u": np.full(60_000, m, "f4")}, {"status": 1})
            data = out.publish({"stage": {"component": "t"}, "start": 0.0, "end": 0.0})
        np.testing.assert_array_equal(data.read("u")[:, 0], np.arange(9))
    finally:
        subprocess.run(["umount", str(place)], check=True)


def attempt(out):
    """Try to write member 1; why it failed, or nothing."""
    try:
        with out.member(1) as one:
            for t in range(2):
                one.append({"u": values(1)[t]}, restart=lambda: {"s": np.zeros(2)})
            one.commit({"status": 1})
    except Failed as error:
        return str(error)
    return ""


def fill_up(out):
    for m in range(9):
        out.write_member(m, {"u": np.full(60_000, m, "f4")}, {"status": 1})


def two_writers(root, second):
    """Two attempts at member 0 that are both under way; what the second commit says."""
    with writer(root) as out:
        out.create("u", FIELD, (3, 2, 3), member=True)
        with out.member(0) as one, out.member(0) as other:
            for t in range(2):
                one.append({"u": values(0)[t]})
                other.append({"u": values(second)[t]})
            assert one.commit({"status": 1})
            won = other.commit({"status": 1})
        found = list(findings(out.path, "crc"))
        kept = list((out.path / "meta" / "conflicts").glob("*/*"))
        data = out.publish({"stage": {"component": "t"}, "start": 0.0, "end": 0.0})
    np.testing.assert_array_equal(data.read("u")[0], values(0))
    return won, found, kept


def test_equal_results_of_two_writers_are_one(tmp_path):
    won, found, kept = two_writers(tmp_path, 0)
    assert won
    assert found == []
    assert kept == []


def test_of_different_results_the_first_one_stays_and_the_second_is_kept_aside(tmp_path):
    won, found, kept = two_writers(tmp_path, 7)
    assert not won
    assert [(f.code, f.member, f.severe) for f in found] == [("conflict", 0, False)]
    assert "u" in [p.name for p in kept]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EMLINK])
def test_without_hard_links(tmp_path, monkeypatch, code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    path = artifact(tmp_path)
    assert severe(path, "semantic") == []
    np.testing.assert_array_equal(Artifact.open(path).read("u")[1], values(1))


def test_what_is_asked_of_a_member_is_checked_first(tmp_path):
    with writer(tmp_path) as out:
        out.create("u", FIELD, (3, 2, 3), member=True)
        with pytest.raises(Invalid, match="members count from 0"):
            out.member(-1)
        with out.member(0) as one:
            with pytest.raises(Invalid, match="no field 'w'"):
                one.append({"w": np.zeros(3)})
            with pytest.raises(Invalid, match=r"shape \(4,\), the ensemble has \(3,\)"):
                one.append({"u": np.zeros(4)})
            one.append({"u": np.zeros(3)})
            one.append({"u": np.zeros(3)})
            with pytest.raises(Invalid, match="more than 2 states"):
                one.append({"u": np.zeros(3)})
        with pytest.raises(Invalid, match=r"fields \['v'\] for \['u'\]|fields"):
            out.write_member(1, {"v": np.zeros((2, 3))}, {"status": 1})
        assert out.committed() == {}
    with pytest.raises(NotFound, match="no artifact is here"):
        list(findings(tmp_path / "nothing"))
