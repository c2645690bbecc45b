"""Run under mpirun: solve members one after the other, rank 0 keeps the last. argv: problem, members, file.

The problem is its JSON, the members a JSON list of changes to a point inside the bounds, each with
``seed``. ``"halves": true`` solves it on two communicators of half the ranks each, made and freed
anew for every member.
"""

import json
import sys

import numpy as np

from sciflow import Context
from sciflow.errors import SciflowError
from sciflow.states import Collector
from sciflow.worker import communicator
from sciflow_fenics.components import sciflow_components


def solve(problem, member, comm):
    changes = {name: value for name, value in member.items() if name != "seed"}
    mu = {name: p.low + 0.6 * (p.high - p.low) for name, p in problem.parameters.items()} | changes
    collector = Collector(problem, comm)
    for state in problem.solve(mu, Context(seed=member["seed"], comm=comm)):
        collector.add(state)
    collector.finish()
    return collector.arrays


def on_halves(problem, member, comm):
    """Rank 0 alternates between partners, so that its handles stand for other ranks each time."""
    arrays = {}
    for turn in range(comm.size - 1):
        colour = 0 if comm.rank in (0, turn + 1) else 1
        half = comm.Split(colour, comm.rank)
        arrays = solve(problem, member, half)
        half.Free()
    return arrays


def main(document, members, file):
    comm = communicator()
    settings = json.loads(document)
    classes = {cls.name: cls for cls in sciflow_components()}
    problem = classes[settings["component"]].from_json(settings)
    try:
        for member in json.loads(members):
            how = on_halves if member.pop("halves", False) else solve
            arrays = how(problem, member, comm)
    except SciflowError as error:
        # One write, so that the lines of several ranks do not mix.
        sys.stdout.write(f"{type(error).__name__}: {error}\n")
        sys.exit(3)
    if comm.rank == 0:
        np.savez(file, **arrays)


main(*sys.argv[1:])
