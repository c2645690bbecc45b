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


def launch(problem, ranks, file, members=({"seed": 3},)):
    command = Mpi().command(ranks)
    command = command[: command.index(sys.executable)]
    arguments = [sys.executable, SCRIPT, json.dumps(problem.to_json()), json.dumps(members), file]
    return subprocess.run(
        [*command, *arguments],
        env=environment(1, ranks),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def solved(problem, ranks, file, members=({"seed": 3},)):
    done = launch(problem, ranks, file, members)
    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(file, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert values.tobytes() == other[name].tobytes(), name


def assert_close(one, other):
    for name, values in one.items():
        scale = np.abs(values).max()
        np.testing.assert_allclose(other[name], values, rtol=0, atol=2e-7 * scale, err_msg=name)


@pytest.mark.parametrize(
    "problem",
    [
        Heat(cells=10, grid=13, levels=2, substeps=2, dofs=True),
        Heat(cells=6, degree=2, grid=13, levels=2, substeps=2, dofs=True, scheme="crank_nicolson"),
        Darcy(cells=10, grid=13, dofs=True),
        Darcy(cells=6, degree=2, grid=13, dofs=True),
    ],
    ids=["heat-p1", "heat-p2", "darcy-p1", "darcy-p2"],
)
def test_one_two_and_three_ranks_agree_dof_for_dof(problem, tmp_path):
    results = [solved(problem, ranks, tmp_path / f"{ranks}.npz") for ranks in (1, 2, 3)]
    for other in results[1:]:
        assert_close(results[0], other)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    ("problem", "other"),
    [(HEAT, {"seed": 8, "amplitude": 1e7, "x": 0.02}), (Darcy(cells=8, grid=9), {"seed": 8, "length": 0.1})],
    ids=["heat", "darcy"],
)
def test_a_member_has_the_same_bits_alone_and_after_others(problem, other, ranks, tmp_path):
    alone = solved(problem, ranks, tmp_path / "alone.npz")
    after = solved(problem, ranks, tmp_path / "after.npz", [other, {"seed": 3}])
    assert_same_bits(alone, after)


def test_communicators_that_come_and_go_do_not_meet_the_meshes_of_others(tmp_path):
    """Their handles are given out again, to other ranks."""
    one = solved(HEAT, 1, tmp_path / "one.npz")
    halves = solved(HEAT, 3, tmp_path / "halves.npz", [{"seed": 3, "halves": True}] * 2)
    assert_close(one, halves)


@pytest.mark.parametrize(
    ("problem", "change", "reason"),
    [
        (HEAT, {"beta": -1.0}, "Diverged: time level 0, step 0: "),
        (HEAT, {"width": -1.0}, "Invalid: the width of the source must be positive"),
        (Darcy(cells=8, grid=9), {"variance": 1e6}, "Diverged: the permeability leaves"),
        (Darcy(cells=8, grid=9), {"length": 50.0}, "Invalid: a correlation length of 50.0 sides is too long"),
    ],
    ids=["newton", "width", "overflow", "embedding"],
)
def test_a_failure_is_the_same_sentence_on_every_rank(problem, change, reason, tmp_path):
    done = launch(problem, 2, tmp_path / "x.npz", [{"seed": 3, **change}])
    lines = [line for line in done.stdout.splitlines() if line.startswith(reason)]
    assert done.returncode != 0
    assert len(lines) == 2, done.stdout + done.stderr
    assert lines[0] == lines[1]


def test_a_mesh_too_coarse_for_the_ranks_is_refused_on_every_rank(tmp_path):
    done = launch(Heat(cells=2, grid=3), 4, tmp_path / "x.npz")
    assert done.returncode != 0
    assert done.stdout.count("too coarse for 4 ranks: take at least 3 cells a side") == 4
    assert not (tmp_path / "x.npz").exists()
