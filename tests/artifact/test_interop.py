"""Other readers of zarr see the very bytes that were stored, and what zarr-python writes is read here."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import zarr

from sciflow.artifact.gather import Gather
from sciflow.artifact.layout import Layout
from sciflow.artifact.verify import findings
from sciflow.errors import Invalid, NotFound
from sciflow.schema import Field, Schema
from sciflow.store import Store

MEMBERS = 5
CASES = {
    # name: dtype, shape of a member, levels in a chunk (None: no time axis)
    "line": ("float64", (5, 700), 1),
    "line_levels_together": ("float32", (12, 300), 4),
    "line_one_chunk": ("float32", (6, 40), 6),
    "plane": ("float32", (4, 32, 40), 1),
    "plane_levels_together": ("float64", (8, 9, 15), 4),
    "box": ("float64", (3, 8, 9, 10), 1),
    "box_levels_together": ("float32", (10, 5, 6, 7), 5),
    "no_time": ("float64", (33,), None),
    "numbers": ("int32", (4, 50), 4),
}
WHOLE = {
    "x": np.linspace(0.0, 1.0, 7),
    "cells": np.arange(12, dtype=np.int32).reshape(4, 3),
    "status": np.array([1, 0, 2], dtype=np.uint8),
    "mask": np.array([[[True, False], [False, True]]]),
    "basis": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
}


def axes_of(case):
    space = CASES[case][1][0 if CASES[case][2] is None else 1 :]
    return ("member", *(("time",) if CASES[case][2] else ()), *("zyx"[-len(space) :]))


def stored(case):
    """Members 0 and 1 whole, 2 and 4 ended early, 3 absent: the field as it should be read."""
    dtype, shape, together = CASES[case]
    rng = np.random.default_rng(len(case))
    values = (1e3 * rng.standard_normal((MEMBERS, *shape))).astype(dtype)
    if dtype.startswith("float"):
        info = np.finfo(dtype)
        values.reshape(MEMBERS, -1)[:, :4] = [-0.0, info.smallest_subnormal, info.max, info.min]
    fill = np.nan if dtype.startswith("float") else 0
    values[3] = fill
    if together:
        values[2, 1:] = fill
        values[4, shape[0] - 1 :] = fill
    return values


def written(root, case):
    dtype, shape, together = CASES[case]
    values = stored(case)
    with Store(root, "none").writer(Schema("ensemble"), "0" * 64) as out:
        out.create("u", Field(axes_of(case), "K", dtype), values.shape, member=True)
        out.write_member(0, {"u": values[0]}, {"status": 1})
        for member, left in ((1, 0), (2, shape[0] - 1), (4, 1)):
            with out.member(member) as one:
                for level in values[member, : shape[0] - left] if together else [values[member]]:
                    one.append({"u": level})
                one.commit({"status": 1})
        for name, array in WHOLE.items():
            axes = tuple(f"{name}_{axis}" for axis in "abc"[: array.ndim])
            out.write(name, array, Field(axes, "1", str(array.dtype)))
        return out.publish({})


# -- the readers: each takes data.zarr and the name of an array ------------------------------------


def zarr_python(group, name):
    return zarr.open_array(group / name, mode="r")[...]


def zarrs(group, name):
    import zarrs  # noqa: F401 - registers the codec pipeline

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        array = zarr.open_array(group / name, mode="r")
        assert type(array.async_array.codec_pipeline).__name__ == "ZarrsCodecPipeline"
        return array[...]


def tensorstore(group, name):
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(group / name)}}
    return tensorstore.open(spec, open=True).result().read().result()


def xarray(group, name):
    import xarray

    return xarray.open_zarr(group, consolidated=False)[name].values


READERS = {"zarr": zarr_python, "zarrs": zarrs, "tensorstore": tensorstore, "xarray": xarray}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    root = tmp_path_factory.mktemp("interop")
    return {case: written(root / case, case) for case in CASES}


@pytest.fixture(scope="module", params=READERS)
def read(request, artifacts, tmp_path_factory):
    """What a reader reads; in a process of its own, as two of them end a process that forks later."""
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is missing: pip install {request.param}")
    folder = tmp_path_factory.mktemp(request.param)
    places = [f"{case}={artifact.path}" for case, artifact in artifacts.items()]
    code = "import sys; from tests.artifact.test_interop import main; main(*sys.argv[1:])"
    command = [sys.executable, "-c", code, request.param, folder, *places]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return lambda case, name="u": np.load(folder / f"{case}.{name}.npy")


def main(reader, folder, *places):
    """Save what `reader` reads of every artifact."""
    for place in places:
        case, _, path = place.partition("=")
        for name in ("u", *WHOLE):
            np.save(f"{folder}/{case}.{name}", READERS[reader](Path(path) / "data.zarr", name))


def same(one, other):
    """Whether dtype, shape and every bit are equal."""
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


# -- what was stored is what others read -----------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_every_reader_sees_whole_early_ended_and_absent_members_bit_by_bit(read, case):
    assert same(read(case), stored(case))


@pytest.mark.parametrize("name", WHOLE)
def test_every_reader_sees_arrays_in_one_piece_bit_by_bit(read, name):
    assert same(read("line", name), WHOLE[name])


@pytest.mark.parametrize("case", CASES)
def test_the_cases_are_what_they_are_called(artifacts, case):
    layout = Layout.read(artifacts[case].path / "data.zarr" / "u")
    assert layout.together == (CASES[case][2] or 1)
    assert same(artifacts[case].read("u"), stored(case))
    folder = artifacts[case].path / "data.zarr" / "u"
    assert sorted(f.name for f in folder.glob("c*")) == [layout.key(m) for m in (0, 1, 2, 4)]


def test_xarray_has_the_axes_and_the_unit(artifacts):
    import xarray

    field = xarray.open_zarr(artifacts["plane"].path / "data.zarr", consolidated=False).u
    assert field.dims == ("member", "time", "y", "x")
    assert field.attrs["units"] == "K"


# -- what zarr-python stores is read here ----------------------------------------------------------


def created(folder, case, **more):
    """An array of this layout from zarr-python's own arguments; nothing of this package takes part."""
    dtype, shape, together = CASES[case]
    return zarr.create_array(
        folder,
        shape=(MEMBERS, *shape),
        dtype=dtype,
        shards=(1, *shape),
        chunks=(1, together, *shape[1:]) if together else (1, *shape),
        compressors=(zarr.codecs.Crc32cCodec(),),
        fill_value=np.nan if dtype.startswith("float") else 0,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=axes_of(case),
        attributes={"units": "K", "long_name": "u"},
        **more,
    )


@pytest.mark.parametrize("case", CASES)
def test_what_zarr_python_writes_is_read_here(tmp_path, case):
    values = stored(case)
    array = created(tmp_path / "u", case, config={"write_empty_chunks": True})
    for member in (0, 1, 2, 4):
        array[member] = values[member]
    chosen = Layout.choose("u", Field(axes_of(case), "K", CASES[case][0]), CASES[case][1])
    layout = Layout.read(tmp_path / "u")
    assert (layout.shape, layout.together, layout.dtype) == (chosen.shape, chosen.together, chosen.dtype)
    reader = Gather(tmp_path / "u", verify="always")
    assert same(reader.whole(np.arange(MEMBERS)), values)
    levels = np.array([layout.levels - 1, 0])
    picked = values.reshape(MEMBERS, layout.levels, *layout.sample_shape)[[0, 1], levels]
    assert same(reader.read(np.array([0, 1]), levels)[:, 0], picked)
    with pytest.raises(NotFound, match="member 3 is not there"):
        reader.read(np.array([3]), np.array([0]))


@pytest.mark.parametrize("case", CASES)
def test_zarr_python_writes_the_very_files(artifacts, tmp_path, case):
    values = stored(case)
    array = created(tmp_path / "u", case)
    array[0], array[1] = values[0], values[1]
    for member in (0, 1):
        name = Layout.read(tmp_path / "u").key(member)
        ours = artifacts[case].path / "data.zarr" / "u" / name
        assert ours.read_bytes() == (tmp_path / "u" / name).read_bytes()


def test_chunks_that_zarr_python_left_out_at_the_end_are_no_levels(tmp_path):
    values = stored("line")
    array = created(tmp_path / "u", "line")
    array[4] = values[4]  # its last level is NaN, which zarr-python does not store
    reader = Gather(tmp_path / "u", verify="always")
    assert same(reader.read(np.array([4]), np.array([0]), 4)[0], values[4, :4])
    with pytest.raises(Invalid):
        reader.read(np.array([4]), np.array([4]))
    assert same(reader.whole(np.array([4]))[0], values[4])


def test_a_chunk_that_zarr_python_left_out_in_the_middle_is_found(tmp_path):
    """Readers here compute where a level lies; a shard with a hole would be read one level off."""
    array = created(tmp_path / "data.zarr" / "u", "line")
    values = stored("line")[0]
    values[2] = np.nan
    array[0] = values
    found = [f.code for f in findings(tmp_path, "crc")]
    assert found == ["index"]


def test_zarr_python_notices_a_flipped_bit_in_a_member(artifacts, tmp_path):
    data = bytearray((artifacts["plane"].path / "data.zarr" / "u" / "c.0.0.0.0").read_bytes())
    data[100] ^= 1
    array = created(tmp_path / "u", "plane")
    (tmp_path / "u" / "c.0.0.0.0").write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        array[0]
