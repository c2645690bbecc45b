import numpy as np
import pytest

pytest.importorskip("dolfinx")
from mpi4py import MPI

from sciflow import Invalid
from sciflow_fenics.darcy import Flow, covariance, gaussian_field, spectrum
from sciflow_fenics.lattice import DofOrder, mesh_arrays


def exact_poisson(x, y, terms=41):
    """-lap p = 1 with p = 0 on the unit square's boundary."""
    total = np.zeros_like(x)
    for m in range(1, 2 * terms, 2):
        for n in range(1, 2 * terms, 2):
            total += 16 / (np.pi**4 * m * n * (m**2 + n**2)) * np.sin(m * np.pi * x) * np.sin(n * np.pi * y)
    return total


@pytest.mark.parametrize(("degree", "expected"), [(1, 2), (2, 3)])
def test_order_against_the_series(degree, expected):
    errors = []
    for cells in (4, 8, 16):
        flow = Flow(MPI.COMM_SELF, cells, degree)
        flow.solve(np.ones((cells + 1, cells + 1)), 1.0)
        x = flow.space.tabulate_dof_coordinates()
        errors.append(np.sqrt(np.mean((flow.pressure.x.array - exact_poisson(x[:, 0], x[:, 1])) ** 2)))
    assert np.log2(np.array(errors[:-1]) / np.array(errors[1:])).min() > expected - 0.35


def test_the_pressure_solves_the_equations_assembled_by_hand():
    cells = 6
    flow = Flow(MPI.COMM_SELF, cells, 1)
    medium = np.exp(np.random.default_rng(0).standard_normal((cells + 1, cells + 1)))
    flow.solve(medium, 2.0)
    mesh = {name: values for name, (_, values) in mesh_arrays(cells, 1, 1.0, "1").items()}
    n = (cells + 1) ** 2
    A, b = np.zeros((n, n)), np.zeros(n)
    for face in mesh["triangles"]:
        x, y = mesh["node_x"][face], mesh["node_y"][face]
        gradients = np.linalg.inv(np.stack([np.ones(3), x, y], axis=1))[1:]
        area = 0.5 / cells**2
        A[np.ix_(face, face)] += area * medium.reshape(-1)[face].mean() * gradients.T @ gradients
        b[face] += 2.0 * area / 3
    inner = np.flatnonzero(
        (np.minimum(mesh["node_x"], mesh["node_y"]) > 0) & (np.maximum(mesh["node_x"], mesh["node_y"]) < 1)
    )
    expected = np.zeros(n)
    expected[inner] = np.linalg.solve(A[np.ix_(inner, inner)], b[inner])
    order = DofOrder(flow.space, cells + 1, 1.0)(flow.pressure)
    np.testing.assert_allclose(order.values, expected[order.index], atol=1e-9 * expected.max())


def test_twice_the_permeability_halves_the_pressure_and_twice_the_source_doubles_it():
    flow = Flow(MPI.COMM_SELF, 8, 1)
    medium = np.exp(np.random.default_rng(0).standard_normal((9, 9)))
    flow.solve(medium, 1.0)
    base = flow.pressure.x.array.copy()
    flow.solve(2 * medium, 1.0)
    np.testing.assert_allclose(flow.pressure.x.array, base / 2, rtol=1e-8, atol=1e-14)
    flow.solve(medium, 2.0)
    np.testing.assert_allclose(flow.pressure.x.array, 2 * base, rtol=1e-8, atol=1e-14)


def test_the_field_has_the_covariance_it_claims():
    points, length, count = 17, 0.2, 3000
    fields = np.array([gaussian_field(points, length, np.random.default_rng(i)) for i in range(count)])
    centre = fields[:, 8, 8]
    found = (fields * centre[:, None, None]).mean(axis=0)
    line = np.linspace(0, 1, points)
    exact = covariance(np.hypot(line[None, :] - 0.5, line[:, None] - 0.5), length)
    assert np.abs(found - exact).max() < 5 / np.sqrt(count)


def test_a_torus_that_is_too_small_is_made_larger_not_clipped():
    """Twice the domain has negative eigenvalues at this length."""
    points, length = 17, 0.3
    step = np.minimum(np.arange(32), 32 - np.arange(32)) / 16
    small = np.fft.fft2(covariance(np.hypot(step[:, None], step[None, :]), length)).real
    assert small.min() < -1e-6 * small.max()
    assert len(spectrum(points, length)) > 32


@pytest.mark.parametrize("length", [0.05, 0.1, 0.3])
def test_the_embedding_is_exact(length):
    values = spectrum(17, length)
    row = np.fft.ifft2(values).real[0, :17]
    np.testing.assert_allclose(row, covariance(np.linspace(0, 1, 17), length), atol=1e-10)


def test_a_correlation_that_cannot_be_embedded_is_refused():
    with pytest.raises(Invalid, match="too long for circulant embedding"):
        spectrum(9, 50.0)
