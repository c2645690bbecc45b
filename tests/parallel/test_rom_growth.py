"""Ranks that share the mesh make the same enriched model as one of them alone."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from sciflow import run
from sciflow.artifact.sealed import Artifact
from sciflow.context import Context, SerialComm, exchange
from sciflow.flow import Session, within
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.store import Store
from sciflow.worker import communicator
from sciflow_rom.adapt.growth import Growth, Rules
from sciflow_rom.adapt.rounds import Rounds
from sciflow_rom.adapt.site import Site, answering
from sciflow_rom.clusters.clusterers import KMedoids
from sciflow_rom.clusters.clustering import Cluster
from sciflow_rom.compress.compression import Compress
from sciflow_rom.net.romnet import BuildRom, RomNet
from sciflow_rom.points.cubatures import AllPoints, EmpiricalCubature
from sciflow_rom.regress.selectors import Neighbours
from tests.rom.toys import Bar, Rod

COMM = communicator()
RULES = Rules(modes=20, left=1e-3, share=2, far=0.9, near=0.03, selector=Neighbours(3), seed=0)
POINTS = {"all": AllPoints(), "few": EmpiricalCubature(1e-5)}


def agreed(text):
    """The same text on every rank, rank 0's."""
    return exchange(COMM, text)[0]


@pytest.fixture(scope="module", params=["rod all", "rod few", "bar all"])
def case(request, tmp_path_factory):
    """Problem, model, what it was made of, and solutions from elsewhere; made by rank 0, opened by all."""
    name, points = request.param.split()
    problem = Rod(cells=24) if name == "rod" else Bar(cells=12)
    near, far = {"rod": ((1.0, 10.0), (50.0, 200.0)), "bar": ((1.0, 1.5), (2.0, 3.0))}[name]
    bounded = "amplitude" if name == "rod" else "pull"
    rom = RomNet(
        problem, modes=4, indicator_modes=8, newton_tolerance=1e-10, hyper_reduction=POINTS[points],
        indicator_points=POINTS[points],
    )  # fmt: skip

    async def flow():
        designs = [
            await run(Design(problem=problem, count=c, bounds={bounded: b}))
            for c, b in ((24, near), (3, far))
        ]
        data, more = [await run(Simulate(problem), design=d) for d in designs]
        small = await run(Compress(problem.unknown, columns="level", tolerance=1e-9), ensemble=data)
        groups = await run(Cluster(clusterer=KMedoids(2)), compression=small)
        model = await run(BuildRom(rom), ensemble=data, compression=small, clustering=groups)
        return [str(a.path) for a in (model, data, small, more)]

    paths = ["", "", "", ""]
    if COMM.rank == 0:
        with within(Session(Store(tmp_path_factory.mktemp("store")))):
            paths = asyncio.run(flow())
    return problem, [Artifact.open(agreed(p)) for p in paths], points


def grown(case, comm, folder):
    """The files that a round on `comm` leaves; on all its ranks."""
    _, (model, data, small, more), _ = case
    rounds = Rounds(Path(folder))
    growth = Growth(Site(model, data, small, Context(comm=comm, scratch=Path(folder))), RULES, rounds)
    growth.prepare()
    comm.barrier()
    points = more.read("parameters")
    growth.grow(1, more, [(0, points[0])])
    comm.barrier()
    growth.grow(2, more, [(1, points[1]), (2, points[2])])
    comm.barrier()
    return growth, rounds


def test_ranks_together_make_what_one_makes_alone(case, tmp_path_factory):
    folder = agreed(str(tmp_path_factory.mktemp("together")) if COMM.rank == 0 else "")
    growth, rounds = grown(case, COMM, folder)
    if COMM.rank:
        return
    alone, others = grown(case, SerialComm(), tmp_path_factory.mktemp("alone"))
    problem, (*_, more), points = case
    tight = 1e-7 if points == "all" else 1e-2  # each rank chooses its own points
    a, b = rounds.get(2), others.get(2)
    assert a.modes == b.modes
    np.testing.assert_allclose(
        np.array(a.pairs, dtype=float), np.array(b.pairs, dtype=float), rtol=20 * tight
    )
    answers = []
    for site, kept, made in ((growth.site, rounds, a), (alone.site, others, b)):
        regions = [kept.region(k, v) for k, v in enumerate(made.versions)]
        model = answering(site.model, [r.model for r in regions], RULES.selector, kept.ranker(2))
        mu = dict(zip(problem.parameters, more.read("parameters")[2], strict=True))
        found = model.solve(mu)
        answers.append(regions[found.cluster].basis.modes @ found.coefficients.T)
    np.testing.assert_allclose(answers[0], answers[1], atol=tight * np.abs(answers[1]).max())
    true = more.read(problem.unknown)[2].reshape(len(problem.steps()), -1).T
    assert np.linalg.norm(answers[0] - true) < 0.02 * np.linalg.norm(true)
