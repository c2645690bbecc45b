import numpy as np
import pytest

pytest.importorskip("dolfinx")
from sciflow import Context, Invalid
from sciflow.stepping import Leg, Stepping
from sciflow.testing import check_problem, check_stepper
from sciflow_fenics.moving_heat import MovingHeat, Scan
from tests.fenics.controllers import Equal, Toy

MU = {"speed": 0.05, "power": 5e4, "width": 0.01, "offset": 0.002, "turn": 0.4, "beta": 1e-3}
SMALL = MovingHeat(cells=8, grid=9, levels=2, end=12.0, dofs=True)


def levels(problem, mu=MU):
    return np.array([s.fields["temperature_dof"].values for s in problem.solve(mu, Context())])


def orders(errors):
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


@pytest.fixture(scope="module")
def fine():
    return levels(SMALL.replace(stepping=Toy(1e-7, 1e-3)))


def test_the_source_goes_to_and_fro():
    scan = Scan(2, 0.05, 0.015, 1.0, 0.05, 0.0, 0.0, 0.1)
    assert scan.switches == (1.0, 2.0, 3.0, 4.0)
    assert scan.at(0.5, True) is None
    assert scan.at(1.0, False) is None
    np.testing.assert_allclose(scan.at(1.0, True), (0.025, 0.0425))
    np.testing.assert_allclose(scan.at(1.5, True), (0.05, 0.0425))
    np.testing.assert_allclose(scan.at(2.0, False), (0.075, 0.0425))
    assert scan.at(2.0, True) is None
    np.testing.assert_allclose(scan.at(3.0, True), (0.075, 0.0575))
    np.testing.assert_allclose(scan.at(4.0, False), (0.025, 0.0575))


@pytest.mark.parametrize("events", [True, False])
@pytest.mark.parametrize("scheme", ["euler", "crank_nicolson"])
def test_the_problem_is_one(scheme, events):
    problem = MovingHeat.example().replace(scheme=scheme, events=events, stepping=Toy())
    check_problem(problem)
    check_stepper(lambda: problem.stepper(MU, Context()), 0.2)


@pytest.mark.parametrize("scheme", ["euler", "crank_nicolson"])
def test_equal_steps_are_the_substeps(scheme):
    problem = SMALL.replace(scheme=scheme, substeps=12)
    assert levels(problem).tobytes() == levels(problem.replace(stepping=Equal(0.5))).tobytes()


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("crank_nicolson", 2)])
def test_equal_steps_have_the_order_of_their_scheme(scheme, order, fine):
    problem = SMALL.replace(scheme=scheme)
    errors = [np.linalg.norm(levels(problem.replace(stepping=Equal(dt))) - fine) for dt in (0.1, 0.05, 0.025)]
    assert np.all(abs(orders(errors) - order) < 0.25), errors


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("crank_nicolson", 2)])
def test_the_error_follows_the_tolerance(scheme, order, fine):
    tolerances = (1e-2, 1e-4) if order == 1 else (1e-4, 1e-6)
    problem = SMALL.replace(scheme=scheme)
    errors = [np.linalg.norm(levels(problem.replace(stepping=Toy(tol))) - fine) for tol in tolerances]
    slope = np.log10(errors[0] / errors[-1]) / 2
    assert abs(slope - order / (order + 1)) < 0.2, errors


@pytest.mark.parametrize("substeps", [7, 20])
def test_all_of_the_power_arrives(substeps):
    """Just after the first line, before heat is at the edge; equal steps that meet the switches."""
    problem = SMALL.replace(lines=1, end=2.5, levels=1, substeps=substeps, cells=16)
    mu = {**MU, "width": 0.008, "offset": 0.0, "turn": 0.0}
    rise = levels(problem, mu)[0]
    heat = problem.capacity * rise.sum() * (problem.side / problem.cells) ** 2
    assert abs(heat / (mu["power"] * problem.length / mu["speed"]) - 1) < 0.01


def test_a_path_that_is_turned_and_mirrored_gives_the_mirrored_field():
    """The mesh maps to itself under (x, y) -> (y, x)."""
    problem = SMALL.replace(lines=1, substeps=8)
    one = levels(problem, {**MU, "turn": 0.0, "offset": 0.006})
    other = levels(problem, {**MU, "turn": np.pi / 2, "offset": -0.006})
    order = np.arange(81).reshape(9, 9).T.reshape(-1)
    position = next(iter(problem.solve(MU, Context()))).fields["temperature_dof"].index
    whole = np.empty((2, *one.shape))
    whole[:, :, position] = one, other
    np.testing.assert_allclose(whole[1][:, order], whole[0], rtol=1e-6, atol=1e-6 * abs(one).max())


def steps(problem, tolerance=1e-3):
    stepping = Stepping(problem.stepper(MU, Context()), Toy(tolerance, first=0.1))
    leg = Leg()
    while stepping.stepper.time < problem.end:
        stepping.step(problem.end, leg)
    return leg


def test_known_switches_are_met():
    leg = steps(SMALL)
    ends = [r.time + r.length for r in leg.taken]
    for switch in SMALL.scan(MU).switches:
        assert min(abs(end - switch) for end in ends) < 1e-12
        assert not any(r.time < switch - 1e-9 and r.time + r.length > switch + 1e-9 for r in leg.taken)


@pytest.mark.parametrize("scheme", ["euler", "crank_nicolson"])
def test_a_source_that_goes_off_when_it_is_known_takes_no_step_back(scheme):
    """The rates change with it by what it was."""
    leg = steps(SMALL.replace(scheme=scheme))
    assert not any(abs(r.time - 2.0) < 1e-9 for r in leg.rejected)


@pytest.mark.parametrize("length", [0.1, 0.05])
def test_the_first_steps_of_a_moving_source_are_no_better_than_they_seem(length):
    """Long steps lie before; against the same steps cut into 24, the first two after it goes on."""
    one, leg = SMALL.stepper(MU, Context()), Leg()
    Stepping(one, Equal(0.5)).to(1.0)
    for end in (1.0 + length, 1.0 + 2 * length):
        many = SMALL.stepper(MU, Context(), {k: v.copy() for k, v in one.restart().items()})
        stepping = Stepping(one, Equal(length))
        stepping.step(end, leg)
        Stepping(many, Equal(length / 24)).to(end)
        wrong = np.sqrt(np.mean((one.rise - many.rise) ** 2))
        size = np.sqrt(np.mean(one.rise**2)) + one.heating.size
        assert 0.5 < leg.taken[-1].error / (wrong / size) < 8


def test_an_unknown_switch_takes_a_step_back():
    """The steps have grown in the pause; the one that meets the source is tried again and again."""
    leg = steps(SMALL.replace(events=False))
    across = [r for r in leg.rejected if r.time <= 1.0 < r.time + r.length]
    assert len(across) >= 3
    first = next(r for r in leg.taken if r.time <= 1.0 < r.time + r.length)
    assert first.length < max(r.length for r in leg.taken if r.time + r.length <= 1.0) / 3


def test_nothing_happens_in_the_pause_and_little_in_the_end():
    leg = steps(SMALL)
    on = [r.length for r in leg.taken if 1.2 < r.time < 1.8]
    late = [r.length for r in leg.taken if r.time > 9.0]
    assert max(late) > 5 * max(on)


def test_adaptive_steps_reach_the_error_with_less_than_half_of_the_solves():
    problem = SMALL.replace(end=40.0)
    fine = levels(problem.replace(stepping=Toy(1e-6)))

    def measured(controller):
        states = list(problem.replace(stepping=controller).solve(MU, Context()))
        found = np.array([s.fields["temperature_dof"].values for s in states])
        return np.linalg.norm(found[-1] - fine[-1]), sum(s.metrics["solves"] for s in states)

    error, solves = measured(Toy(1e-3))
    fixed = [measured(Equal(dt)) for dt in (0.8, 0.4, 0.2, 0.1)]
    assert min((cost for wrong, cost in fixed if wrong <= error), default=np.inf) > 2 * solves


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lines": 0}, "lines must be"),
        ({"pause": -1.0}, "pause must be positive and finite, got -1.0 s"),
        ({"pitch": float("nan")}, "pitch must be positive"),
        ({"scheme": "heun"}, "not one of euler"),
        ({"cells": 1}, "cells must be"),
        ({"length": 0.2}, "lines of 0.2 m, .* leave the plate of 0.1 m"),
        ({"lines": 9}, "9 lines of .* 0.12 m from the first"),
    ],
)
def test_bad_configurations_are_refused(change, message):
    with pytest.raises(Invalid, match=message):
        MovingHeat(**change)


@pytest.mark.parametrize("name", ["speed", "width"])
def test_a_source_without_width_or_speed_is_refused(name):
    with pytest.raises(Invalid, match=f"{name} of the source must be positive"):
        levels(SMALL, {**MU, name: 0.0})


def test_a_switch_beside_a_stored_level_takes_no_step_of_rounding_length():
    at = SMALL.replace(end=8.0, levels=8, stepping=Toy())
    for nearby in (1.0 + 1e-14, 1.0 - 1e-14):
        beside = at.replace(pause=nearby)
        assert at.scan(MU).switches[:2] == (1.0, 2.0)
        one, other = (list(p.solve(MU, Context())) for p in (at, beside))
        assert [s.metrics["steps"] for s in one] == [s.metrics["steps"] for s in other]
        np.testing.assert_allclose(levels(beside), levels(at), rtol=1e-6, atol=1e-6)
