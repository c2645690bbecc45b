import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("dolfinx")
from sciflow.executors.mpi import Mpi, environment
from sciflow_fenics.components import Darcy, Heat

pytestmark = pytest.mark.mpi
SCRIPT = Path(__file__).with_name("ranks.py")
HEAT = Heat(cells=8, grid=9, levels=2, substeps=2)


DARCY = Darcy(cells=8, grid=9)
AGREE = {
    "heat-p1": Heat(cells=10, grid=13, levels=2, substeps=2, dofs=True),
    "heat-p2": Heat(cells=6, degree=2, grid=13, levels=2, substeps=2, dofs=True, scheme="crank_nicolson"),
    "darcy-p1": Darcy(cells=10, grid=13, dofs=True),
    "darcy-p2": Darcy(cells=6, degree=2, grid=13, dofs=True),
}
MEMBER = {"seed": 3}
# What each number of ranks solves, in this order and by one process each: a start costs more than a solve.
JOBS = {
    "heat-alone": (HEAT, [MEMBER]),
    "darcy-alone": (DARCY, [MEMBER]),
    **{name: (problem, [MEMBER]) for name, problem in AGREE.items()},
    "heat-after": (HEAT, [{"seed": 8, "amplitude": 1e7, "x": 0.02}, MEMBER]),
    "darcy-after": (DARCY, [{"seed": 8, "length": 0.1}, MEMBER]),
}
HALVES = {"halves": (HEAT, [{"seed": 3, "halves": True}] * 2)}
FAIL = {
    "newton": (HEAT, {"beta": -1.0}, "Diverged: time level 0, step 0: "),
    "width": (HEAT, {"width": -1.0}, "Invalid: the width of the source must be positive"),
    "overflow": (DARCY, {"variance": 1e6}, "Diverged: the permeability leaves"),
    "embedding": (DARCY, {"length": 50.0}, "Invalid: a correlation length of 50.0 sides is too long"),
}


def launch(jobs, ranks, place):
    file = place / "jobs.json"
    described = [
        {"problem": problem.to_json(), "members": members, "file": str(place / f"{name}.npz")}
        for name, (problem, members) in jobs.items()
    ]
    file.write_text(json.dumps(described))
    command = Mpi().command(ranks)
    command = command[: command.index(sys.executable)]
    return subprocess.run(
        [*command, sys.executable, SCRIPT, file],
        env=environment(1, ranks),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """The arrays of a job on some ranks."""
    places = {}

    def of(name, ranks):
        if ranks not in places:
            place = tmp_path_factory.mktemp(f"ranks-{ranks}-")
            done = launch(JOBS | (HALVES if ranks == 3 else {}), ranks, place)
            assert done.returncode == 0, done.stdout + done.stderr
            places[ranks] = place
        with np.load(places[ranks] / f"{name}.npz", allow_pickle=False) as data:
            return {n: data[n] for n in data.files}

    return of


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """How two ranks ended whose members all fail."""
    jobs = {name: (problem, [{"seed": 3, **change}]) for name, (problem, change, _) in FAIL.items()}
    return launch(jobs, 2, tmp_path_factory.mktemp("failed"))


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert values.tobytes() == other[name].tobytes(), name


def assert_close(one, other):
    for name, values in one.items():
        scale = np.abs(values).max()
        np.testing.assert_allclose(other[name], values, rtol=0, atol=2e-7 * scale, err_msg=name)


@pytest.mark.parametrize("name", AGREE)
def test_one_two_and_three_ranks_agree_dof_for_dof(name, solved):
    one = solved(name, 1)
    for ranks in (2, 3):
        assert_close(one, solved(name, ranks))


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", ["heat", "darcy"])
def test_a_member_has_the_same_bits_alone_and_after_others(name, ranks, solved):
    assert_same_bits(solved(f"{name}-alone", ranks), solved(f"{name}-after", ranks))


def test_communicators_that_come_and_go_do_not_meet_the_meshes_of_others(solved):
    """Their handles are given out again, to other ranks."""
    assert_close(solved("heat-alone", 1), solved("halves", 3))


@pytest.mark.parametrize("name", FAIL)
def test_a_failure_is_the_same_sentence_on_every_rank(name, failed):
    lines = [line for line in failed.stdout.splitlines() if line.startswith(FAIL[name][2])]
    assert failed.returncode != 0
    assert len(lines) == 2, failed.stdout + failed.stderr
    assert lines[0] == lines[1]


def test_a_mesh_too_coarse_for_the_ranks_is_refused_on_every_rank(tmp_path):
    done = launch({"x": (Heat(cells=2, grid=3), [MEMBER])}, 4, tmp_path)
    assert done.returncode != 0
    assert done.stdout.count("too coarse for 4 ranks: take at least 3 cells a side") == 4
    assert not (tmp_path / "x.npz").exists()
