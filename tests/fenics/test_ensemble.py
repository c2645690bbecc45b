"""Ensembles of dolfinx problems through the stages, under mpirun: what ends up in the artifact."""

import asyncio

import numpy as np
import pytest

pytest.importorskip("dolfinx")
pytest.importorskip("zarr")
from sciflow import Resources, run
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow_fenics.components import Darcy, Heat

pytestmark = pytest.mark.mpi


def ensemble(problem, ranks):
    async def flow():
        design = await run(Design(problem=problem, count=3))
        return await run(Simulate(problem, seed=2), design=design, resources=Resources(ranks=ranks))

    return asyncio.run(flow())


@pytest.mark.parametrize(
    ("problem", "dof", "grid"),
    [
        (Heat(cells=6, degree=2, grid=13, levels=2, substeps=1, dofs=True), "temperature_dof", "temperature"),
        (Darcy(cells=6, degree=2, grid=13, dofs=True), "pressure_dof", "pressure"),
    ],
)
def test_the_artifact_holds_grid_dofs_and_mesh(plain, problem, dof, grid):
    data = ensemble(problem, 2)
    assert (data.read("status") == 1).all()
    np.testing.assert_allclose(
        data.read(dof).reshape(data.read(grid).shape),
        data.read(grid),
        rtol=1e-5,
        atol=1e-5 * data.read(grid).max(),
    )
    nodes = np.stack([data.read("node_x"), data.read("node_y")], axis=1)
    triangles = nodes[data.read("triangles")]
    a, b = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    assert (a[:, 0] * b[:, 1] > a[:, 1] * b[:, 0]).all(), "corners run anticlockwise"
    assert len(data.read("dof_x")) == data.read(dof).shape[-1]
    opened = data.to_xarray()
    assert opened[dof].dims[-1] == "dof"
    assert opened.triangles.dims == ("face", "corner")
    assert data.provenance["resources"]["ranks"] == 2


def test_the_permeability_at_the_nodes_is_the_one_on_the_grid(plain):
    data = ensemble(Darcy(cells=6, grid=7, dofs=True), 1)
    nodes = data.read("permeability_node").reshape(3, 7, 7)
    np.testing.assert_allclose(nodes, data.read("permeability"), rtol=1e-5)
