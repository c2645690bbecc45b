"""Ranks that srun started without MPI train together over gloo."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("torch")
from tests.conftest import ROOT


@pytest.mark.torture
def test_tasks_of_srun_are_ranks_where_gloo_is_asked_for(slurm_cluster, tmp_path):
    srun = ["srun", "--mpi=none", "-N", "1", "-n", "2"]
    done = subprocess.run(
        [*srun, sys.executable, "-m", "tests.operators.ranks", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "SCIFLOW_COLLECTIVES": "torch"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        record = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert (record["size"], record["kind"], record["wrong"]) == (2, "GlooComm", [])
        assert len(set(record["digests"]["torch"])) == 1
        assert set(record["listening"]) <= {"0100007F", "00000000000000000000000001000000"}
