"""Online training: transports beside raw messages, the way through memory beside the way over a disk."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.figure import Figure, NotRun, medians

SAMPLE = (64, 64)
"""Points of a sample of 16 KiB."""


def _transport(transport: str, nbytes: int, count: int, ahead: int) -> dict[str, float]:
    """Best seconds per message, raw and ours; the better of two runs of each."""
    command = [sys.executable, "-m", "benchmarks.online_transport", transport]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if transport == "mpi":
        if shutil.which("mpirun") is None or find_spec("mpi4py") is None:
            raise NotRun("no mpirun or mpi4py here")
        env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        env |= {"OMPI_MCA_mpi_yield_when_idle": "1"}
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "2", *command]
    found: dict[str, float] = {}
    for _ in range(2):
        done = subprocess.run(
            [*command, str(nbytes), str(count), str(ahead)],
            env=env, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        if done.returncode:
            raise NotRun(done.stderr.strip().splitlines()[-1])
        one = json.loads(done.stdout.splitlines()[-1])
        found = {k: min(v, found.get(k, v)) for k, v in one.items()}
    return found


def bench_bandwidth() -> Iterator[Figure]:
    """Messages of 1 MiB, eight under way, from a solver's `send` into the reservoir.

    Beside raw messages that end up in the rows of an array of the same size; the note also has those that
    nobody keeps (ZeroMQ's frame dropped, MPI's receive buffer always the same).
    """
    for transport, target in (("mpi", 80), ("zmq", 70)):
        found = _transport(transport, 1 << 20, 300, 8)
        gb = {k: (1 << 20) / v / 1e9 for k, v in found.items()}
        note = f"{gb['ours']:.1f} GB/s, raw {gb['raw']:.1f}, raw and not kept {gb['dropped']:.1f}"
        yield Figure(f"bandwidth_{transport}", 100 * found["raw"] / found["ours"], target, " %", note=note)


def bench_latency() -> Iterator[Figure]:
    """Samples of 16 KiB, one at a time: sent, in the reservoir, acknowledged; beside a raw round trip."""
    for transport in ("mpi", "zmq"):
        found = _transport(transport, 16384, 3000, 1)
        note = f"{1e6 * found['ours']:.0f} us, raw {1e6 * found['raw']:.1f} us"
        yield Figure(f"latency_{transport}", found["ours"] / found["raw"], 3, better="<=", note=note)


# -- end to end -------------------------------------------------------------------------------


def _solver(endpoint: str, levels: int, members: int) -> None:
    from benchmarks.online_transport import send
    from sciflow_online.zmq_transport import ZmqLink

    del members
    send(ZmqLink([endpoint]), int(np.prod(SAMPLE)), levels)


def _through_memory(levels: int, members: int, batch: int) -> float:
    """Samples a second from `send` to training batches, over ZeroMQ."""
    from benchmarks.online_transport import Blocks
    from sciflow import Context
    from sciflow_online.intake import Recipe
    from sciflow_online.reception import Reception
    from sciflow_online.reservoirs import Reservoir
    from sciflow_online.roster import Roster
    from sciflow_online.terms import Plan, Terms
    from sciflow_online.zmq_transport import ZmqServer

    problem = Blocks(int(np.prod(SAMPLE)), levels)
    recipe = Recipe(problem, ("a", "time"), ("u",), (0, 1))
    buffer = Reservoir(capacity=1000, threshold=batch).open(recipe.slabs(), np.random.default_rng(0))
    roster = Roster(range(members), 1)
    plan = Plan(np.zeros((members, 1)), np.zeros(members, dtype=np.int64))
    server = ZmqServer()
    terms = Terms("t", "s", credits=32, heartbeat=1e9, patience=1e9)
    reception = Reception(server, recipe, buffer, plan, terms, roster, Context())
    process = multiprocessing.get_context("spawn").Process(
        target=_solver, args=(server.endpoint, levels, members)
    )
    process.start()
    while not reception.tally.samples:
        reception.poll(0.01)
    begin, drawn = time.perf_counter(), 0
    while drawn < levels * members:
        reception.poll()
        # As many draws as arrivals: every sample is used once on average.
        if buffer.ready(batch) and drawn < reception.tally.samples:
            buffer.take(buffer.draw(batch))
            drawn += batch
    seconds = time.perf_counter() - begin
    reception.goodbye(2.0)
    process.join()
    server.close()
    return levels * members / seconds


def _over_a_disk(levels: int, members: int, batch: int, shard: bool) -> float:
    """Samples a second written with zarr-python, a chunk each, and read back in random batches."""
    import zarr

    data = np.random.default_rng(0).random((levels, *SAMPLE)).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        array: Any = zarr.create_array(
            folder, shape=(members, levels, *SAMPLE), chunks=(1, 1, *SAMPLE), dtype="float32",
            shards=(1, levels, *SAMPLE) if shard else None, compressors=None,
        )  # fmt: skip
        for member in range(members):
            array[member] = data
        order = np.random.default_rng(1).permutation(members * levels)
        for start in range(0, len(order), batch):
            pick = order[start : start + batch]
            np.stack([array[int(i // levels), int(i % levels)] for i in pick])
        return members * levels / (time.perf_counter() - begin)


def bench_end_to_end() -> Iterator[Figure]:
    """Samples of 16 KiB from a solver to training batches of 32, beside a way over zarr on a disk."""
    ours = _through_memory(200, 20, 32)
    ways = {
        "a chunk each": _over_a_disk(100, 5, 32, False),
        "a shard a member": _over_a_disk(100, 5, 32, True),
    }
    note = f"{ours:.0f} samples/s; " + ", ".join(f"zarr, {k}: {v:.0f}" for k, v in ways.items())
    yield Figure("end_to_end", ours / max(ways.values()), 5, note=note)


def _many(endpoint: str, levels: int, ready: Any) -> None:
    from sciflow_online.sending import Client
    from sciflow_online.zmq_transport import ZmqLink

    client = Client(ZmqLink([endpoint]), "t", f"g{os.getpid()}")
    u = np.random.default_rng(0).random(int(np.prod(SAMPLE))).astype("float32")
    ready.wait()
    for _ in client.members():
        for level in range(levels):
            client.send(level + 1.0, {"u": u})
        client.finish()
    client.close()


def _rate(clients: int, levels: int = 400) -> float:
    """Samples a second from so many solver processes that only send."""
    from benchmarks.online_transport import Blocks
    from sciflow import Context
    from sciflow_online.intake import Recipe
    from sciflow_online.reception import Reception
    from sciflow_online.reservoirs import FIFO
    from sciflow_online.roster import Roster
    from sciflow_online.terms import Plan, Terms
    from sciflow_online.zmq_transport import ZmqServer

    members = 32
    recipe = Recipe(Blocks(int(np.prod(SAMPLE)), levels), ("a", "time"), ("u",), (0, 1))
    buffer = FIFO(capacity=512).open(recipe.slabs(), np.random.default_rng(0))
    roster = Roster(range(members), 1)
    plan = Plan(np.zeros((members, 1)), np.zeros(members, dtype=np.int64))
    server = ZmqServer()
    reception = Reception(
        server, recipe, buffer, plan, Terms("t", "s", heartbeat=1e9, patience=1e9), roster, Context()
    )
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    processes = [context.Process(target=_many, args=(server.endpoint, levels, ready)) for _ in range(clients)]
    for process in processes:
        process.start()
    while len(roster.groups) < clients:
        reception.poll(0.01)
    ready.set()
    begin = time.perf_counter()
    while reception.tally.samples < members * levels:
        reception.poll(0.01)
        while buffer.ready(32):
            buffer.draw(32)
    seconds = time.perf_counter() - begin
    reception.goodbye(5.0)
    for process in processes:
        process.join()
    server.close()
    return members * levels / seconds


def bench_clients() -> Iterator[Figure]:
    """Throughput of one trainer rank with more and more solver processes, beside that with one."""
    rates = {n: _rate(n) for n in (1, 2, 4, 8, 16)}
    note = "samples/s of 16 KiB: " + ", ".join(f"{n}: {r:.0f}" for n, r in rates.items())
    yield Figure("clients_1_to_16", min(rates.values()) / rates[1], 0.9, note=note)


def bench_reservoir() -> Iterator[Figure]:
    """Draw, take and put beside a training step of an FNO and of an MLP; batches of 10, one thread."""
    if find_spec("torch") is None:
        raise NotRun("torch is missing")
    import torch

    from sciflow import Context, Signature
    from sciflow.schema import Field
    from sciflow_online.live import batch_of
    from sciflow_online.reservoirs import Reservoir
    from sciflow_operators.components import FNO, MLP

    torch.set_num_threads(1)
    rng, batch = np.random.default_rng(0), 10
    shapes = {"x:a": ((), "float32"), "x:q": (SAMPLE, "float32"), "y:u": (SAMPLE, "float32")}
    buffer = Reservoir(capacity=2000, threshold=10).open(shapes, rng)
    one = {k: rng.random(shape).astype(d) for k, (shape, d) in shapes.items()}
    for i in range(2000):
        buffer.put(one, 0, i)
    buffer.draw(2000)

    def turn() -> None:
        rows = buffer.draw(batch)
        buffer.take(rows)
        buffer.feedback(rows, np.ones(batch))
        for i in range(batch):
            buffer.put(one, 0, i)

    signature = Signature(
        {"a": Field((), "1"), "q": Field(("y", "x"), "1")}, {"u": Field(("y", "x"), "1")},
        {"y": np.arange(64.0), "x": np.arange(64.0)},
    )  # fmt: skip
    from benchmarks.online_samples import Endless

    for surrogate, target in (
        (FNO(batch=batch, epochs=1, threads=1, device="cpu"), 5),
        (MLP(batch=batch, epochs=1, threads=1, device="cpu"), 5),
    ):
        fit = surrogate.fit(
            Endless(signature, batch_of(buffer.take(buffer.draw(batch))), 20),
            Endless(signature, batch_of(buffer.take(buffer.draw(batch))), 1),
            Context(),
        )
        begin = time.perf_counter()
        next(fit)
        step = (time.perf_counter() - begin) / 21
        cost = medians({"turn": turn}, 50)["turn"]
        note = f"{1e6 * cost:.0f} us beside a step of {1e3 * step:.1f} ms"
        yield Figure(f"reservoir_{surrogate.name}", 100 * cost / step, target, " %", "<=", note)


# -- who waits for whom -------------------------------------------------------------------------


def _waiting(
    problem: Any, surrogate: Any, names: tuple[tuple[str, ...], tuple[str, ...]], **more: Any
) -> Any:
    """Idle share of the trainer and blocked share of the solvers of a whole run, in per cent."""
    from sciflow import run
    from sciflow.flow import Session, within
    from sciflow.stages.design import Design
    from sciflow.store import Store
    from sciflow_online.components import OnlineTrain

    count = more.pop("count")

    async def go() -> Any:
        points = await run(Design(problem=problem, count=count))
        return await run(OnlineTrain(problem, surrogate, *names, **more), design=points)

    with tempfile.TemporaryDirectory() as folder, within(Session(Store(folder), "bench")):
        model = asyncio.run(go())
        return 100 * model.read("history_trainer_idle")[-1], 100 * model.read("history_solvers_blocked")[-1]


def bench_waiting() -> Iterator[Figure]:
    """Whole runs on two cores: solvers that are faster than the trainer, and the other way round."""
    if find_spec("torch") is None:
        raise NotRun("torch is missing")
    from sciflow_online.components import Reservoir
    from sciflow_operators.components import FNO, MLP
    from sciflow_spectral.components import Burgers, KuramotoSivashinsky

    fast = Burgers(points=128, solve_points=256, levels=11, steps=100)
    idle, blocked = _waiting(
        fast, FNO(width=32, modes=16, epochs=4, batch=10, threads=1), (("u",), ("u",)),
        window=(1, 1), count=150, reservoir=Reservoir(capacity=600),
    )  # fmt: skip
    yield Figure(
        "trainer_idle", idle, 5, " %", "<=", f"solvers faster than an FNO; they waited {blocked:.0f} %"
    )
    slow = KuramotoSivashinsky(points=512, levels=15, end=14.0, steps=2800)
    idle, blocked = _waiting(
        slow, MLP(width=64, layers=2, epochs=2, batch=10, threads=1), (("u",), ("u",)),
        window=(1, 1), count=40, reservoir=Reservoir(capacity=600),
    )  # fmt: skip
    yield Figure(
        "solvers_blocked", blocked, 5, " %", "<=", f"an MLP faster than its solver; it waited {idle:.0f} %"
    )
