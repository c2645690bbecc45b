"""What goes wrong on one rank is known to all, wherever it happens; and any partition makes one file.

Run by pytest alone and under ``mpirun``.
"""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from sciflow.artifact.attempt import Restart
from sciflow.artifact.share import Share
from sciflow.artifact.verify import findings
from sciflow.artifact.writer import Writer
from sciflow.context import exchange
from sciflow.errors import Failed, SciflowError
from sciflow.schema import Field, Schema
from sciflow.store import Store
from sciflow.worker import communicator

COMM = communicator()
RANK, SIZE = COMM.rank, COMM.size
LAST = SIZE - 1

LEVELS = 8
FIELDS = {
    # Written by rank 0; eight levels in a chunk.
    "a": (Field(("member", "time", "x"), "W"), (LEVELS, 3)),
    # Four levels of 1 KiB in a chunk, and one of 5.6 kB.
    "few": (Field(("member", "time", "dof"), "K", "float64"), (LEVELS, 128)),
    "many": (Field(("member", "time", "node"), "Pa", "float64"), (LEVELS, 700)),
    # Without time, in shares.
    "still": (Field(("member", "cell"), "kg", "float32"), (11,)),
}
SHARED = ("few", "many", "still")
RECORD = {"status": 1}
NAME = "thing-0000000000000000"


@pytest.fixture
def place():
    """A directory that all ranks see."""
    made = tempfile.mkdtemp(prefix="members-") if RANK == 0 else ""
    path = Path(exchange(COMM, made)[0])
    yield path
    COMM.barrier()
    if RANK == 0:
        shutil.rmtree(path)


@contextlib.contextmanager
def ensemble(root, durability="rename"):
    """The writer of an ensemble on every rank; rank 0 has the lock."""
    with contextlib.ExitStack() as stack:
        if RANK == 0:
            out = stack.enter_context(Store(root, durability).writer(Schema("thing"), "0" * 64))
            for name, (field, shape) in FIELDS.items():
                out.create(name, field, (4, *shape), member=True)
        COMM.barrier()
        yield out if RANK == 0 else Writer.attach(root / "partial" / NAME / "artifact")
        COMM.barrier()


def truth(name):
    """All levels of a field in its canonical order, equal on every rank."""
    field, shape = FIELDS[name]
    return np.random.default_rng(list(name.encode())).random(shape).astype(field.dtype)


def cuts(seed, size):
    """Where the ranks' ranges end: unequal, and empty for some."""
    if seed < 2:  # all of it on the first rank, or on the last one
        ends = [size if seed == 0 else 0] * LAST
    else:
        ends = sorted(np.random.default_rng([seed, size]).integers(0, size + 1, LAST).tolist())
    return [0, *ends, size]


def order(seed, size):
    """Canonical position of each stored value."""
    return np.random.default_rng([seed, size, 1]).permutation(size)


def level(seed, t, numbered=True):
    """What this rank appends at a time level."""
    values = {}
    for name in SHARED[: 3 if t == 0 else 2]:
        whole = truth(name) if name == "still" else truth(name)[t]
        ends = cuts(seed, len(whole))
        index = order(seed, len(whole)) if numbered else np.arange(len(whole))
        mine = index[ends[RANK] : ends[RANK + 1]]
        values[name] = Share(whole[mine], mine if numbered else None)
    if RANK == 0:
        values["a"] = truth("a")[t]
    return values


def write(one, seed, stop=LEVELS, numbered=True):
    for t in range(one.resume_from, stop):
        one.append(level(seed, t, numbered), restart=lambda t=t: {"t": np.array([t + 1, RANK])})


def shards(root):
    """Bytes of the members' files, by field and name."""
    return {
        f"{p.parent.name}/{p.name}": p.read_bytes()
        for name in FIELDS
        for p in sorted(root.glob(f"*/*/artifact/data.zarr/{name}/c.*"))
    }


def serially(root, seed, numbered=True):
    """The same member written by one process, whole, in the same order."""
    with Store(root, "rename").writer(Schema("thing"), "0" * 64) as out:
        for name, (field, shape) in FIELDS.items():
            out.create(name, field, (4, *shape), member=True)
        values = {"a": truth("a")}
        for name in SHARED:
            whole = truth(name)
            values[name] = whole[..., order(seed, whole.shape[-1])] if numbered else whole
        out.write_member(1, values, RECORD)
    return shards(root)


def differences(place, out, seed, numbered):
    """What is not as one process would have written it, on rank 0."""
    made, wanted = shards(place / "it"), serially(place / "serial", seed, numbered)
    yield from (
        f"{name} differs" for name in wanted.keys() | made.keys() if made.get(name) != wanted.get(name)
    )
    numberings = out.committed()[1].get("numberings", {})
    if set(numberings) != (set(SHARED) if numbered else set()):
        yield f"numberings {numberings}"
    for name, key in numberings.items():
        stored = np.frombuffer((out.path / "data.zarr" / key / "c.0").read_bytes()[:-4], "<i8")
        if not np.array_equal(stored, order(seed, len(stored))):
            yield f"another numbering of {name}"
    yield from (str(f) for f in findings(out.path, "crc"))


def check(place, out, seed, numbered=True):
    """The member is there, byte for byte what one process writes."""
    COMM.barrier()
    found = "; ".join(differences(place, out, seed, numbered)) if RANK == 0 else ""
    assert exchange(COMM, found)[0] == ""


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_shares_of_any_length_make_the_file_that_one_process_writes(place, seed, numbered):
    with ensemble(place / "it") as out:
        with out.member(1, COMM) as one:
            write(one, seed, numbered=numbered)
            assert one.commit(RECORD)
        check(place, out, seed, numbered)


def test_the_reader_sees_the_canonical_order(place):
    with ensemble(place / "it") as out:
        for member, seed in ((0, 3), (1, 4)):
            with out.member(member, COMM) as one:
                write(one, seed)
                one.commit(RECORD)
    other = []
    if RANK == 0:
        seen = Store(place / "it").snapshot(NAME)
        other = [n for n in FIELDS for m in (0, 1) if not np.array_equal(seen.read(n)[m], truth(n))]
    assert exchange(COMM, ", ".join(other))[0] == ""


@pytest.mark.parametrize("stop", [1, 3, 4, LEVELS])
def test_a_member_goes_on_where_all_ranks_were(place, stop):
    """Also where it lacked nothing but its commit: the numberings are not forgotten then."""
    seed = 3
    with ensemble(place / "it") as out:
        with out.member(1, COMM) as one:
            write(one, seed, stop)
        COMM.barrier()
        with out.member(1, COMM) as one:
            assert one.resume_from == stop
            assert one.restart.arrays["t"].tolist() == [stop, RANK]
            write(one, seed)
            assert one.commit(RECORD)
        check(place, out, seed)


@pytest.mark.parametrize("rank", sorted({0, LAST}))
@pytest.mark.parametrize("how", ["lost", "torn", "older"])
def test_one_rank_without_its_last_restart_point_costs_one_level(place, rank, how):
    seed, stop = 4, 5
    with ensemble(place / "it") as out:
        with out.member(1, COMM) as one:
            write(one, seed, stop)
        COMM.barrier()
        (folder,) = (out.path / "meta" / "parts").iterdir()
        file = folder / f"restart.{RANK}.{stop % 2}"
        if rank == RANK and how == "lost":
            file.unlink()
        elif rank == RANK and how == "torn":
            file.write_bytes(file.read_bytes()[:-5] + bytes(5))
        elif rank == RANK:  # killed before it noted a level that the others have
            (before,) = (r for r in Restart.read(folder, RANK) if r.level == stop - 1)
            file.unlink()
            before.write(folder, RANK)
        COMM.barrier()
        with out.member(1, COMM) as one:
            assert one.resume_from == stop - 1
            assert one.restart.arrays["t"].tolist() == [stop - 1, RANK]
            write(one, seed)
            assert one.commit(RECORD)
        check(place, out, seed)


def outcome(call):
    """What every rank raised, in rank order."""
    said = "nothing"
    try:
        call()
    except SciflowError as error:
        said = f"{type(error).__name__}: {error}"
    return exchange(COMM, said)


def begin(out, t, seed):
    one = out.member(1, COMM)
    write(one, seed, t)
    return one


def finish(place, out, seed):
    """What failed is mended: the member is finished, and nothing of the failure is in it."""
    COMM.barrier()
    with out.member(1, COMM) as one:
        write(one, seed)
        assert one.commit(RECORD)
    check(place, out, seed)


def with_nan(share):
    values = share.values.copy()
    values[:1] = np.nan
    return Share(values, share.index)


def longer(share):
    return Share(np.append(share.values, 1.0), np.append(share.index, 0))


def repeated(share):
    return Share(share.values, np.zeros_like(share.index))


@pytest.mark.parametrize("rank", range(SIZE))
@pytest.mark.parametrize("field", ["few", "many"])
@pytest.mark.parametrize(
    ("change", "t", "words"),
    [
        (with_nan, 0, "is not finite at time level 0"),
        (with_nan, 3, "is not finite at time level 3"),
        (longer, 0, "the ranks share"),
        (longer, 2, "length of a rank's share changed"),
        (repeated, 0, "not each of 0..n-1 once"),
    ],
)
def test_wrong_values_on_one_rank_are_refused_on_every_rank(place, rank, field, change, t, words):
    seed = next(s for s in range(2, 99) if all(np.diff(cuts(s, n)).all() for n in (128, 700)))
    with ensemble(place / "it") as out:
        with begin(out, t, seed) as one:
            values = level(seed, t)
            if rank == RANK:
                values[field] = change(values[field])
            said = outcome(lambda: one.append(values))
        assert all(re.search(words, s) for s in said), said
        assert len({s.split(":")[0] for s in said}) == 1
        finish(place, out, seed)


def refuse(monkeypatch, rank, name, about):
    """On one rank a function of `os` fails for want of space where a path with `about` is concerned."""
    real = getattr(os, name)

    def call(first, *arguments, **options):
        where = str(Path(f"/proc/self/fd/{first}").readlink()) if isinstance(first, int) else str(first)
        if about in where:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(first, *arguments, **options)

    if rank == RANK:
        monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("rank", range(SIZE))
@pytest.mark.parametrize(
    ("name", "about", "t"),
    [
        ("pwritev", "/few", 0),
        ("pwritev", "/many", 0),
        ("pwritev", "/still", 0),
        ("pwritev", "/few", 3),  # completes a chunk
        ("pwritev", "/many", 2),
        ("pwritev", "/restart.", 2),
        ("open", "/restart.", 1),
        ("pwritev", "numbering_", 0),
    ],
)
def test_a_full_disk_of_one_rank_is_known_to_all(place, monkeypatch, rank, name, about, t):
    if "numbering" in about and rank > 0:
        pytest.skip("rank 0 writes it")
    with ensemble(place / "it") as out:
        with begin(out, t, 2) as one, monkeypatch.context() as patch:

            def two_levels():
                # What spoils no values may be told when the ranks talk the next time.
                for k in (t, t + 1):
                    one.append(level(2, k), restart=lambda k=k: {"t": np.array([k + 1, RANK])})

            refuse(patch, rank, name, about)
            said = outcome(two_levels)
        empty = name == "pwritev" and about in ("/few", "/many", "/still") and said == ["nothing"] * SIZE
        if empty:
            size = FIELDS[about[1:]][1][-1]
            assert rank > 0 and np.diff(cuts(2, size))[rank] == 0, "only a rank that wrote nothing had room"  # noqa: PT018
        else:
            assert all("the disk is full" in s and s.startswith("Failed") for s in said), said
        finish(place, out, 2)


@pytest.mark.parametrize("rank", range(SIZE))
@pytest.mark.parametrize(
    ("name", "about"),
    [("fsync", "/few"), ("fsync", "/many"), ("link", "/many"), ("fsync", ".log"), ("pwritev", ".log")],
)
def test_a_commit_that_fails_on_one_rank_fails_on_all(place, monkeypatch, rank, name, about):
    if rank > 0 and (name != "fsync" or about == ".log"):
        pytest.skip("rank 0 publishes")
    with ensemble(place / "it", "fsync") as out:
        with begin(out, LEVELS, 2) as one, monkeypatch.context() as patch:
            for kind in ("fsync", "fdatasync") if name == "fsync" else (name,):
                refuse(patch, rank, kind, about)
            said = outcome(lambda: one.commit(RECORD))
        assert all("the disk is full" in s and s.startswith("Failed") for s in said), said
        there = exchange(COMM, str(sorted(out.committed())))[0]
        # A record that was written but not synced is whole, only not acknowledged.
        assert there == ("[1]" if (name, about) == ("fsync", ".log") else "[]")
        finish(place, out, 2)


@pytest.mark.parametrize("rank", range(SIZE))
@pytest.mark.parametrize(("name", "about"), [("mkdir", "/parts/"), ("open", "/many"), ("ftruncate", "/many")])
def test_a_beginning_that_fails_on_one_rank_fails_on_all(place, monkeypatch, rank, name, about):
    if rank > 0 and name != "open":
        pytest.skip("rank 0 begins")
    with ensemble(place / "it") as out:
        if name == "ftruncate":  # what is behind the last restart point is cut off
            with begin(out, 3, 2) as one:
                one.append(level(2, 3))
            COMM.barrier()
        with monkeypatch.context() as patch:
            refuse(patch, rank, name, about)
            said = outcome(lambda: out.member(1, COMM))
        assert all("the disk is full" in s and s.startswith("Failed") for s in said), said
        finish(place, out, 2)


def test_a_member_is_not_continued_on_another_partition(place):
    with ensemble(place / "it") as out:
        with begin(out, 3, 2):
            pass
        COMM.barrier()
        with out.member(1, COMM) as one:
            assert one.resume_from == 3
            with pytest.raises(Failed, match="split otherwise"):
                one.append(level(4, 3))
