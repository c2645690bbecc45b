"""Hermite's method and the leapfrog beside known orbits, conservation laws and symmetries."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from sciflow import Invalid, Missing
from sciflow.errors import Diverged
from sciflow.stepping import Stepping
from sciflow.testing import check_stepper

pytest.importorskip("numba")
from sciflow_control.bodies.hermite import Hermite
from sciflow_control.bodies.leapfrog import Leapfrog
from sciflow_control.bodies.rebound_integrators import Ias15
from sciflow_control.bodies.state import Bodies
from sciflow_control.bodies.three_body import ThreeBody
from sciflow_control.controllers.pi import PI
from tests.control.orbits import figure_eight, kepler, kepler_at, now, run, scattered

FIXED = Leapfrog("fixed", low=1e-8, high=1.0)
ALL = [
    pytest.param(Hermite(low=1e-6), 0.02, 4, id="hermite"),
    pytest.param(Hermite(symmetric=False, low=1e-6), 0.02, 4, id="hermite-start"),
    pytest.param(Hermite(corrections=2, low=1e-6), 0.02, 4, id="hermite-twice"),
    pytest.param(Leapfrog(low=1e-6), 0.02, 2, id="leapfrog"),
    pytest.param(Leapfrog(symmetric=False, low=1e-6), 0.02, 2, id="leapfrog-start"),
    pytest.param(FIXED, 0.004, 2, id="leapfrog-fixed"),
]


@pytest.mark.parametrize(("integrator", "value", "order"), ALL)
def test_order_of_convergence_on_keplers_orbit(integrator, value, order):
    end, errors = 4.0, []
    for part in (1, 2, 4):
        stepper, _ = run(integrator.stepper(kepler(0.6, 3.0), 8.0), value / part, end)
        apart = stepper.positions[1] - stepper.positions[0]
        errors.append(np.linalg.norm(apart[:2] - kepler_at(0.6, end)))
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.allclose(rates, order, atol=0.25), f"errors {errors}, orders {rates}"


@pytest.mark.parametrize(("integrator", "value", "order"), ALL)
def test_the_error_of_the_energy_and_the_work_follow_the_knob(integrator, value, order):
    knob = integrator.knob(1.0)
    assert knob.order == order
    found = []
    for part in (1, 2):
        stepper = integrator.stepper(kepler(0.6), 2.0)
        result = stepper.attempt(value / part, 2.0)
        found.append((result.error, result.cost))
    assert math.log2(found[0][0] / found[1][0]) == pytest.approx(order, abs=0.6)
    assert math.log2(found[1][1] / found[0][1]) == pytest.approx(knob.effort, abs=0.05)


def test_a_correction_costs_an_evaluation():
    once, twice = (
        Hermite(corrections=count).stepper(kepler(0.0), 2.0).attempt(0.02, 1.991).cost for count in (1, 2)
    )
    assert twice == 2 * once > 190


@pytest.mark.parametrize(("integrator", "value", "order"), ALL)
def test_momentum_and_angular_momentum_are_kept(integrator, value, order):
    bodies = scattered()
    stepper, _ = run(integrator.stepper(bodies, 0.5), value / 8, 2.0)
    after = now(stepper)
    assert np.abs(after.masses @ after.velocities).max() < 1e-13
    assert np.abs(after.masses @ after.positions).max() < 1e-13
    turned = np.abs(after.angular_momentum() - bodies.angular_momentum()).max()
    assert turned < (1e-13 if order == 2 else 1e-5)
    assert stepper.drift() == pytest.approx(abs(after.energy() / bodies.energy() - 1), rel=1e-3)
    assert np.abs(after.positions - bodies.positions).max() > 0.1


def test_the_leapfrogs_energy_has_no_trend():
    stepper, errors = FIXED.stepper(kepler(0.3), 0.5), []
    for part in range(1, 2001):
        run(stepper, 0.02, part / 2)
        errors.append(stepper.drift())
    early, late = np.array(errors).reshape(2, -1)
    assert 1e-5 < early.max() < 1e-3
    assert late.max() < 1.02 * early.max()
    assert late.mean() < 1.02 * early.mean()


@pytest.mark.parametrize("kind", [Hermite(corrections=2), Leapfrog()])
def test_symmetric_steps_lose_less_energy_for_the_same_work(kind):
    found = []
    for symmetric in (True, False):
        found.append(run(replace(kind, symmetric=symmetric).stepper(kepler(0.9), 10.0), 0.05, 300.0))
    (good, work), (plain, like) = found
    assert work == pytest.approx(like, rel=0.05)
    assert good.drift() < plain.drift() / 20


@pytest.mark.parametrize("integrator", [Hermite(corrections=2), Leapfrog()])
def test_a_narrow_pair_far_from_the_origin_is_followed_as_at_the_origin(integrator):
    # Ten of the digits of its positions say where it is, six where its bodies are to each other.
    here = kepler(0.5)
    far = Bodies(here.masses, here.positions + 2.0**33, here.velocities, 1.0)
    one, _ = run(integrator.stepper(here, 5.0), 0.02, 20.0)
    two, _ = run(integrator.stepper(far, 5.0), 0.02, 20.0)
    moved = two.positions[1] - two.positions[0] - (one.positions[1] - one.positions[0])
    assert np.abs(moved).max() < 1e-5
    assert abs(two.drift() - one.drift()) < 1e-6 + 0.1 * one.drift()


def test_the_way_back_is_the_way_there():
    start = figure_eight()
    there, _ = run(FIXED.stepper(start, 0.5), 0.01, 5.0)
    turned = Bodies(start.masses, there.positions, -there.velocities, start.gravity)
    back, _ = run(FIXED.stepper(turned, 0.5), 0.01, 5.0)
    assert np.abs(there.positions - start.positions).max() > 0.5
    assert np.abs(back.positions - start.positions).max() < 1e-12
    assert np.abs(back.velocities + start.velocities).max() < 1e-12


@pytest.mark.parametrize(("integrator", "value", "order"), ALL)
def test_the_figure_eight_closes(integrator, value, order):
    stepper, _ = run(integrator.stepper(figure_eight(), 10.0), value / 4, 6.32591398)
    assert np.abs(stepper.positions - figure_eight().positions).max() < (1e-4 if order == 2 else 1e-6)


@pytest.mark.parametrize(("integrator", "value", "order"), ALL)
def test_units_change_nothing_to_the_last_bit(integrator, value, order):
    bodies = scattered(1)
    mass, length, time = 2.0**3, 2.0**-5, 2.0**7
    other = Bodies(
        bodies.masses * mass,
        bodies.positions * length,
        bodies.velocities * (length / time),
        bodies.gravity * length**3 / (mass * time**2),
    )
    scale = 1.0 if integrator.knob(1.0).name == "mu" else time
    if scale != 1:
        integrator = replace(integrator, high=integrator.high * scale)
    one, work = run(integrator.stepper(bodies, 0.5), value, 2.0)
    two, like = run(integrator.stepper(other, 0.5 * time), value * scale, 2.0 * time)
    assert work == like
    assert (one.positions * length == two.positions).all()
    assert (one.velocities * (length / time) == two.velocities).all()
    assert one.drift() == two.drift()


@pytest.mark.parametrize(("integrator", "value", "order"), ALL)
def test_a_stepper_holds_to_the_rules(integrator, value, order):
    for features in ("physics", "paper"):
        check_stepper(lambda: ThreeBody(integrator, features=features).begin(3), value / 10)  # noqa: B023


@pytest.mark.parametrize(("integrator", "value", "order"), ALL)
def test_a_run_that_was_cut_off_goes_on_with_the_same_bits(integrator, value, order):
    bodies = scattered(2)
    whole, _ = run(integrator.stepper(bodies, 0.25), value, 2.0)
    half, _ = run(integrator.stepper(bodies, 0.25), value, 1.0)
    saved = {k: v.copy() for k, v in half.restart().items()}
    rest = integrator.stepper(bodies, 0.25, restart=saved)
    assert rest.observe() == half.observe()
    run(rest, value, 2.0)
    assert (rest.positions == whole.positions).all()
    assert {k: v.tobytes() for k, v in rest.restart().items()} == {
        k: v.tobytes() for k, v in whole.restart().items()
    }


def test_what_was_saved_elsewhere_is_refused():
    saved = Hermite().stepper(kepler(0.5), 1.0).restart()
    with pytest.raises(Invalid, match="another integrator or other bodies"):
        Leapfrog().stepper(kepler(0.5), 1.0, restart=saved)
    with pytest.raises(Invalid, match="another integrator or other bodies"):
        Hermite().stepper(figure_eight(), 1.0, restart=saved)
    with pytest.raises(Invalid, match="bodies_state"):
        Hermite().stepper(kepler(0.5), 1.0, restart={"u": np.zeros(3)})


def falling():
    return Bodies(np.ones(2), np.array([[0.0, 0, 0], [1, 0, 0]]), np.zeros((2, 3)), 1.0)


@pytest.mark.parametrize("integrator", [Hermite(most=3000), Hermite(corrections=2), Leapfrog(most=3000)])
def test_an_encounter_that_drives_the_step_to_zero_is_refused(integrator):
    stepper = integrator.stepper(falling(), 2.0)
    before = stepper.restart()
    result = stepper.attempt(0.02, 2.0)
    assert not result.converged
    assert 100 < result.cost <= 3000
    stepper.reject()
    assert all((before[k] == v)[~np.isnan(v)].all() for k, v in stepper.restart().items())
    with pytest.raises(Invalid, match="no interval that converged"):
        stepper.accept()
    assert stepper.attempt(0.02, 0.7).converged


@pytest.mark.parametrize("integrator", [Hermite(most=3000), Leapfrog(most=3000)])
def test_a_run_ends_where_bodies_fall_onto_each_other(integrator):
    # They meet after a quarter of pi.
    stepping = Stepping(integrator.stepper(falling(), 0.1), PI(1e-6))
    with pytest.raises(Diverged, match=r"mu = .* at time 0\.7"):
        stepping.to(2.0)
    assert stepping.stepper.time == pytest.approx(0.7)
    assert stepping.stepper.drift() < 1e-5


@pytest.mark.parametrize("integrator", [Hermite(most=50), Leapfrog(most=50), Leapfrog("fixed", most=50)])
def test_more_work_than_is_allowed_is_no_convergence(integrator):
    stepper = integrator.stepper(kepler(0.5), 6.0)
    result = stepper.attempt(integrator.knob(1.0).low, 6.0)
    assert not result.converged
    assert result.cost <= 50


@pytest.mark.parametrize(("integrator", "value", "order"), ALL)
def test_a_state_that_is_not_finite_does_not_converge(integrator, value, order):
    stepper = integrator.stepper(kepler(0.5), 1.0)
    for tiny in (math.nan, 1e-300):
        result = stepper.attempt(tiny, 1.0)
        assert (result.converged, result.cost) == (False, 0)
    stepper.state[0, 1, 0] = math.nan
    assert not stepper.attempt(value, 1.0).converged


def test_a_parabola_has_an_error_too():
    bodies = Bodies([0.5, 0.5], [[-0.5, 0, 0], [0.5, 0, 0]], [[0, -(0.5**0.5), 0], [0, 0.5**0.5, 0]], 1.0)
    assert abs(bodies.energy()) < 1e-15
    stepper, _ = run(Hermite().stepper(bodies, 0.5), 0.01, 2.0)
    assert 0 < stepper.drift() < 1e-8


@pytest.mark.parametrize(
    ("masses", "places", "speeds", "gravity", "message"),
    [
        ([1.0], np.zeros((1, 3)), np.zeros((1, 3)), 1.0, "two bodies at least"),
        ([1.0, 1.0], np.eye(3), np.eye(3), 1.0, "2 bodies have positions"),
        ([1.0, 1.0], np.eye(3)[:2, :2], np.eye(3)[:2, :2], 1.0, "2 bodies have positions"),
        ([1.0, -1.0], np.eye(3)[:2], np.eye(3)[:2], 1.0, "must be positive"),
        ([1.0, 1.0], np.eye(3)[:2], np.eye(3)[:2], 0.0, "must be positive"),
        ([1.0, 1.0], [[0, 0, math.nan], [1, 1, 1]], np.eye(3)[:2], 1.0, "must be finite"),
        (
            [1.0, 1.0, 1.0],
            [[0, 0, 1], [1, 1, 1], [0, 0, 1]],
            np.eye(3),
            1.0,
            "bodies 0 and 2 are at the same",
        ),
    ],
)
def test_bodies_that_cannot_be_are_refused(masses, places, speeds, gravity, message):
    with pytest.raises(Invalid, match=message):
        Bodies(masses, places, speeds, gravity)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(Invalid, match="in order"):
        Hermite(low=0.1, high=0.01)
    with pytest.raises(Invalid, match="corrected at least once"):
        Hermite(corrections=0)
    with pytest.raises(Invalid, match="most=0"):
        Leapfrog(most=0)
    with pytest.raises(Invalid, match="step 'half' is not one of"):
        Leapfrog("half")
    with pytest.raises(Invalid, match="positive time"):
        Hermite().stepper(kepler(0.5), -1.0)


def test_an_integrator_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rebound", None)
    monkeypatch.delitem(sys.modules, "sciflow_control.bodies.foreign", raising=False)
    with pytest.raises(Missing, match="ias15 needs numba and rebound.*pip install"):
        Ias15().stepper(kepler(0.5), 1.0)


def test_the_last_interval_is_not_one_of_rounding():
    assert sum([0.1] * 10) < 1
    for years, intervals in ((1.0, 10), (30.0, 300)):
        stepper, count = ThreeBody(years=years).begin(5), 0
        while stepper.time < years:
            stepper.attempt(0.1, years)
            stepper.accept()
            count += 1
        assert (count, stepper.time) == (intervals, years)
