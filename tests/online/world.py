"""Trainers and solvers as ranks of one MPI job: ``mpirun python -m tests.online.world OUT ...``.

Every trainer rank notes which samples it was given, by a hash of their bits.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from sciflow import Context
from sciflow.problem import member_seed
from sciflow_online.intake import Intake, Recipe
from sciflow_online.reception import Plan, Reception, Terms
from sciflow_online.reservoirs import FIFO
from sciflow_online.roster import Roster
from sciflow_online.sending import Client
from sciflow_online.solver import Solver
from sciflow_online.wire import Header, Kind
from tests.online.parts import drained
from tests.toys import March

MEMBERS, SEED = 7, 3
POINTS = np.column_stack([np.linspace(0.6, 1.9, MEMBERS), np.linspace(0.01, 0.9, MEMBERS)])
WINDOWS = {"level": ((0, 1), ("a", "q", "time")), "step": ((2, 1), ("u",)), "whole": (None, ("b",))}


def recipe(window, points):
    reach, inputs = WINDOWS[window]
    return Recipe(March(points=points), inputs, ("v",), reach)


def mark(arrays):
    text = b"".join(name.encode() + np.ascontiguousarray(a).tobytes() for name, a in sorted(arrays.items()))
    return hashlib.sha256(text).hexdigest()


def serial(window, points):
    """What there is to receive: by one process, without any transport."""
    made, found = recipe(window, points), []
    intake = Intake(made, MEMBERS)
    for member, point in enumerate(POINTS):
        intake.begin(member, 0, point)
        mu = dict(zip(made.problem.parameters, point, strict=True))
        for level, state in enumerate(made.problem.solve(mu, Context(member_seed(SEED, member)))):
            for number, kind in enumerate(made.fields):
                value = state.fields.get(kind.name)
                if value is None:
                    continue
                whole = np.empty(kind.size)
                whole[getattr(value, "index", slice(None))] = getattr(value, "values", value)
                head = Header(
                    Kind.DATA,
                    kind.code,
                    number,
                    0,
                    1,
                    member,
                    0,
                    level * kind.timed,
                    state.time,
                    0,
                    kind.size,
                )
                for s in intake.add("me", head, whole.astype(kind.dtype).tobytes()):
                    found.append((s.member, s.number, mark(s.arrays)))
    return sorted(found)


def train(out, made, comm, server):
    purposes = np.array([1] + [0] * (MEMBERS - 1))
    roster = Roster(range(MEMBERS), 2) if comm.rank == 0 else None
    buffer = FIFO(capacity=1000).open(made.slabs(), np.random.default_rng(0), 1000)
    terms = Terms("word", "session", credits=2, heartbeat=1e9, patience=1e9, seed=SEED)
    here = Reception(server, made, buffer, Plan(POINTS.copy(), purposes), terms, roster, Context(comm=comm))
    over = np.zeros(1)
    while not over[0]:
        here.poll(0.002)
        mine = np.array([float(roster is not None and here.settled())])
        comm.Allreduce(mine, over)
    if roster is not None:
        here.goodbye(10.0)
    server.close()
    found = [(m, s, mark(a)) for m, s, a in drained(buffer)]
    found += [(s.member, s.number, mark(s.arrays)) for s in here.held]
    Path(f"{out}.{comm.rank}").write_text(json.dumps([here.intake.duplicates, found]))


def main(out, trainers, ranks, window, points, gather):
    from mpi4py import MPI

    from sciflow_online.mpi_transport import MpiLink, MpiServer

    world = MPI.COMM_WORLD
    trainers, ranks = int(trainers), int(ranks)
    made = recipe(window, int(points))
    group = 0 if world.rank < trainers else 1 + (world.rank - trainers) // ranks
    own, wire = world.Split(group, world.rank), world.Dup()
    if group == 0:
        train(out, made, own, MpiServer(wire))
        return
    client = Client(MpiLink(wire, trainers), "word", f"g{group}", own, patience=30.0, gather=gather)
    Solver(made.problem, client, None, Context(comm=own)).run()
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
