"""Relaxation kernels beside dense iterations written down from the formulas."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow import Invalid

pytest.importorskip("numba")
from sciflow_control.kernels.relaxation import sor, ssor_cg, sweep
from sciflow_control.kernels.stencil import red_black_residual, red_black_sor, red_black_sweep


def laplacian(points, shift=0.0):
    line = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(points, points))
    one = sp.identity(points)
    full = sp.kron(line, one) + sp.kron(one, line) + shift * sp.identity(points**2)
    found = full.tocsr()
    found.sort_indices()
    return found


def parts(matrix):
    return matrix.indptr, matrix.indices, matrix.data


def random_spd(n, seed):
    rng = np.random.default_rng(seed)
    a = sp.random(n, n, 0.3, random_state=seed, format="csr")
    found = (a + a.T + sp.diags(np.abs(a + a.T).sum(axis=1).A1 + 0.1 + rng.random(n))).tocsr()
    found.sort_indices()
    return found, rng.standard_normal(n)


def dense_sor(matrix, b, omega, tol, count=10000):
    a = matrix.toarray()
    m = np.diag(np.diag(a)) / omega + np.tril(a, -1)
    x = np.zeros(len(b))
    k = 0
    while k < count:
        k += 1
        x += np.linalg.solve(m, b - a @ x)
        if np.linalg.norm(b - a @ x) < tol * np.linalg.norm(b):
            break
    return k, x


@given(seed=st.integers(0, 1000), omega=st.floats(0.2, 1.9), tol=st.sampled_from([1e-2, 1e-5, 1e-9]))
@settings(max_examples=40, deadline=None)
def test_sor_has_the_iterates_and_the_count_of_the_formula(seed, omega, tol):
    matrix, b = random_spd(15, seed)
    x = np.zeros(15)
    got = sor(*parts(matrix), b, x, omega, tol)
    count, expected = dense_sor(matrix, b, omega, tol)
    assert got.converged
    assert got.iterations == count
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-13)
    assert got.residual == pytest.approx(np.linalg.norm(b - matrix @ x) / np.linalg.norm(b), rel=1e-5)


def test_the_free_residual_is_what_its_docstring_says():
    matrix, b = random_spd(20, 3)
    x = np.random.default_rng(0).random(20)
    r, omega = b - matrix @ x, 1.4
    factor = np.eye(20) + omega * np.tril(matrix.toarray(), -1) / matrix.diagonal()
    assert sweep(*parts(matrix), b, x, omega) == pytest.approx(np.linalg.norm(np.linalg.solve(factor, r)))


@pytest.mark.parametrize("points", [6, 15])
def test_young_s_optimal_omega_is_the_best_of_a_grid(points):
    matrix = laplacian(points)
    radius = math.cos(math.pi / (points + 1))
    optimal = 1 + (radius / (1 + math.sqrt(1 - radius**2))) ** 2
    grid = np.linspace(1, 1.98, 50)
    b = np.random.default_rng(0).standard_normal(points**2)
    counts = [sor(*parts(matrix), b, np.zeros_like(b), w, 1e-12).iterations for w in grid]
    assert abs(grid[np.argmin(counts)] - optimal) < 0.05


def test_the_sweeps_grow_with_the_points_as_theory_says():
    def sweeps(points, omega):
        b = np.random.default_rng(points).standard_normal(points**2)
        return sor(*parts(laplacian(points)), b, np.zeros_like(b), omega, 1e-6).iterations

    plain = [sweeps(n - 1, 1.0) for n in (8, 16, 32)]
    best = [sweeps(n - 1, 2 / (1 + math.sin(math.pi / n))) for n in (8, 16, 32)]
    assert np.log2(plain[2] / plain[1]) == pytest.approx(2, abs=0.3)  # h^-2
    assert np.log2(best[2] / best[1]) == pytest.approx(1, abs=0.3)  # h^-1


def dense_pcg(matrix, b, x, omega, tol):
    a = matrix.toarray()
    d, low = np.diag(np.diag(a)), np.tril(a, -1)
    m = (d + omega * low) @ np.linalg.inv(d) @ (d + omega * low).T / (omega * (2 - omega))
    x, r, k = x.copy(), b - a @ x, 0
    z = np.linalg.solve(m, r)
    p = z
    while np.linalg.norm(r) > tol * np.linalg.norm(b):
        alpha = (r @ z) / (p @ a @ p)
        x += alpha * p
        after = r - alpha * a @ p
        new = np.linalg.solve(m, after)
        p = new + (after @ new) / (r @ z) * p
        r, z, k = after, new, k + 1
    return k, x


@pytest.mark.parametrize("omega", [0.7, 1.0, 1.5, 1.9])
def test_ssor_cg_is_cg_with_that_preconditioner(omega):
    matrix, guess = laplacian(8, 0.3), np.random.default_rng(1).standard_normal(64)
    b = np.random.default_rng(0).standard_normal(64)
    for start in (np.zeros(64), guess):
        x = start.copy()
        got = ssor_cg(*parts(matrix), b, x, omega, 1e-9)
        count, expected = dense_pcg(matrix, b, start, omega, 1e-9)
        assert got.iterations == count
        assert got.converged
        np.testing.assert_allclose(x, expected, atol=1e-12)
        again = ssor_cg(*parts(matrix), b, x, omega, 1e-9)
        assert again.iterations == 0


def test_what_cannot_be_solved_is_said():
    matrix, b = random_spd(10, 0)
    short = sor(*parts(matrix), b, np.zeros(10), 1.0, 1e-12, 3)
    assert short.iterations == 3
    assert not short.converged
    wild = sp.csr_matrix(np.array([[1.0, 9.0], [9.0, 1.0]]))
    for solve in (sor, ssor_cg):
        assert not solve(*parts(wild), np.array([1.0, -1.0]), np.zeros(2), 1.2).converged
        assert solve(*parts(matrix), np.zeros(10), np.zeros(10), 1.2).converged
        with pytest.raises(Invalid, match="row 1 has no diagonal"):
            solve(*parts(sp.csr_matrix(np.array([[1.0, 1.0], [1.0, 0.0]]))), np.ones(2), np.zeros(2), 1.0)
        with pytest.raises(Invalid, match=r"omega must lie in \(0, 2\)"):
            solve(*parts(matrix), b, np.zeros(10), 2.0)
        # Entries beyond the unknowns would be read from memory that is not theirs.
        wide = sp.hstack([matrix, sp.csr_matrix(([1.0], ([3], [0])), shape=(10, 1))]).tocsr()
        with pytest.raises(Invalid, match="row 3 has .* the matrix must be square"):
            solve(*parts(wide), b, np.zeros(10), 1.0)
        for place, wrong in ((0, -1), (2, 10**6)):
            indices = matrix.indices.copy()
            indices[place] = wrong
            with pytest.raises(Invalid, match="row 0 has"):
                solve(matrix.indptr, indices, matrix.data, b, np.zeros(10), 1.0)
        long = matrix.indptr + np.array([0] * 10 + [10**6], dtype=matrix.indptr.dtype)
        with pytest.raises(Invalid, match="row 9 has"):
            solve(long, matrix.indices, matrix.data, b, np.zeros(10), 1.0)
        with pytest.raises(Invalid, match="columns for"):
            solve(matrix.indptr, matrix.indices, matrix.data[:-1], b, np.zeros(10), 1.0)
        with pytest.raises(Invalid, match="10 rows"):
            solve(*parts(matrix), b, np.zeros(9), 1.0)
        with pytest.raises(Invalid, match="float64"):
            solve(*parts(matrix), b, np.zeros(10, dtype=np.float32), 1.0)


def plane(rows, columns, seed=0):
    rng = np.random.default_rng(seed)
    kx, ky = 0.5 + rng.random((rows, columns + 1)), 0.5 + rng.random((rows + 1, columns))
    centre = kx[:, 1:] + kx[:, :-1] + ky[1:] + ky[:-1] + 0.1
    u = np.zeros((rows + 2, columns + 2))
    u[0], u[:, -1] = 1.0, -2.0
    return u, rng.standard_normal((rows, columns)), centre, kx, ky


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1), (6, 7), (9, 8)])
@pytest.mark.parametrize("constant", [True, False])
def test_red_black_is_two_half_sweeps_in_any_order(shape, constant):
    u, f, *stencil = plane(*shape)
    if constant:
        stencil = [4.1, 1.0, 0.9]
    omega, expected = 1.3, u.copy()
    colour = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % 2
    for _ in range(3):
        norms = []
        for which in (0, 1):
            lacking = np.where(colour == which, red_black_residual(expected, f, *stencil), 0.0)
            expected[1:-1, 1:-1] += omega * lacking / stencil[0]
            norms.append(np.linalg.norm(lacking))
        np.testing.assert_allclose(red_black_sweep(u, f, *stencil, omega), norms, atol=1e-12)
        np.testing.assert_allclose(u, expected, atol=1e-13)
    after = red_black_residual(u, f, *stencil)
    assert np.linalg.norm(after[colour == 1]) == pytest.approx(abs(1 - omega) * norms[1], abs=1e-12)


@pytest.mark.parametrize("constant", [True, False])
def test_red_black_solves_and_says_the_true_residual(constant):
    u, f, *stencil = plane(17, 22)
    if constant:
        stencil = [4.0, 1.0, 1.0]
    start = np.linalg.norm(red_black_residual(u, f, *stencil))
    got = red_black_sor(u, f, *stencil, 1.75, 1e-9)
    left = np.linalg.norm(red_black_residual(u, f, *stencil)) / start
    assert got.converged
    assert got.residual == pytest.approx(left)
    assert left < 1e-9
    u, norms = plane(17, 22)[0], []
    while not norms or norms[-1] >= 1e-9 * start:
        red_black_sweep(u, f, *stencil, 1.75)
        norms.append(np.linalg.norm(red_black_residual(u, f, *stencil)))
    assert got.iterations == len(norms) + 1
    assert not red_black_sor(plane(17, 22)[0], f, *stencil, 1.75, 1e-9, 5).converged
    with pytest.raises(Invalid, match="one ring wider"):
        red_black_sor(f, f, *stencil, 1.5)
    with pytest.raises(Invalid, match="float64, got int64"):
        red_black_sor(u.astype(int), f, *stencil, 1.5)
    with pytest.raises(Invalid, match="positive"):
        red_black_sor(u, f, 0 * stencil[0], *stencil[1:], 1.5)
