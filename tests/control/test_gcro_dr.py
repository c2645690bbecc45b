"""GCRO-DR against GMRES, dense least squares and theorems on invariant subspaces."""

import numpy as np
import pytest

pytest.importorskip("petsc4py")
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow_control.recycling.blocks import Reduction, orthonormal
from sciflow_control.recycling.gcro_dr import GCRODR
from sciflow_control.recycling.ritz import harmonic_ritz
from tests.control.krylov import angle, diffusion, petsc, prepared, rotations, solver, transport

TIGHT = (1e-9, 0.0)


def solved(method, matrix, b, pc="none", tolerances=TIGHT, limit=2000, same=False):
    x = np.zeros(len(b))
    method.solve(matrix, prepared(matrix, pc).apply, b, x, tolerances=tolerances, limit=limit, same=same)
    return x


@pytest.mark.parametrize("pc", ["none", "jacobi", "ilu"])
def test_without_a_space_it_is_gmres(pc):
    rng = np.random.default_rng(0)
    matrix = petsc(transport(12, rng))
    b = rng.standard_normal(144)
    ksp = solver(matrix, "gmres", pc, rtol=1e-9)
    ksp.setGMRESRestart(15)
    ksp.setConvergenceHistory(500)
    x, right = matrix.createVecs()
    right.setArray(b)
    ksp.solve(right, x)
    ours = GCRODR(matrix, 15, 0)
    np.testing.assert_allclose(solved(ours, matrix, b, pc), x.array, rtol=1e-6, atol=1e-9)
    assert ours.reason == 2
    assert ours.iterations == ksp.getIterationNumber()
    theirs = ksp.getConvergenceHistory()
    np.testing.assert_allclose(ours.history, theirs, rtol=1e-5)


def test_a_cycle_minimises_the_residual_over_the_carried_and_the_new_space():
    rng = np.random.default_rng(1)
    first, second = (transport(8, rng) for _ in range(2))
    method = GCRODR(petsc(first), 12, 5, carry="solution")
    solved(method, petsc(first), rng.standard_normal(64))
    carried, b = method.space().copy(), rng.standard_normal(64)
    assert carried.shape[1] >= 4
    solved(method, petsc(second), b)
    c = np.linalg.qr(second @ carried)[0]
    r = b - c @ (c.T @ b)
    krylov = [r / np.linalg.norm(r)]
    for j in range(1, 6):
        basis = np.hstack([carried, np.stack(krylov, axis=1)])
        y = np.linalg.lstsq(second @ basis, b, rcond=None)[0]
        assert np.isclose(method.history[j], np.linalg.norm(b - second @ basis @ y), rtol=1e-8)
        w = second @ krylov[-1]
        for q in [*c.T, *krylov] * 2:
            w = w - q * (q @ w)
        krylov.append(w / np.linalg.norm(w))


@pytest.mark.parametrize("pc", ["none", "jacobi", "ilu"])
@pytest.mark.parametrize("carry", ["auto", "solution", "residual"])
def test_a_sequence_is_solved_with_orthonormal_images_and_falling_residuals(pc, carry):
    rng = np.random.default_rng(2)
    base, method = transport(10, rng), None
    for _ in range(6):
        dense = base + 0.05 * np.diag(rng.random(100))
        matrix, b = petsc(dense), rng.standard_normal(100)
        method = method or GCRODR(matrix, 20, 8, carry=carry)
        x = solved(method, matrix, b, pc)
        assert np.linalg.norm(b - dense @ x) <= 1e-9 * np.linalg.norm(b) * (1 + 1e-12)
        if method._fresh:  # not where the other way of carrying goes on
            c = method._left.values[:, : method.size]
            np.testing.assert_allclose(c.T @ c, np.eye(method.size), atol=1e-12)
            np.testing.assert_allclose(dense @ method.space(), c, atol=1e-11)
        assert (np.diff(method.history) <= 1e-12 * method.history[0]).all()


def test_exact_eigenvectors_take_their_eigenvalues_out_of_the_spectrum():
    rng = np.random.default_rng(3)
    values = np.concatenate([[1e-4, 1e-3, 1e-2], np.linspace(1, 2, 47)])
    b = rng.standard_normal(50)
    matrix, rest = petsc(np.diag(values)), petsc(np.diag(values[3:]))
    alone = GCRODR(rest, 30, 0)
    solved(alone, rest, b[3:], tolerances=(0.0, 1e-8))
    deflated = GCRODR(matrix, 30, 3)
    deflated.seed(np.eye(50)[:, :3] @ rng.standard_normal((3, 3)))
    solved(deflated, matrix, b, tolerances=(0.0, 1e-8))
    assert deflated.iterations == alone.iterations
    np.testing.assert_allclose(deflated.history[1:], alone.history[1:], rtol=1e-6, atol=1e-12)
    plain = GCRODR(matrix, 30, 0)
    solved(plain, matrix, b, tolerances=(0.0, 1e-8))
    assert plain.iterations > 1.5 * alone.iterations


def test_what_is_carried_comes_close_to_the_slow_eigenvectors():
    rng = np.random.default_rng(4)
    values = np.concatenate([0.001 * np.arange(1, 5), np.linspace(1, 3, 96)])
    turn = np.linalg.qr(rng.standard_normal((100, 100)))[0]
    dense = turn @ np.diag(values) @ turn.T
    method = GCRODR(petsc(dense), 16, 6, refresh=1)
    solved(method, petsc(dense), rng.standard_normal(100))
    assert angle(turn[:, :4], method.space()) < 1e-3


def test_a_space_that_holds_the_solution_takes_no_iteration():
    rng = np.random.default_rng(5)
    dense = transport(8, rng)
    matrix, x = petsc(dense), rng.standard_normal(64)
    method = GCRODR(matrix, 12, 4)
    method.seed(np.stack([x, *rng.standard_normal((2, 64))], axis=1))
    np.testing.assert_allclose(solved(method, matrix, dense @ x), x, rtol=1e-8)
    assert method.iterations == 0
    assert method.reason == 2


def test_the_same_operator_costs_no_products_for_the_space():
    rng = np.random.default_rng(6)
    matrix = petsc(diffusion(9, rng))
    method = GCRODR(matrix, 14, 6)
    for same in (False, True, True):
        b = rng.standard_normal(81)
        x = solved(method, matrix, b, "jacobi", same=same)
        assert method.products <= method.iterations + (6 if not same else 0) + 3
        y = GCRODR(matrix, 40, 0)
        np.testing.assert_allclose(x, solved(y, matrix, b, "jacobi"), rtol=1e-5, atol=1e-8)


def test_a_way_to_carry_that_fails_is_not_taken_for_a_fast_one():
    rng = np.random.default_rng(14)
    method, b = None, rng.standard_normal(64)
    for i in range(6):
        matrix, bad = petsc(transport(8, rng)), i in (2, 4)  # the second way's turns
        method = method or GCRODR(matrix, 12, 5)
        pc, x = prepared(matrix, "jacobi"), np.zeros(64)
        lost = (lambda v, z: z.set(0.0)) if bad else pc.apply
        reason = method.solve(matrix, lost, b, x, tolerances=TIGHT, limit=900)
        assert (reason < 0) == bad
    assert method._mode() == "solution"


@pytest.mark.parametrize("carry", ["auto", "solution", "residual"])
def test_images_that_were_kept_are_those_that_would_be_made_anew(carry):
    rng = np.random.default_rng(13)
    base, method = transport(9, rng), None
    for _ in range(6):
        matrix = petsc(base + 0.1 * np.diag(rng.random(81)))
        method = method or GCRODR(matrix, 14, 6, carry=carry)
        solved(method, matrix, rng.standard_normal(81))
        again, b = GCRODR(matrix, 14, 6, refresh=method._every(), carry="solution"), rng.standard_normal(81)
        again.restore(method.state())
        again._trials = [0] * 8
        solved(again, matrix, b)
        solved(method, matrix, b, same=True)
        count = min(8, len(method.history))
        np.testing.assert_allclose(method.history[1:count], again.history[1:count], rtol=1e-4)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 1e-14, 1e-9, 1e-4]))
@settings(max_examples=15, deadline=None)
def test_spaces_that_depend_on_themselves_do_no_harm(seed, size):
    rng = np.random.default_rng(seed)
    dense = transport(6, rng)
    vector = rng.standard_normal((36, 1))
    space = np.hstack([vector, vector, np.zeros((36, 1)), vector + size * rng.standard_normal((36, 2))])
    method = GCRODR(petsc(dense), 12, 5)
    method.seed(space * 10.0 ** rng.integers(-9, 9, 5))
    b = rng.standard_normal(36)
    x = solved(method, petsc(dense), b)
    assert method.reason == 2
    assert np.linalg.norm(b - dense @ x) <= 1.001e-9 * np.linalg.norm(b)


@given(st.integers(0, 10**6), st.floats(-12, 0))
@settings(max_examples=25, deadline=None)
def test_columns_become_orthonormal_however_close_they_are(seed, exponent):
    rng = np.random.default_rng(seed)
    block = np.ones((40, 1)) + 10**exponent * rng.standard_normal((40, 6))
    matrix = petsc(np.eye(2))
    q, factor = orthonormal(block, Reduction(matrix.getComm()))
    np.testing.assert_allclose(q.T @ q, np.eye(q.shape[1]), atol=1e-12)
    assert 1 <= q.shape[1] <= 6
    assert q.shape[1] == 6 or exponent < -7
    np.testing.assert_allclose(block @ factor, q, atol=1e-4)


def test_complex_pairs_stay_together():
    rng = np.random.default_rng(7)
    dense = rotations(rng.uniform(0.3, 2.8, 8), [0.1, 0.2, 0.3, 1, 1.1, 1.2, 1.3, 1.4])
    turn = rng.standard_normal((16, 16))
    matrix = turn @ dense @ np.linalg.inv(turn)
    q, triangle = np.linalg.qr(matrix)
    for count, wanted in ((1, None), (2, 2), (3, 2), (6, 6), (7, 6)):
        found = harmonic_ritz(np.vstack([triangle, np.zeros(16)]), np.vstack([q.T, np.zeros(16)]), count)
        if wanted is None:
            assert found is None
            continue
        assert found.shape == (16, wanted)
        np.testing.assert_allclose(found.T @ found, np.eye(wanted), atol=1e-12)
        assert angle(matrix @ found, found) < 1e-9
        assert np.isclose(
            abs(np.linalg.eigvals(found.T @ matrix @ found)).max(), [0.1, 0.2, 0.3][wanted // 2 - 1]
        )


def test_a_spectrum_of_pairs_is_solved_with_odd_sizes_too():
    rng = np.random.default_rng(8)
    dense = rotations(rng.uniform(0.1, 1.4, 40), np.linspace(0.05, 2, 40))
    method = GCRODR(petsc(dense), 15, 5, refresh=1)
    for _ in range(3):
        b = rng.standard_normal(80)
        assert np.linalg.norm(b - dense @ solved(method, petsc(dense), b)) <= 1.001e-9 * np.linalg.norm(b)
        assert method.size in (4, 5)


def test_edges_end_as_they_should():
    rng = np.random.default_rng(9)
    eye, b = petsc(3 * np.eye(20)), rng.standard_normal(20)
    method = GCRODR(eye, 6, 2)
    assert (solved(method, eye, np.zeros(20)) == 0).all()
    assert method.reason == 3
    assert not method.iterations
    np.testing.assert_allclose(solved(method, eye, b), b / 3)
    assert method.iterations == 1, "happy breakdown"
    solved(method, eye, np.full(20, np.nan))
    assert method.reason == -9
    np.testing.assert_allclose(solved(method, eye, b), b / 3), "a failure leaves it usable"
    shift = petsc(np.roll(np.eye(20), 1, axis=0))
    stuck = GCRODR(shift, 5, 0)
    solved(stuck, shift, np.eye(20)[0])
    assert stuck.reason == -5, "a shift lets GMRES(5) stagnate"
    assert stuck.iterations <= 20
    solved(method, petsc(diffusion(5, rng)[:20, :20]), b, limit=3)
    assert method.reason == -3
    assert method.iterations == 3
    flat = petsc(np.diag([0.0] * 10 + [1.0] * 10))
    solved(method, flat, b)
    assert method.reason == -5, "a singular system without a solution"


def test_a_preconditioner_that_loses_directions_is_noticed():
    rng = np.random.default_rng(10)
    dense = diffusion(6, rng)
    matrix = petsc(dense)

    def half(v, z):
        z.setArray(v.array * (np.arange(36) % 2))

    method, x = GCRODR(matrix, 10, 4), np.zeros(36)
    reason = method.solve(matrix, half, rng.standard_normal(36), x, tolerances=TIGHT, limit=500)
    assert reason < 0
    assert np.isfinite(x).all()
    assert method.iterations < 200


@pytest.mark.parametrize("scale", [1e-12, 1e9])
def test_units_change_nothing(scale):
    rng = np.random.default_rng(11)
    systems = [(diffusion(8, rng), rng.standard_normal(64)) for _ in range(4)]
    counts = []
    for factor in (1.0, scale):
        method, found = None, []
        for dense, b in systems:
            matrix = petsc(dense * factor)
            method = method or GCRODR(matrix, 12, 5)
            solved(method, matrix, b, "jacobi")
            found.append(method.iterations)
        counts.append(found)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_restored_state_goes_on_with_the_same_bits(stop):
    rng = np.random.default_rng(12)
    systems = [(transport(8, rng), rng.standard_normal(64)) for _ in range(7)]
    whole, again = (GCRODR(petsc(systems[0][0]), 12, 5) for _ in range(2))
    for i, (dense, b) in enumerate(systems):
        if i == stop:
            again.restore({k: v.copy() for k, v in whole.state().items()})
        x = solved(whole, petsc(dense), b, "jacobi")
        if i >= stop:
            np.testing.assert_array_equal(solved(again, petsc(dense), b, "jacobi"), x)
            assert again.history == whole.history
