"""The reduced solver: with all modes and points it is the full-order model; its errors have a sentence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciflow import Diverged
from sciflow.context import Context
from sciflow_rom.net.galerkin import Tables, solve
from tests.rom.line import Conducting, Creeping
from tests.rom.toys import Bar, Rod

ROD, BAR = Rod(cells=16), Bar(cells=10)


def point(problem, share):
    return {n: p.low * (p.high / p.low) ** share for n, p in problem.parameters.items()}


def full(problem, mu):
    return np.array([s.fields[problem.unknown] for s in problem.solve(mu, Context())])


def whole(problem, modes):
    """Tables at all points."""
    line = problem.integrals(Context())
    return Tables(line.strains(modes), line.weights, line.points, line.loads.T @ modes)


def reduced(problem, tables, mu, **options):
    return solve(
        tables,
        problem.law(tables.points, mu),
        len(problem.steps()),
        load=lambda step: problem.load(mu, step),
        history=problem.start(len(tables.weights)),
        **options,
    )


def free(problem):
    """Unit vectors of the nodes that are not fixed."""
    n = problem.cells + 1
    return np.eye(n)[:, 1:-1] if problem is ROD else np.eye(n)[:, 1:]


@pytest.mark.parametrize("problem", [ROD, BAR], ids=["rod", "bar"])
@pytest.mark.parametrize("share", [0.2, 0.9])
def test_with_all_modes_and_all_points_it_is_the_full_order_model(problem, share):
    mu, modes = point(problem, share), free(problem)
    truth = full(problem, mu)
    found = reduced(problem, whole(problem, modes), mu, tolerance=1e-12)
    assert np.linalg.norm(found.coefficients @ modes.T - truth) <= 1e-9 * np.linalg.norm(truth)


def test_histories_are_those_of_the_full_order_model():
    mu, modes = point(BAR, 0.9), free(BAR)
    found = reduced(BAR, whole(BAR, modes), mu, tolerance=1e-12)
    truth = np.array([s.fields["cumulated"] for s in BAR.solve(mu, Context())])
    assert truth.max() > 1e-3, "the bar must flow, or this shows nothing"
    np.testing.assert_allclose(found.history[:, :, 1], truth, atol=1e-9 * truth.max())


@given(st.integers(0, 10**6))
def test_the_answer_depends_on_the_span_of_the_modes_alone(seed):
    """Turning the basis, and scaling its modes, changes the coefficients and nothing else."""
    rng = np.random.default_rng(seed)
    modes = np.linalg.qr(rng.standard_normal((17, 4)))[0]
    modes[[0, -1]] = 0
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0] * 10 ** rng.uniform(-1, 1, 4)
    mu = point(ROD, 0.3)
    one = reduced(ROD, whole(ROD, modes), mu, tolerance=1e-11)
    other = reduced(ROD, whole(ROD, modes @ turn), mu, tolerance=1e-11)
    a, b = one.coefficients @ modes.T, other.coefficients @ (modes @ turn).T
    assert np.linalg.norm(a - b) <= 1e-7 * np.linalg.norm(a)


def test_points_in_another_order_give_the_same_answer():
    tables, mu = whole(BAR, free(BAR)[:, :5]), point(BAR, 0.9)
    order = np.random.default_rng(0).permutation(len(tables.weights))
    moved = Tables(tables.strains[order], tables.weights[order], tables.points[order], tables.loads)
    a, b = reduced(BAR, tables, mu), reduced(BAR, moved, mu)
    np.testing.assert_allclose(a.coefficients, b.coefficients, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("law", [Conducting, lambda p, mu: Creeping(p, mu, 0.1)], ids=["rod", "bar"])
def test_tangents_of_the_toys_are_derivatives(law):
    points, rng = np.linspace(0.1, 0.9, 5)[:, None], np.random.default_rng(1)
    made = law(points, {**point(ROD, 0.5), **point(BAR, 0.9)})
    strain, history = rng.normal(0, 0.3, (5, 2)), np.zeros((5, 2))
    tangent = made(strain, history, 0)[1]
    for c in range(2):
        step = np.zeros(2)
        step[c] = 1e-6
        slope = (made(strain + step, history, 0)[0] - made(strain - step, history, 0)[0]) / 2e-6
        np.testing.assert_allclose(tangent[:, :, c], slope, rtol=1e-5, atol=1e-5)


def test_a_bad_guess_costs_iterations_only():
    tables, mu = whole(ROD, free(ROD)), point(ROD, 1.0)
    good = reduced(ROD, tables, mu)
    bad = reduced(ROD, tables, mu, guess=-2 * good.coefficients[0])
    np.testing.assert_allclose(bad.coefficients, good.coefficients, atol=1e-5)
    assert reduced(ROD, tables, mu, guess=good.coefficients[0]).iterations.tolist() == [1]


def test_a_step_that_does_not_converge_is_named():
    tables, mu = whole(BAR, free(BAR)), point(BAR, 1.0)
    with pytest.raises(Diverged, match=r"step 0 of 10: residual .* after 1 iterations"):
        reduced(BAR, tables, mu, iterations=1)
    flat = Tables(tables.strains * 0, tables.weights, tables.points, tables.loads)
    with pytest.raises(Diverged, match="step 0 of 10: the reduced tangent is singular"):
        reduced(BAR, flat, mu)


def test_a_law_that_is_not_finite_is_no_answer():
    tables = whole(ROD, free(ROD))

    def broken(strain, history, step):
        stress, tangent, new = ROD.law(tables.points, point(ROD, 0.5))(strain, history, step)
        return stress * np.nan, tangent, new

    with pytest.raises(Diverged, match="residual nan"):
        solve(tables, broken, 1)


def test_nothing_to_do_is_done_at_once():
    tables = whole(BAR, free(BAR))
    found = solve(tables, BAR.law(tables.points, point(BAR, 0.5)), 3, history=BAR.start(len(tables.weights)))
    assert found.iterations.tolist() == [1, 1, 1]
    assert not found.coefficients.any()
