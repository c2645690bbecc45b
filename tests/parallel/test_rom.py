"""A ROM-net is built by ranks that share the mesh; the model is the same as on one rank."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from sciflow import run
from sciflow.artifact.sealed import Artifact
from sciflow.artifact.writer import Writer
from sciflow.context import Context, SerialComm, exchange
from sciflow.flow import Session, within
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import MODEL, load_model
from sciflow.store import Store
from sciflow.worker import communicator
from sciflow_rom.clusters.clusterers import KMedoids
from sciflow_rom.clusters.clustering import Cluster
from sciflow_rom.compress.compression import Compress
from sciflow_rom.net.ranks import from_first, gather_rows, max_ranks, sum_ranks
from sciflow_rom.net.romnet import BuildRom, RomNet
from sciflow_rom.points.cubatures import AllPoints, EmpiricalCubature
from tests.rom.toys import Bar, Remember, Rod

COMM = communicator()
RANK, SIZE = COMM.rank, COMM.size


def agreed(text):
    """The same text on every rank, rank 0's."""
    return exchange(COMM, text)[0]


def plate():
    """Transient heat that begins with its own formula in time."""
    pytest.importorskip("dolfinx")
    from sciflow_fenics.components import Heat

    return Heat(cells=8, grid=9, levels=3, substeps=1, scheme="crank_nicolson")


@pytest.fixture(scope="module", params=["rod", "bar", "heat"])
def case(request, tmp_path_factory):
    """Problem and inputs of the stage; made by rank 0, opened by all."""
    problem = {"rod": lambda: Rod(cells=24), "bar": lambda: Bar(cells=12), "heat": plate}[request.param]()
    # Few members: what is chosen for them serves others only where two numbers tell all from each other.
    few = {"boundary": 0.0, "width": 0.018, "beta": 2e-3, "amplitude": 6e6}
    fixed = few if request.param == "heat" else {}

    async def flow():
        points = await run(Design(problem=problem, count=24, fixed=fixed))
        ensemble = await run(Simulate(problem), design=points)
        compress = Compress(field=problem.unknown, columns="level", tolerance=1e-9, valid=0.1)
        compression = await run(compress, ensemble=ensemble)
        clustering = await run(Cluster(clusterer=KMedoids(2)), compression=compression)
        return [str(a.path) for a in (ensemble, compression, clustering)]

    paths = ["", "", ""]
    if RANK == 0:
        with within(Session(Store(tmp_path_factory.mktemp("store")))):
            paths = asyncio.run(flow())
    inputs = [Artifact.open(agreed(p)) for p in paths]
    return problem, dict(zip(BuildRom.inputs, inputs, strict=True))


def built(case, comm, folder, rule):
    """The model that `comm` builds, on rank 0."""
    problem, inputs = case
    rom = RomNet(
        problem, modes=4, selector=Remember(), indicator_modes=8, newton_tolerance=1e-10,
        hyper_reduction=rule, indicator_points=rule, dual_tolerance=1e-5,
    )  # fmt: skip
    if comm.rank:
        BuildRom(rom).run(inputs, Writer(Path(exchange(comm, "")[0]), MODEL, ""), Context(comm=comm))
        return None
    with Store(folder, "rename").writer(MODEL, "0" * 64) as out:
        exchange(comm, str(out.path))
        BuildRom(rom).run(inputs, out, Context(comm=comm))
        return load_model(out.publish({}))


@pytest.mark.parametrize(("rule", "tolerance"), [(AllPoints(), 1e-7), (EmpiricalCubature(1e-4), 3e-3)])
def test_the_model_does_not_depend_on_the_ranks(case, rule, tolerance, tmp_path):
    """With all points up to rounding; with chosen ones, which each rank chooses, up to their tolerance.

    Where every member has a source of its own, points that suit those of the training err more elsewhere.
    """
    if case[0].name == "heat" and isinstance(rule, EmpiricalCubature):
        tolerance = 0.03
    folder = Path(agreed(str(tmp_path)))
    together = built(case, COMM, folder / "together", rule)
    if RANK:
        return
    alone = built(case, SerialComm(), folder / "alone", rule)
    problem, inputs = case
    points = inputs["ensemble"].read("parameters")
    for row in points[::5]:
        mu = dict(zip(problem.parameters, row.tolist(), strict=True))
        a, b = together.solve(mu, top=1), alone.solve(mu, top=1)
        assert a.cluster == b.cluster
        assert np.linalg.norm(a.coefficients - b.coefficients) <= tolerance * np.linalg.norm(b.coefficients)
        np.testing.assert_allclose(
            together.lift(a), alone.lift(b), atol=tolerance * np.abs(alone.lift(b)).max()
        )
        for name in problem.dual:
            one, other = together.dual(name, a), alone.dual(name, b)
            assert np.linalg.norm(one - other) <= 10 * tolerance * np.linalg.norm(other)
    if isinstance(rule, AllPoints):
        for one, other in zip(together.local, alone.local, strict=True):
            np.testing.assert_allclose(one.tables.points, other.tables.points)
            np.testing.assert_allclose(one.tables.weights, other.tables.weights)


def test_a_failure_on_the_first_rank_ends_all(case, tmp_path, monkeypatch):
    from sciflow_rom.net import building

    def broken(*arguments):
        raise OSError("no room")

    monkeypatch.setattr(building, "_store", broken)
    problem, inputs = case
    folder = Path(agreed(str(tmp_path)))
    rom = RomNet(problem, modes=2, selector=Remember(), indicator_modes=4)
    with pytest.raises((OSError, RuntimeError), match="no room"):
        BuildRom(rom).run(inputs, Writer(folder / "artifact", MODEL, ""), Context(comm=COMM))


def test_rows_of_any_length_are_gathered_in_the_order_of_the_ranks():
    mine = np.full((RANK * 2 + (SIZE == 1), 3), float(RANK))
    found = gather_rows(mine, COMM)
    want = [r for r in range(SIZE) for _ in range(r * 2 + (SIZE == 1))]
    assert found[:, 0].tolist() == (want if RANK == 0 else [])
    assert sum_ranks(np.array([1.0, RANK]), COMM).tolist() == [SIZE, SIZE * (SIZE - 1) / 2]
    assert max_ranks(np.array([RANK, -RANK]), COMM).tolist() == [SIZE - 1, 0]
    assert from_first(np.arange(5) * (RANK == 0), COMM).tolist() == [0, 1, 2, 3, 4]
