"""Learning across members on any number of ranks; run by pytest alone and under ``mpirun -n 2``."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("dolfinx")
from sciflow import Context
from sciflow.artifact.member import DATA
from sciflow.artifact.writer import Writer
from sciflow.context import exchange
from sciflow.experience import Experience
from sciflow.jobs import JobSpec
from sciflow.stages.simulate import ENSEMBLE, Simulate
from sciflow.store import Store
from sciflow.worker import communicator, execute
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.space import Solvers
from sciflow_control.tuned.solver import Tuned
from sciflow_fenics.components import Heat

COMM = communicator()
RANK, SIZE = COMM.rank, COMM.size
TUNED = Tuned(
    Thompson(Solvers(("bcgs+bjacobi", "richardson+none", "cg+jacobi", "given"))), hold=1, limit=20.0
)
HEAT = Heat(cells=8, grid=9, levels=2, substeps=2, solver=TUNED)
COUNT = 4


class Design:
    path, digest = "design", "0"
    attributes = {
        "parameters": list(HEAT.parameters),
        "parameter_units": [p.unit for p in HEAT.parameters.values()],
    }


def points():
    rng = np.random.default_rng(0)
    return np.stack([p.low + rng.random(COUNT) * (p.high - p.low) for p in HEAT.parameters.values()], axis=1)


@pytest.fixture
def folder(tmp_path):
    """One directory for all ranks."""
    return Path(exchange(COMM, str(tmp_path))[0])


def solve(path, members):
    rows = points()[members].tolist()
    payload = {"members": members, "parameters": rows, "attempts": 1}
    spec = JobSpec("members", HEAT.to_json(), str(path), payload=payload, seed=0)
    execute(spec, Context(comm=COMM))


def begun(folder, problem=HEAT):
    path = folder / "partial" / "artifact"
    if RANK == 0:
        out = Writer(path, ENSEMBLE, "0" * 64, Store(folder / "store", "rename"))
        Simulate(problem).begin(out, Design, points())
    COMM.barrier()
    return path


def test_members_learn_from_each_other_and_seal_what_they_learned(folder):
    path = begun(folder)
    solve(path, [0, 1])
    solve(path, [2, 3])  # another job
    logs = exchange(COMM, str(sorted(Experience(path.parent / "scratch" / "experience").others())))
    assert set(logs) == {"[0, 1, 2, 3]"}
    if RANK > 0:
        return
    out = Writer.attach(path)
    assert all(r["status"] == 1 and "experience" in r for r in out.committed().values())
    Simulate(HEAT).seal(out, points(), Context())
    data = {
        name: read(path, name) for name in ("decision_member", "decision_known", "decision_feature_ranks")
    }
    assert sorted(set(data["decision_member"].tolist())) == [0, 1, 2, 3]
    assert (data["decision_feature_ranks"] == SIZE).all()
    before = [data["decision_known"][data["decision_member"] == m][0] for m in range(COUNT)]
    assert before[0] == 0
    assert before == sorted(before)
    assert before[-1] > before[0]


def read(path, name):
    import zarr

    return zarr.open_group(path / DATA, mode="r")[name][:]


def test_every_rank_counts_the_same_iterations(folder):
    root = Experience(folder / "experience" if RANK == 0 else None)
    for member, row in enumerate(points()):
        mu = dict(zip(HEAT.parameters, row, strict=True))
        ctx = Context(seed=member, comm=COMM, experience=root.of(member))
        counts = [state.metrics for state in HEAT.solve(mu, ctx)]
        assert len(set(exchange(COMM, str(counts)))) == 1
    if RANK == 0:
        assert list(root.others()) == list(range(COUNT))
    else:
        assert root.others() == {}
