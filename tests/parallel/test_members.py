"""Members that several ranks write together; the same tests on one rank."""

import os
from pathlib import Path

import numpy as np
import pytest

from sciflow import Diverged, Failed, Invalid, Share
from sciflow.artifact.writer import Writer
from sciflow.context import exchange
from sciflow.schema import Field, Schema
from sciflow.store import Store
from sciflow.worker import communicator

COMM = communicator()
RANK, SIZE = COMM.rank, COMM.size


@pytest.fixture
def out(tmp_path):
    """One artifact that all ranks write, in rank 0's directory."""
    path = Path(exchange(COMM, str(tmp_path))[0]) / "artifact"
    if RANK == 0:
        made = Writer(path, Schema("thing"), "0" * 64, Store(tmp_path / "store", "rename"))
        made.create("small", Field(("member", "time", "dof"), "K"), (4, 6, 50), member=True)
        made.create("large", Field(("member", "time", "dof"), "K", "float64"), (4, 6, 3000), member=True)
        made.create("grid", Field(("member", "time", "y", "x"), "K"), (4, 6, 3, 4), member=True)
    COMM.barrier()
    return Writer.attach(path)


def cuts(count):
    """Unequal ranges; where there are several ranks, one has nothing."""
    ends = [count * (r + 1) // SIZE - (7 if r + 1 < SIZE else 0) for r in range(SIZE)]
    if SIZE > 1:
        ends[0] = 0
    return [0, *ends]


def whole(member, level, count):
    return np.random.default_rng([member, level, count]).random(count)


def shares(member, level, order=None):
    found = {}
    for name, count in (("small", 50), ("large", 3000)):
        first, last = cuts(count)[RANK : RANK + 2]
        index = None if order is None else np.random.default_rng(order).permutation(count)[first:last]
        values = whole(member, level, count)
        found[name] = Share(values[first:last] if index is None else values[index], index)
    if RANK == 0:
        found["grid"] = whole(member, level, 12).reshape(3, 4)
    return found


def agreed(text):
    """The same text on every rank, rank 0's."""
    return exchange(COMM, text)[0]


def test_the_file_is_the_one_that_a_single_process_writes(out):
    with out.member(0, COMM) as one:
        for level in range(6):
            one.append(shares(0, level))
        assert one.commit({"status": 1})
    if RANK == 0:
        values = {
            n: np.array([whole(0, t, c) for t in range(6)])
            for n, c in (("small", 50), ("large", 3000), ("grid", 12))
        }
        values["grid"] = values["grid"].reshape(6, 3, 4)
        out.write_member(1, values, {"status": 1})
        for name, layout in out.layouts.items():
            folder = out.path / "data.zarr" / name
            assert (folder / layout.key(0)).read_bytes() == (folder / layout.key(1)).read_bytes()
        files = [out.committed()[m]["files"] for m in (0, 1)]
        assert list(files[0].values()) == list(files[1].values()), "sizes and combined checksums"
    COMM.barrier()


def test_an_order_of_the_ranks_is_noted_once(out):
    for member in (0, 1):
        with out.member(member, COMM) as one:
            for level in range(6):
                one.append(shares(member, level, order=5))
            one.commit({"status": 1})
    if RANK == 0:
        records = out.committed()
        assert records[0]["numberings"] == records[1]["numberings"]
        names = sorted(p.name for p in (out.path / "data.zarr").glob("numbering_*"))
        assert names == sorted(set(records[0]["numberings"].values()))
    COMM.barrier()


@pytest.mark.parametrize("guilty", sorted({0, SIZE - 1}))
def test_a_failure_of_one_rank_is_raised_on_all(out, guilty, monkeypatch):
    last = cuts(3000)[RANK + 1] - cuts(3000)[RANK]
    with out.member(0, COMM) as one:
        one.append(shares(0, 0))
        broken = shares(0, 1)
        if guilty == RANK:
            values = np.full(last, np.nan) if last else None
            broken = (
                {**broken, "large": Share(values)} if last else {**broken, "grid": np.full((3, 4), np.nan)}
            )
        with pytest.raises(Diverged, match="is not finite at time level 1"):
            one.append(broken)
        one.drop()
    with out.member(0, COMM) as one:
        with pytest.raises(Invalid, match="the field has 3000"):
            one.append({"large": Share(np.zeros(5))})
        one.drop()
    real = os.pwritev

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with out.member(0, COMM) as one:
        one.append(shares(0, 0))
        with monkeypatch.context() as patch:
            if guilty == RANK:
                patch.setattr(os, "pwritev", full)
            with pytest.raises(Failed, match="the disk is full"):
                one.append(shares(0, 1), restart=lambda: {"s": np.zeros(3)})
        assert os.pwritev is real
        one.drop()


def test_a_member_goes_on_where_all_ranks_can(out):
    with out.member(2, COMM) as one:
        for level in range(4):
            one.append(
                shares(2, level, order=5),
                restart=lambda level=level: {"mine": np.full(3, 10.0 * RANK + level)},
            )
    with out.member(2, COMM) as one:
        assert one.resume_from == 4
        assert one.restart.arrays["mine"].tolist() == [10.0 * RANK + 3] * 3
        for level in range(4, 6):
            one.append(shares(2, level, order=5))
        one.commit({"status": 1})
    with out.member(3, COMM) as one:
        for level in range(6):
            one.append(shares(3, level, order=5))
        one.commit({"status": 1})
    if RANK == 0:
        for name in ("small", "large"):
            count = out.layouts[name].shape[-1]
            order = np.random.default_rng(5).permutation(count)
            for member in (2, 3):
                from sciflow.artifact.gather import Gather

                stored = Gather(out.path / "data.zarr" / name).whole(np.array([member]))[0]
                expected = np.array([whole(member, t, count)[order] for t in range(6)]).astype(stored.dtype)
                np.testing.assert_array_equal(stored, expected)
    COMM.barrier()


def test_another_split_of_the_mesh_is_not_continued(out):
    with out.member(2, COMM) as one:
        one.append(shares(2, 0, order=5), restart=lambda: {"s": np.zeros(1)})
    with out.member(2, COMM) as one:
        assert one.resume_from == 1
        with pytest.raises(Failed, match="split otherwise"):
            one.append(shares(2, 1, order=6))
        one.drop()
