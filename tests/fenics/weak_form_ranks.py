"""Run under mpirun: a solution and the weak form in an order free of the ranks. argv: problem, file."""

import json
import sys

import numpy as np
from mpi4py import MPI

from sciflow import Context
from sciflow.states import Collector
from sciflow.worker import communicator
from sciflow_fenics.components import sciflow_components


def together(values, index):
    """The rows of all ranks at their positions, on rank 0."""
    parts = MPI.COMM_WORLD.gather((np.asarray(values), index))
    if MPI.COMM_WORLD.rank:
        return np.zeros(0)
    whole = np.concatenate([part for part, _ in parts])
    where = np.concatenate([position for _, position in parts])
    np.testing.assert_array_equal(np.sort(where), np.arange(len(whole)))
    return whole[np.argsort(where)]


def main(document, file):
    comm = communicator()
    settings = json.loads(document)
    classes = {cls.name: cls for cls in sciflow_components()}
    problem = classes[settings["component"]].from_json(settings)
    ctx = Context(seed=3, comm=comm)
    collector = Collector(problem, comm)
    mu = {name: p.low + 0.6 * (p.high - p.low) for name, p in problem.parameters.items()}
    for state in problem.solve(mu, ctx):
        collector.add(state)
    collector.finish()
    form = problem.integrals(ctx)
    size = np.prod(problem.shape(problem.unknown))
    vectors = np.random.default_rng(0).standard_normal((size, 2))[form.rows]
    found = {
        "strains": together(form.strains(vectors), form.places),
        "points": together(form.points, form.places),
        "weights": together(form.weights, form.places),
        "loads": together(form.loads, form.rows),
        "mesh": np.frombuffer(form.mesh.encode(), dtype=np.uint8),
    }
    if MPI.COMM_WORLD.rank == 0:
        np.savez(file, **found, **{f"field_{name}": values for name, values in collector.arrays.items()})


main(*sys.argv[1:])
