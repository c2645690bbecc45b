"""Run under mpirun: jobs one after the other. argv: a file with the JSON list of jobs.

A job has a ``problem`` (its JSON), ``members`` and a ``file`` in which rank 0 keeps the last of them. Members
are changes to a point inside the bounds, each with ``seed``. ``"halves": true`` solves it on two
communicators of half the ranks each, made and freed anew for every member. The sentence of a failure is
printed by every rank, and the next job is done; the exit status is then 3.
"""

import json
import sys
from pathlib import Path

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


def done(job, comm, classes):
    settings = job["problem"]
    problem = classes[settings["component"]].from_json(settings)
    try:
        for member in job["members"]:
            how = on_halves if member.pop("halves", False) else solve
            arrays = how(problem, member, comm)
    except SciflowError as error:
        # One write, so that the lines of several ranks do not mix.
        sys.stdout.write(f"{type(error).__name__}: {error}\n")
        return False
    if comm.rank == 0:
        np.savez(job["file"], **arrays)
    return True


def main(file):
    comm = communicator()
    classes = {cls.name: cls for cls in sciflow_components()}
    ended = [done(job, comm, classes) for job in json.loads(Path(file).read_text())]
    sys.exit(0 if all(ended) else 3)


main(*sys.argv[1:])
