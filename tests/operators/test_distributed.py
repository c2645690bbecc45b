"""Training on ranks of mpirun and of torchrun is training on one; what launchers say is understood."""

import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from sciflow import Invalid
from sciflow.context import SerialComm
from sciflow.jobs import JobSpec
from sciflow.worker import communicator, main
from sciflow_operators.training import distributed
from sciflow_operators.training.launch import Launch, first_host, launched, tasks_of
from tests.conftest import ROOT
from tests.operators import ranks

OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_PROCID": "4",
    "SLURM_NTASKS": "5",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "gpu[003-004,007]",
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "2",
}


def test_what_launchers_say_is_understood():
    assert launched(OPENMPI) == Launch("mpirun", 5, 8, 1, 4)
    assert launched(TORCHRUN) == Launch("torchrun", 3, 4, 1, 2, "10.0.0.1", 29500)
    srun = launched(SRUN)
    assert srun == Launch("srun", 4, 5, 0, 1, "gpu003", srun.port)
    assert 20_000 <= srun.port < 30_000
    assert launched({**SRUN, "SLURM_STEP_ID": "3"}).port != srun.port
    mpich = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
    assert launched(mpich) == Launch("mpirun", 1, 2, 1, 2)


def test_torchrun_is_heard_before_what_started_it():
    assert launched({**SRUN, **TORCHRUN}).launcher == "torchrun"
    assert launched({**SRUN, **OPENMPI}).launcher == "mpirun"


def test_a_batch_script_is_no_step():
    """Slurm gives a batch script the variables of its first task; nobody else was started."""
    script = {k: v for k, v in SRUN.items() if "STEP" not in k} | {"SLURM_PROCID": "0"}
    assert launched(script) is None
    assert launched({}) is None
    assert (
        launched({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"})
        is None
    )


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({**TORCHRUN, "RANK": "4"}, "torchrun names ranks that cannot be"),
        ({**TORCHRUN, "WORLD_SIZE": "two"}, "WORLD_SIZE should be a number, it is 'two'"),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "2(x2"}, "tasks should read as"),
        ({**OPENMPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "9"}, "mpirun names ranks that cannot be"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(environ, message):
    with pytest.raises(Invalid, match=message):
        launched(environ)


def test_lists_of_nodes():
    names = {"a": "a", "a,b": "a", "gpu[003-007,012],login": "gpu003", "n[1,3]-ib": "n1-ib", "": ""}
    assert {text: first_host(text) for text in names} == names
    assert tasks_of("2(x3),1") == [2, 2, 2, 1]
    assert tasks_of("4") == [4]


def test_a_worker_that_is_to_be_alone_is(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert isinstance(communicator(1), SerialComm)


def test_a_worker_says_what_is_wrong_with_its_environment(monkeypatch, capsys, tmp_path):
    for name, value in {**TORCHRUN, "WORLD_SIZE": "many"}.items():
        monkeypatch.setenv(name, value)
    assert main([str(tmp_path / "job.json")]) == 2
    assert "sciflow: the environment variable WORLD_SIZE should be a number" in capsys.readouterr().err


def test_a_step_of_srun_needs_to_be_told(monkeypatch):
    """Two tasks of srun without MPI are refused by the worker, unless gloo is asked for."""
    from sciflow_operators.components import sciflow_communicator

    assert sciflow_communicator(SRUN) is None
    assert sciflow_communicator(OPENMPI) is None


def two_ranks(monkeypatch, others):
    """This process as the first of two ranks; what the other one says to what this one says."""
    comm = distributed.GlooComm.__new__(distributed.GlooComm)
    comm.rank, comm.size = 0, 2
    monkeypatch.setattr(distributed, "exchange", lambda comm, text: [text, others(text)])
    monkeypatch.setattr(distributed, "_joined", [])
    monkeypatch.delenv(distributed.CHOICE, raising=False)
    return comm


@pytest.mark.parametrize("one_machine", [True, False])
def test_nccl_connects_over_the_loopback_where_all_ranks_are_on_one_machine(monkeypatch, one_machine):
    """Each of the ranks sees one GPU alone, which is number 0 to both."""
    here = socket.gethostname()
    said = {here: here if one_machine else "elsewhere", "first": "second"}
    comm, used = two_ranks(monkeypatch, said.__getitem__), []
    monkeypatch.setattr(distributed, "backend", lambda: "cpu:gloo,cuda:nccl")
    monkeypatch.setattr(distributed, "total", lambda v: used.append(os.environ.get("NCCL_SOCKET_IFNAME")))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid="first"))
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    assert distributed.reduces(comm, torch.device("meta"))
    assert used == ["lo" if one_machine else None]
    assert "NCCL_SOCKET_IFNAME" not in os.environ
    said["first"] = "first"
    distributed._joined.clear()
    assert not distributed.reduces(comm, torch.device("meta")), "one GPU for both"


def test_an_address_that_others_cannot_reach_is_refused(monkeypatch):
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "127.0.1.1")
    comm = two_ranks(monkeypatch, lambda text: "10.0.0.2")
    with (
        pytest.raises(Invalid, match=r"own name the address 127.0.1.1, .*SCIFLOW_COLLECTIVES=mpi"),
        distributed._meeting(comm, one_machine=False),
    ):
        pass


def test_a_port_that_is_taken_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Invalid, match=rf"cannot meet at 127.0.0.1, port {port}: .*set MASTER_PORT"):
            distributed._store("127.0.0.1", port, 0, 2)


@pytest.fixture(scope="module")
def alone():
    return ranks.train(SerialComm())


def test_ranks_of_torchrun_train_as_one_would(tmp_path, alone):
    """And a worker finds the others; the same under mpirun is tests/parallel/test_collectives.py."""
    (tmp_path / "hello").mkdir()
    JobSpec("hello", {}, str(tmp_path / "hello")).write(tmp_path / "job")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_"))}
    done = subprocess.run(
        [*torchrun, "-m", "tests.operators.ranks", str(tmp_path)],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert not [line for line in done.stderr.splitlines() if "Warning" in line], done.stderr
    records = [json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1)]
    for record in records:
        assert record["size"] == 2
        assert record["kind"] == "GlooComm"
        assert record["wrong"] == []
        assert record["codes"] == [0]
        for digests in record["digests"].values():
            assert len(set(digests)) == 1, "the same bits on every rank"
        assert record["listening"], "gloo waits for its neighbours"
        # 127.0.0.1 and ::1, as the kernel writes them.
        assert set(record["listening"]) <= {"0100007F", "00000000000000000000000001000000"}
    hello = json.loads((tmp_path / "hello" / "hello.json").read_text())
    assert hello["ranks"] == 2
    for choice in ("torch", "mpi"):
        with np.load(tmp_path / f"{choice}.npz") as state:
            for name, values in alone.items():
                np.testing.assert_allclose(state[name], values, rtol=2e-4, atol=2e-6, err_msg=name)


def test_a_worker_that_torch_does_not_start_loads_no_torch():
    code = (
        "import sys; from sciflow.worker import communicator; communicator(2); print('torch' in sys.modules)"
    )
    for variables in (SRUN, {}):
        env = {k: v for k, v in os.environ.items() if k != "SCIFLOW_COLLECTIVES"} | dict(variables)
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "False"
