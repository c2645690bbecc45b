"""What the jobs of an online training do: be the trainer, be a solver, be a world of both."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.context import Context, exchange
from sciflow.errors import Cancelled, Failed
from sciflow.stages.simulate import points_of
from sciflow_online.sending import Client, Gone, Heart
from sciflow_online.solver import BlockSolver, Solver
from sciflow_online.trainer import ADDRESS, FINISHED, Trainer

if TYPE_CHECKING:
    from sciflow.artifact import Artifact
    from sciflow.store import Writer
    from sciflow_online.components import OnlineTrain

SLACK = 1 << 20
"""Bytes that a message may have beyond eight for each value of the largest field."""


def work(stage: OnlineTrain, payload: Mapping[str, Any], design: Artifact, out: Writer, ctx: Context) -> None:
    """Do what the payload's ``role`` says; see `OnlineTrain.work`."""
    folder = Path(payload["folder"])
    ensemble = Path(payload["ensemble"]) if payload.get("ensemble") else None
    if payload["role"] == "trainer":
        trainer(stage, design, folder, payload["listen"], out, ctx)
    elif payload["role"] == "solver":
        solver(stage, folder, ensemble, payload["group"], int(payload.get("block", 1)), ctx)
    else:
        world(stage, design, folder, ensemble, int(payload["ranks"]), out, ctx)


def trainer(
    stage: OnlineTrain, design: Artifact, folder: Path, listen: str, out: Writer, ctx: Context
) -> None:
    """Be a trainer rank that solvers reach over ZeroMQ."""
    from sciflow_online.zmq_transport import ZmqServer, new_token, write_address

    points, recipe = points_of(design, stage.problem), stage.recipe()
    largest = 8 * max(f.size for f in recipe.fields) + SLACK
    server = ZmqServer(address(listen), largest)
    endpoints = exchange(ctx.comm, server.endpoint)
    token = exchange(ctx.comm, new_token())[0]
    one = Trainer(stage, points, server, endpoints, folder, ctx, token)
    if ctx.comm.rank == 0:
        write_address(folder / ADDRESS, endpoints, token, one.session)
    _run(one, out, ctx)


def _run(one: Trainer, out: Writer, ctx: Context) -> None:
    try:
        model = one.run()
    except BaseException:
        # Solvers need not find out by themselves.
        with contextlib.suppress(Exception):
            one.dismiss()
        raise
    if ctx.comm.rank == 0:
        one.write(model, out)
    one.end()


def solver(
    stage: OnlineTrain, folder: Path, ensemble: Path | None, group: str, block: int, ctx: Context
) -> None:
    """Compute members for whatever trainer is there, until one says that there are no more.

    Raises
    ------
    Failed
        If no trainer is there for the stage's `patience`.
    """
    patience = 60 * stage.patience
    last = ""
    until = time.monotonic() + patience
    while not (folder / FINISHED).exists():
        ctx.check_together()
        try:
            found = _address(folder, last, ctx)
            if found is None:
                if time.monotonic() > until:
                    raise Failed(f"no trainer wrote its address into {folder / ADDRESS} in {patience:g} s")
                continue
            last = found["nonce"]
            _serve(stage, found, folder, ensemble, group, block, ctx)
            return
        except Gone as error:
            ctx.log.info("%s; waiting for the next trainer", error)
            until = time.monotonic() + patience


def _address(folder: Path, last: str, ctx: Context) -> dict[str, Any] | None:
    """The address of a trainer after `last`, as rank 0 sees it; None if none comes within a second."""
    import json

    from sciflow_online.zmq_transport import wait_for_address

    said = ""
    if ctx.comm.rank == 0:
        with contextlib.suppress(Failed):
            said = json.dumps(wait_for_address(folder / ADDRESS, 1.0, last))
    text = exchange(ctx.comm, said)[0]
    return json.loads(text) if text else None


def _serve(
    stage: OnlineTrain, found: Mapping[str, Any], folder: Path, ensemble: Path | None, group: str, block: int,
    ctx: Context,
) -> None:  # fmt: skip
    import zmq

    from sciflow_online.zmq_transport import ZmqLink, read_address

    def same() -> bool:
        here = read_address(folder / ADDRESS)
        return here is not None and here["nonce"] == found["nonce"] and not (folder / FINISHED).exists()

    context: zmq.Context[Any] = zmq.Context()
    links: list[ZmqLink] = []
    clients: list[Client] = []
    hearts: list[Heart] = []
    patience = 60 * stage.patience
    beats = ctx.comm.rank == 0 and block == 1
    there = True
    try:
        for i in range(block):
            links.append(ZmqLink(found["endpoints"], context))
            name = f"{group}.{i}" if block > 1 else group
            client = Client(
                links[-1], found["token"], name, ctx.comm, patience=patience, gather=stage.gather,
                beats=beats, present=same, stopping=ctx.stopping.is_set,
            )  # fmt: skip
            clients.append(client)
        if beats:
            hearts.append(Heart(ZmqLink(found["endpoints"][:1], context), clients[0]))
        if block > 1:
            BlockSolver(stage.problem, clients, stage.seed, ensemble, ctx).run()
        else:
            Solver(stage.problem, clients[0], ensemble, ctx).run()
    except Gone:
        there = False
        raise
    finally:
        for heart in hearts:
            heart.stop()
        # Also one whose trainer did not answer; the context would wait for it.
        for link in links:
            link.close(wait=there)
        context.term()


def world(
    stage: OnlineTrain, design: Artifact, folder: Path, ensemble: Path | None, ranks: int, out: Writer,
    ctx: Context,
) -> None:  # fmt: skip
    """Be one rank of a job that holds the trainer ranks and every solver.

    Raises
    ------
    Cancelled
        If the trainer ends while the job is told to stop.
    """
    from sciflow_online.mpi_transport import MpiLink, MpiServer

    mpi: Any = ctx.comm
    trainers = stage.trainer.ranks
    group = 0 if mpi.rank < trainers else 1 + (mpi.rank - trainers) // ranks
    own, wire = mpi.Split(group, mpi.rank), mpi.Dup()
    mine = Context(
        ctx.seed,
        ctx.scratch,
        own,
        ctx.log,
        ctx.emit,
        ctx.executor,
        ctx.resources,
        ctx.cancelled,
        ctx.stopping,
    )
    if group == 0:
        points = points_of(design, stage.problem)
        _run(Trainer(stage, points, MpiServer(wire), [], folder, mine), out, mine)
        return
    client = Client(
        MpiLink(wire, trainers), "", f"group-{group}", own, patience=60 * stage.patience,
        gather=stage.gather, stopping=ctx.stopping.is_set,
    )  # fmt: skip
    try:
        Solver(stage.problem, client, ensemble, mine).run()
    except Gone as error:
        if not ctx.stopping.is_set():
            raise
        ctx.cancelled.set()
        raise Cancelled(str(error)) from None
    finally:
        client.close()


def address(listen: str) -> str:
    """The address to listen on: as given, or for ``"node"`` that of this node's own interface."""
    if listen != "node":
        return listen
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: the system only says by which address it would.
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    with contextlib.suppress(OSError):
        return socket.gethostbyname(socket.gethostname())
    return "127.0.0.1"
