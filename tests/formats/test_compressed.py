"""What was imported can be compressed: reduced models of results that other solvers left."""

import numpy as np
import pytest

from sciflow import Context, Invalid
from sciflow.formats import import_ensemble
from sciflow.store import Store
from sciflow_rom.compress.compression import Compress, load_coordinates

POINTS, LEVELS = 12, 3


def compressed(ensemble, store, **options):
    stage = Compress(**options)
    stage.check({"ensemble": ensemble})
    with store.writer(stage.output, "1" * 64) as out:
        stage.run({"ensemble": ensemble}, out, Context())
        return load_coordinates(out.publish({}))


def test_numbers_of_a_solver_without_a_mesh(tmp_path):
    store = Store(tmp_path / "store", "rename")
    values = np.random.default_rng(0).standard_normal((10, 40))
    np.savez(tmp_path / "runs.npz", u=values, load=np.linspace(1, 2, 10), angle=np.linspace(0, 9, 10))
    ensemble = import_ensemble(tmp_path / "runs.npz", None, store)
    with pytest.raises(Invalid, match="take 'euclidean'"):
        Compress(field="u").check({"ensemble": ensemble})
    found = compressed(ensemble, store, field="u", product="euclidean")
    np.testing.assert_allclose(found.gram, values @ values.T, atol=1e-9)
    np.testing.assert_array_equal(found.points[:, 1], np.linspace(0, 9, 10))


def test_fields_of_mesh_files_have_the_product_of_their_mesh(tmp_path):
    meshio = pytest.importorskip("meshio")
    from tests.formats.test_meshes import FLAT, TRIANGLES

    rng = np.random.default_rng(0)
    values, vectors = rng.standard_normal((10, POINTS)), rng.standard_normal((10, POINTS, 3))
    for number in range(10):
        data = {"T": values[number], "U": vectors[number]}
        (tmp_path / "runs").mkdir(exist_ok=True)
        meshio.Mesh(FLAT, [("triangle", TRIANGLES)], point_data=data).write(tmp_path / f"runs/m{number}.vtu")
    store = Store(tmp_path / "store", "rename")
    ensemble = import_ensemble(tmp_path / "runs", None, store)
    mass = np.zeros((POINTS, POINTS))
    for cell in TRIANGLES:  # area 1/6 each; the mass matrix of linear elements is known
        mass[np.ix_(cell, cell)] += (np.ones((3, 3)) + np.eye(3)) / 6 / 12
    found = compressed(ensemble, store, field="t")
    np.testing.assert_allclose(found.gram, values @ mass @ values.T, atol=1e-9)
    flat = vectors.reshape(10, -1)
    found = compressed(ensemble, Store(tmp_path / "other", "rename"), field="u", product="euclidean")
    np.testing.assert_allclose(found.gram, flat @ flat.T, atol=1e-9)
