"""Integrators of rebound as steppers, and as an oracle for ours."""

import math

import numpy as np
import pytest

from sciflow.testing import check_stepper

pytest.importorskip("numba")
pytest.importorskip("rebound")
from sciflow_control.bodies.hermite import Hermite
from sciflow_control.bodies.leapfrog import Leapfrog
from sciflow_control.bodies.rebound_integrators import BulirschStoer, Ias15, WHFast
from sciflow_control.bodies.state import Bodies
from sciflow_control.bodies.three_body import ThreeBody
from tests.control.orbits import kepler, kepler_at, now, run, scattered

ALL = [
    pytest.param(Ias15(), 1e-8, id="ias15"),
    pytest.param(BulirschStoer(), 1e-9, id="bulirsch-stoer"),
    pytest.param(WHFast(), 1e-3, id="whfast"),
]


@pytest.mark.parametrize(("integrator", "value"), ALL)
def test_keplers_orbit(integrator, value):
    stepper, work = run(integrator.stepper(kepler(0.6, 3.0), 0.7), value, 4.0)
    apart = stepper.positions[1] - stepper.positions[0]
    assert np.abs(apart[:2] - kepler_at(0.6, 4.0)).max() < 1e-8
    assert work > 0


@pytest.mark.parametrize(("integrator", "value"), ALL)
def test_a_stepper_holds_to_the_rules(integrator, value):
    for features in ("physics", "paper"):
        check_stepper(lambda: ThreeBody(integrator, features=features).begin(3), value)  # noqa: B023


@pytest.mark.parametrize(("integrator", "value"), ALL)
def test_a_run_that_was_cut_off_goes_on_with_the_same_bits(integrator, value):
    bodies = scattered(2)
    whole, _ = run(integrator.stepper(bodies, 0.25), value, 1.0)
    half, _ = run(integrator.stepper(bodies, 0.25), value, 0.5)
    rest, _ = run(integrator.stepper(bodies, 0.25, restart=half.restart()), value, 1.0)
    assert {k: v.tobytes() for k, v in rest.restart().items()} == {
        k: v.tobytes() for k, v in whole.restart().items()
    }


def test_ours_agree_with_ias15():
    bodies = ThreeBody().begin(1).bodies
    oracle, _ = run(Ias15().stepper(bodies, 0.5), 1e-9, 3.0)
    assert oracle.drift() < 1e-13
    for integrator, value, bound in (
        (Hermite(), 2e-3, 1e-9),
        (Hermite(corrections=2), 2e-3, 1e-9),
        (Leapfrog(), 1e-3, 1e-5),
        (Leapfrog("fixed"), 1e-4, 1e-5),
    ):
        stepper, _ = run(integrator.stepper(bodies, 0.5), value, 3.0)
        assert np.abs(stepper.positions - oracle.positions).max() < bound
    assert np.abs(oracle.positions - bodies.positions).max() > 1.0


def test_momentum_and_energy_are_kept():
    bodies = scattered(4)
    stepper, _ = run(Ias15().stepper(bodies, 0.5), 1e-9, 1.0)
    after = now(stepper)
    assert np.abs(after.angular_momentum() - bodies.angular_momentum()).max() < 1e-12
    assert stepper.drift() < 1e-12
    assert math.isclose(after.energy(), bodies.energy(), rel_tol=1e-12)


def test_evaluations_are_counted_where_they_are_made():
    bodies = kepler(0.5)
    step = WHFast(high=1.0).stepper(bodies, 1.0).attempt(0.01, 1.0)
    assert step.cost == 100
    loose, tight = (BulirschStoer().stepper(bodies, 1.0).attempt(e, 1.0).cost for e in (1e-4, 1e-11))
    assert 10 < loose < tight < 1000
    loose, tight = (Ias15().stepper(bodies, 6.0).attempt(e, 6.0).cost for e in (1e-3, 1e-9))
    assert 7 < loose < tight


@pytest.mark.parametrize("integrator", [Ias15(most=2000), BulirschStoer(most=2000)])
def test_an_encounter_that_drives_the_step_to_zero_is_refused(integrator):
    falling = Bodies(np.ones(2), np.array([[0.0, 0, 0], [1, 0, 0]]), np.zeros((2, 3)), 1.0)
    stepper = integrator.stepper(falling, 2.0)
    before = stepper.restart()
    result = stepper.attempt(1e-9, 2.0)
    stepper.reject()
    assert not result.converged
    assert 100 < result.cost < 2500
    assert (stepper.restart()["bodies_state"] == before["bodies_state"]).all()
    assert stepper.attempt(1e-9, 0.5).converged


@pytest.mark.parametrize(("integrator", "value"), ALL)
def test_a_state_that_is_not_finite_does_not_converge(integrator, value):
    stepper = integrator.stepper(kepler(0.5), 0.2)
    stepper.state[0, 1, 0] = math.nan
    assert not stepper.attempt(value, 0.2).converged
