"""The training stage on several ranks makes the model that one rank makes; by pytest alone and by mpirun."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
from safetensors.numpy import load_file

from sciflow import Context
from sciflow.artifact import Artifact
from sciflow.artifact.writer import Writer
from sciflow.context import SerialComm, exchange
from sciflow.stages.train import MODEL, Train
from sciflow.store import Store
from sciflow.worker import communicator
from sciflow_operators.components import MLP
from tests.rom.ensembles import write

COMM = communicator()
RANK, SIZE = COMM.rank, COMM.size
NET = MLP(width=8, layers=2, epochs=4, batch=4 * SIZE, threads=1, device="cpu", learning_rate=1e-3)
STAGE = Train(NET, ("a", "b"), ("u",), train=0.8, valid=0.1, checkpoint_every=2)


@pytest.fixture
def root(tmp_path):
    """Rank 0's directory, on every rank."""
    return Path(exchange(COMM, str(tmp_path))[0])


def train(root, comm, name):
    """What the stage writes, as (weights, names of the files in its scratch)."""
    (path,) = (root / "store" / "artifacts").iterdir()
    out = Writer(root / name / "artifact", MODEL, recipe="")
    STAGE.run({"ensemble": Artifact.open(path)}, out, Context(seed=0, comm=comm))
    comm.barrier()
    folder = root / name
    return load_file(folder / "artifact" / "files" / "model.safetensors"), sorted(
        p.name for p in (folder / "scratch").glob("checkpoint-*")
    )


def test_the_stage_on_all_ranks_is_the_stage_on_one(root):
    if RANK == 0:
        values = np.cumsum(np.random.default_rng(0).standard_normal((40, 6)), axis=1)
        write(Store(root / "store"), values, ("x",), coordinates={"x": np.arange(6.0)})
    COMM.barrier()
    together, kept = train(root, COMM, "together")
    assert len(kept) == 1, "one checkpoint, written by one rank"
    if RANK == 0:
        alone, _ = train(root, SerialComm(), "alone")
        for key, array in alone.items():
            np.testing.assert_allclose(together[key], array, rtol=2e-3, atol=2e-5, err_msg=key)
    COMM.barrier()
