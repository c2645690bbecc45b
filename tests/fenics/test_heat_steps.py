import json

import numpy as np
import pytest

pytest.importorskip("dolfinx")
from sciflow import Context, Diverged
from sciflow.stepping import Leg, Stepping
from sciflow.testing import check_problem, check_stepper
from sciflow_fenics.components import Heat
from tests.fenics.controllers import Equal, Toy

MU = {"x": 0.05, "y": 0.05, "width": 0.015, "amplitude": 5e6, "beta": 2e-3, "boundary": 5.0}
SMALL = Heat(cells=6, grid=5, levels=2, dofs=True)
SCHEMES = pytest.mark.parametrize("scheme", ["euler", "crank_nicolson"])


def states(problem, mu=MU):
    return list(problem.solve(mu, Context()))


def levels(problem, mu=MU):
    return np.array([state.fields["temperature_dof"].values for state in states(problem, mu)])


def total(problem, name, mu=MU):
    return sum(state.metrics[name] for state in states(problem, mu))


def orders(errors):
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


@pytest.fixture(scope="module")
def fine():
    return levels(SMALL.replace(scheme="crank_nicolson", stepping=Toy(1e-8, 1e-3)))


@SCHEMES
def test_the_stepper_is_one(scheme):
    problem = SMALL.replace(scheme=scheme, stepping=Toy())
    check_stepper(lambda: problem.stepper(MU, Context()), 0.5)
    check_problem(problem.replace(dofs=False))


def test_without_a_controller_the_configuration_is_that_of_before():
    document = Heat().to_json()
    assert "stepping" not in document
    assert Heat.from_json(json.loads(json.dumps(document))) == Heat()
    assert SMALL.replace(stepping=Equal()).digest() != SMALL.digest()


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("crank_nicolson", 2)])
def test_equal_steps_have_the_order_of_their_scheme(scheme, order, fine):
    problem = SMALL.replace(scheme=scheme)
    errors = [
        np.linalg.norm(levels(problem.replace(stepping=Equal(dt))) - fine) for dt in (1.875, 0.9375, 0.46875)
    ]
    assert np.all(abs(orders(errors) - order) < 0.2), errors


def test_equal_steps_are_the_substeps(fine):
    """Of Euler's method, but for the initial layer at a boundary that jumps."""
    warm = {**MU, "boundary": 0.0}
    problem = SMALL.replace(substeps=6)
    np.testing.assert_allclose(
        levels(problem, warm), levels(problem.replace(stepping=Equal(5.0)), warm), rtol=1e-8
    )


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("crank_nicolson", 2)])
def test_the_error_follows_the_tolerance(scheme, order, fine):
    """A method of order p whose steps have errors of the tolerance errs by tolerance^(p / (p + 1))."""
    tolerances = (1e-3, 1e-4, 1e-5) if order == 1 else (1e-4, 1e-5, 1e-6)
    problem = SMALL.replace(scheme=scheme)
    errors = [np.linalg.norm(levels(problem.replace(stepping=Toy(tol))) - fine) for tol in tolerances]
    slope = np.log10(errors[0] / errors[-1]) / 2
    assert abs(slope - order / (order + 1)) < 0.15, errors


@SCHEMES
def test_the_estimate_is_the_error_of_the_step(scheme):
    """Against the same interval in 200 steps, after twelve steps of one length."""
    problem, dt = SMALL.replace(scheme=scheme), 0.5
    warm = {**MU, "boundary": 0.0}
    one, fine = problem.stepper(warm, Context()), SMALL.replace(scheme="crank_nicolson")
    stepping = Stepping(one, Equal(dt))
    stepping.to(12 * dt)
    arrays = dict(one.restart())
    many = fine.stepper(warm, Context(), {k: v.copy() for k, v in arrays.items()})
    leg = Leg()
    stepping.step(13 * dt, leg)
    Stepping(many, Equal(dt / 200)).to(13 * dt)
    wrong = np.sqrt(np.mean((one.rise - many.rise) ** 2))
    size = np.sqrt(np.mean(one.rise**2)) + one.heating.size
    assert abs(leg.taken[0].error / (wrong / size) - 1) < 0.2


def test_no_error_is_made_of_alternating_rates():
    """In the end nothing moves: every step may be as long as there is time."""
    problem = SMALL.replace(scheme="crank_nicolson", end=2000.0, stepping=Toy(1e-4))
    assert states(problem)[-1].metrics["steps"] < 15


def test_what_was_done_is_told():
    problem = SMALL.replace(scheme="crank_nicolson", stepping=Toy(1e-4, first=20.0))
    first = states(problem)[0].metrics
    assert first["rejected"] > 0
    assert first["solves"] > first["newton"] >= first["steps"]
    assert first["linear"] > first["solves"]
    # The preparation of a boundary that jumps and the attempts that were taken back.
    assert first["solves"] - first["newton"] >= 2 + first["rejected"]


def test_steps_beside_others_do_not_change():
    problem = SMALL.replace(stepping=Toy())
    alone = levels(problem)
    other = problem.solve({**MU, "amplitude": 1e7, "beta": 0.0}, Context())
    pairs = zip(problem.solve(MU, Context()), other, strict=True)
    turns = [state.fields["temperature_dof"].values for state, _ in pairs]
    assert alone.tobytes() == np.array(turns).tobytes()


def test_newton_that_fails_cuts_the_step():
    """A source beyond the bounds: one long step has no solution in 25 iterations."""
    hot = {**MU, "amplitude": 3e8, "beta": -1.5e-3, "boundary": 0.0}
    stepper = SMALL.stepper(hot, Context())
    before = {k: v.copy() for k, v in stepper.restart().items()}
    failed = stepper.attempt(60.0, 60.0)
    assert not failed.converged
    assert np.isnan(failed.error)
    assert failed.cost > 0
    stepper.reject()
    assert all(v.tobytes() == before[k].tobytes() for k, v in stepper.restart().items())
    leg = Leg()
    Stepping(stepper, Toy(1e-2, first=60.0)).step(60.0, leg)
    assert any(not r.converged for r in leg.rejected)
    assert leg.taken[0].converged


def test_what_cannot_be_solved_ends_the_member():
    with pytest.raises(Diverged, match=r"time level 0: .*dt"):
        states(SMALL.replace(stepping=Toy()), {**MU, "amplitude": 5e8, "beta": -2e-3, "boundary": 0.0})
    with pytest.raises(Diverged, match="conductivity falls to"):
        states(SMALL.replace(stepping=Toy()), {**MU, "boundary": 20.0, "beta": -0.051})
