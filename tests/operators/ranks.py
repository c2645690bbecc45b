"""What each rank of a data-parallel test does: ``torchrun -m tests.operators.ranks OUT``."""

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np

from sciflow import Context
from sciflow.context import exchange
from sciflow.worker import communicator, main
from sciflow_operators.components import FNO
from tests.operators.test_training import Memory, smoothing

CONFIG = FNO(width=8, modes=8, layers=2, epochs=3, batch=12, learning_rate=1e-3, threads=1, device="cpu")


class Share(Memory):
    """Every `size`-th sample of each whole batch, in the order that one rank would take them."""

    def __init__(self, whole, rank, size):
        super().__init__(whole.x, whole.y, whole.signature)
        self.rank, self.size = rank, size

    def __len__(self):
        return (super().__len__() + self.size - 1) // self.size

    def batches(self, size, *, seed, epoch=0):
        order = np.arange(len(self.x["u"]))
        if seed is not None:
            order = np.random.default_rng([seed, epoch]).permutation(order)
        for i in range(0, len(order), size * self.size):
            pick = order[i : i + size * self.size][self.rank :: self.size]
            yield self.batch_of(pick)

    def batch_of(self, pick):
        from sciflow.samples import Batch

        return Batch({k: v[pick] for k, v in self.x.items()}, {k: v[pick] for k, v in self.y.items()})


def train(comm):
    """The arrays of a model that the ranks trained together."""
    samples, valid = (Share(smoothing(n), comm.rank, comm.size) for n in (28, 4))
    run = CONFIG.fit(samples, valid, Context(seed=3, comm=comm))
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value.state()


def listening():
    """Addresses at which this process listens, as the kernel writes them."""
    own = {str(f.readlink()) for f in Path("/proc/self/fd").iterdir() if f.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net") / table
        for row in path.read_text().splitlines()[1:] if path.exists() else []:
            cells = row.split()
            if cells[3] == "0A" and f"socket:[{cells[9]}]" in own:
                found.add(cells[1].partition(":")[0])
    return found


def collectives(comm):
    """Every collective that sciflow uses, against numpy; a list of those that are wrong."""
    rank, size = comm.rank, comm.size
    wrong = []

    def check(name, found, wanted):
        if not np.array_equal(found, wanted):
            wrong.append(f"{name}: {found} is not {wanted}")

    for dtype in ("float64", "float32", "int64", "uint8"):
        mine, total = np.arange(3, dtype=dtype) + rank, np.empty(3, dtype=dtype)
        comm.Allreduce(mine, total)
        check("Allreduce", total, sum(np.arange(3) + r for r in range(size)))
        everyone = np.empty((size, 3), dtype=dtype)
        comm.Allgather(mine, everyone)
        check("Allgather", everyone, [np.arange(3) + r for r in range(size)])
        counts = np.arange(size) * 2  # nothing from the first rank
        ragged = np.concatenate([np.full(c, r) for r, c in enumerate(counts)])
        whole = np.empty(counts.sum(), dtype=dtype)
        comm.Allgatherv(np.full(counts[rank], rank, dtype=dtype), [whole, counts])
        check("Allgatherv", whole, ragged)
        whole[:] = 99
        comm.Gatherv(np.full(counts[rank], rank, dtype=dtype), [whole, counts] if rank == 0 else None)
        check("Gatherv", whole, ragged if rank == 0 else np.full(len(ragged), 99))
        sent = np.full((2, 2), 7 + rank, dtype=dtype)
        comm.Bcast(sent, root=size - 1)
        check("Bcast", sent, np.full((2, 2), 6 + size))
        if rank == 0:
            comm.Send(np.array([5], dtype=dtype), dest=1)
        if rank == 1:
            got = np.zeros(1, dtype=dtype)
            comm.Recv(got, source=0)
            check("Recv", got, [5])
    comm.barrier()
    return wrong


def run(out):
    """Write what came of it, one file a rank."""
    comm = communicator()
    jobs = sorted(out.glob("job/*.json"))
    codes = [main([str(job), "--ranks", str(comm.size)]) for job in jobs]
    states = {}
    for choice in ("torch", "mpi"):
        os.environ["SCIFLOW_COLLECTIVES"] = choice
        states[choice] = train(comm)
    digests = {
        choice: exchange(comm, hashlib.sha256(b"".join(v.tobytes() for v in state.values())).hexdigest())
        for choice, state in states.items()
    }
    record = {
        "size": comm.size,
        "kind": type(comm).__name__,
        "digests": digests,
        "wrong": collectives(comm),
        "codes": codes,
        "listening": sorted(listening()),
    }
    (out / f"rank{comm.rank}.json").write_text(json.dumps(record))
    if comm.rank == 0:
        for choice, state in states.items():
            np.savez(out / f"{choice}.npz", **state)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
