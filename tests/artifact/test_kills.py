"""SIGKILL at any point: no half member is visible, none that was acknowledged is lost."""

import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sciflow.artifact import Artifact
from sciflow.artifact.verify import findings
from sciflow.artifact.writer import committed
from sciflow.context import SerialComm
from sciflow.executors.mpi import Mpi, environment
from tests.artifact import kill_driver
from tests.artifact.kill_driver import FIELDS, LEVELS, MEMBERS, truth
from tests.artifact.power_loss import CALLS

INSIDE = Path("store") / "partial" / "ensemble-aaaaaaaaaaaaaaaa" / "artifact"


def child(root, at=None, after=False):
    """Start a writing process; with `at` it kills itself at its n-th call that changes the disk."""
    pid = os.fork()
    if pid:
        return pid
    try:
        if at is not None:
            count = 0

            def wrapped(real):
                def call(*arguments, **options):
                    nonlocal count
                    count += 1
                    if count == at and not after:
                        os.kill(os.getpid(), signal.SIGKILL)
                    result = real(*arguments, **options)
                    if count == at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return result

                return call

            for name in CALLS:
                setattr(os, name, wrapped(getattr(os, name)))
        digest = kill_driver.write(root, SerialComm())
        (root / "digest").write_text(digest)
    finally:
        os._exit(0)


def ended(pid):
    """Whether a process was killed, once it has ended."""
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def lines(file):
    return file.read_text().splitlines() if file.exists() else []


def check(root):
    """What a reader sees right after a kill."""
    path = root / INSIDE
    if not (path / "data.zarr" / "zarr.json").exists():
        published = list((root / "store" / "artifacts").glob("*"))
        assert published or not lines(root / "acknowledged")
        return
    there = committed(path)
    assert {int(m) for m in lines(root / "acknowledged")} <= set(there), "acknowledged and lost"
    torn = {f.member for f in findings(path, "crc") if f.severe}
    assert not torn & set(there), "visible and torn"


def check_end(root, kills, digest):
    """What came out after the last run."""
    (path,) = (root / "store" / "artifacts").glob("*")
    data = Artifact.open(path)
    assert data.digest == digest
    for name in ("q", "u"):
        for m in range(MEMBERS):
            np.testing.assert_array_equal(data.read(name)[m], truth(m)[name])
    computed = collections.Counter(lines(root / "computed"))
    assert len(computed) == MEMBERS * LEVELS
    again = sum(computed.values()) - len(computed)
    assert again <= kills, f"{again} steps were computed again after {kills} kills"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Digest of an ensemble that nobody interrupted."""
    root = tmp_path_factory.mktemp("whole")
    return kill_driver.write(root, SerialComm())


def at_every_call(base, whole, points):
    """Kill at one call after the other, each in an ensemble of its own; how many were killed."""
    kills = 0
    for number, at in enumerate(points):
        root = base / f"p{number}"
        root.mkdir()
        if not ended(child(root, at, after=bool(number % 2))):
            break
        kills += 1
        check(root)
        assert not ended(child(root))
        check_end(root, 1, whole)
        shutil.rmtree(root)
    return kills


def at_random_times(base, whole, rounds, rng):
    """Kill again and again until an ensemble is done; how many were killed."""
    kills = 0
    for number in range(rounds):
        root = base / f"r{number}"
        root.mkdir()
        mine = 0
        while True:
            pid = child(root)
            time.sleep(rng.uniform(0.0, 0.008))
            os.kill(pid, signal.SIGKILL)
            if not ended(pid) or (root / "digest").exists():
                break
            mine += 1
            check(root)
        check_end(root, mine, whole)
        kills += mine
        shutil.rmtree(root)
    return kills


def test_killed_at_a_call(tmp_path, whole):
    assert at_every_call(tmp_path, whole, range(9, 400, 17)) > 8


def test_killed_at_a_moment(tmp_path, whole):
    assert at_random_times(tmp_path, whole, 3, random.Random(0)) > 3


@pytest.mark.torture
def test_hundreds_of_kills(tmp_path, whole, capsys):
    calls = at_every_call(tmp_path, whole, [n for k in range(1, 2000) for n in (k, k)])
    moments, rng = 0, random.Random()
    while calls + moments < 600:
        moments += at_random_times(tmp_path, whole, 5, rng)
    with capsys.disabled():
        print(
            f"\nkills: {calls} before or after each call, {moments} at random moments; nothing torn or lost"
        )


def launch(root, ranks):
    command = Mpi().command(ranks)
    command = [
        *command[: command.index(sys.executable)],
        sys.executable,
        "-m",
        "tests.artifact.kill_driver",
        str(root),
    ]
    return subprocess.Popen(
        command,
        env={**environment(1, ranks), "KILL_DRIVER_PAUSE": "0.02"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def ranks_of(root):
    """Processes of the ranks that write below `root`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if str(root).encode() in words and b"tests.artifact.kill_driver" in words and b"python" in words[0]:
            found.append(int(entry.name))
    return found


def one_rank_killed(base, ranks, wanted, rng):
    """Kill one rank of a job again and again; how many were killed, and the digest at the end."""
    kills, number, digests = 0, 0, set()
    while kills < wanted:
        root = base / f"m{number}"
        root.mkdir()
        number, mine, finished = number + 1, 0, False
        while not finished:
            job = launch(root, ranks)
            target = len(lines(root / "computed")) + rng.randrange(1, 8)
            while job.poll() is None and len(lines(root / "computed")) < target:
                time.sleep(0.002)
            victims = ranks_of(root)
            if job.poll() is None and len(victims) == ranks and mine < 6:
                os.kill(rng.choice(victims), signal.SIGKILL)
                mine += 1
            job.wait()
            while ranks_of(root):
                time.sleep(0.01)
            finished = bool(list((root / "store" / "artifacts").glob("*")))
            check(root)
        (path,) = (root / "store" / "artifacts").glob("*")
        digests.add(Artifact.open(path).digest)
        check_end(root, mine, Artifact.open(path).digest)
        kills += mine
        shutil.rmtree(root)
    assert len(digests) == 1, "interrupted or not, the same bits"
    return kills


@pytest.mark.mpi
def test_one_of_two_ranks_killed(tmp_path):
    assert one_rank_killed(tmp_path, 2, 3, random.Random(1)) >= 3


@pytest.mark.mpi
@pytest.mark.torture
def test_one_of_the_ranks_killed_many_times(tmp_path, capsys):
    rng = random.Random()
    two, three = one_rank_killed(tmp_path, 2, 40, rng), one_rank_killed(tmp_path, 3, 30, rng)
    with capsys.disabled():
        print(f"\nkills of one rank: {two} of two, {three} of three; nothing torn or lost")


def test_fields_are_of_every_layout():
    from sciflow.artifact.layout import Layout

    together = {n: Layout.choose(n, f, shape).together for n, (f, shape) in FIELDS.items()}
    assert together == {"q": 1, "u": LEVELS, "v": 1}
