"""Ranks over which torch sums: gloo on processors, NCCL on GPUs; and a `Comm` where there is no MPI."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import ipaddress
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from sciflow.context import exchange
from sciflow.errors import Invalid, Missing
from sciflow_operators.training.launch import CHOICE, Launch

if TYPE_CHECKING:
    from sciflow.context import Comm

PATIENCE = datetime.timedelta(minutes=30)
"""How long a rank waits for the others; a batch of a slow source may be long in coming."""
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


class GlooComm:
    """A communicator over torch's gloo, for processes that were started without MPI.

    It has what code written against `sciflow.context.Comm` uses, on contiguous numpy arrays, with the
    meaning of mpi4py.

    Parameters
    ----------
    launch : Launch
        The place of this process.

    Attributes
    ----------
    rank, size : int
        See `sciflow.context.Comm`.
    launch : Launch
        As given.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch, self.rank, self.size = launch, launch.rank, launch.size
        if not launch.address or not launch.port:
            raise Invalid(
                f"{launch.launcher} started {launch.size} processes and does not say where they meet: set "
                "MASTER_ADDR and MASTER_PORT, or install mpi4py"
            )
        address = "127.0.0.1" if launch.one_machine else launch.address
        # torchrun's agent listens already, and its variables say where; otherwise rank 0 has to.
        where: dict[str, Any] = {"init_method": "env://"}
        if launch.launcher != "torchrun":
            where = {"store": _store(address, launch.port, self.rank, self.size)}
        with interface(launch.one_machine):
            dist.init_process_group(
                backend(), rank=self.rank, world_size=self.size, timeout=PATIENCE, **where
            )
        atexit.register(_leave)

    def barrier(self) -> None:
        """Wait for all ranks."""
        one = torch.zeros(1)
        dist.all_reduce(one)

    Barrier = barrier

    def Allreduce(self, mine: np.ndarray, everyone: np.ndarray) -> None:  # noqa: N802  mpi4py's name
        """Sum over the ranks, of one shape, the same bits on all."""
        total = torch.from_numpy(np.array(mine, order="C"))
        dist.all_reduce(total)
        everyone[...] = total.numpy().reshape(everyone.shape)

    def Allgather(self, mine: np.ndarray, everyone: np.ndarray) -> None:  # noqa: N802
        """Arrays of all ranks, of one shape, one after the other."""
        parts = self._parts([mine.size] * self.size, mine)
        everyone[...] = np.concatenate(parts).reshape(everyone.shape)

    def Allgatherv(self, mine: np.ndarray, target: Sequence[Any]) -> None:  # noqa: N802
        """Arrays of all ranks, of any shape, ``target`` being the whole array and the numbers of entries."""
        whole, counts = target[0], [int(n) for n in target[1]]
        whole.reshape(-1)[: sum(counts)] = np.concatenate(self._parts(counts, mine))

    def Gatherv(self, mine: np.ndarray, target: Sequence[Any] | None, root: int = 0) -> None:  # noqa: N802
        """See `Allgatherv`; only the root keeps the result."""
        counts = np.zeros(self.size, dtype=np.int64)
        self.Allgather(np.array([mine.size], dtype=np.int64), counts)
        parts = self._parts(counts.tolist(), mine)
        if self.rank == root and target is not None:
            target[0].reshape(-1)[: int(counts.sum())] = np.concatenate(parts)

    def Bcast(self, values: np.ndarray, root: int = 0) -> None:  # noqa: N802
        """Fill an array with that of the root, of the same shape."""
        sent = torch.from_numpy(np.array(values, order="C"))
        dist.broadcast(sent, src=root)
        values[...] = sent.numpy()

    def Send(self, values: np.ndarray, dest: int) -> None:  # noqa: N802
        """Send an array of any shape to one rank."""
        dist.send(torch.from_numpy(np.array(values, order="C")), dst=dest)

    def Recv(self, values: np.ndarray, source: int) -> None:  # noqa: N802
        """Receive an array from one rank, of the shape that it sends."""
        got = torch.from_numpy(np.array(values, order="C"))
        dist.recv(got, src=source)
        values[...] = got.numpy()

    def Abort(self, code: int = 1) -> None:  # noqa: N802
        """End this process at once; its launcher ends the others."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _parts(self, counts: Sequence[int], mine: np.ndarray) -> list[np.ndarray]:
        """Flat arrays of all ranks; gloo gathers equally large ones."""
        largest = max(1, *counts)
        padded = np.zeros(largest, dtype=mine.dtype)
        padded[: mine.size] = mine.reshape(-1)
        found = [torch.empty(largest, dtype=torch.from_numpy(padded).dtype) for _ in counts]
        dist.all_gather(found, torch.from_numpy(padded))
        return [part.numpy()[:n] for part, n in zip(found, counts, strict=True)]


def backend() -> str:
    """What `torch.distributed` is to use: gloo for the host's memory, NCCL for that of a GPU.

    Raises
    ------
    Missing
        If this torch was built without it.
    """
    if not dist.is_available():
        raise Missing("this torch was built without torch.distributed; several ranks need mpi4py then")
    return "cpu:gloo,cuda:nccl" if dist.is_nccl_available() and torch.cuda.is_available() else "gloo"


@contextlib.contextmanager
def interface(one_machine: bool) -> Iterator[None]:
    """Let connections that are made meanwhile use the loopback alone, where all ranks are on one machine."""
    former = {name: os.environ.get(name) for name in _INTERFACES}
    if one_machine:
        os.environ.update({name: value or "lo" for name, value in former.items()})
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def places(comm: Comm) -> tuple[int, list[str]]:
    """This rank's number on its machine, and the machine of every rank; collective."""
    hosts = exchange(comm, socket.gethostname())
    return hosts[: comm.rank].count(hosts[comm.rank]), hosts


def take_gpu(comm: Comm, device: str) -> None:
    """Make a GPU of this rank's own the current one, by its number on its machine; collective.

    Parameters
    ----------
    comm : Comm
        Ranks that train together.
    device : str
        As `Trained.device`.

    Notes
    -----
    Where there are more ranks than GPUs, several share one.
    """
    if comm.size == 1 or device == "cpu" or not torch.cuda.is_available():
        return
    number, _ = places(comm)
    torch.cuda.set_device(number % torch.cuda.device_count())


_joined: list[tuple[Comm, bool]] = []
"""The communicator whose ranks are torch's process group, and whether they have a GPU each."""


def reduces(comm: Comm, device: torch.device) -> bool:
    """Whether torch sums over these ranks on this device, rather than MPI in the host's memory.

    Collective when it is first asked for a communicator: the ranks then form torch's process group.

    Parameters
    ----------
    comm : Comm
        Of several ranks.
    device : device
        Where the numbers are, of one type on all ranks.

    Raises
    ------
    Invalid
        If the environment variable names none of the ways.

    Notes
    -----
    On GPUs, NCCL sums if every rank has one of its own. In the host's memory, MPI does if there is MPI: two
    ranks with 1e7 numbers take 38 ms with it and 63 ms with gloo. ``SCIFLOW_COLLECTIVES`` decides otherwise.
    """
    choice = os.environ.get(CHOICE, "auto")
    if choice not in ("auto", "torch", "mpi"):
        raise Invalid(f"{CHOICE} is {choice!r}; it may be auto, torch or mpi")
    wanted = choice == "torch" or (choice == "auto" and device.type == "cuda")
    if isinstance(comm, GlooComm):
        wanted = choice != "mpi"
    if not wanted or not dist.is_available():
        return False
    if not _joined or _joined[-1][0] is not comm:
        _joined[:] = [(comm, _join(comm, device))]
    return device.type == "cpu" or _joined[-1][1]


def _join(comm: Comm, device: torch.device) -> bool:
    """Make the ranks of a communicator torch's process group; whether each has a GPU of its own."""
    _, hosts = places(comm)
    gpus = exchange(comm, _gpu())
    own = all(gpus) and len(set(gpus)) == comm.size and "nccl" in backend()
    one = len(set(hosts)) == 1
    if dist.is_initialized() and not _joined and not isinstance(comm, GlooComm):
        # Somebody else made it, for a program around this one; it serves if it is of the same ranks.
        if (dist.get_rank(), dist.get_world_size()) != (comm.rank, comm.size):
            raise Invalid(
                f"torch has a process group of {dist.get_world_size()} ranks already, and {comm.size} ranks "
                f"train here; end it first, or set {CHOICE}=mpi"
            )
        return own and "nccl" in dist.get_backend_config()
    if not isinstance(comm, GlooComm):
        _leave()
        with interface(one), _meeting(comm, one) as store:
            dist.init_process_group(
                backend(), store=store, rank=comm.rank, world_size=comm.size, timeout=PATIENCE
            )
            comm.barrier()
        atexit.register(_leave)
    if own and device.type != "cpu":
        # NCCL opens its connections at the first sum and not before.
        with interface(one):
            total(torch.zeros(1, device=device))
    return own


def _gpu() -> str:
    """This rank's GPU, empty for none; its number would be 0 for each rank that sees one alone."""
    if not torch.cuda.is_available():
        return ""
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)


@contextlib.contextmanager
def _meeting(comm: Comm, one_machine: bool) -> Iterator[Any]:
    """Where the ranks find each other: a file on one machine, so that nothing listens; else rank 0's port."""
    stores: Any = dist
    if one_machine:
        folder = tempfile.mkdtemp(prefix="sciflow-ranks-") if comm.rank == 0 else ""
        if folder:
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        path = Path(exchange(comm, folder)[0]) / "store"
        yield stores.FileStore(str(path), comm.size)
        return
    address = socket.gethostbyname(socket.gethostname())
    hosts = exchange(comm, address)
    if ipaddress.ip_address(hosts[0]).is_loopback:
        raise Invalid(
            f"rank 0's machine gives its own name the address {hosts[0]}, where the others cannot reach it: "
            f"give it that of its network (/etc/hosts), or let MPI sum ({CHOICE}=mpi)"
        )
    free = 0
    if comm.rank == 0:
        with socket.socket() as trial:
            trial.bind((address, 0))
            free = trial.getsockname()[1]
    host, _, port = exchange(comm, f"{address}:{free}")[0].rpartition(":")
    yield _store(host, int(port), comm.rank, comm.size)


def _store(address: str, port: int, rank: int, size: int) -> Any:
    """Where ranks find each other, at a port of rank 0's."""
    stores: Any = dist
    if rank:
        return stores.TCPStore(address, port, size, False, PATIENCE)
    # The socket is bound to one address here; by itself the store listens on all of them.
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((address, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise Invalid(
            f"the ranks cannot meet at {address}, port {port}: {error.strerror or error}; set MASTER_PORT to "
            "a free port, the same for all ranks"
        ) from None
    handle = listening.detach()
    return stores.TCPStore(address, port, size, True, PATIENCE, False, master_listen_fd=handle)


def total(values: Tensor) -> Tensor:
    """The sum over torch's process group, any shape, in place; the same bits on every rank; collective."""
    dist.all_reduce(values)
    return values


_world: list[Comm] = []
"""The processes this one was started with, once they have met."""


def communicator(launch: Launch) -> Comm:
    """A communicator over gloo for a process that `launch.ours` takes; the same one each time."""
    if not _world:
        _world.append(GlooComm(launch))
    return _world[0]
