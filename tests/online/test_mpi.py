"""The transport over MPI: any number of trainer ranks, solvers and their ranks gives the same samples."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sciflow import Failed, Resources
from sciflow_online.reservoirs import Reservoir
from tests.conftest import ROOT
from tests.online import world
from tests.online.runs import (
    Apart,
    kill,
    messages,
    running,
    session,
    settled_uses,
    stage,
    train,
    wait_until,
)  # fmt: skip
from tests.online.test_online_train import weights
from tests.online.toys import Mean, Moody
from tests.toys import March

pytest.importorskip("mpi4py")
pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(shutil.which("mpirun") is None, reason="there is no mpirun"),
]
LARGE = 9000
"""Grid points whose values, whole, travel behind their header, and those of a part with it."""


def mpirun(ranks, *command):
    env = {
        **os.environ, "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_mpi_yield_when_idle": "1",
    }  # fmt: skip
    line = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), sys.executable, *command]
    done = subprocess.run(line, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("size", "trainers", "ranks", "window", "points", "gather"),
    [
        (2, 1, 1, "level", LARGE, "owner"),
        (3, 1, 1, "step", 7, "owner"),
        (3, 1, 2, "whole", LARGE, "owner"),
        (3, 1, 2, "level", LARGE, "root"),
        (3, 2, 1, "level", 7, "owner"),
        (4, 2, 2, "level", LARGE, "owner"),
        (4, 2, 1, "step", LARGE, "owner"),
        (4, 1, 3, "step", 7, "root"),
    ],
)
def test_every_sample_comes_once_whoever_computes_it(tmp_path, size, trainers, ranks, window, points, gather):
    out = tmp_path / "found"
    mpirun(size, "-m", "tests.online.world", str(out), *map(str, (trainers, ranks, window, points, gather)))
    said = [json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(trainers)]
    found = sorted(tuple(sample) for _, samples in said for sample in samples)
    assert found == world.serial(window, points)
    assert all(samples for _, samples in said), "a trainer rank was given nothing"
    assert [duplicates for duplicates, _ in said] == [0] * trainers


def test_a_training_over_mpi_is_that_over_zeromq_to_the_bit(tmp_path):
    made = stage(
        March(levels=3), inputs_of=("a", "time"), outputs_of=("v",), order="fixed",
        reservoir=Reservoir(capacity=8, threshold=4),
    )  # fmt: skip
    over = [
        train(session(tmp_path / name), made.replace(transport=name), 10, ranks=ranks)
        for name, ranks in (("zmq", 1), ("mpi", 2))
    ]
    assert weights(over[0]) == weights(over[1])
    settled_uses(over[1], 6 * 3, 4)


def test_several_trainer_ranks_and_solvers_over_mpi(tmp_path):
    here = session(tmp_path)
    made = stage(Moody(), transport="mpi", trainer=Resources(ranks=2), keep=True)
    model = train(here, made, 10, parallel=2)
    assert model.attributes["online"]["samples"] == 6 * 4
    assert model.attributes["failures"] == {}
    assert "ensemble" in model.attributes
    assert running(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=pytest.mark.torture)])
def test_ranks_that_are_told_to_stop_keep_what_they_have_and_go_on_later(tmp_path, number):
    one = Apart(tmp_path, stage(Moody(pause=0.06), transport="mpi"))
    wait_until(lambda: one.metrics() >= 1, "no report")
    ranks = [p for p in running(tmp_path) if b"mpirun" not in Path(f"/proc/{p}/cmdline").read_bytes()]
    for pid in ranks:
        kill(pid, number)
    model = one.end()
    settled_uses(model, 6 * 4, 4)
    assert any("told to stop" in m for m in messages(one.here, "INFO"))
    assert any("training goes on after report" in m for m in messages(one.here, "INFO"))
    assert running(tmp_path) == []


@pytest.mark.torture  # what hangs is slow to kill
def test_a_solver_that_hangs_takes_the_job_with_it_and_the_next_one_goes_on(tmp_path):
    """Up to the limit; a member that always hangs ends the run with the reason."""
    (tmp_path / "notes").mkdir()
    once = Moody(mood="hang", above=1.75, once=str(tmp_path / "notes"))
    made = stage(once, transport="mpi", patience=0.02, heartbeat=0.3)
    settled_uses(Apart(tmp_path / "a", made).end(), 6 * 4, 4)
    one = Apart(tmp_path / "b", made.replace(problem=once.replace(once=""), attempts=1))
    with pytest.raises(Failed, match="no new time level came"):
        one.end()
    assert any("hangs and is ended" in m for m in messages(one.here))
    assert running(tmp_path) == []


def test_a_crash_of_a_rank_ends_the_job_and_the_next_one_goes_on(tmp_path):
    made = stage(Moody(pause=0.02), Mean(crash=str(tmp_path / "crashed")), transport="mpi")
    one = Apart(tmp_path, made)
    model = one.end()
    settled_uses(model, 6 * 4, 4)
    assert any("training goes on after report 1" in m for m in messages(one.here, "INFO"))
