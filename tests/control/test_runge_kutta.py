"""Embedded Runge-Kutta steps in numba and torch: order, error, cost, and what a step back leaves."""

import math
import subprocess
import sys
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from scipy.integrate import DOP853, RK23, RK45, solve_ivp
from scipy.integrate._ivp.rk import rk_step

from sciflow.errors import Diverged, Invalid
from sciflow.step_controller import ACCEPT, StepController, reject
from sciflow.stepping import Leg, Stepping
from sciflow.testing import check_component, check_stepper
from sciflow_control.controllers.pi import PI
from sciflow_control.integrators.equations import Equations
from sciflow_control.integrators.initial_value import InitialValue
from sciflow_control.integrators.right_hand_sides import EQUATIONS, MU
from sciflow_control.integrators.runge_kutta import RungeKutta
from sciflow_control.integrators.tableaus import METHODS, tableau
from sciflow_control.integrators.torch_runge_kutta import TorchRungeKutta


def forced(t, y, p, out):
    """Van der Pol's oscillator with a force, in other units of time and state: p = (mu, time, state)."""
    out[0] = y[1] / p[1]
    out[1] = (p[0] * (1 - (y[0] / p[2]) ** 2) * y[1] - y[0] + p[2] * math.sin(t / p[1])) / p[1]


def plain(t, y):
    """The same for numpy and scipy, in its own units."""
    return np.array([y[1], 3.0 * (1 - y[0] ** 2) * y[1] - y[0] + math.sin(t)])


def in_torch(t, y):
    return torch.stack([y[..., 1], 3.0 * (1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0] + math.sin(t)], dim=-1)


def power(t, y, p, out):
    """A slope that is a polynomial in time."""
    out[0] = p[0] * t ** p[1]


START = InitialValue(forced, [2.0, 0.3], parameters=(3.0, 1.0, 1.0), scale=[0.1, 0.2])


def like_torch(**changes):
    state = torch.tensor(START.state, dtype=torch.float64)
    return replace(START, rhs=in_torch, state=state, **changes)


def steps(stepper, length, count):
    """Take so many steps; the error of each."""
    found = []
    for _ in range(count):
        found.append(stepper.attempt(length, math.inf).error)
        stepper.accept()
    return np.array(found)


class Simple(StepController):
    """Asks for a tolerance, with the elementary rule."""

    name: ClassVar[str] = "simple"

    def __init__(self, tolerance, first=1e-3):
        object.__setattr__(self, "tolerance", tolerance)
        object.__setattr__(self, "first", first)

    def choose(self, memory, state):
        return memory.get("next", self.first), memory

    def judge(self, memory, result):
        error = result.error if result.converged else math.inf
        factor = min(5.0, max(0.2, 0.9 * (self.tolerance / max(error, 1e-16)) ** (1 / result.knob.order)))
        following = {"next": min(result.value * factor, result.knob.high)}
        return (ACCEPT if error <= self.tolerance else reject(result.value * min(factor, 0.9))), following


@pytest.mark.parametrize("method", METHODS)
def test_both_implementations_keep_the_conventions_of_steppers(method):
    check_stepper(lambda: RungeKutta(START, method), 0.02)
    check_stepper(lambda: TorchRungeKutta(like_torch(), method), 0.02, steps=2)


@pytest.mark.parametrize("method", METHODS)
def test_the_error_falls_with_the_order_of_the_method_and_its_estimate_with_the_one_promised(method):
    made = tableau(method)
    exact = solve_ivp(plain, (0, 0.5), START.state, DOP853, rtol=1e-13, atol=1e-14).y[:, -1]
    errors = []
    for count in (16, 32):
        stepper = RungeKutta(START, method)
        steps(stepper, 0.5 / count, count)
        errors.append(np.abs(stepper.solution() - exact).max())
    # Some come to their order from above; that none has a higher one is known from the conditions.
    assert made.order - 0.25 < math.log2(errors[0] / errors[1]) < made.order + 1.1
    first = [RungeKutta(START, method).attempt(h, 1.0).error for h in (0.02, 0.01)]
    assert math.log2(first[0] / first[1]) == pytest.approx(RungeKutta(START, method).knob.order, abs=0.15)


@pytest.mark.parametrize("method", METHODS)
def test_torch_and_numba_give_the_same_steps(method):
    one, other = RungeKutta(START, method), TorchRungeKutta(like_torch(), method)
    # An error is a difference of numbers of order one, which torch may add in another order.
    np.testing.assert_allclose(steps(one, 0.05, 20), steps(other, 0.05, 20), rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(one.solution(), other.solution(), rtol=1e-13)
    np.testing.assert_allclose(list(one.observe().values()), list(other.observe().values()), rtol=1e-6)


@pytest.mark.parametrize(("method", "peer"), [("dormand_prince", RK45), ("bogacki_shampine", RK23)])
def test_a_step_is_scipys(method, peer):
    y, h = np.array(START.state), 0.07
    k = np.empty((peer.n_stages + 1, 2))
    new, _ = rk_step(plain, 0.0, y, plain(0.0, y), h, peer.A, peer.B, peer.C, k)
    scale = np.array(START.scale) + np.maximum(np.abs(y), np.abs(new))
    error = np.sqrt(np.mean((h * (k.T @ peer.E) / scale) ** 2))
    stepper = RungeKutta(START, method)
    assert stepper.attempt(h, 1.0).error == pytest.approx(error, rel=1e-10)
    stepper.accept()
    np.testing.assert_allclose(stepper.solution(), new, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("method", METHODS)
def test_a_slope_that_is_a_polynomial_is_integrated_exactly_up_to_the_order(method):
    order = tableau(method).order
    for degree in range(order + 1):
        stepper = RungeKutta(InitialValue(power, [0.0], parameters=(degree + 1.0, degree)), method)
        steps(stepper, 0.5, 2)
        exact = stepper.solution()[0] == pytest.approx(1.0, rel=1e-14)
        assert exact == (degree < order)


@pytest.mark.parametrize("method", METHODS)
def test_units_of_time_and_state_change_nothing(method):
    time, state = 365.25, 1e-7
    other = InitialValue(
        forced,
        [2.0 * state, 0.3 * state],
        parameters=(3.0, time, state),
        scale=[0.1 * state, 0.2 * state],
    )
    one, scaled = RungeKutta(START, method), RungeKutta(other, method, (1e-10 * time, time))
    np.testing.assert_allclose(steps(scaled, 0.05 * time, 8), steps(one, 0.05, 8), rtol=1e-8)
    np.testing.assert_allclose(scaled.solution() / state, one.solution(), rtol=1e-12)
    for name, value in scaled.observe().items():
        assert value == pytest.approx(one.observe()[name], rel=1e-8), name


@pytest.mark.parametrize("method", ["heun_euler", "bogacki_shampine"])
def test_the_cost_is_what_is_evaluated_and_the_first_stage_is_never_paid_twice(method):
    count, made = [0], tableau(method)

    def counted(t, y):
        count[0] += 1
        return in_torch(t, y)

    stepper = TorchRungeKutta(replace(like_torch(), rhs=counted), method)
    costs = []
    for accepted in (False, True, True, False, False, True):
        stepper.observe()
        costs.append(stepper.attempt(0.05, 1.0).cost)
        if accepted:
            stepper.accept()
        else:
            stepper.reject()
    s, fresh = made.stages, 0 if made.first_same_as_last else 1
    assert costs == [s, s - 1, s - 1 + fresh, s - 1 + fresh, s - 1, s - 1]
    assert count[0] == sum(costs)


@pytest.mark.parametrize("method", ["heun_euler", "tsitouras"])
@pytest.mark.parametrize("kind", [RungeKutta, TorchRungeKutta])
def test_a_restart_goes_on_with_the_same_bits(kind, method):
    problem = START if kind is RungeKutta else like_torch()

    def energy(y):
        return float((y**2).sum())

    problem = replace(problem, invariant=energy)
    whole = kind(problem, method)
    steps(whole, 0.05, 3)
    saved = whole.restart()
    again = kind(replace(problem, time=7.0), method, restart=saved)
    assert again.observe() == whole.observe()
    # With its cost: a slope that is known is not evaluated again.
    assert repr(again.attempt(0.03, 1.0)) == repr(whole.attempt(0.03, 1.0))
    assert [r.hex() for r in steps(again, 0.04, 3)] == [r.hex() for r in steps(whole, 0.04, 3)]
    assert (again.time, again.drift()) == (whole.time, whole.drift())
    assert again.solution().tobytes() == whole.solution().tobytes()


@pytest.mark.parametrize("kind", [RungeKutta, TorchRungeKutta])
def test_a_state_without_numbers_is_a_failure_and_no_step(kind):
    rhs = forced if kind is RungeKutta else in_torch
    problem = replace(START if kind is RungeKutta else like_torch(), rhs=rhs)
    stepper = kind(problem, bounds=(1e-10, 1e60))
    result = stepper.attempt(1e50, math.inf)
    assert not result.converged
    before = stepper.solution()
    stepper.reject()
    np.testing.assert_array_equal(stepper.solution(), before)
    assert stepper.attempt(1e-3, math.inf).converged


def test_a_pole_ends_in_an_error_that_says_where():
    def square(t, y, p, out):
        out[0] = y[0] * y[0]

    stepping = Stepping(RungeKutta(InitialValue(square, [1.0])), Simple(1e-6))
    with pytest.raises(Diverged, match="time 1"):
        stepping.to(2.0)
    assert stepping.stepper.time == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_stiffness_is_the_rate_of_decay_times_the_step(method):
    stepper = TorchRungeKutta(InitialValue(lambda t, y: -7.0 * y, torch.ones(2, dtype=torch.float64)), method)
    steps(stepper, 0.05, 2)
    assert stepper.observe()["log_stiffness"] == pytest.approx(math.log10(0.35), rel=1e-9)
    assert stepper.observe()["log_step"] == pytest.approx(math.log10(0.05), rel=1e-12)


@pytest.mark.parametrize("method", ["bogacki_shampine", "dormand_prince", "tsitouras"])
def test_where_stability_holds_steps_down_the_stiffness_stands_at_its_limit(method):
    """Limit: where the stability function of the method leaves [-1, 1] on the negative axis."""

    def pulled(t, y, p, out):
        out[0] = p[0] * (math.cos(t) - y[0])

    made = tableau(method)
    z = -np.linspace(0, 5, 5001)
    inverse = [np.linalg.solve(np.eye(made.stages) - x * made.a, np.ones(made.stages)) for x in z]
    growth = np.abs(1 + z * np.array([made.b @ v for v in inverse]))
    limit = -z[np.argmax(growth > 1 + 1e-9)]
    stepper = RungeKutta(InitialValue(pulled, [1.0], parameters=[500.0]), method)
    stepping, leg, told = Stepping(stepper, PI(1e-3, first=1e-3)), Leg(), []
    while stepper.time < 1.0:
        stepping.step(1.0, leg)
        told.append(10 ** stepper.observe()["log_stiffness"])
    assert np.median(told[20:]) == pytest.approx(limit, rel=0.06)


def test_a_time_to_be_met_is_met_where_the_sum_is_rounded():
    begin, until = 0.771, 1.974
    assert begin + (until - begin) != until
    stepper = RungeKutta(replace(START, time=begin))
    stepper.attempt(until - begin, until)
    stepper.accept()
    assert stepper.time == until


def test_members_of_a_batch_are_held_to_the_worst():
    states = torch.tensor([[2.0, 0.3], [0.1, 0.1], [1.0, -2.0]], dtype=torch.float64)
    alone = [TorchRungeKutta(InitialValue(in_torch, state)).attempt(0.1, 1.0).error for state in states]
    together = TorchRungeKutta(InitialValue(in_torch, states), batched=True).attempt(0.1, 1.0).error
    assert together == pytest.approx(max(alone), rel=1e-9)
    mean = TorchRungeKutta(InitialValue(in_torch, states)).attempt(0.1, 1.0).error
    assert mean == pytest.approx(np.sqrt(np.mean(np.square(alone))), rel=1e-9)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_equations_are_solved_as_scipy_does(equation):
    episodes = Equations(equation, until=3.0)
    check_component(episodes)
    made, (p, state) = EQUATIONS[equation], EQUATIONS[equation].draw(np.random.default_rng([5]))
    stepper = episodes.begin(5)
    assert stepper.solution().tolist() == state
    leg = Stepping(stepper, Simple(1e-9)).to(3.0)

    def rhs(t, y):
        out = np.empty_like(y)
        made.rhs(t, y, p, out)
        return out

    peer = solve_ivp(rhs, (0, 3.0), state, RK45, rtol=1e-9, atol=1e-9)
    exact = solve_ivp(rhs, (0, 3.0), state, DOP853, rtol=1e-12, atol=1e-12).y[:, -1]
    assert np.abs(stepper.solution() - exact).max() < 3 * max(np.abs(peer.y[:, -1] - exact).max(), 1e-9)
    assert leg.cost < 1.25 * peer.nfev
    if made.invariant is not None:
        assert stepper.drift() < 1e-6
        kept = [made.invariant(p, y) for y in (state, exact)]
        assert kept[0] == pytest.approx(kept[1], rel=1e-8)
    else:
        assert math.isnan(stepper.drift())


def test_arenstorfs_orbit_closes():
    """Period and velocity of the book by Hairer, Norsett and Wanner, section II.0."""
    state = [0.994, 0.0, 0.0, -2.00158510637908252240537862224]
    stepper = RungeKutta(InitialValue(EQUATIONS["arenstorf"].rhs, state, parameters=(MU,), scale=1e-6))
    Stepping(stepper, Simple(1e-11)).to(17.0652165601579625588917206249)
    assert np.abs(stepper.solution() - state).max() < 1e-4


def test_equal_seeds_are_equal_episodes():
    one, same, other = (Equations("lorenz").begin(seed).solution() for seed in (3, 3, 4))
    assert one.tobytes() == same.tobytes() != other.tobytes()


def test_bad_input_is_refused():
    for changes in (
        {"state": [math.nan, 1.0]},
        {"scale": 0.0},
        {"scale": [1.0, 1.0, 1.0]},
        {"state": [[1.0]]},
    ):
        with pytest.raises(Invalid):
            RungeKutta(replace(START, **changes))
    with pytest.raises(Invalid, match="in order"):
        RungeKutta(START, bounds=(1.0, 0.1))
    with pytest.raises(Invalid, match="float32"):
        TorchRungeKutta(START)
    with pytest.raises(Invalid, match="not finite"):
        replace(START, parameters=(math.inf,))
    with pytest.raises(Invalid, match="cannot compile"):
        RungeKutta(replace(START, rhs=plain))
    for changes in ({"until": 0.0}, {"shortest": 1.0, "longest": 0.5}):
        with pytest.raises(Invalid):
            Equations(**changes)


def test_torch_is_imported_only_where_it_is_used():
    code = (
        "import sys; from sciflow_control.integrators.equations import Equations; "
        "assert 'numba' not in sys.modules; s = Equations().begin(1); s.attempt(0.1, 1.0); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
