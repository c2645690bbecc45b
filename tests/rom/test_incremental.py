"""A basis that takes in snapshots one after the other is that of all of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow import Invalid
from sciflow_rom.adapt.incremental import Weighted, add

ROWS = 30


def inner_of(seed):
    """The inner product of a random symmetric positive definite matrix."""
    a = np.random.default_rng(seed).normal(size=(ROWS, ROWS))
    matrix = a @ a.T + ROWS * np.eye(ROWS)
    return lambda x, y: x.T @ (matrix @ y), np.linalg.cholesky(matrix).T


def snapshots_of(seed, count, rank=None):
    """Random snapshots whose sizes differ by orders of magnitude."""
    rng = np.random.default_rng(seed)
    rank = rank or count
    return (rng.normal(size=(ROWS, rank)) * 10.0 ** -np.arange(rank)) @ rng.normal(size=(rank, count))


def one_by_one(columns, inner, **limits):
    basis = Weighted.empty(len(columns))
    for column in columns.T:
        basis = add(basis, column[:, None], inner=inner, **limits).basis
    return basis


def all_at_once(columns, half):
    """The oracle: numpy's singular value decomposition in the product's square root."""
    left, sigma, _ = np.linalg.svd(half @ columns, full_matrices=False)
    return np.linalg.solve(half, left), sigma


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 8))
def test_one_after_the_other_is_all_at_once(seed, count):
    inner, half = inner_of(seed)
    columns = snapshots_of(seed + 1, count)
    basis = one_by_one(columns, inner)
    modes, sigma = all_at_once(columns, half)
    n = len(basis.sigma)
    np.testing.assert_allclose(basis.sigma, sigma[:n], atol=1e-12 * sigma[0])
    clear = sigma[:n] > 1e-6 * sigma[0]
    gaps = np.abs(inner(basis.modes, modes[:, :n])[clear][:, clear])
    np.testing.assert_allclose(gaps, np.eye(clear.sum()), atol=1e-5)
    assert basis.lost == pytest.approx(0, abs=1e-24 * sigma[0] ** 2)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), groups=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_neither_order_nor_grouping_matters(seed, groups):
    inner, _ = inner_of(seed)
    columns = snapshots_of(seed, sum(groups), rank=5)
    basis, at = Weighted.empty(ROWS), 0
    order = np.random.default_rng(seed).permutation(sum(groups))
    for group in groups:
        basis = add(basis, columns[:, order[at : at + group]], inner=inner).basis
        at += group
    other = one_by_one(columns, inner)
    n = min(len(basis.sigma), len(other.sigma), 5)
    np.testing.assert_allclose(basis.sigma[:n], other.sigma[:n], atol=1e-11 * other.sigma[0])
    # Equal spaces, weighted by what they stand for: the sum over the modes of sigma^2 psi psi^T.
    a, b = (x.modes[:, :n] * x.sigma[:n] for x in (basis, other))
    np.testing.assert_allclose(a @ a.T, b @ b.T, atol=1e-11 * np.abs(a @ a.T).max())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-6, 1e6))
def test_the_unit_changes_only_the_singular_values(seed, scale):
    inner, _ = inner_of(seed)
    columns = snapshots_of(seed, 5, rank=3)
    a, b = one_by_one(columns, inner, modes=3), one_by_one(scale * columns, inner, modes=3)
    np.testing.assert_allclose(b.sigma, scale * a.sigma, rtol=1e-9, atol=1e-11 * b.sigma[0])
    np.testing.assert_allclose(np.abs(inner(a.modes, b.modes)), np.eye(3), atol=1e-6)


def test_a_snapshot_in_the_span_changes_nothing_but_the_singular_values():
    inner, half = inner_of(3)
    columns = snapshots_of(4, 4, rank=4)
    basis = one_by_one(columns, inner)
    inside = basis.modes @ np.array([0.3, -2.0, 1.0, 0.5])
    update = add(basis, inside[:, None], inner=inner)
    assert update.basis.modes.shape == basis.modes.shape
    np.testing.assert_allclose(
        inner(basis.modes, update.basis.modes) @ inner(update.basis.modes, basis.modes),
        np.eye(4), atol=1e-12,
    )  # fmt: skip
    sigma = np.linalg.svd(half @ np.column_stack([columns, inside]), compute_uv=False)[:4]
    np.testing.assert_allclose(update.basis.sigma, sigma, rtol=1e-10, atol=1e-12 * sigma[0])
    assert update.basis.sigma[0] > basis.sigma[0]


def test_the_bases_of_old_and_new_snapshots_carry_their_coefficients():
    inner, _ = inner_of(5)
    columns = snapshots_of(6, 3, rank=3)
    basis = one_by_one(columns, inner)
    more = np.random.default_rng(7).normal(size=(ROWS, 2))
    update = add(basis, more, inner=inner)
    old = inner(columns, basis.modes)
    np.testing.assert_allclose(update.basis.modes @ (old @ update.carry).T, columns, atol=1e-10)
    np.testing.assert_allclose(update.basis.modes @ update.coefficients.T, more, atol=1e-10)


@pytest.mark.parametrize("limits", [{"modes": 3}, {"tolerance": 0.05}])
def test_what_was_left_out_bounds_the_error_of_all_snapshots(limits):
    inner, half = inner_of(8)
    rng = np.random.default_rng(9)
    columns = (rng.normal(size=(ROWS, 12)) * 0.6 ** np.arange(12)) @ rng.normal(size=(12, 40))
    basis = one_by_one(columns, inner, **limits)
    rest = half @ (columns - basis.modes @ inner(basis.modes, columns))
    energy = np.linalg.norm(half @ columns) ** 2
    assert np.linalg.norm(rest) ** 2 <= basis.lost * (1 + 1e-10)
    # Nothing is created and nothing disappears: what was kept and what was left out are all of it.
    assert np.square(basis.sigma).sum() + basis.lost == pytest.approx(energy, rel=1e-12)
    _, sigma = all_at_once(columns, half)
    best = np.square(sigma[len(basis.sigma) :]).sum()
    assert best <= np.linalg.norm(rest) ** 2 * (1 + 1e-10)
    if "tolerance" in limits:
        assert basis.lost <= 0.05**2 * energy
        assert 2 < len(basis.sigma) < 12
    else:
        assert len(basis.sigma) == 3


def test_earlier_snapshots_keep_their_weight():
    """Merging modes without their singular values, as is often done, would turn the basis to the new one."""
    rng = np.random.default_rng(10)
    main, other = np.eye(ROWS)[:, :1], np.eye(ROWS)[:, 1:2]
    basis = one_by_one(main @ rng.uniform(1, 2, (1, 50)), lambda a, b: a.T @ b)
    update = add(basis, 1.5 * other, modes=1)
    assert abs(update.basis.modes[0, 0]) == pytest.approx(1.0)


def test_two_hundred_updates_leave_the_modes_orthonormal():
    inner, _ = inner_of(11)
    rng = np.random.default_rng(12)
    basis = Weighted.empty(ROWS)
    for number in range(200):
        column = snapshots_of(number, 1, rank=8) * 10.0 ** rng.uniform(-6, 6)
        basis = add(basis, column, modes=12, inner=inner).basis
    gram = inner(basis.modes, basis.modes)
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=3e-13)


def test_nearly_parallel_snapshots_give_orthonormal_modes():
    rng = np.random.default_rng(13)
    first = rng.normal(size=(ROWS, 1))
    columns = first + 1e-9 * rng.normal(size=(ROWS, 6))
    basis = one_by_one(columns, lambda a, b: a.T @ b)
    gram = basis.modes.T @ basis.modes
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-13)
    assert len(basis.sigma) == 6


@pytest.mark.parametrize(
    ("columns", "limits", "message"),
    [
        (np.zeros((ROWS, 1)), {}, "zero"),
        (np.full((ROWS, 1), np.nan), {}, "not finite"),
        (np.ones((ROWS + 1, 1)), {}, "shape"),
        (np.ones((ROWS, 1)), {"modes": 0}, "at least one mode"),
    ],
)
def test_what_has_no_modes_is_refused(columns, limits, message):
    with pytest.raises(Invalid, match=message):
        add(Weighted.empty(ROWS), columns, **limits)


def test_a_zero_snapshot_adds_nothing():
    basis = one_by_one(snapshots_of(14, 3, rank=3), lambda a, b: a.T @ b)
    update = add(basis, np.zeros((ROWS, 1)))
    np.testing.assert_allclose(update.basis.sigma, basis.sigma, rtol=1e-12)
