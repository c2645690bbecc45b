"""Steps under a controller: coefficients, orders, levels that are met, restarts, and how a blow-up ends."""

import json

import numpy as np
import pytest

from sciflow import Context, Diverged
from sciflow.component import canonical
from sciflow.experience import Experience
from sciflow.stepping import Stepping
from sciflow.testing import check_problem, check_stepper
from sciflow_control.controllers.fixed_step import FixedStep
from sciflow_control.controllers.pi import PI
from sciflow_spectral.components import Burgers, KuramotoSivashinsky, NavierStokes
from sciflow_spectral.etdrk4 import advance_embedded, coefficients, quick_coefficients
from tests.spectral.test_spectral import order, run

PROBLEMS = {
    "burgers": (Burgers(points=32, solve_points=64, levels=3, end=0.4), {"viscosity": 0.02}),
    "flame": (KuramotoSivashinsky(points=32, length=22.0, levels=3, end=2.0, steps=20), {"amplitude": 0.3}),
    "flow": (NavierStokes(points=16, levels=3, end=4.0, steps=40), {"viscosity": 1e-3, "force": 0.1}),
}
ALL = pytest.mark.parametrize("which", list(PROBLEMS))


def final(problem, mu, seed=3):
    return next(iter(list(problem.solve(mu, Context(seed=seed)))[-1].fields.values()))


def gap(one, other):
    return np.linalg.norm(one - other) / np.linalg.norm(other)


def test_the_quick_coefficients_are_those_of_the_contour():
    rates = np.concatenate([-np.logspace(-9, 7, 300), [0.0, 2.5, -9.999999, -10.000001]])
    quick, slow = quick_coefficients(rates, 0.1), coefficients(rates, 0.1)
    for name in ("whole", "half", "q", "first", "middle", "last"):
        np.testing.assert_allclose(getattr(quick, name), getattr(slow, name), rtol=4e-11, atol=2e-14)


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_the_embedded_solution_has_order_three_and_its_difference_is_of_order_four(rate):
    """v' = L v + v^2 in closed form; one step from the same point, ever shorter."""
    start, errors, differences = 0.5, [], []
    for h in (0.2, 0.1, 0.05):
        v = np.array([start])
        scheme = quick_coefficients(np.array([rate]), h)
        new, n1, difference = advance_embedded(v, v**2, lambda z: z**2, scheme)
        grown = 1 / (1 / start - h) if rate == 0 else 1 / (1 + (1 / start - 1) * np.exp(h))
        assert n1 == new**2
        errors.append(abs(new[0] - grown))
        differences.append(abs(difference[0]))
    np.testing.assert_allclose(order(errors), 5, atol=0.35)
    np.testing.assert_allclose(order(differences), 4, atol=0.35)


@pytest.mark.parametrize(("which", "length"), [("burgers", 1.0), ("flame", 22.0)])
def test_what_is_told_is_the_speed_and_the_gradient_over_the_grid(which, length):
    problem, mu = PROBLEMS[which]
    problem = problem.replace(points=64, solve_points=64)
    stepper = problem.stepper(mu, Context(seed=3))
    stepper.attempt(0.01, 1.0)
    stepper.accept()
    (u,) = (values[0] for values in stepper.show().values())
    wave = 2j * np.pi * np.arange(33) / length
    gradient = np.fft.irfft(wave * np.fft.rfft(u))
    told = stepper.observe()
    assert told["courant"] == pytest.approx(np.log10(0.01 * abs(u).max() * 64 / length), abs=1e-4)
    assert told["steepness"] == pytest.approx(np.log10(0.01 * abs(gradient).max()), abs=1e-4)


@ALL
def test_without_a_controller_a_configuration_and_its_blocks_are_as_before(which):
    problem, _ = PROBLEMS[which]
    assert "stepping" not in problem.to_json()
    assert problem.batch > 1
    steered = problem.replace(stepping=PI(1e-5))
    assert steered.batch == 1
    assert steered.digest() != problem.digest()
    assert type(problem).from_json(json.loads(canonical(steered.to_json()))) == steered


@ALL
def test_fixed_steps_under_a_controller_are_those_of_the_fixed_scheme(which):
    problem, mu = PROBLEMS[which]
    problem = problem.replace(steps=40)
    steered = final(problem.replace(stepping=FixedStep(problem.end / 40)), mu)
    np.testing.assert_allclose(steered, final(problem, mu), rtol=1e-9, atol=1e-9 * np.abs(steered).max())


@ALL
def test_the_error_follows_the_tolerance(which):
    """Against the fixed scheme with tiny steps: ever smaller, and not above a few tolerances."""
    problem, mu = PROBLEMS[which]
    exact = final(problem.replace(steps=1600), mu)
    tolerances = (1e-4, 1e-6, 1e-8)
    errors = [gap(final(problem.replace(stepping=PI(t)), mu), exact) for t in tolerances]
    assert all(error < 5 * t for error, t in zip(errors, tolerances, strict=True)), errors
    assert errors[0] > 2 * errors[1] > 4 * errors[2], errors
    assert errors[0] > 100 * errors[2], errors


@ALL
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_step_taken_back_leaves_no_trace_and_times_are_met(which, backend):
    if backend == "torch":
        pytest.importorskip("torch")
    problem, mu = PROBLEMS[which]
    problem = problem.replace(backend=backend)
    check_stepper(lambda: problem.stepper(mu, Context(seed=2)), problem.end / 200)


@ALL
def test_a_steered_problem_keeps_the_contract_also_after_a_restart(which):
    problem, _ = PROBLEMS[which]
    check_problem(problem.replace(stepping=PI(1e-4)))


@ALL
def test_what_is_told_is_the_same_after_a_restart(which):
    problem, mu = PROBLEMS[which]
    stepper = problem.stepper(mu, Context(seed=2))
    start = stepper.observe()
    Stepping(stepper, PI(1e-5)).to(problem.end / 3)
    again = problem.stepper(mu, Context(seed=2), stepper.restart())
    assert again.observe() == stepper.observe() != start
    assert again.time == problem.end / 3
    np.testing.assert_array_equal(again.solution(), stepper.solution())


@ALL
def test_the_error_is_that_of_the_fields(which):
    """The norm over waves is that over the grid, also for the shortest waves."""
    problem, mu = PROBLEMS[which]
    stepper = problem.replace(points=32).stepper(mu, Context(seed=2))
    shape = stepper._v.shape[1:]
    size = 2 * (shape[-1] - 1)
    u = np.random.default_rng(0).standard_normal((1, *shape[:-1], size))
    axes = tuple(range(1, u.ndim))
    both = [np.linalg.norm(values) for values in (u, u - u.mean())]
    waves = [stepper._norm(np.fft.rfftn(values, axes=axes)) for values in (u, u - u.mean())]
    alternating = np.cos(np.pi * np.arange(size)) * np.ones_like(u)
    both.append(np.linalg.norm(alternating))
    waves.append(stepper._norm(np.fft.rfftn(alternating, axes=axes)))
    np.testing.assert_allclose(np.array(waves) / waves[0], np.array(both) / both[0], rtol=1e-12)


def test_both_backends_take_the_same_steps():
    pytest.importorskip("torch")
    problem, mu = PROBLEMS["burgers"]
    steered = problem.replace(stepping=PI(1e-6))
    np.testing.assert_allclose(final(steered.replace(backend="torch"), mu), final(steered, mu), atol=1e-10)


def test_levels_do_not_depend_on_how_many_are_stored():
    """More times to be met cost steps, not accuracy."""
    problem, mu = PROBLEMS["burgers"]
    exact = final(problem.replace(steps=1600), mu)
    for levels in (2, 8):
        steered = problem.replace(levels=levels, stepping=PI(1e-6))
        states = list(steered.solve(mu, Context(seed=3)))
        assert [s.time for s in states] == list(steered.coordinates()["time"])
        assert gap(states[-1].fields["u"], exact) < 5e-6


def test_the_size_of_the_solution_and_the_unit_of_time_do_not_matter():
    """u -> c u, x -> x, t -> t / c, nu -> c nu: the same steps in the new unit, to round-off."""
    problem, _ = PROBLEMS["burgers"]
    legs = []
    for c in (1.0, 8.0):
        stepper = problem.replace(end=0.4 / c).stepper({"viscosity": 0.02 * c}, Context(seed=2))
        stepper._v = c * stepper._v
        stepper._rate = c**2 * stepper._rate
        told = stepper.observe()
        legs.append((Stepping(stepper, PI(1e-6)).to(0.4 / c), told))
    (one, before), (other, after) = legs
    assert len(one.taken) == len(other.taken) > 10
    np.testing.assert_allclose([8 * r.length for r in other.taken], [r.length for r in one.taken], rtol=1e-6)
    np.testing.assert_allclose(list(after.values()), list(before.values()), rtol=1e-9)


def test_steps_follow_the_front_when_it_decays():
    """Behind the steepest time the speed falls as 1/t and the front widens: the steps grow a bit faster."""
    problem = Burgers(points=64, solve_points=512, levels=2, end=4.0)
    stepper = problem.stepper({"viscosity": 2e-3}, Context())
    stepper._v = 256 * np.eye(1, 257, 1) * -1j  # sin(2 pi x)
    stepper._rate = stepper._system.nonlinear(stepper._v)
    stepping = Stepping(stepper, PI(1e-4))
    leg, told = stepping.to(0.01), []
    while stepper.time < 3.9:
        rates = stepper._system.rates(stepper._v)
        stepping.step(3.9, leg)
        told.append((*rates, leg.taken[-1].length, stepper.time))
    speed, steep, length, time = np.array(told[:-3]).T
    assert steep.max() > 30 * steep[0], "no front formed"
    assert 0.16 < time[steep.argmax()] < 0.3, "the characteristics of sin(2 pi x) meet at 1 / 2 pi"
    behind = time > 0.35
    slope = np.polyfit(np.log(speed[behind]), np.log(length[behind]), 1)[0]
    assert -2 < slope < -1  # nu / u^2, and 1 / u
    assert length[-1] > 8 * length[steep.argmax()]


def test_what_a_member_cost_and_every_step_of_it_are_kept(tmp_path):
    problem, mu = PROBLEMS["burgers"]
    steered = problem.replace(stepping=PI(1e-5, first=0.3))
    experience = Experience(tmp_path, member=4)
    states = list(steered.solve(mu, Context(seed=3, experience=experience)))
    total = {k: sum(s.metrics[k] for s in states) for k in states[0].metrics}
    assert total["rejected"] > 0
    assert total["evaluations"] == 1 + 4 * (total["steps"] + total["rejected"])
    log = Experience(tmp_path, member=5).others()[4]
    stands = log["accepted"] == 1
    assert (stands.sum(), (~stands).sum()) == (total["steps"], total["rejected"])
    np.testing.assert_allclose(log["length"][stands].sum(), 0.4)
    assert (log["error"][stands] <= 1e-5).all()
    assert (log["error"][~stands] > 1e-5).all()
    assert (np.diff(log["time"]) >= 0).all()
    middle = states[1]
    again = Experience(tmp_path / "again", member=4)
    restart = {k: v.copy() for k, v in next_restart(steered, mu, 1).items()}
    list(steered.resume(mu, Context(seed=3, experience=again), restart))
    resumed = Experience(tmp_path / "again", member=5).others()[4]
    assert middle.time == 0.2
    for name, values in log.items():
        np.testing.assert_array_equal(resumed[name], values)


def next_restart(problem, mu, level):
    """What a member that was killed after a level goes on from."""
    for i, state in enumerate(problem.solve(mu, Context(seed=3))):
        if i == level:
            return state.restart()
    raise AssertionError


def test_the_spin_up_of_a_flame_is_that_of_the_fixed_steps():
    problem, _ = PROBLEMS["flame"]
    problem = problem.replace(spin_up=30)
    steered = problem.replace(stepping=PI(1e-8))
    one = next(iter(steered.solve({"amplitude": 0.3}, Context(seed=1)))).fields["u"]
    other = next(iter(problem.solve({"amplitude": 0.3}, Context(seed=1)))).fields["u"]
    np.testing.assert_array_equal(one, other)
    assert (
        gap(
            one, next(iter(problem.replace(spin_up=0).solve({"amplitude": 0.3}, Context(seed=1)))).fields["u"]
        )
        > 0.1
    )


@pytest.mark.parametrize("controller", [PI(1e-5), FixedStep(0.1)])
def test_a_solution_that_blows_up_ends_the_member(controller):
    """Each in its way: the controller finds no step, the fixed step fails."""
    problem = NavierStokes(points=16, levels=3, end=1.0, steps=10, stepping=controller)
    with pytest.raises(Diverged):
        list(problem.solve({"viscosity": 1e-2, "force": 1e300}, Context(seed=1)))


def test_where_fixed_steps_blow_up_a_controller_finds_its_way():
    """Steep fronts at twenty fixed steps; the same number of evaluations is enough where it chooses."""
    problem = Burgers(points=64, solve_points=512, levels=2, end=1.0, steps=40)
    mu = {"viscosity": 2e-3}
    with pytest.raises(Diverged):
        final(problem, mu)
    exact = run(problem.replace(steps=1600), members=1, seed=5, viscosity=2e-3)
    assert np.isfinite(exact).all()
    states = list(problem.replace(stepping=PI(1e-3)).solve(mu, Context(seed=3)))
    assert gap(states[-1].fields["u"], final(problem.replace(steps=1600), mu)) < 1e-3
