"""Stored ensembles beside np.memmap, plain system calls, zarr-python, tensorstore and parallel HDF5.

One sample is a time level of 64 x 64 float32 (16 KiB), one member 50 of them. The files lie in the
directory for temporary files: set ``TMPDIR`` to measure another disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from benchmarks.figure import Figure, NotRun, medians
from sciflow.artifact import Artifact
from sciflow.artifact.gather import Gather
from sciflow.artifact.member import Member
from sciflow.artifact.verify import findings
from sciflow.schema import Field, Schema
from sciflow.store import Store, Writer

MEMBERS, LEVELS, SIDE, BATCH = 200, 50, 64, 32
SAMPLE = 4 * SIDE * SIDE
FIELD = Field(("member", "time", "y", "x"), "1")
H5PY = "SCIFLOW_H5PY_MPI"
"""Names the directory where Debian's parallel h5py was unpacked."""
HOW_H5PY = (
    f"{H5PY} does not name an unpacked parallel h5py; on Debian: mkdir peer; cd peer; "
    "apt-get download python3-h5py-mpi libhdf5-openmpi-103 liblzf1; "
    f"for f in *.deb; do dpkg -x $f .; done; export {H5PY}=$PWD"
)


def member(number: int = 0) -> np.ndarray:
    """All time levels of one member."""
    values = np.random.default_rng(0).random((LEVELS, SIDE, SIDE), dtype=np.float32)
    values += number
    return values


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A directory that goes when it was used."""
    with tempfile.TemporaryDirectory(prefix="sciflow-bench-") as name:
        yield Path(name)


@contextlib.contextmanager
def writer(root: Path, durability: str, members: int = 10_000) -> Iterator[Writer]:
    """An artifact being written, with one member-wise field u."""
    with Store(root, durability).writer(Schema("ensemble"), "0" * 64) as out:
        out.create("u", FIELD, (members, LEVELS, SIDE, SIDE), member=True)
        yield out


@contextlib.contextmanager
def ensemble(members: int = MEMBERS) -> Iterator[tuple[Artifact, Path]]:
    """A published ensemble, and the same values in one plain file; both on the disk."""
    with folder() as root:
        raw = root / "raw"
        with writer(root, "fsync", members) as out, raw.open("wb") as file:
            for number in range(members):
                out.write_member(number, {"u": member(number)}, {"status": 1})
                file.write(member(number))
            os.fsync(file.fileno())
            artifact = out.publish({})
        yield artifact, raw


def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Random members and levels without end."""
    rng = np.random.default_rng(1)
    drawn = [(rng.integers(0, MEMBERS, BATCH), rng.integers(0, LEVELS, BATCH)) for _ in range(499)]
    for number in count():
        yield drawn[number % len(drawn)]


def in_turn(runs: Mapping[str, Callable[[], Callable[[], object]]], repeats: int) -> dict[str, float]:
    """Median seconds of what each of `runs` prepares, which is not measured; see `medians`."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(1 + repeats):
        for name, prepare in runs.items():
            call = prepare()
            begin = time.perf_counter()
            call()
            if round_:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def plain(seconds: Mapping[str, float], scale: float = 1e6, unit: str = "us") -> str:
    """The times behind a ratio."""
    return ", ".join(f"{name} {scale * value:.0f} {unit}" for name, value in seconds.items())


def zarr_array(path: Path, members: int) -> Any:
    """The layout of a stored ensemble (one shard a member, a level a chunk), made by zarr-python."""
    import zarr

    return zarr.create_array(
        path, shape=(members, LEVELS, SIDE, SIDE), dtype="float32", shards=(1, LEVELS, SIDE, SIDE),
        chunks=(1, 1, SIDE, SIDE), compressors=(zarr.codecs.Crc32cCodec(),), fill_value=np.nan,
        chunk_key_encoding={"name": "default", "separator": "."},
    )  # fmt: skip


# -- reading -------------------------------------------------------------------------------------


def bench_batch() -> Iterator[Figure]:
    """Batches of 32 random samples out of 10 000, all in the page cache."""
    with ensemble() as (artifact, raw):
        where = artifact.path / "data.zarr" / "u"
        flat = np.memmap(raw, np.float32, "r", shape=(MEMBERS * LEVELS, SIDE, SIDE))
        off, always = Gather(where, verify="off"), Gather(where, verify="always")
        for number in range(MEMBERS):  # all pages in the cache and in the page tables
            for reader in (off, always):
                reader.read(np.full(LEVELS, number), np.arange(LEVELS))
        flat.sum()
        draw = batches()
        out = np.empty((BATCH, 1, SIDE, SIDE), np.float32)

        def memmap(target: np.ndarray | None) -> np.ndarray:
            members, levels = next(draw)
            at = members * LEVELS + levels
            return flat[at] if target is None else np.take(flat, at, 0, out=target[:, 0], mode="clip")

        for how, target in (("new_arrays", None), ("out", out)):
            seconds = medians(
                {
                    "memmap": lambda target=target: memmap(target),
                    "unverified": lambda target=target: off.read(*next(draw), out=target),
                    "verified": lambda target=target: always.read(*next(draw), out=target),
                },
                repeats=500,
                warm=50,
            )
            note = "both with out=" if target is not None else "both allocate"
            for name, bound in (("unverified", 1.5), ("verified", 2.5)):
                times = plain({k: seconds[k] for k in ("memmap", name)})
                ratio = seconds[name] / seconds["memmap"]
                yield Figure(f"batch_{name}_{how}", ratio, bound, "x", "<=", f"{note}: {times}")
        yield from batch_peers(where, always, draw)


def batch_peers(where: Path, always: Gather, draw: Iterator[Any]) -> Iterator[Figure]:
    """The same batches through zarr-python and tensorstore, over the same shards; all allocate."""
    import zarr

    array = zarr.open_array(where, mode="r")

    def loop() -> np.ndarray:
        return np.stack([array[m, t] for m, t in zip(*next(draw), strict=True)])

    runs: dict[str, Callable[[], object]] = {"here, verified": lambda: always.read(*next(draw)), "zarr": loop}
    if find_spec("tensorstore"):
        import tensorstore

        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(where)}}
        other = tensorstore.open(spec, open=True).result()
        runs["tensorstore"] = lambda: other.vindex[next(draw)].read().result()
    seconds = medians(runs, repeats=60, warm=5)
    ours, note = seconds["here, verified"], plain(seconds)
    yield Figure("batch_beside_zarr", seconds["zarr"] / ours, 50, note=note)
    if "tensorstore" not in seconds:
        raise NotRun("tensorstore is missing: pip install tensorstore")
    yield Figure("batch_beside_tensorstore", seconds["tensorstore"] / ours, 3, note=note)


def drop(*files: Path) -> None:
    """Take files out of the page cache; pages that are mapped or not yet written stay."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def serial(file: BinaryIO, members: np.ndarray, levels: np.ndarray, out: np.ndarray) -> None:
    """Read samples from the plain file by one ``pread`` after the other."""
    places = ((members * LEVELS + levels) * SAMPLE).tolist()
    for row, place in zip(out.reshape(BATCH, -1).view(np.uint8), places, strict=True):
        os.preadv(file.fileno(), [row], place)


def bench_cold() -> Iterator[Figure]:
    """Batches of 32 random samples after every file was dropped from the page cache.

    Beside 32 ``pread`` one after the other from one open file. Opening the members' files counts.
    """
    with ensemble() as (artifact, raw), raw.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no readahead that it has no use for
        where = artifact.path / "data.zarr" / "u"
        shards = sorted(where.glob("c.*"))
        draw = batches()
        out = np.empty((BATCH, 1, SIDE, SIDE), np.float32)

        def pread(cold: bool) -> Callable[[], object]:
            batch = next(draw)
            drop(raw)
            if not cold:
                serial(file, *batch, out)
            return lambda: serial(file, *batch, out)

        def gather(ahead: bool) -> Callable[[], object]:
            members, levels = next(draw)
            drop(*shards)
            reader = Gather(where, verify="always")
            if not ahead:
                return lambda: reader.read(members, levels, out=out)
            return lambda: (reader.prefetch(members, levels), reader.read(members, levels, out=out))

        def memmap() -> Callable[[], object]:
            members, levels = next(draw)
            drop(raw)
            flat = np.memmap(raw, np.float32, "r", shape=(MEMBERS * LEVELS, SIDE, SIDE))
            return lambda: flat[members * LEVELS + levels]

        seconds = in_turn(
            {
                "pread": lambda: pread(True),
                "pread again": lambda: pread(False),
                "prefetch and read": lambda: gather(True),
                "read": lambda: gather(False),
                "memmap": memmap,
            },
            repeats=30,
        )
    if seconds["pread"] < 3 * seconds["pread again"]:
        raise NotRun(f"this file system keeps what is dropped: {plain(seconds)}")
    note = f"verified; {plain(seconds)}"
    yield Figure("cold_prefetched", seconds["pread"] / seconds["prefetch and read"], 1.5, note=note)
    yield Figure("cold", seconds["pread"] / seconds["read"], 0.6, note="no prefetch")


# -- writing -------------------------------------------------------------------------------------


def bench_member() -> Iterator[Figure]:
    """A member of 800 KiB, committed so that a power cut leaves it.

    Beside ``np.save`` and fsync of the file (whose name is not made lasting: one fsync, here three),
    and beside zarr-python, which asks for none. What one has written is deleted and the disk at
    rest before the next begins, so that nobody pays for another one's pages.
    """
    values = member()
    with folder() as root, writer(root, "fsync") as out:
        saved, ours, theirs = count(), count(), count()
        array = zarr_array(root / "peer.zarr", 10_000)

        def save() -> None:
            with (root / f"{next(saved)}.npy").open("wb") as file:
                np.save(file, values)
                file.flush()
                os.fsync(file.fileno())

        def here() -> None:
            out.write_member(next(ours), {"u": values}, {"status": 1})

        def peer() -> None:
            array[next(theirs)] = values

        def at_rest(call: Callable[[], None]) -> Callable[[], None]:
            for path in (root, root / "peer.zarr", out.path / "data.zarr" / "u"):
                for file in [*path.glob("*.npy"), *path.glob("c.*")]:
                    file.unlink()
            os.sync()
            return call

        runs = {"np.save, fsync": save, "here": here, "zarr, not durable": peer}
        seconds = in_turn({k: lambda call=v: at_rest(call) for k, v in runs.items()}, repeats=60)
    note = plain(seconds)
    yield Figure("member_durable", seconds["np.save, fsync"] / seconds["here"], 0.8, note=note)
    yield Figure("member_beside_zarr", seconds["zarr, not durable"] / seconds["here"], 4, note=note)


def append_all(one: Member, values: np.ndarray, sync: bool) -> None:
    """Append level by level."""
    for level in values:
        one.append({"u": level}, sync=sync)


def write_all(handle: int, values: np.ndarray, sync: bool) -> None:
    """Write level by level."""
    for level in values:
        os.write(handle, level)
        if sync:
            os.fdatasync(handle)


def bench_step() -> Iterator[Figure]:
    """The 50 levels of a member appended one by one, beside ``os.write``; files opened before."""
    values = member()
    with folder() as root, writer(root, "fsync") as out, contextlib.ExitStack() as opened:
        array = zarr_array(root / "peer.zarr", 10_000)
        number = count()

        def append(sync: bool) -> Callable[[], object]:
            opened.close()
            one = out.member(next(number))
            opened.callback(one.drop)
            return lambda: append_all(one, values, sync)

        def write(sync: bool) -> Callable[[], object]:
            handle = os.open(root / f"{next(number)}.raw", os.O_WRONLY | os.O_CREAT)
            opened.callback(os.close, handle)
            return lambda: write_all(handle, values, sync)

        def peer() -> Callable[[], object]:
            row = next(number)
            return lambda: [array.__setitem__((row, step), values[step]) for step in range(LEVELS)]

        kept = in_turn({"write": lambda: write(False), "here": lambda: append(False)}, 60)
        lasting = in_turn({"write, fdatasync": lambda: write(True), "here": lambda: append(True)}, 25)
        peers = in_turn({"zarr": peer, "here": lambda: append(False)}, 5)
    ratio = kept["here"] / kept["write"]
    yield Figure("step", ratio, 4, "x", "<=", f"50 levels: {plain(kept)}")
    ratio = lasting["here"] / lasting["write, fdatasync"]
    yield Figure("step_durable", ratio, 1.2, "x", "<=", f"50 levels: {plain(lasting)}")
    yield Figure("step_beside_zarr", peers["zarr"] / peers["here"], 50, note=f"50 levels: {plain(peers)}")


def bench_mpi() -> Iterator[Figure]:
    """A vector of 1 000 003 degrees of freedom, 8 levels (64 MB), by 2 ranks with unequal shares."""
    if shutil.which("mpirun") is None or find_spec("mpi4py") is None:
        raise NotRun("mpirun or mpi4py is missing: apt-get install openmpi-bin python3-mpi4py")
    peer = os.environ.get(H5PY, "")
    packages = Path(peer, "usr/lib/python3/dist-packages")
    if not peer or not (packages / "h5py").is_dir():
        raise NotRun(HOW_H5PY)
    libraries = [str(p) for p in Path(peer, "usr/lib").glob("*-linux-gnu*")]
    env = {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "OMP_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    start = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "2", sys.executable, "-m", "mpi4py"]
    with folder() as root:
        done = subprocess.run(
            [*start, "-m", "benchmarks.storage_mpi", str(root), str(packages)],
            env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise NotRun(next((line for line in lines if "Error: " in line), lines[-1]))
    seconds = json.loads(done.stdout.splitlines()[-1])
    note = f"with checksums, not synced; {plain(seconds, 1e3, 'ms')}"
    yield Figure("mpi_2_ranks", seconds["here"] / seconds["h5py, collective"], 1.5, "x", "<=", note)


# -- files ---------------------------------------------------------------------------------------


def bench_files() -> Iterator[Figure]:
    """Inodes that a further member costs for each field, in a published artifact."""
    fields = ("u", "p")
    inodes = {}
    for members in (10, 30):
        with folder() as root, writer(root, "rename", members) as out:
            out.create("p", FIELD, (members, LEVELS, SIDE, SIDE), member=True)
            for number in range(members):
                out.write_member(number, dict.fromkeys(fields, member(number)), {"status": 1})
            inodes[members] = sum(1 for _ in out.publish({}).path.rglob("*"))
    each = (inodes[30] - inodes[10]) / (20 * len(fields))
    note = f"{inodes[30]} files and directories for 30 members of 2 fields"
    yield Figure("files_per_member_and_field", each, 1, "", "<=", note)


def bench_verify() -> Iterator[Figure]:
    """``sciflow store verify --level crc`` of 164 MB beside reading the files: from the disk, cached."""
    with ensemble() as (artifact, _):
        files = sorted((artifact.path / "data.zarr" / "u").glob("c.*"))
        block = bytearray(1 << 20)

        def read() -> None:
            for file in files:
                with file.open("rb", buffering=0) as handle:
                    while handle.readinto(block):
                        pass

        def verify() -> None:
            if list(findings(artifact.path, "crc")):
                raise NotRun("the artifact is damaged")

        def dropped(call: Callable[[], None]) -> Callable[[], None]:
            drop(*files)
            return call

        cold = in_turn({"read": lambda: dropped(read), "verify": lambda: dropped(verify)}, repeats=8)
        warm = medians({"read": read, "verify": verify}, repeats=10, warm=1)
    for name, seconds in (("verify_crc", cold), ("verify_crc_cached", warm)):
        note = plain(seconds, 1e3, "ms")
        yield Figure(name, seconds["read"] / seconds["verify"], 0.5, note=note)


def write_some(path: Path, first: int, members: int) -> None:
    """Write every other member; what each of two concurrent processes does."""
    out = Writer.attach(path)
    for number in range(first, members, 2):
        out.write_member(number, {"u": member(number)}, {"status": 1})


def bench_concurrent() -> Iterator[Figure]:
    """Two processes write every other member of 200 at the same time, into one artifact."""
    members = 200
    command = [sys.executable, "-m", "benchmarks.bench_storage"]
    with folder() as root, writer(root, "rename", members) as out:
        both = [subprocess.Popen([*command, str(out.path), str(n), str(members)]) for n in (0, 1)]
        if sum(process.wait() for process in both):
            raise NotRun("a writing process failed")
        reader = out.publish({}).gather("u", verify="always")
        stored = (reader.read(np.full(LEVELS, m), np.arange(LEVELS))[:, 0] for m in range(members))
        good = [np.array_equal(values, member(m)) for m, values in enumerate(stored)]
    yield Figure("concurrent_intact", 100 * float(np.mean(good)), 100, " %", note=f"of {members} members")


if __name__ == "__main__":
    write_some(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
