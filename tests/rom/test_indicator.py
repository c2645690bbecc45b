"""The error indicator: exact where the test modes hold the error, and bounds that hold as often as said."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciflow.context import Context
from sciflow_rom.net.galerkin import Tables
from sciflow_rom.net.indicator import Calibration, Probe, calibrate, covered, indicate, spearman
from tests.rom.test_galerkin import BAR, ROD, full, point, reduced, whole


def basis(problem, count):
    """Orthonormal modes: the first `count` sines, or polynomials from the fixed end."""
    x = np.linspace(0, 1, problem.cells + 1)
    rows = [np.sin(np.pi * k * x) if problem is ROD else x**k for k in range(1, count + 1)]
    return np.linalg.qr(np.array(rows).T)[0]


def probe(problem, modes, test):
    line = problem.integrals(Context())
    return Probe(line.strains(modes), whole(problem, test))


def indicated(problem, modes, test, mu):
    response = reduced(problem, whole(problem, modes), mu, tolerance=1e-10)
    made = probe(problem, modes, test)
    law = problem.law(made.test.points, mu)
    start = problem.start(len(made.test.weights))
    value = indicate(made, law, response, start, lambda step: problem.load(mu, step))
    truth = full(problem, mu)
    error = np.linalg.norm(response.coefficients @ modes.T - truth) / np.linalg.norm(truth)
    return value, error


@pytest.mark.parametrize("problem", [ROD, BAR], ids=["rod", "bar"])
def test_with_all_test_modes_it_is_the_error_up_to_second_order(problem):
    n = problem.cells + 1
    every = np.eye(n)[:, 1:-1] if problem is ROD else np.eye(n)[:, 1:]
    value, error = indicated(problem, basis(problem, 5), every, point(problem, 0.3))
    assert 1e-4 < error < 0.3
    assert value == pytest.approx(error, rel=0.25)


def test_it_is_zero_where_the_test_modes_are_those_of_the_model():
    modes = basis(ROD, 4)
    assert indicated(ROD, modes, modes, point(ROD, 0.5))[0] < 1e-8


def test_more_test_modes_show_more():
    values = [indicated(ROD, basis(ROD, 3), basis(ROD, k), point(ROD, 0.4))[0] for k in (3, 6, 10)]
    assert values[0] < values[1] <= values[2] * 1.05


def test_what_is_not_defined_is_infinite():
    modes, mu = basis(ROD, 3), point(ROD, 0.5)
    response = reduced(ROD, whole(ROD, modes), mu)
    made = probe(ROD, modes, basis(ROD, 5))
    flat = Probe(made.strains, Tables(made.test.strains * 0, *list(vars(made.test).values())[1:4]))
    assert indicate(flat, ROD.law(made.test.points, mu), response) == np.inf


@given(st.integers(1, 60), st.floats(0.05, 0.98), st.integers(0, 10**6))
def test_the_bound_is_the_conformal_quantile(count, coverage, seed):
    """At least ceil((m + 1) coverage) of the members are below it, and it is the least such number."""
    rng = np.random.default_rng(seed)
    indicators, errors = rng.lognormal(size=(2, count))
    made = calibrate(indicators, errors, coverage)
    need = int(np.ceil((count + 1) * coverage - 1e-9))
    if need > count:
        assert made.bound == np.inf
        return
    scores = np.sort(errors / indicators)
    assert made.bound == scores[need - 1]
    assert covered(indicators * made.bound * (1 + 1e-12), errors) >= need / count


def test_bounds_hold_as_often_as_promised():
    """Over many calibrations of exchangeable members, new errors are below the bound with the coverage."""
    rng, hits = np.random.default_rng(0), []
    for _ in range(4000):
        indicators = rng.lognormal(size=21)
        errors = indicators * rng.lognormal(0.0, 0.5, 21)
        made = calibrate(indicators[:-1], errors[:-1], 0.9)
        hits.append(errors[-1] <= made(indicators[-1])[1])
    # 19 of 21 ranks: 0.905, and three standard deviations of 4000 trials.
    assert np.mean(hits) == pytest.approx(19 / 21, abs=0.015)


def test_the_unit_of_the_indicator_does_not_matter():
    rng = np.random.default_rng(1)
    indicators, errors = rng.lognormal(size=(2, 30))
    one, other = calibrate(indicators, errors, 0.8), calibrate(776 * indicators, errors, 0.8)
    np.testing.assert_allclose(one(indicators[0]), other(776 * indicators[0]))


def test_a_member_without_indicator_makes_the_bound_larger():
    indicators, errors = np.ones(10), np.arange(1.0, 11.0)
    assert calibrate(indicators, errors, 0.8).bound == 9.0
    indicators[0] = np.inf
    assert calibrate(indicators, errors, 0.8).bound == 10.0
    assert calibrate(np.zeros(0), np.zeros(0), 0.8) == Calibration(1.0, np.inf, 0.8, 0)


def test_without_a_bound_nothing_is_promised():
    assert Calibration(1.0, np.inf, 0.9, 0)(0.0) == (0.0, np.inf)
    assert Calibration(2.0, 3.0, 0.9, 9)(0.1) == pytest.approx((0.2, 0.3))
    assert np.isnan(Calibration(1.0, np.inf, 0.9, 0)(np.nan)).all()


def test_rank_correlation_is_that_of_scipy():
    from scipy.stats import spearmanr

    a, b = np.random.default_rng(3).normal(size=(2, 40))
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
