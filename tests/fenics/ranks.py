"""Run under mpirun: rank 0 writes what a problem gives on these ranks. argv: problem JSON, seed, file."""

import json
import sys

import numpy as np

from sciflow import Context
from sciflow.errors import SciflowError
from sciflow.registry import registry
from sciflow.worker import Collector, communicator


def main(document, seed, file):
    comm = communicator()
    problem = registry().build(json.loads(document))
    mu = {name: p.low + 0.6 * (p.high - p.low) for name, p in problem.parameters.items()}
    collector = Collector(problem, comm)
    try:
        for state in problem.solve(mu, Context(seed=int(seed), comm=comm)):
            collector.add(state)
        collector.finish()
    except SciflowError as error:
        print(f"rank {comm.rank}: {type(error).__name__}: {error}", flush=True)
        sys.exit(3)
    if comm.rank == 0:
        np.savez(file, **collector.arrays)


main(*sys.argv[1:])
