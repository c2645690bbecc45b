"""Two processes of `bench_online`: raw messages, and time levels from a solver's `send` into a reservoir.

Run as ``python -m benchmarks.online_transport {zmq,mpi} BYTES COUNT [AHEAD]``, under ``mpirun -n 2`` for mpi;
prints one line of JSON with seconds for each way.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from sciflow import Context, Field, Parameter, ParameterSpace, Problem
from sciflow_online.intake import Recipe
from sciflow_online.reception import Reception
from sciflow_online.reservoirs import FIFO
from sciflow_online.roster import Roster
from sciflow_online.sending import Client
from sciflow_online.terms import Plan, Terms

ROUNDS = 5
ROWS = 64
"""Of the array, or reservoir, that messages end up in."""
AHEAD = int(sys.argv[4]) if len(sys.argv) > 4 else 8
"""Messages under way at the same time, raw as well as ours; 1 measures the latency of a round trip."""


class Blocks(Problem):
    """Levels of any size that cost nothing to compute."""

    name = "blocks"
    parameters = ParameterSpace(a=Parameter(0.0, 1.0, "1"))
    fields = {"u": Field(("time", "x"), "1")}

    def __init__(self, size: int, levels: int) -> None:
        self.size, self.levels = size, levels

    def coordinates(self) -> dict[str, np.ndarray]:
        return {"time": np.arange(1.0, self.levels + 1), "x": np.arange(float(self.size))}

    def solve(self, mu: Any, ctx: Any) -> Any:
        raise NotImplementedError


def receive(server: Any, problem: Blocks, members: int) -> list[float]:
    """Seconds that each member took from the first sample to the last."""
    recipe = Recipe(problem, ("a", "time"), ("u",), (0, 1))
    buffer = FIFO(capacity=64).open(recipe.slabs(), np.random.default_rng(0), 64)
    roster = Roster(range(members), 1)
    plan = Plan(np.zeros((members, 1)), np.zeros(members, dtype=np.int64))
    terms = Terms("t", "s", credits=AHEAD, heartbeat=1e9, patience=1e9)
    reception = Reception(server, recipe, buffer, plan, terms, roster, Context())
    seconds = []
    for member in range(members):
        while reception.tally.samples < member * problem.levels + 1:
            reception.poll(0.01)
        begin = time.perf_counter()
        while reception.tally.samples < (member + 1) * problem.levels:
            if buffer.ready(32):
                buffer.draw(32)
            reception.poll(0.01)
        seconds.append(time.perf_counter() - begin)
        while buffer.ready(1):
            buffer.draw(32)
    while not roster.settled():
        reception.poll(0.01)
    reception.goodbye(1.0)
    return seconds


def send(link: Any, size: int, levels: int) -> None:
    """A solver that only sends."""
    client = Client(link, "t", "g")
    u = np.random.default_rng(0).random(size).astype("float32")
    for _ in client.members():
        for level in range(levels):
            client.send(level + 1.0, {"u": u})
        client.finish()
    client.close()


def best(seconds: list[float], count: int) -> float:
    """Seconds per message of the best round, the first one left out."""
    return min(seconds[1:]) / (count - 1)


# -- ZeroMQ -----------------------------------------------------------------------------------


def _zmq_raw_sender(endpoint: str, nbytes: int, count: int, ahead: int) -> None:
    import zmq

    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.connect(endpoint)
    data = np.random.default_rng(0).integers(0, 255, nbytes, dtype=np.uint8)
    under_way = 0
    for _ in range((ROUNDS + 1) * count):
        if under_way >= ahead:
            under_way -= int(socket.recv())
        socket.send(data)
        under_way += 1
    while under_way:
        under_way -= int(socket.recv())


def zmq_raw(nbytes: int, count: int, *, landed: bool = True) -> float:
    """DEALER to ROUTER, as many messages under way as ours; `landed` in rows of an array, or dropped."""
    import zmq

    rows = np.zeros((ROWS, nbytes), dtype=np.uint8)

    socket = zmq.Context.instance().socket(zmq.ROUTER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    process = multiprocessing.get_context("spawn").Process(
        target=_zmq_raw_sender, args=(f"tcp://127.0.0.1:{port}", nbytes, count, AHEAD)
    )
    process.start()
    seconds = []
    for _ in range(ROUNDS + 1):
        begin = 0.0
        for i in range(count):
            peer = socket.recv()
            frame: Any = socket.recv(copy=nbytes < 32768)
            if landed:
                rows[i % ROWS] = np.frombuffer(frame, dtype=np.uint8)
            del frame
            socket.send_multipart((peer, b"1"))
            if i == 0:
                begin = time.perf_counter()
        seconds.append(time.perf_counter() - begin)
    process.join()
    socket.close()
    return best(seconds, count)


def _zmq_sender(endpoint: str, size: int, levels: int) -> None:
    from sciflow_online.zmq_transport import ZmqLink

    send(ZmqLink([endpoint]), size, levels)


def zmq_ours(nbytes: int, count: int) -> float:
    """From `Client.send` into the reservoir."""
    from sciflow_online.zmq_transport import ZmqServer

    server = ZmqServer()
    process = multiprocessing.get_context("spawn").Process(
        target=_zmq_sender, args=(server.endpoint, nbytes // 4, count)
    )
    process.start()
    seconds = receive(server, Blocks(nbytes // 4, count), ROUNDS + 1)
    process.join()
    server.close()
    return best(seconds, count)


# -- MPI --------------------------------------------------------------------------------------


def mpi_raw(nbytes: int, count: int, *, landed: bool = True) -> float:
    """Isend and Recv of numpy buffers, into the rows of an array, or again and again into the same."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    seconds: list[float] = []
    one = np.zeros(1, dtype=np.uint8)
    rows = np.zeros((ROWS if landed else 1, nbytes), dtype=np.uint8)
    source = np.random.default_rng(0).integers(0, 255, nbytes, dtype=np.uint8)
    data = [source.copy() for _ in range(AHEAD)]
    for _ in range(ROUNDS + 1):
        comm.Barrier()
        begin = time.perf_counter()
        if comm.rank == 1:
            requests: list[Any] = []
            for i in range(count):
                if len(requests) == AHEAD:
                    requests.pop(0).Wait()
                    comm.Recv(one, 0)
                # New numbers every time, as a solver has them: else both cores keep them in their caches.
                data[i % AHEAD][:] = source
                requests.append(comm.Isend(data[i % AHEAD], 0))
            for request in requests:
                request.Wait()
                comm.Recv(one, 0)
        else:
            for i in range(count):
                comm.Recv(rows[i % len(rows)], 1)
                comm.Send(one, 1)
                if i == 0:
                    begin = time.perf_counter()
        seconds.append(time.perf_counter() - begin)
    return best(seconds, count)


def mpi_ours(nbytes: int, count: int) -> float:
    """From `Client.send` into the reservoir."""
    from mpi4py import MPI

    from sciflow_online.mpi_transport import MpiLink, MpiServer

    comm = MPI.COMM_WORLD
    if comm.rank == 0:
        seconds = receive(MpiServer(comm), Blocks(nbytes // 4, count), ROUNDS + 1)
        comm.Barrier()
        return best(seconds, count)
    send(MpiLink(comm, 1), nbytes // 4, count)
    comm.Barrier()
    return 0.0


def main() -> None:
    transport, nbytes, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    ways: dict[str, Callable[[int, int], float]] = (
        {"raw": zmq_raw, "dropped": partial(zmq_raw, landed=False), "ours": zmq_ours}
        if transport == "zmq"
        else {"raw": mpi_raw, "dropped": partial(mpi_raw, landed=False), "ours": mpi_ours}
    )
    found = {name: way(nbytes, count) for name, way in ways.items()}
    if found["raw"] and found["ours"]:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
