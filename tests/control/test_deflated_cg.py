"""Deflated CG against CG on the projected system, and theorems on invariant subspaces."""

import numpy as np
import pytest

pytest.importorskip("petsc4py")
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow_control.recycling.deflated_cg import DeflatedCG
from sciflow_control.recycling.ritz import Ritz
from tests.control.krylov import angle, diffusion, petsc, prepared, solver, transport

TIGHT = (1e-9, 0.0)


def solved(method, matrix, b, pc="none", tolerances=TIGHT, limit=2000, same=False):
    x = np.zeros(len(b))
    method.solve(matrix, prepared(matrix, pc).apply, b, x, tolerances=tolerances, limit=limit, same=same)
    return x


def conjugate_gradients(A, M, b, steps):
    """Textbook CG with a dense preconditioner: the norms of b - A x."""
    x, r = np.zeros(len(b)), b.copy()
    z = M @ r
    p, norms = z.copy(), [np.linalg.norm(r)]
    for _ in range(steps):
        step = r @ z / (p @ A @ p)
        x, new = x + step * p, r - step * A @ p
        w = M @ new
        p, r, z = w + (new @ w) / (r @ z) * p, new, w
        norms.append(np.linalg.norm(r))
    return np.array(norms)


@pytest.mark.parametrize("pc", ["none", "jacobi", "icc"])
def test_without_a_space_it_is_cg(pc):
    rng = np.random.default_rng(0)
    matrix, b = petsc(diffusion(12, rng)), rng.standard_normal(144)
    ksp = solver(matrix, "cg", pc, rtol=1e-9)
    ksp.setConvergenceHistory(500)
    x, right = matrix.createVecs()
    right.setArray(b)
    ksp.solve(right, x)
    ours = DeflatedCG(matrix, k=0)
    np.testing.assert_allclose(solved(ours, matrix, b, pc), x.array, rtol=1e-6)
    assert ours.reason == 2
    assert ours.iterations == ksp.getIterationNumber()
    np.testing.assert_allclose(ours.history[:60], ksp.getConvergenceHistory()[:60], rtol=1e-4)


@pytest.mark.parametrize("pc", ["none", "jacobi"])
def test_it_is_cg_on_the_complement_of_any_space(pc):
    rng = np.random.default_rng(1)
    dense, b, space = diffusion(7, rng, 1.0), rng.standard_normal(49), rng.standard_normal((49, 5))
    method = DeflatedCG(petsc(dense), k=5)
    method.seed(space)
    x = solved(method, petsc(dense), b, pc)
    np.testing.assert_allclose(x, np.linalg.solve(dense, b), rtol=1e-6, atol=1e-10)
    image = dense @ space
    project = np.eye(49) - image @ np.linalg.solve(space.T @ image, space.T)
    weights = np.eye(49) if pc == "none" else np.diag(1 / dense.diagonal())
    count = 15  # later rounding has its say
    wanted = conjugate_gradients(project @ dense, weights, project @ b, count)
    np.testing.assert_allclose(method.history[: count + 1], wanted, rtol=1e-5)


def test_exact_eigenvectors_take_their_eigenvalues_out_of_the_spectrum():
    rng = np.random.default_rng(2)
    values = np.concatenate([[1e-5, 1e-4, 1e-3], np.linspace(1, 5, 47)])
    b, matrix, rest = rng.standard_normal(50), petsc(np.diag(values)), petsc(np.diag(values[3:]))
    alone, deflated, plain = DeflatedCG(rest, k=0), DeflatedCG(matrix, k=3), DeflatedCG(matrix, k=0)
    deflated.seed(np.eye(50)[:, :3] @ rng.standard_normal((3, 3)))
    solved(alone, rest, b[3:], tolerances=(0.0, 1e-8))
    solved(deflated, matrix, b, tolerances=(0.0, 1e-8))
    solved(plain, matrix, b, tolerances=(0.0, 1e-8))
    assert deflated.iterations == alone.iterations < plain.iterations
    np.testing.assert_allclose(deflated.history[1:], alone.history[1:], rtol=1e-5, atol=1e-12)


def test_a_space_that_holds_the_solution_takes_no_iteration():
    rng = np.random.default_rng(3)
    dense, x = diffusion(8, rng), rng.standard_normal(64)
    method = DeflatedCG(petsc(dense), k=4)
    method.seed(np.stack([x, *rng.standard_normal((2, 64))], axis=1))
    np.testing.assert_allclose(solved(method, petsc(dense), dense @ x, tolerances=(1e-8, 0.0)), x, rtol=1e-6)
    assert method.iterations <= 1
    assert method.reason == 2


@pytest.mark.parametrize("pc", ["none", "jacobi"])
def test_ritz_vectors_of_a_small_window_are_those_of_the_whole_history(pc):
    rng = np.random.default_rng(4)
    dense = diffusion(14, rng, 1.0)
    weights = np.eye(196) if pc == "none" else np.diag(dense.diagonal())
    root = np.sqrt(weights)
    _, vectors = np.linalg.eigh(np.linalg.solve(root, dense) @ np.linalg.inv(root))
    lowest = np.linalg.solve(root, vectors[:, :4])
    method = DeflatedCG(petsc(dense), m=12, k=8)
    solved(method, petsc(dense), rng.standard_normal(196), pc)
    assert method.iterations > 2 * (2 * 8 + 12), "the window was full more than once"
    assert angle(lowest, method.space()) < 0.02


def test_a_window_knows_the_energies_of_its_vectors():
    rng = np.random.default_rng(5)
    dense = diffusion(10, rng, 0.5)
    weights = np.diag(dense.diagonal())
    method = DeflatedCG(petsc(dense), m=6, k=4)
    solved(method, petsc(dense), rng.standard_normal(100), "jacobi", tolerances=(1e-4, 0.0))
    window = method._ritz._window[:, : method._ritz._used]
    n = window.shape[1]
    assert method.iterations > method._ritz.width
    np.testing.assert_allclose(window.T @ weights @ window, np.eye(n), atol=1e-8)
    np.testing.assert_allclose(window.T @ dense @ window, method._ritz._matrix[:n, :n], atol=1e-8)


@pytest.mark.parametrize("refresh", [0, 2])
def test_a_sequence_takes_fewer_iterations_and_is_solved(refresh):
    rng = np.random.default_rng(6)
    base = diffusion(14, rng, 1.0)
    deflated, plain, first, counts = None, None, None, []
    for _ in range(6):
        dense = base + 0.02 * np.diag(rng.random(196))
        matrix, b = petsc(dense), rng.standard_normal(196)
        deflated = deflated or DeflatedCG(matrix, m=20, k=10, refresh=refresh)
        plain = plain or DeflatedCG(matrix, k=0)
        x = solved(deflated, matrix, b, "jacobi")
        assert np.linalg.norm(b - dense @ x) <= 1.0001e-9 * np.linalg.norm(b)
        solved(plain, matrix, b, "jacobi")
        counts.append((deflated.iterations, plain.iterations))
        w = deflated.space()
        np.testing.assert_allclose(w.T @ dense @ w, np.eye(w.shape[1]), atol=1e-10)
        first = w.copy() if len(counts) == 1 else first
    assert (angle(first, w) < 1e-8) == (refresh == 0)
    assert counts[0][0] == counts[0][1]
    assert all(2 * d <= 1.4 * p for d, p in counts[1:]), counts


@given(st.integers(0, 10**6), st.sampled_from([0.0, 1e-14, 1e-9, 1e-4]))
@settings(max_examples=15, deadline=None)
def test_spaces_that_depend_on_themselves_do_no_harm(seed, size):
    rng = np.random.default_rng(seed)
    dense, vector = diffusion(6, rng), rng.standard_normal((36, 1))
    space = np.hstack([vector, vector, np.zeros((36, 1)), vector + size * rng.standard_normal((36, 2))])
    method = DeflatedCG(petsc(dense), k=5)
    method.seed(space * 10.0 ** rng.integers(-9, 9, 5))
    b = rng.standard_normal(36)
    x = solved(method, petsc(dense), b)
    assert method.reason == 2
    assert np.linalg.norm(b - dense @ x) <= 1.001e-9 * np.linalg.norm(b)


def test_what_is_not_definite_is_told_as_petsc_does():
    rng = np.random.default_rng(7)
    b, matrix = rng.standard_normal(20), petsc(np.diag([-1.0] * 10 + [1.0] * 10))
    method = DeflatedCG(matrix, k=3)
    x = solved(method, matrix, b)
    assert method.reason == -10
    assert np.isfinite(x).all()
    good = petsc(np.diag(np.arange(1.0, 21)))
    x = np.zeros(20)

    def turned(v, z):
        z.setArray(-v.array)

    assert method.solve(good, turned, b, x, tolerances=TIGHT, limit=50) == -8
    assert (solved(method, good, np.zeros(20)) == 0).all()
    assert method.reason == 3
    solved(method, good, np.full(20, np.inf))
    assert method.reason == -9
    endless = np.diag(np.arange(1.0, 21))
    endless[3, 3] = np.inf
    with np.errstate(invalid="ignore"):
        solved(method, petsc(endless), b)
    assert method.reason == -9
    solved(method, good, b, limit=4)
    assert method.reason == -3
    assert method.iterations == 4
    np.testing.assert_allclose(solved(method, good, b), b / np.arange(1, 21), rtol=1e-7)


def test_an_operator_that_is_not_symmetric_is_noticed_long_before_the_limit():
    rng = np.random.default_rng(3)
    b, dense = rng.standard_normal(100), transport(10, rng, 0.3)
    method = DeflatedCG(petsc(dense), k=6)
    x = solved(method, petsc(dense), b, limit=5000)
    assert method.reason == -7, "PETSc's number for it"
    assert method.iterations < 60
    assert np.isfinite(x).all()
    mild = transport(10, np.random.default_rng(3), 1e-3)
    x = solved(DeflatedCG(petsc(mild), k=6), petsc(mild), b)
    np.testing.assert_allclose(mild @ x, b, atol=1e-6)


def test_a_tolerance_below_rounding_ends():
    rng = np.random.default_rng(8)
    dense = diffusion(8, rng, 3.0)
    method = DeflatedCG(petsc(dense), k=4)
    x = solved(method, petsc(dense), rng.standard_normal(64), tolerances=(1e-18, 0.0), limit=5000)
    assert method.reason < 0
    assert np.isfinite(x).all()
    assert method.iterations < 3000


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_restored_state_goes_on_with_the_same_bits(stop):
    rng = np.random.default_rng(9)
    systems = [(diffusion(8, rng), rng.standard_normal(64)) for _ in range(6)]
    whole, again = (DeflatedCG(petsc(systems[0][0]), m=8, k=5, refresh=2) for _ in range(2))
    for i, (dense, b) in enumerate(systems):
        if i == stop:
            again.restore({k: v.copy() for k, v in whole.state().items()})
        x = solved(whole, petsc(dense), b, "jacobi")
        if i >= stop:
            np.testing.assert_array_equal(solved(again, petsc(dense), b, "jacobi"), x)
            assert again.history == whole.history


def test_an_empty_window_gives_no_vectors():
    assert Ritz(5, 2, 6).vectors().shape == (5, 0)
