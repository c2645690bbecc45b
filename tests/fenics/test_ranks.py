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


def launch(problem, ranks, file):
    command = Mpi().command(ranks)
    command = [
        *command[: command.index(sys.executable)],
        sys.executable,
        SCRIPT,
        json.dumps(problem.to_json()),
        "3",
        file,
    ]
    return subprocess.run(
        command, env=environment(1, ranks), capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    "problem",
    [
        Heat(cells=10, grid=13, levels=2, substeps=2, dofs=True),
        Heat(cells=6, degree=2, grid=13, levels=2, substeps=2, dofs=True, scheme="crank_nicolson"),
        Darcy(cells=10, grid=13),
        Darcy(cells=6, degree=2, grid=13),
    ],
    ids=["heat-p1", "heat-p2", "darcy-p1", "darcy-p2"],
)
def test_one_two_and_three_ranks_agree_dof_for_dof(problem, tmp_path):
    results = []
    for ranks in (1, 2, 3):
        file = tmp_path / f"{ranks}.npz"
        done = launch(problem, ranks, file)
        assert done.returncode == 0, done.stdout + done.stderr
        with np.load(file, allow_pickle=False) as data:
            results.append({name: data[name] for name in data.files})
    for other in results[1:]:
        for name, values in results[0].items():
            scale = np.abs(values).max()
            np.testing.assert_allclose(other[name], values, rtol=0, atol=2e-7 * scale, err_msg=name)


def test_a_mesh_too_coarse_for_the_ranks_is_refused_on_every_rank(tmp_path):
    done = launch(Heat(cells=2, grid=3), 4, tmp_path / "x.npz")
    assert done.returncode != 0
    assert "too coarse for 4 ranks: take at least 3 cells a side" in done.stdout
    assert not (tmp_path / "x.npz").exists()
