import json
import os
import subprocess
import sys

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sciflow.artifact import Artifact
from sciflow.errors import Failed, Invalid, NotFound
from sciflow.schema import Field, Schema
from sciflow.store import Store, Writer, open_artifact

KIND = Schema("thing", {"u": Field(("x",), "K", "float64")})
RECIPE = "0123456789abcdef" * 4


def publish(store, values=(1.0, 2.0), recipe=RECIPE):
    with store.writer(KIND, recipe) as out:
        out.write("u", np.array(values), KIND["u"])
        out.write("x", np.arange(len(values)) * 1.0, Field(("x",), "m", "float64"))
        out.describe(note="hello")
        return out.publish({"stage": {"component": "test"}, "start": 0.0, "end": 1.0})


def test_what_is_published_can_be_read_by_anybody(store):
    artifact = publish(store)
    plain = zarr.open_group(artifact.path / "data.zarr", mode="r")
    assert plain["u"][...].tolist() == [1.0, 2.0]
    assert plain["u"].attrs["units"] == "K"
    assert plain["u"].metadata.dimension_names == ("x",)
    data = artifact.to_xarray()
    assert data.u.dims == ("x",)
    assert data.u.attrs["units"] == "K"
    assert data.x.values.tolist() == [0.0, 1.0]
    assert artifact.attributes == {"note": "hello"}


def test_equal_content_has_an_equal_digest_and_other_content_another(store, tmp_path):
    one = publish(store)
    assert publish(Store(tmp_path / "other")).digest == one.digest
    assert publish(Store(tmp_path / "third"), (1.0, 2.5)).digest != one.digest


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from(["float64", "float32", "int64", "int32", "uint8", "bool"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
def test_every_array_comes_back_as_it_went(tmp_path_factory, values):
    store = Store(tmp_path_factory.mktemp("s"))
    field = Field(tuple("abc"[: values.ndim]), "1", str(values.dtype))
    with store.writer(Schema("thing"), RECIPE) as out:
        out.write("v", values, field)
        artifact = out.publish({})
    np.testing.assert_array_equal(artifact.read("v"), values)
    assert artifact.read("v").dtype == values.dtype


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 40), st.sampled_from(["float32", "float64"]))
def test_members_written_one_by_one_read_as_one_array(tmp_path_factory, members, levels, points, dtype):
    store = Store(tmp_path_factory.mktemp("s"))
    field = Field(("member", "time", "x"), "K", dtype)
    values = np.random.default_rng(0).random((members, levels, points)).astype(dtype)
    with store.writer(Schema("thing"), RECIPE) as out:
        out.create("v", field, values.shape, member=True)
        for m in reversed(range(members)):
            out.write_member(m, {"v": values[m]}, {"status": 1})
        assert sorted(out.committed()) == list(range(members))
        artifact = out.publish({})
    np.testing.assert_array_equal(artifact.read("v"), values)


def test_a_member_that_was_not_written_reads_as_nan(store):
    with store.writer(Schema("thing"), RECIPE) as out:
        out.create("v", Field(("member", "x"), "K"), (3, 4), member=True)
        out.write_member(1, {"v": np.ones(4, "float32")}, {"status": 1})
        artifact = out.publish({})
    values = artifact.read("v")
    assert np.isnan(values[[0, 2]]).all()
    assert (values[1] == 1).all()


def files_of(artifact):
    return sorted(p for p in (artifact.path / "data.zarr").rglob("*") if p.is_file())


def test_any_flipped_or_missing_byte_is_noticed(store):
    artifact = publish(store)
    for file in files_of(artifact):
        good = file.read_bytes()
        for damage in (good[:-1], good[:-1] + bytes([good[-1] ^ 1]), b""):
            file.write_bytes(damage)
            with pytest.raises(Invalid, match=f"is damaged(.|\n)*{file.name}"):
                Artifact.open(artifact.path)
        file.write_bytes(good)
        Artifact.open(artifact.path).verify(full=True)


def test_an_edit_that_keeps_size_and_time_is_found_by_a_full_check(store):
    artifact = publish(store)
    file = artifact.path / "data.zarr" / "u" / "c.0"
    stat = file.stat()
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    Artifact.open(artifact.path)
    with pytest.raises(Invalid, match="content changed"):
        artifact.verify(full=True)
    with pytest.raises(Invalid, match="u"):  # and by the chunk's own checksum when it is read
        artifact.read("u")


def test_foreign_files_links_and_an_edited_manifest_are_noticed(store):
    artifact = publish(store)
    stray = artifact.path / "data.zarr" / "notes.txt"
    stray.write_text("mine")
    with pytest.raises(Invalid, match="notes.txt: was not published"):
        Artifact.open(artifact.path)
    stray.unlink()
    manifest = artifact.path / "meta" / "manifest.json"
    document = json.loads(manifest.read_text())
    document["provenance"]["seed"] = 7
    manifest.write_text(json.dumps(document))
    with pytest.raises(Invalid, match="edited or truncated"):
        Artifact.open(artifact.path)
    manifest.write_text(manifest.read_text()[:-20])
    with pytest.raises(Invalid, match="is damaged"):
        Artifact.open(artifact.path)


def test_a_newer_format_is_refused(store):
    artifact = publish(store)
    manifest = artifact.path / "meta" / "manifest.json"
    document = json.loads(manifest.read_text())
    document["format"] = 99
    manifest.write_text(json.dumps(document))
    with pytest.raises(Invalid, match="format 99.*update sciflow"):
        Artifact.open(artifact.path)


def test_a_damaged_artifact_is_set_aside_and_not_lost(store):
    artifact = publish(store)
    (artifact.path / "data.zarr" / "u" / "c.0").write_bytes(b"short")
    assert store.find("thing", RECIPE) is None
    (aside,) = (store.root / "damaged").iterdir()
    assert (aside / "data.zarr" / "u" / "c.0").read_bytes() == b"short"
    assert publish(store).read("u").tolist() == [1.0, 2.0]


def test_nothing_is_visible_before_publication(store):
    with store.writer(KIND, RECIPE) as out:
        out.write("u", np.ones(2), KIND["u"])
        assert store.find("thing", RECIPE) is None
    assert list(store.artifacts()) == []
    with store.writer(KIND, RECIPE) as out:  # the next attempt finds what was written
        assert out.schema["u"] == KIND["u"]


def test_only_one_process_writes(store):
    with store.writer(KIND, RECIPE), pytest.raises(BlockingIOError), store.writer(KIND, RECIPE):
        pass


def test_a_schema_is_a_promise(store):
    with store.writer(KIND, RECIPE) as out:
        with pytest.raises(Invalid, match="field 'u' is missing"):
            out.publish({})
        with pytest.raises(Invalid, match="shape .* for axes"):
            out.create("u", KIND["u"], (2, 2))
        with pytest.raises(Invalid, match="cannot be stored as int64"):
            out.write("n", np.array([0.5]), Field(("x",), "1", "int64"))
        out.write("u", np.ones(2), Field(("x",), "Pa", "float64"))
        with pytest.raises(Invalid, match="'u' is in 'Pa', asked for 'K'"):
            out.publish({})


def test_a_torn_journal_line_and_a_lost_file_do_not_count(store):
    with store.writer(Schema("thing"), RECIPE) as out:
        out.create("v", Field(("member", "x"), "K"), (3, 4), member=True)
        for m in range(3):
            out.write_member(m, {"v": np.full(4, m, "float32")}, {"status": 1})
        (log,) = (out.path / "meta" / "journal").iterdir()
        log.write_bytes(log.read_bytes()[:-10])
        (out.path / "data.zarr" / "v" / "c.0.0").write_bytes(b"torn")
        assert sorted(out.committed()) == [1]


def test_a_full_disk_is_explained_and_loses_nothing(tmp_path):
    """A file size limit stands in for the full disk: write() then fails for real."""
    code = """
import resource, signal, sys, errno, numpy as np, os
from pathlib import Path
from sciflow.store import Store
from sciflow.schema import Field, Schema
import sciflow.store as module
store = Store(sys.argv[1])
real = os.pwritev
room = [200_000]
def write(handle, data, offset):
    size = sum(len(d) for d in data)
    if size > room[0]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    room[0] -= size
    return real(handle, data, offset)
with store.writer(Schema("thing"), "0" * 64) as out:
    out.create("v", Field(("member", "x"), "K"), (9, 10_000), member=True)
    os.pwritev = write
    try:
        for m in range(9):
            out.write_member(m, {"v": np.full(10_000, m, "float32")}, {"status": 1})
    except Exception as error:
        os.pwritev = real
        print(type(error).__name__, error)
        print(sorted(out.committed()))
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("Failed cannot write")
    assert "the disk is full" in first
    assert second == "[0, 1, 2, 3]"


def test_attach_needs_a_writer_at_work(tmp_path):
    with pytest.raises(NotFound, match="no artifact is being written"):
        Writer.attach(tmp_path)


def test_artifacts_are_found_by_the_start_of_their_name(store):
    artifact = publish(store)
    assert open_artifact("thing-01", store).digest == artifact.digest
    with pytest.raises(NotFound, match="no artifact 'thong'.*thing-0123"):
        open_artifact("thong", store)
    publish(store, recipe="f" * 64)
    with pytest.raises(NotFound, match="fits several"):
        open_artifact("thing", store)
    with pytest.raises(NotFound, match="no such artifact"):
        Artifact.open(store.root / "nothing")
    assert issubclass(Failed, RuntimeError)
