"""Inner products: of functions on grids and triangles, and of any positive definite matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sciflow import Context, Field, Invalid
from sciflow_rom.compress.compression import Compress, load_coordinates
from sciflow_rom.compress.factor import factorise
from sciflow_rom.compress.lifting import correction, inner_products, lift
from sciflow_rom.compress.metrics import grid, product_of, trapezoid, triangles
from sciflow_rom.compress.products import Product, of_matrix, of_root
from sciflow_rom.compress.snapshots import Held, Snapshots
from tests.rom.ensembles import write

METHODS = ["gram", "tsqr"]


def positive(count, seed, reach):
    """A sparse symmetric positive definite matrix in an arbitrary order of its positions."""
    rng = np.random.default_rng(seed)
    bands = sparse.diags(
        [rng.standard_normal(count - k) for k in range(min(reach + 1, count))], range(min(reach + 1, count))
    )
    made = (bands.T @ bands + sparse.identity(count)).tocsr()
    order = rng.permutation(count)
    return made[order][:, order]


@pytest.mark.parametrize("method", METHODS)
@given(
    count=st.integers(1, 25), levels=st.integers(1, 4), reach=st.integers(0, 4), columns=st.integers(1, 8),
    block=st.integers(1, 3000), seed=st.integers(0, 99), kind=st.sampled_from(["matrix", "root", "weights"]),
    timed=st.booleans(),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_any_positive_matrix_is_an_inner_product(
    method, count, levels, reach, columns, block, seed, kind, timed
):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((levels * count, columns))
    times = rng.uniform(0.1, 2, levels) if timed else None
    matrix = positive(count, seed, reach)
    if kind == "weights":
        matrix = sparse.diags(matrix.diagonal())
        product = of_matrix(matrix.diagonal(), times)
    elif kind == "matrix":
        product = of_matrix(matrix, times)
    else:
        product = of_root(np.linalg.cholesky(matrix.toarray()).T[rng.permutation(count)], times)
    np.testing.assert_allclose(product.dense(), matrix.toarray(), rtol=1e-10, atol=1e-10)
    snapshots = Held(values, stacked=levels)
    found = factorise(snapshots, product, method=method, block=block)
    whole = sparse.kron(sparse.diags(np.ones(levels) if times is None else times), matrix)
    expected = values.T @ (whole @ values)
    scale = np.sqrt(np.diagonal(expected))
    assert found.triangle.shape == (min(levels * count, columns), columns)
    assert np.abs((found.triangle.T @ found.triangle - expected) / scale / scale[:, None]).max() < 1e-10
    np.testing.assert_allclose(
        inner_products(snapshots, product, np.eye(columns), block), expected, atol=1e-9 * scale.max() ** 2
    )


def test_a_product_is_as_exact_as_its_transformations():
    """Singular values to 1e-12 in the product of a matrix whose condition is 1e6."""
    rng = np.random.default_rng(0)
    count, columns = 600, 40
    line = sparse.diags(
        [np.full(count - 1, -1.0), np.full(count, 2.0 + 1e-6), np.full(count - 1, -1.0)], [-1, 0, 1]
    )
    product = of_matrix(line)
    lower = np.linalg.cholesky(line.toarray())
    sigma = np.logspace(0, -12, columns)
    left, right = (np.linalg.qr(rng.standard_normal((n, columns)))[0] for n in (count, columns))
    values = np.linalg.solve(lower.T, (left * sigma) @ right.T)
    size = np.linalg.norm(values)
    measured = {
        m: np.linalg.svd(factorise(Held(values), product, method=m).triangle, compute_uv=False)
        for m in METHODS
    }
    good = sigma > 1e3 * np.finfo(float).eps * size
    assert good.sum() > 30
    np.testing.assert_allclose(measured["tsqr"][good], sigma[good], rtol=0.02)
    assert np.abs(measured["gram"][good] / sigma[good] - 1).max() > 1, "inner products cannot do this"


@pytest.mark.parametrize("gradient", [False, True])
def test_triangles_integrate_linear_functions_exactly(gradient):
    nodes, faces = mesh(4)
    x, y = nodes.T
    functions = np.stack([np.ones_like(x), x, y, 2 * x - 3 * y + 1], axis=1)
    product = triangles(nodes, faces, gradient=gradient)
    found = inner_products(Held(functions), product, np.eye(4), block=100)
    expected = np.array(
        [
            [1, 1 / 2, 1 / 2, 1 / 2],
            [1 / 2, 1 / 3, 1 / 4, 5 / 12],
            [1 / 2, 1 / 4, 1 / 3, 0],
            [1 / 2, 5 / 12, 0, 4 / 3],
        ]
    )
    expected[3, 3] = 13 / 12 + 1 / 4
    if gradient:
        slopes = np.array([[0, 0], [1, 0], [0, 1], [2, -3]])
        expected = expected + slopes @ slopes.T
    np.testing.assert_allclose(found, expected, atol=1e-12)


def mesh(cells, seed=0):
    """A square of triangles of both orientations, its nodes in an arbitrary order."""
    line = np.linspace(0, 1, cells + 1)
    nodes = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    rng = np.random.default_rng(seed)
    inner = (np.abs(nodes - 0.5) < 0.5).all(axis=1)
    nodes[inner] += rng.uniform(-0.2, 0.2, (inner.sum(), 2)) / cells
    corner = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)).reshape(-1)
    above = corner + cells + 1
    lower, upper = [corner, corner + 1, above], [corner + 1, above, above + 1]
    faces = np.concatenate([np.stack(lower, axis=1), np.stack(upper, axis=1)])
    order = rng.permutation(len(nodes))
    return nodes[order], np.argsort(order)[faces]


def test_a_periodic_axis_closes():
    x = np.arange(16) / 16 * 2 * np.pi
    values = np.stack([np.sin(x), np.cos(3 * x), np.ones(16)], axis=1)
    found = inner_products(Held(values), grid([(x, True)]), np.eye(3))
    np.testing.assert_allclose(found, np.diag([np.pi, np.pi, 2 * np.pi]), atol=1e-12)
    sloped = inner_products(Held(values), grid([(x, True)], gradient=True), np.eye(3))
    h = 2 * np.pi / 16
    exact = [np.pi * (1 + (2 * np.sin(k * h / 2) / h) ** 2) for k in (1, 3)]
    np.testing.assert_allclose(sloped, np.diag([*exact, 2 * np.pi]), atol=1e-12)


def test_weights_of_an_axis_sum_to_its_length_in_either_direction():
    points = np.sort(np.random.default_rng(0).random(9))
    forward = trapezoid(points, periodic=False)
    assert forward.sum() == pytest.approx(points[-1] - points[0])
    np.testing.assert_allclose(trapezoid(points[::-1], periodic=False), forward[::-1])
    assert trapezoid(points[:1], periodic=False).tolist() == [1.0]


def test_a_field_on_a_mesh_takes_the_product_of_its_triangles(store):
    nodes, faces = mesh(4)
    extra = {
        "node_x": (Field(("node",), "m", "float64"), nodes[:, 0]),
        "node_y": (Field(("node",), "m", "float64"), nodes[:, 1]),
        "triangles": (Field(("face", "corner"), "1", "int64"), faces),
    }
    values = np.random.default_rng(0).standard_normal((5, 3, 25))
    ensemble = write(store, values, ("time", "node"), coordinates={"time": [0.0, 1.0, 3.0]}, extra=extra)
    for name in ("l2", "h1"):
        matrix = triangles(nodes, faces, gradient=name == "h1").dense()
        product = product_of(ensemble, "u", name)
        members = Snapshots(ensemble, "u", np.arange(5))
        found = factorise(members, product, block=300).triangle
        expected = np.einsum("atp,pq,btq,t->ab", values, matrix, values, [0.5, 1.5, 1.0])
        np.testing.assert_allclose(found.T @ found, expected, rtol=1e-9, atol=1e-9)
        with store.writer(Compress.output, {"l2": "1", "h1": "2"}[name] * 64) as out:
            Compress(field="u", product=name, columns="level", tolerance=1e-9).run(
                {"ensemble": ensemble}, out, Context()
            )
            stored = load_coordinates(out.publish({}))
        assert stored.levels.tolist() == [0, 1, 2] * 5
        flat = values.reshape(15, 25)
        np.testing.assert_allclose(stored.gram, flat @ matrix @ flat.T, rtol=1e-9, atol=1e-9)


def test_components_are_added_without_a_weight(store):
    x = np.array([0.0, 0.5, 2.0])
    values = np.random.default_rng(0).standard_normal((4, 2, 3))
    ensemble = write(store, values, ("channel", "x"), coordinates={"x": x})
    found = factorise(Snapshots(ensemble, "u", np.arange(4)), product_of(ensemble, "u", "l2")).triangle
    expected = np.einsum("acx,bcx,x->ab", values, values, [0.25, 1.0, 0.75])
    np.testing.assert_allclose(found.T @ found, expected)


def test_products_that_are_none_are_refused():
    with pytest.raises(Invalid, match="must be symmetric"):
        of_matrix(np.array([[1.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(Invalid, match="square"):
        of_matrix(np.ones((2, 3)))
    with pytest.raises(Invalid, match="must be positive"):
        of_matrix(np.array([1.0, 0.0]))
    with pytest.raises(Invalid, match="positive definite"):
        of_matrix(np.diag([1.0, -1.0]))
    indefinite = of_matrix(np.array([[1.0, 2.0], [2.0, 1.0]]))
    for method, message in (("tsqr", "positive definite"), ("gram", "negative square")):
        with pytest.raises(Invalid, match=message):
            factorise(Held(np.array([[1.0, 1.0], [-1.0, 1.0]])), indefinite, method=method)
    with pytest.raises(Invalid, match="2 positions, the snapshots have 3"):
        factorise(Held(np.ones((3, 2))), of_matrix(np.ones(2)))
    with pytest.raises(Invalid, match="2 time levels, a column 1"):
        factorise(Held(np.ones((3, 2))), Product(times=np.ones(2)))
    nodes, faces = mesh(2)
    with pytest.raises(Invalid, match="no area"):
        triangles(nodes, np.array([[0, 1, 1]]))
    with pytest.raises(Invalid, match="in no triangle"):
        triangles(nodes, faces[:2])
    with pytest.raises(Invalid, match="increase or decrease"):
        trapezoid(np.array([0.0, 2.0, 1.0]), periodic=False)


def test_fields_without_what_a_product_needs_say_what(store):
    ensemble = write(store, np.ones((4, 9)), ("node",))
    with pytest.raises(Invalid, match="needs the mesh, node_x, node_y, triangles are not stored"):
        product_of(ensemble, "u", "l2")
    other = write(store, np.ones((4, 9)), ("x",), recipe="a")
    with pytest.raises(Invalid, match="axis 'x' of 'u' has no coordinates"):
        product_of(other, "u", "l2")


def test_a_petsc_matrix_is_taken_as_it_is():
    petsc = pytest.importorskip("petsc4py.PETSc")
    matrix = positive(30, 1, 2)
    made = petsc.Mat().createAIJ(
        matrix.shape, csr=(matrix.indptr, matrix.indices, matrix.data), comm=petsc.COMM_SELF
    )
    made.assemble()
    np.testing.assert_allclose(of_matrix(made).dense(), matrix.toarray())


# -- lifting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["euclidean", "weights", "matrix"])
def test_lifted_modes_are_orthonormal_and_the_best_there_are(kind):
    rng = np.random.default_rng(2)
    values = rng.standard_normal((500, 30)) * np.logspace(0, -4, 30) @ rng.standard_normal((30, 30))
    product = {
        "euclidean": Product(),
        "weights": of_matrix(rng.uniform(1, 3, 500)),
        "matrix": of_matrix(positive(500, 0, 2)),
    }[kind]
    snapshots = Held(values)
    found = factorise(snapshots, product, tolerance=1e-9)
    _, sigma, right = np.linalg.svd(found.triangle)
    weights = right[:6].T / sigma[:6]
    blocks = list(lift(snapshots, weights, block=9000))
    assert len(blocks) > 5
    assert [b[0].start for b in blocks[1:]] == [b[0].stop for b in blocks[:-1]]
    modes = np.concatenate([values for _, values in blocks])
    np.testing.assert_allclose(modes, values @ weights, rtol=1e-9, atol=1e-12)
    assert np.abs(inner_products(snapshots, product, weights) - np.eye(6)).max() < 1e-11


def test_modes_that_rounding_tilts_are_put_right():
    rng = np.random.default_rng(2)
    left, right = (np.linalg.qr(rng.standard_normal((n, 20)))[0] for n in (400, 20))
    snapshots = Held((left * np.logspace(0, -12, 20)) @ right.T)
    _, sigma, turned = np.linalg.svd(factorise(snapshots, method="tsqr").triangle)
    weights = turned.T / sigma
    products = inner_products(snapshots, Product(), weights)
    assert np.abs(products - np.eye(20)).max() > 1e-8
    modes = np.concatenate([v for _, v in lift(snapshots, weights, correction(products))])
    assert np.abs(modes.T @ modes - np.eye(20)).max() < 1e-13


def test_weights_of_other_snapshots_are_refused():
    with pytest.raises(Invalid, match="weights for 3 columns, there are 2"):
        next(lift(Held(np.ones((4, 2))), np.ones((3, 1))))
