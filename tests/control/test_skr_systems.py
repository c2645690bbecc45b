"""The data sets for Krylov recycling: stencils, random media, a slotted plate, Chebyshev loads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import eigsh, spsolve

from sciflow import Invalid
from sciflow_control.systems.darcy import DarcySystems
from sciflow_control.systems.fields import gaussian_field, variance
from sciflow_control.systems.helmholtz import HelmholtzSystems
from sciflow_control.systems.poisson import PoissonSystems
from sciflow_control.systems.stencils import columns, diffusion
from sciflow_control.systems.thermal import ThermalSystems
from sciflow_control.systems.triangles import Mesh, flux_load, plate, stiffness

EVERY = [
    DarcySystems(9),
    DarcySystems(9, form="columns"),
    DarcySystems(9, form="skr"),
    HelmholtzSystems(9),
    HelmholtzSystems(9, form="symmetric"),
    PoissonSystems(9),
    ThermalSystems(1),
]
IDS = [f"{s.name}-{getattr(s, 'form', '')}" for s in EVERY]


@pytest.mark.parametrize("systems", EVERY, ids=IDS)
def test_every_system_keeps_what_its_class_promises(systems):
    drawn = list(systems.draw(3, 5))
    for system in drawn:
        matrix = system.matrix
        assert sparse.issparse(matrix)
        assert matrix.format == "csr"
        assert (matrix.data.dtype, matrix.indices.dtype, matrix.indptr.dtype) == ("float64", "int32", "int32")
        assert matrix.has_sorted_indices
        assert (matrix.diagonal() > 0).all()
        assert system.rhs.shape == (matrix.shape[0],)
        assert np.isfinite(system.parameters).all()
        assert (abs(matrix - matrix.T).max() < 1e-13) == systems.symmetric
        if systems.symmetric:
            assert eigsh(matrix, 1, sigma=0, return_eigenvectors=False)[0] > 0
    assert all(s.matrix is drawn[0].matrix for s in drawn) == systems.steady


@pytest.mark.parametrize("systems", EVERY, ids=IDS)
def test_a_longer_sequence_begins_with_the_shorter_and_another_seed_is_another(systems):
    short, long = list(systems.draw(2, 1)), list(systems.draw(4, 1))
    for a, b in zip(short, long, strict=False):
        assert (a.matrix != b.matrix).nnz == 0
        assert np.array_equal(a.rhs, b.rhs)
        assert np.array_equal(a.parameters, b.parameters)
    assert not np.array_equal(short[0].parameters, next(systems.draw(1, 2)).parameters)
    assert not np.array_equal(short[0].parameters, short[1].parameters)


def loop(coefficient, entry):
    """The stencil entry by entry; `entry` tells centre and links of one grid point."""
    size = len(coefficient) - 2
    made = np.zeros((size**2, size**2))
    for i in range(size):
        for j in range(size):
            centre, links = entry(i + 1, j + 1)
            made[i * size + j, i * size + j] = centre
            for (di, dj), value in links.items():
                if 0 <= i + di < size and 0 <= j + dj < size:
                    made[i * size + j, (i + di) * size + j + dj] = -value
    return made


STEPS = ((-1, 0), (0, -1), (0, 1), (1, 0))


@settings(max_examples=10, deadline=None)
@given(size=st.integers(2, 6), seed=st.integers(0, 99))
def test_stencils_are_those_of_a_loop_over_the_grid(size, seed):
    c = np.random.default_rng(seed).uniform(0.5, 2.0, (size + 2, size + 2))

    def volumes(i, j):
        links = {s: 2 / (1 / c[i, j] + 1 / c[i + s[0], j + s[1]]) for s in STEPS}
        return sum(links.values()), links

    def beside(i, j):
        return 4 * c[i, j], {s: c[i + s[0], j + s[1]] for s in STEPS}

    def slipped(i, j):
        at = (i - 1) * size + j - 1 - 2
        south = 0.0 if at < 0 else c[:-2, 1:-1].flat[at]
        return 4 * c[i, j], {**beside(i, j)[1], (-1, 0): south}

    for matrix, entry in ((diffusion(c), volumes), (columns(c), beside), (columns(c, 2), slipped)):
        np.testing.assert_allclose(matrix.toarray(), loop(c, entry), atol=1e-14)


def test_the_stencil_without_the_slip_is_the_laplacian_of_c_times_u():
    c = np.exp(gaussian_field(12, 2.5, 7.0, np.random.default_rng(0)))
    laplacian = diffusion(np.ones((12, 12)))
    scaled = laplacian @ sparse.diags(c[1:-1, 1:-1].ravel())
    assert abs(columns(c) - scaled).max() < 1e-15
    # With the slip it is not.
    assert abs(columns(c, 2) - scaled).max() > 1e-3


def manufactured(size):
    """Largest error for u = sin(pi x) sin(2 pi y), c = 1 + x/2 + y^2."""
    x, y = np.meshgrid(*[np.linspace(0, 1, size + 2)] * 2)
    sx, cx, sy, cy = np.sin(np.pi * x), np.cos(np.pi * x), np.sin(2 * np.pi * y), np.cos(2 * np.pi * y)
    c = 1 + x / 2 + y**2
    load = 5 * np.pi**2 * c * sx * sy - 0.5 * np.pi * cx * sy - 2 * y * 2 * np.pi * sx * cy
    u = spsolve(diffusion(c).tocsc(), load[1:-1, 1:-1].ravel() / (size + 1) ** 2)
    return np.abs(u.reshape(size, size) - (sx * sy)[1:-1, 1:-1]).max()


def test_finite_volumes_are_of_second_order():
    errors = [manufactured(size) for size in (15, 31, 63)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert orders == pytest.approx([2, 2], abs=0.1)


@pytest.mark.parametrize("boundary", ["periodic", "neumann"])
def test_moments_of_the_random_field(boundary):
    points, draws = 16, 1500
    u = np.array(
        [gaussian_field(points, 2.5, 7.0, np.random.default_rng([3, i]), boundary) for i in range(draws)]
    )
    expected = variance(points, 2.5, 7.0, boundary)
    # The mean over the square is zero, as there is no constant.
    assert np.abs(u.mean(axis=(1, 2))).max() < 1e-12
    assert u.var(axis=0).mean() == pytest.approx(expected, rel=0.05)
    assert np.abs(u.mean(axis=0)).max() < 5 * np.sqrt(2 * expected / draws)
    if boundary == "periodic":
        assert u.var(axis=0) == pytest.approx(np.full((points, points), expected), rel=0.25)
        # Correlation at a distance of one point, from the weights.
        waves = 2 * np.pi * points * np.fft.fftfreq(points)
        weights = 7.0**3 * (waves[:, None] ** 2 + waves**2 + 49) ** -2.5
        weights[0, 0] = 0
        near = (weights * np.cos(waves / points)).sum()
        assert (u * np.roll(u, 1, axis=2)).mean() == pytest.approx(near, rel=0.05)


def test_a_cosine_field_is_the_sum_of_its_waves():
    rng, points = np.random.default_rng(4), 6
    xi = np.random.default_rng(4).standard_normal((points, points))
    x = (np.arange(points) + 0.5) / points
    waves = np.cos(np.pi * np.outer(x, np.arange(points))) * np.where(np.arange(points) > 0, np.sqrt(2), 1)
    k = np.pi * np.arange(points)
    weights = 7.0**1.5 * (k[:, None] ** 2 + k**2 + 49) ** -1.25
    weights[0, 0] = 0
    np.testing.assert_allclose(
        gaussian_field(points, 2.5, 7.0, rng, "neumann"), waves @ (weights * xi) @ waves.T, atol=1e-12
    )


def test_the_helmholtz_operator_is_diffusion_less_the_square_of_its_wave_number():
    darcy = next(DarcySystems(8, form="skr").draw(1, 3))
    helmholtz = next(HelmholtzSystems(8, wave_number=(2.0, 9.0)).draw(1, 3))
    k = helmholtz.features["wave_number"]
    assert 2 < k < 9
    assert helmholtz.parameters[-1] == k
    shift = (darcy.matrix - helmholtz.matrix).toarray()
    np.testing.assert_allclose(shift, k**2 / 7**2 * np.eye(64), atol=1e-14)
    assert not HelmholtzSystems(8, form="symmetric", wave_number=(0.0, 9.0)).symmetric


def square(count, seed=0):
    """An irregular mesh of the unit square."""
    x, y = (a.ravel() for a in np.meshgrid(*[np.arange(count + 1)] * 2))
    edge = (x % count == 0) | (y % count == 0)
    shift = np.random.default_rng(seed).uniform(-0.25, 0.25, (len(x), 2))
    points = (np.stack([x, y], axis=1) + np.where(edge[:, None], 0.0, shift)) / count
    from scipy.spatial import Delaunay

    from sciflow_control.systems.triangles import _anticlockwise

    return Mesh(points, _anticlockwise(points, Delaunay(points).simplices)), edge


def test_the_stiffness_matrix_is_that_of_a_loop_over_the_triangles():
    mesh, _ = square(4)
    made = np.zeros((len(mesh.points),) * 2)
    for nodes in mesh.triangles:
        corner = np.hstack([np.ones((3, 1)), mesh.points[nodes]])
        area = np.linalg.det(corner) / 2
        gradients = np.linalg.inv(corner)[1:]
        made[np.ix_(nodes, nodes)] += area * gradients.T @ gradients
    np.testing.assert_allclose(stiffness(mesh).toarray(), made, atol=1e-13)


def test_linear_elements_are_exact_for_linear_functions_and_of_second_order_for_harmonic_ones():
    errors = []
    for count in (8, 16, 32):
        mesh, edge = square(count)
        whole = stiffness(mesh)
        x, y = mesh.points.T
        assert np.abs((whole @ (1 + 2 * x - 3 * y))[~edge]).max() < 1e-12
        exact = np.exp(x) * np.sin(y)
        u = spsolve(whole[~edge][:, ~edge].tocsc(), -whole[~edge][:, edge] @ exact[edge])
        errors.append(np.sqrt(np.mean((u - exact[~edge]) ** 2)))
    assert np.log2(errors[0] / errors[2]) / 2 == pytest.approx(2, abs=0.25)


@pytest.mark.parametrize("squares", [1, 2, 3])
def test_the_mesh_covers_the_plate_without_the_slot(squares):
    mesh = plate(squares, seed=7)
    corners = mesh.points[mesh.triangles]
    (x, y), (v, w) = (corners[:, 1] - corners[:, 0]).T, (corners[:, 2] - corners[:, 0]).T
    areas = (x * w - y * v) / 2
    assert areas.min() > 0
    assert areas.sum() == pytest.approx(1.6 - 0.1 * 0.8, rel=1e-12)
    # Every node belongs to a triangle, and an edge to at most two.
    assert len(np.unique(mesh.triangles)) == len(mesh.points)
    edges = np.sort(
        np.concatenate([mesh.triangles[:, [0, 1]], mesh.triangles[:, [1, 2]], mesh.triangles[:, [0, 2]]])
    )
    _, count = np.unique(edges, axis=0, return_counts=True)
    # Outer boundary and slot: 2 (20 + 32) and 2 (2 + 16) edges for each square.
    assert (count == 1).sum() == 140 * squares
    assert count.max() == 2


def test_what_flows_in_on_the_right_flows_out_on_the_left_and_solutions_add():
    systems = ThermalSystems(2)
    matrix, per_kelvin, per_flux = systems.parts()
    mesh = plate(2)
    left, right = np.isclose(mesh.points[:, 0], -0.5), np.isclose(mesh.points[:, 0], 0.5)
    a, b = next(systems.draw(1, 0)), list(systems.draw(2, 0))[1]
    for system in (a, b):
        t, q = system.parameters
        assert 0 < t < 100
        assert -100 < q < 0
        whole = np.empty(len(mesh.points))
        whole[left], whole[~left] = t, spsolve(matrix.tocsc(), system.rhs)
        outflow = -(stiffness(mesh) @ whole)[left].sum()
        assert outflow == pytest.approx(1.6 * q, rel=1e-9)
    # Without a flux the plate has the temperature of its left side.
    np.testing.assert_allclose(spsolve(matrix.tocsc(), 20 * per_kelvin), 20.0, rtol=1e-10)
    assert flux_load(mesh, right).sum() == pytest.approx(1.6)
    assert np.linalg.matrix_rank(np.stack([s.rhs for s in systems.draw(6, 0)])) == 2
    assert per_flux.sum() == pytest.approx(1.6)


def test_poisson_systems_have_the_solution_they_are_made_for():
    # u = 4 (x - 1/2)^2 + (2 y - 1): five-point differences are exact for it.
    systems = PoissonSystems(7, degree=2)
    x, y = np.meshgrid(*[np.linspace(0, 1, 9)] * 2)
    along, one, sides = np.array([0.5, 0, 0.5]), np.array([1.0, 0, 0]), np.array([1.0, 1.0, 0])
    series = np.stack([-8 * one, along - one, along + one, sides, sides])
    u = spsolve(next(systems.draw(1, 0)).matrix.tocsc(), systems.rhs(series)).reshape(7, 7)
    np.testing.assert_allclose(u, (4 * (x - 0.5) ** 2 + 2 * y - 1)[1:-1, 1:-1], atol=1e-12)
    drawn = list(systems.draw(30, 0))
    assert np.linalg.matrix_rank(np.stack([s.rhs for s in drawn])) == 15
    assert np.array_equal(systems.rhs(drawn[4].parameters.reshape(5, 3)), drawn[4].rhs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DarcySystems(1), "at least two unknowns"),
        (lambda: DarcySystems(form="other"), "symmetric, columns, skr"),
        (lambda: DarcySystems(alpha=1.0), "alpha > 1"),
        (lambda: DarcySystems(tolerance=0.0), "tolerance"),
        (lambda: HelmholtzSystems(wave_number=(1.0, 1.0)), "wave numbers"),
        (lambda: ThermalSystems(0), "at least one square"),
        (lambda: ThermalSystems(flux=(1.0, 0.0)), "the flux"),
        (lambda: ThermalSystems(mesh_seed=-1), "seed of the mesh"),
        (lambda: PoissonSystems(degree=-1), "degree=-1"),
        (lambda: next(DarcySystems(4).draw(0, 0)), "at least one system"),
        (lambda: next(PoissonSystems(4).draw(1, -1)), "a seed from 0"),
        (lambda: next(DarcySystems(4, contrast=float("nan")).draw(1, 0)), "contrast=nan"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(Invalid, match=message):
        make()
