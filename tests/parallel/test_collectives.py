"""Whether MPI or gloo adds up gradients changes nothing; run by pytest alone and under ``mpirun -n 2``."""

import hashlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sciflow import Invalid
from sciflow.context import SerialComm, exchange
from sciflow.worker import communicator
from sciflow_operators.training.distributed import CHOICE, GlooComm, places, reduces, total
from tests.operators.ranks import listening, train

COMM = communicator()
PROCESSOR = torch.device("cpu")


@pytest.fixture
def gloo(monkeypatch):
    monkeypatch.setenv(CHOICE, "torch")


def test_gloo_adds_up_what_the_ranks_have(gloo):
    if COMM.size == 1:
        pytest.skip("one rank has nothing to add")
    before = listening()
    assert reduces(COMM, PROCESSOR)
    # Open MPI listens where it pleases; what gloo adds is on the loopback.
    assert listening() - before <= {"0100007F", "00000000000000000000000001000000"}
    found = total(torch.arange(3.0, dtype=torch.float64) + COMM.rank)
    wanted = 3 * COMM.size * np.array([0, 1, 2]) / 3 + sum(range(COMM.size))
    np.testing.assert_array_equal(found.numpy(), wanted)


def test_training_over_gloo_is_training_on_one_rank(gloo):
    together = train(COMM)
    text = hashlib.sha256(b"".join(v.tobytes() for v in together.values())).hexdigest()
    assert len(set(exchange(COMM, text))) == 1, "the same bits on every rank"
    for name, values in train(SerialComm()).items():
        np.testing.assert_allclose(together[name], values, rtol=2e-4, atol=2e-6, err_msg=name)


def test_mpi_adds_up_in_the_memory_of_the_host_unless_told_otherwise(monkeypatch):
    if COMM.size == 1:
        pytest.skip("one rank has nothing to add")
    monkeypatch.delenv(CHOICE, raising=False)
    assert reduces(COMM, PROCESSOR) == isinstance(COMM, GlooComm)
    monkeypatch.setenv(CHOICE, "smoke")
    with pytest.raises(Invalid, match="may be auto, torch or mpi"):
        reduces(COMM, PROCESSOR)


def test_each_rank_has_a_number_on_its_machine():
    number, hosts = places(COMM)
    assert len(hosts) == COMM.size
    assert number == COMM.rank if len(set(hosts)) == 1 else number < COMM.size
