"""Empirical cubature, interpolation and Gappy POD: what holds for any data, and oracles."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sciflow import Invalid
from sciflow.errors import Diverged
from sciflow_rom.points.active_set import ActiveSet
from sciflow_rom.points.cubature import Cubature, empirical_cubature, everything
from sciflow_rom.points.cubatures import AllPoints, EmpiricalCubature
from sciflow_rom.points.gappy import completed, gappy
from sciflow_rom.points.interpolation import deim, pivots, qdeim

SEEDS = st.integers(0, 10**6)
FEW = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])


def functions(seed, points=300, count=12, decay=0.6):
    """Smooth functions, some of them nearly alike, and uneven weights of a quadrature."""
    rng = np.random.default_rng(seed)
    x = np.sort(rng.random(points))
    waves = np.cos(np.pi * np.outer(x, np.arange(9)) + rng.random(9)) * decay ** np.arange(9)
    weights = np.diff(np.concatenate([[0.0], x])) + 1e-3
    return waves @ rng.standard_normal((9, count)), weights


def error(integrands, weights, cubature):
    """The error as it is defined, from scratch."""
    volume = weights.sum()
    scale = np.sqrt(volume * (weights @ integrands**2))
    target = np.append(weights @ integrands / scale, 1.0)
    found = np.append(cubature.weights @ integrands[cubature.points] / scale, cubature.weights.sum() / volume)
    return np.linalg.norm(found - target) / np.linalg.norm(target)


@FEW
@given(SEEDS, st.sampled_from([1e-1, 1e-3, 1e-6]))
def test_a_cubature_is_positive_exact_on_constants_and_within_the_tolerance(seed, tolerance):
    integrands, weights = functions(seed)
    found = empirical_cubature(integrands, weights, tolerance)
    assert (found.weights > 0).all()
    assert (np.diff(found.points) > 0).all()
    assert found.weights.sum() == pytest.approx(weights.sum(), rel=1e-13)
    assert error(integrands, weights, found) <= tolerance * (1 + 1e-9)
    assert found.error == pytest.approx(error(integrands, weights, found), rel=1e-6, abs=1e-14)
    # A basic solution: no more points than functions and the constant.
    assert len(found.points) <= integrands.shape[1] + 1


def test_points_are_not_many_more_than_the_fewest_possible():
    """Brute force over all subsets of small problems."""
    from itertools import combinations

    from scipy.optimize import nnls

    used, fewest = 0, 0
    for seed in range(6):
        integrands, weights = functions(seed, points=12, count=5)
        found = empirical_cubature(integrands, weights, 3e-2)
        scale = np.sqrt(weights.sum() * (weights @ integrands**2))
        rows = np.column_stack([integrands / scale, np.full(12, 1 / weights.sum())])
        target = weights @ rows
        enough = next(
            k
            for k in range(1, 7)
            for pick in combinations(range(12), k)
            if nnls(rows[list(pick)].T, target)[1] <= 3e-2 * np.linalg.norm(target)
        )
        used, fewest = used + len(found.points), fewest + enough
        assert len(found.points) >= enough
    assert used <= 1.5 * fewest


@FEW
@given(SEEDS)
def test_the_order_of_points_and_functions_does_not_matter(seed):
    integrands, weights = functions(seed)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(weights)), rng.permutation(integrands.shape[1])
    one = empirical_cubature(integrands, weights, 1e-4)
    other = empirical_cubature(integrands[rows][:, columns], weights[rows], 1e-4)
    back = np.sort(rows[other.points])
    assert back.tolist() == one.points.tolist()
    np.testing.assert_allclose(other.weights[np.argsort(rows[other.points])], one.weights, rtol=1e-5)


@FEW
@given(SEEDS, st.integers(-30, 30), st.integers(-30, 30))
def test_units_do_not_matter(seed, unit, measure):
    integrands, weights = functions(seed)
    one = empirical_cubature(integrands, weights, 1e-4)
    other = empirical_cubature(integrands * 2.0**unit, weights * 2.0**measure, 1e-4)
    assert other.points.tolist() == one.points.tolist()
    np.testing.assert_allclose(other.weights / 2.0**measure, one.weights, rtol=1e-8)
    each = 2.0 ** np.arange(-6, 6)
    assert empirical_cubature(integrands * each, weights, 1e-4).points.tolist() == one.points.tolist()


def test_functions_of_any_size_and_none_are_integrated():
    integrands, weights = functions(1)
    alone = empirical_cubature(integrands, weights, 1e-3)
    with_zeros = np.column_stack([integrands, np.zeros((len(weights), 3))])
    assert empirical_cubature(with_zeros, weights, 1e-3).points.tolist() == alone.points.tolist()
    for nothing in (np.zeros((300, 2)), np.zeros((300, 0)), np.ones((300, 1))):
        found = empirical_cubature(nothing, weights, 1e-3)
        assert len(found.points) == 1
        assert found.weights.sum() == pytest.approx(weights.sum())


def test_points_without_weight_are_never_chosen():
    integrands, weights = functions(2)
    weights[::2] = 0.0
    found = empirical_cubature(integrands, weights, 1e-5)
    assert (found.points % 2 == 1).all()
    assert (everything(weights).points % 2 == 1).all()


@FEW
@given(SEEDS)
def test_a_start_that_is_good_enough_is_kept_and_one_that_is_not_is_built_upon(seed):
    integrands, weights = functions(seed)
    coarse = empirical_cubature(integrands, weights, 1e-2)
    again = empirical_cubature(integrands, weights, 1e-2, coarse)
    assert again.points.tolist() == coarse.points.tolist()
    assert again.weights.tobytes() == coarse.weights.tobytes()
    fine = empirical_cubature(integrands, weights, 1e-5, coarse)
    assert error(integrands, weights, fine) <= 1e-5 * (1 + 1e-9)
    assert np.isin(coarse.points, fine.points).mean() >= 0.5
    assert fine.weights.sum() == pytest.approx(weights.sum(), rel=1e-13)


def test_most_points_survive_when_functions_are_added():
    integrands, weights = functions(5, points=2000, count=60, decay=0.8)
    few = empirical_cubature(integrands[:, :50], weights, 1e-4)
    more = empirical_cubature(integrands, weights, 1e-4, few)
    afresh = empirical_cubature(integrands, weights, 1e-4)
    assert np.isin(few.points, more.points).mean() > 0.8
    assert np.isin(few.points, more.points).sum() > np.isin(few.points, afresh.points).sum()


def test_a_cubature_as_small_as_that_of_scipy_at_any_tolerance():
    """The full problem solved to the end by scipy has as many points as functions, the early stop fewer."""
    from scipy.optimize import nnls

    integrands, weights = functions(7, points=400, count=40, decay=0.95)
    scale = np.sqrt(weights.sum() * (weights @ integrands**2))
    rows = np.column_stack([integrands / scale, np.full(400, 1 / weights.sum())])
    full, rest = nnls(rows.T, weights @ rows)
    assert rest < 1e-12
    exact = empirical_cubature(integrands, weights, 1e-11)
    assert len(exact.points) <= np.count_nonzero(full)
    assert len(empirical_cubature(integrands, weights, 1e-2).points) < len(exact.points)


def test_non_negative_least_squares_agree_with_scipy():
    """The active set itself, on problems whose best solution leaves a residual."""
    from scipy.optimize import nnls

    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows, target = rng.standard_normal((40, 15)), rng.standard_normal(15)
        active = ActiveSet(target)
        for _ in range(200):
            residual = active.residual()
            gains = rows @ residual
            gains[active.chosen] = -1.0
            if gains.max() < 1e-10 or not active.append(int(gains.argmax()), rows[gains.argmax()]):
                break
            active.settle()
        values, rest = nnls(rows.T, target)
        assert sorted(active.chosen) == np.flatnonzero(values).tolist()
        np.testing.assert_allclose(active.values[np.argsort(active.chosen)], values[values > 0], rtol=1e-8)
        assert np.linalg.norm(active.residual()) == pytest.approx(rest)


def test_rows_given_up_leave_the_factorisation_of_those_that_stay():
    rng = np.random.default_rng(0)
    rows, target = rng.standard_normal((50, 60)), rng.standard_normal(60)
    active = ActiveSet(target)
    for i in range(50):
        assert active.append(i, rows[i], 1.0)
    predicted = active.without()
    before = active.residual()
    np.testing.assert_allclose(active.unconstrained(), np.linalg.lstsq(rows.T, target, rcond=None)[0])
    active.values = active.unconstrained()
    predicted = active.without()
    active.delete([7])
    rest = np.delete(rows, 7, axis=0)
    expected = np.linalg.lstsq(rest.T, target, rcond=None)[0]
    np.testing.assert_allclose(active.unconstrained(), expected)
    grown = np.sum(active.residual() ** 2) - np.sum(before**2)
    assert predicted[0][7] == pytest.approx(grown)
    assert predicted[1][7] == pytest.approx(expected.min())
    active.delete([3, 20, 40])
    rest = np.delete(rest, [3, 20, 40], axis=0)
    np.testing.assert_allclose(active.unconstrained(), np.linalg.lstsq(rest.T, target, rcond=None)[0])
    assert not active.append(99, rest[2] + 2 * rest[5])


def test_nearly_dependent_rows_stay_orthogonal_when_factorised():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((12, 3)) @ rng.standard_normal((3, 40)) + 1e-9 * rng.standard_normal((12, 40))
    target = rng.standard_normal(40)
    active = ActiveSet(target)
    for i in range(12):
        assert active.append(i, rows[i], 1.0)
    residual = active.residual()
    assert np.abs(rows @ residual).max() < 1e-13
    expected = target - np.linalg.qr(rows.T)[0] @ (np.linalg.qr(rows.T)[0].T @ target)
    np.testing.assert_allclose(residual, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g, w: (g[:5], w, 1e-3, None), "shape"),
        (lambda g, w: (g, -w, 1e-3, None), "not negative"),
        (lambda g, w: (g, 0 * w, 1e-3, None), "not all zero"),
        (lambda g, w: (np.where(np.arange(12) == 4, np.nan, g), w, 1e-3, None), "the first is 4"),
        (lambda g, w: (g, w, 0.0, None), "tolerance"),
        (lambda g, w: (g, w, 1e-3, Cubature(np.array([300]), np.ones(1), 0.0)), "point 300 of 300"),
        (lambda g, w: (g, w, 1e-3, Cubature(np.array([3]), -np.ones(1), 0.0)), "none of them negative"),
    ],
)
def test_what_cannot_be_integrated_is_refused(change, message):
    with pytest.raises(Invalid, match=message):
        empirical_cubature(*change(*functions(0)))


def test_a_tolerance_below_rounding_is_refused():
    with pytest.raises(Diverged, match="Ask for a larger tolerance"):
        empirical_cubature(*functions(0), tolerance=1e-25)


def test_the_components_reduce():
    integrands, weights = functions(4)
    assert len(EmpiricalCubature(1e-2).reduce(integrands, weights).points) < 12
    all_points = AllPoints().reduce(integrands, weights)
    assert all_points.weights.tobytes() == weights.tobytes()
    with pytest.raises(Invalid, match="tolerance"):
        EmpiricalCubature(0.0)


def space(seed, rows=60, count=6):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((rows, count)))[0]


@FEW
@given(SEEDS, st.sampled_from([deim, qdeim]))
def test_interpolation_is_exact_on_the_span_and_bounded_beyond(seed, choose):
    modes = space(seed)
    found = choose(modes)
    assert len(set(found.points.tolist())) == 6
    rng = np.random.default_rng([seed, 1])
    inside = modes @ rng.standard_normal(6)
    np.testing.assert_allclose(modes @ found.coefficients(inside[found.points]), inside, atol=1e-9)
    any_ = rng.standard_normal(60)
    best = np.linalg.norm(any_ - modes @ (modes.T @ any_))
    missed = np.linalg.norm(any_ - modes @ found.coefficients(any_[found.points]))
    assert best <= missed <= found.growth * best * (1 + 1e-9)
    assert found.growth == pytest.approx(np.linalg.norm(found.matrix, 2))


@FEW
@given(SEEDS)
def test_points_of_qdeim_are_those_of_qr_with_pivots_and_of_the_space(seed):
    from scipy.linalg import qr

    modes = space(seed)
    expected = qr(modes.T, pivoting=True, mode="r")[1][:6]
    assert qdeim(modes).points.tolist() == expected.tolist()
    turn = np.linalg.qr(np.random.default_rng([seed, 2]).standard_normal((6, 6)))[0]
    assert sorted(qdeim(modes @ turn).points) == sorted(expected)


def test_points_of_deim_by_its_definition():
    modes = space(11)
    points = [int(np.abs(modes[:, 0]).argmax())]
    for k in range(1, 6):
        known = modes[:, :k]
        rest = modes[:, k] - known @ np.linalg.solve(known[points], modes[points, k])
        points.append(int(np.abs(rest).argmax()))
    assert deim(modes).points.tolist() == points


@pytest.mark.parametrize("choose", [deim, qdeim])
def test_dependent_modes_are_refused(choose):
    modes = space(0)
    with pytest.raises(Invalid, match="linearly dependent"):
        choose(np.column_stack([modes, modes[:, 0] + modes[:, 1]]))
    with pytest.raises(Invalid, match="n <= rows"):
        choose(modes.T)


@FEW
@given(SEEDS, st.sampled_from([1, 3]), st.integers(0, 4))
def test_gappy_gives_back_what_lies_in_the_span(seed, components, spare):
    modes = space(seed, 60 * components).reshape(60, components, 6)
    points = completed(modes, np.array([4, 9]), spare)
    assert points[:2].tolist() == [4, 9]
    assert len(set(points.tolist())) == len(points) <= 8 + spare
    known = gappy(modes, points)
    z = np.random.default_rng([seed, 3]).standard_normal((5, 6))
    fields = np.einsum("pcn,tn->tpc", modes, z)
    values = fields[:, points]
    np.testing.assert_allclose(known.coefficients(values), z, atol=1e-8)
    assert known.indicator(values).max() < 1e-8
    whole = known.reconstruct(modes.reshape(-1, 6), values)
    np.testing.assert_allclose(whole, fields.reshape(5, -1), atol=1e-8)


@FEW
@given(SEEDS)
def test_gappy_is_least_squares_and_its_indicator_the_share_that_is_left(seed):
    modes = space(seed)
    points = completed(modes, np.arange(10))
    known = gappy(modes, points)
    values = np.random.default_rng([seed, 4]).standard_normal(len(points))
    z, rest, _, sizes = np.linalg.lstsq(modes[points], values, rcond=None)
    np.testing.assert_allclose(known.coefficients(values), z, atol=1e-9)
    assert known.indicator(values) == pytest.approx(np.sqrt(rest[0]) / np.linalg.norm(values))
    assert known.condition == pytest.approx(sizes[0] / sizes[-1])
    assert known.indicator(7 * values) == pytest.approx(float(known.indicator(values)))
    assert known.indicator(0 * values) == 0
    # The bound that the notes state.
    field = np.random.default_rng([seed, 5]).standard_normal(60)
    best = np.linalg.norm(field - modes @ (modes.T @ field))
    missed = np.linalg.norm(field - known.reconstruct(modes, field[points]))
    assert missed <= np.sqrt(1 + known.growth**2) * best * (1 + 1e-9)


def test_more_points_make_gappy_better_conditioned():
    modes = space(0, 200)
    growth = [gappy(modes, completed(modes, np.zeros(0, int), spare)).growth for spare in (0, 5, 20)]
    assert growth[0] > growth[1] > growth[2]


def test_gappy_refuses_points_that_do_not_determine_the_modes():
    modes = space(0)
    with pytest.raises(Invalid, match="3 points do not determine 6 modes"):
        gappy(modes, np.arange(3))
    known = gappy(modes, completed(modes, np.arange(3)))
    with pytest.raises(Invalid, match="values at the points have the shape"):
        known.coefficients(np.zeros(4))
    assert len(pivots(modes, 2, np.arange(3))) == 2
