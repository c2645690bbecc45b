"""What a controller is told of bodies, and the three stars that it is trained on."""

import math

import numpy as np
import pytest

from sciflow import Invalid
from sciflow.testing import check_problem

pytest.importorskip("numba")
from sciflow_control.bodies.hermite import Hermite
from sciflow_control.bodies.leapfrog import Leapfrog
from sciflow_control.bodies.problem import ThreeBodyProblem
from sciflow_control.bodies.state import Bodies
from sciflow_control.bodies.three_body import PLACES, ThreeBody, stars
from sciflow_control.controllers.pi import PI
from tests.control.orbits import kepler, now, rotation, run, scattered


def told(bodies, held=0.5, features="physics", steps=3):
    stepper = Hermite().stepper(bodies, held, features)
    found = [stepper.observe()]
    for _ in range(steps):
        run(stepper, 0.01, stepper.time + held)
        found.append(stepper.observe())
    assert all(tuple(f) == stepper.features for f in found)
    # The error of an interval is near rounding, which changes with the order of the sums.
    return np.array([[v for k, v in f.items() if k != "error"] for f in found])


def test_physics_is_the_same_in_another_order_another_frame_and_other_units():
    bodies = scattered(3)
    m, x, v, turn = bodies.masses, bodies.positions, bodies.velocities, rotation()
    first = told(bodies)
    assert np.ptp(first, axis=0)[:5].min() > 1e-3
    order = np.array([2, 0, 3, 1])
    assert np.allclose(told(Bodies(m[order], x[order], v[order], 1.0)), first, atol=1e-9)
    assert np.allclose(told(Bodies(m, x @ turn.T, v @ turn.T, 1.0)), first, atol=1e-9)
    assert np.allclose(told(Bodies(m, x + 3.0, v - 2.0, 1.0)), first, atol=1e-9)
    mass, length, time = 3.7, 1e5, 0.02
    other = Bodies(m * mass, x * length, v * length / time, length**3 / (mass * time**2))
    assert np.allclose(told(other, 0.5 * time), first, atol=1e-9)


def test_physics_says_what_it_means():
    bodies = Bodies([1, 1, 2], [[0, 0, 0], [1, 0, 0], [0, 3, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 0]], 1.0)
    seen = Hermite().stepper(bodies, 0.5).observe()
    mean = 5 / (1 + 2 / 3 + 2 / math.sqrt(10))
    assert seen["closest"] == pytest.approx(math.log10(1 / mean))
    assert seen["second"] == pytest.approx(math.log10(3 / mean))
    assert seen["speed"] == pytest.approx(math.log10(math.sqrt(2) / math.sqrt(4 / mean)))
    assert seen["radial"] == pytest.approx(1 / math.sqrt(2))
    assert seen["pace"] == pytest.approx(math.log10(0.5 / math.sqrt(0.5)))
    assert (seen["error"], seen["knob"]) == (0.0, 0.5)
    stepper = Hermite(low=1e-4, high=1e-1).stepper(kepler(0.5), 0.5)
    result = stepper.attempt(1e-3, 10.0)
    stepper.accept()
    assert stepper.observe()["knob"] == pytest.approx(1 / 3)
    assert stepper.observe()["error"] == pytest.approx((math.log10(max(result.error, 1e-16)) + 8) / 4)
    at_rest = Hermite().stepper(Bodies([1, 1], np.eye(3)[:2], np.zeros((2, 3)), 1.0), 0.5).observe()
    assert np.isfinite(list(at_rest.values())).all()
    assert at_rest["closest"] == at_rest["second"]


def test_the_published_features_are_coordinates_in_their_units():
    stepper = ThreeBody(features="paper").begin(4)
    assert len(stepper.features) == 13
    assert stepper.features[:3] == ("x1", "y1", "x2")
    assert stepper.observe()["drift"] == 0.0
    run(stepper, 0.1, 0.5)
    seen, here = stepper.observe(), now(stepper)
    assert seen["y3"] == pytest.approx(here.positions[2, 1] / 10)
    # A circle of radius 1 au about three solar masses has speed 1.
    assert seen["vx2"] == pytest.approx(here.velocities[1, 0] / math.sqrt(3 * here.gravity))
    assert seen["drift"] == pytest.approx(-math.log10(stepper.drift()))
    with pytest.raises(Invalid, match="in the plane"):
        Hermite().stepper(scattered(), 0.5, "paper")


def test_equal_seeds_are_equal_stars_for_every_integrator():
    one, two = ThreeBody(Hermite()).begin(7), ThreeBody(Leapfrog("fixed"), years=3.0).begin(7)
    assert (one.positions == two.positions).all()
    assert (one.velocities == two.velocities).all()
    assert (ThreeBody().begin(8).positions != one.positions).any()


def test_the_stars_are_those_that_were_published():
    for seed in range(50):
        bodies = ThreeBody().begin(seed).bodies
        assert (bodies.masses == 1).all()
        assert np.abs(bodies.positions.sum(axis=0)).max() < 1e-14
        apart = bodies.positions - bodies.positions[0]
        for name, (low, high) in PLACES.items():
            assert low <= apart[int(name[1]) - 1, "xy".index(name[0])] <= high
        # 10 km/s is 2.1095 au in a Julian year.
        assert np.allclose(bodies.velocities[0] - bodies.velocities[2], [0, 2.1095, 0], atol=1e-4)
        assert np.allclose(bodies.velocities[1] - bodies.velocities[2], [-2.1095, 0, 0], atol=1e-4)
    earth = Bodies([1.0, 3e-6], [[0, 0, 0], [1, 0, 0]], [[0, 0, 0], [0, 2 * math.pi, 0]])
    assert earth.gravity == pytest.approx(4 * math.pi**2, rel=1e-4)


def test_episodes_that_cannot_be_are_refused():
    with pytest.raises(Invalid, match="no interval of 0.1 years"):
        ThreeBody(years=0.05)
    with pytest.raises(Invalid, match="no interval of -1"):
        ThreeBody(interval=-1.0)
    with pytest.raises(Invalid, match="features 'all' is not one of"):
        ThreeBody(features="all")
    with pytest.raises(Invalid, match="n_body"):
        ThreeBody.from_json({"integrator": {"component": "fixed_step"}})


def test_members_of_an_ensemble_are_the_episodes_stars():
    from sciflow.context import Context

    problem = ThreeBodyProblem(years=1.0, levels=6, value=0.005)
    check_problem(problem)
    mu = {"x2": 10.0, "y2": 4.0, "x3": -3.0, "y3": 9.0}
    states = list(problem.solve(mu, Context()))
    stepper, work = run(Hermite().stepper(stars(**mu), 0.1), 0.005, 1.0)
    assert np.abs(states[-1].fields["position"] - stepper.positions).max() < 1e-12
    assert sum(s.metrics["evaluations"] for s in states) == work
    assert states[-1].metrics["drift"] < 1e-9
    with pytest.raises(Invalid, match="value"):
        ThreeBodyProblem(value=1.0)
    with pytest.raises(Invalid, match="two states"):
        ThreeBodyProblem(levels=1)


def test_a_controller_steers_the_members_of_an_ensemble():
    from sciflow.context import Context

    mu = {"x2": 6.0, "y2": 1.0, "x3": -1.0, "y3": 6.0}
    found = {}
    for tolerance in (1e-5, 1e-8):
        problem = ThreeBodyProblem(stepping=PI(tolerance), years=5.0, levels=3)
        states = list(problem.solve(mu, Context()))
        found[tolerance] = states[-1].metrics["drift"], sum(s.metrics["evaluations"] for s in states)
    assert found[1e-8][0] < found[1e-5][0] < 1e-3
    assert found[1e-8][1] > 2 * found[1e-5][1]
