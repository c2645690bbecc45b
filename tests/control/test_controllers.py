"""Controllers by an error estimate: published formulas, where they settle, what follows a rejection."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.integrate import RK45, solve_ivp
from scipy.signal import lfilter

from sciflow.errors import Diverged, Invalid
from sciflow.step_controller import Knob, Stepper, StepResult, StepState, ending
from sciflow.stepping import Stepping
from sciflow.testing import check_component, check_step_controller
from sciflow_control.controllers.fixed_step import FixedStep
from sciflow_control.controllers.pi import PI
from sciflow_control.controllers.pid import FILTERS, PID
from sciflow_control.controllers.predictive import Predictive
from tests.control.steppers import Oscillator, Scripted

DT = Knob("dt", "s", 1e-9, 1e3, order=5.0)
MU = Knob("mu", "1", 1e-9, 1e3, order=4.0, held=0.1)
TOL = 1e-4
BY_ERROR = {
    "elementary": PI(TOL, k_i=1.0, k_p=0.0),
    "pi": PI(TOL),
    "predictive": Predictive(TOL),
    **{f"pid_{name}": PID(TOL, filter=name) for name in FILTERS},
}
WIDE = {"factor_min": 1e-9, "factor_max": 1e9, "factor_first": 1e9}


def told(value, knob, error, time=0.0, **more):
    return StepResult(time, knob.held or value, value, knob, error, **more)


def feed(controller, error, steps, knob=DT):
    """Values of the steps that stand, and of the attempts taken back, where errors are told by a function.

    `error` takes the number of steps that stand and the value.
    """
    memory, taken, back = controller.init(knob), [], []
    for n in range(steps):
        value, memory = controller.choose(memory, StepState(float(n), 1e9, knob))
        for _ in range(30):
            verdict, memory = controller.judge(memory, told(value, knob, error(n, value)))
            if verdict.accepted:
                break
            back.append(value)
            value = verdict.retry
        else:
            raise AssertionError(f"step {n} was rejected thirty times, last with {value}")
        taken.append(value)
    return taken, back


class ScipySteps(Stepper):
    """Dormand and Prince's pair with scipy's coefficients and norm; 1 is its tolerance."""

    def __init__(self, function, y, rtol, atol):
        self.knob = Knob("dt", "1", 1e-12, 1e3, order=5.0)
        self.function, self.y, self.time, self.rtol, self.atol = function, y, 0.0, rtol, atol

    def attempt(self, value, until):
        h, stages = value, [self.function(self.time, self.y)]
        for a, c in zip(RK45.A[1:], RK45.C[1:], strict=True):
            slope = sum(w * k for w, k in zip(a, stages, strict=False))
            stages.append(self.function(self.time + c * h, self.y + h * slope))
        self._y = self.y + h * sum(w * k for w, k in zip(RK45.B, stages, strict=True))
        self._end = ending(self.time, h, until)
        stages.append(self.function(self.time + h, self._y))
        scale = self.atol + self.rtol * np.maximum(np.abs(self.y), np.abs(self._y))
        gap = h * sum(w * k for w, k in zip(RK45.E, stages, strict=True))
        error = float(np.sqrt(np.mean((gap / scale) ** 2)))
        return StepResult(self.time, h, h, self.knob, error, cost=6.0)

    def accept(self):
        self.y, self.time = self._y, self._end

    def reject(self):
        pass

    def restart(self):
        return {"y": self.y}


def test_the_elementary_rule_takes_the_steps_of_scipy():
    def forced(t, y):
        return np.array([y[1], 8.0 * (1 - y[0] ** 2) * y[1] - y[0]])

    y, first = np.array([2.0, 0.0]), 1e-4
    theirs = solve_ivp(forced, (0.0, 20.0), y, rtol=1e-5, atol=1e-7, first_step=first)
    stepper = ScipySteps(forced, y, 1e-5, 1e-7)
    elementary = PI(1.0, first, 0.9, 0.2, 10.0, 10.0, k_i=1.0, k_p=0.0)
    leg = Stepping(stepper, elementary).to(20.0)
    times = np.array([r.time for r in leg.taken])
    assert len(leg.rejected) > 5
    # All but the last two, which share the rest here.
    np.testing.assert_allclose(times[:-2], theirs.t[: len(times) - 2], rtol=1e-9)
    np.testing.assert_allclose(stepper.y, theirs.y[:, -1], rtol=1e-4, atol=1e-5)


def test_pi_is_the_formula_of_hairer_and_wanner():
    rng = np.random.default_rng(3)
    errors = 10 ** rng.uniform(-3, 0, 30)  # in units of the tolerance
    controller = PI(TOL, first=1.0, safety=0.8, k_i=0.35, k_p=0.4, **WIDE)
    taken, back = feed(controller, lambda n, v: TOL * errors[n], 30)
    assert back == []
    alpha, beta = 0.75 / 5, 0.4 / 5
    values = [1.0, 0.8 * errors[0] ** (-1 / 5)]
    for n in range(1, 29):
        values.append(values[-1] * 0.8**0.35 * errors[n] ** -alpha * errors[n - 1] ** beta)
    np.testing.assert_allclose(taken, values, rtol=1e-12)


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_is_a_linear_filter_of_the_logarithms(name):
    rng = np.random.default_rng(4)
    safety, order = 0.9, DT.order
    aim = safety**order
    # Three steps at the aim, and the filter has no history.
    errors = aim * np.append(np.ones(3), 10 ** rng.uniform(-0.2, 0.2, 30))
    controller = PID(TOL, first=1.0, safety=safety, filter=name, limiter="clip", **WIDE)
    taken, back = feed(controller, lambda n, v: TOL * errors[n], 33)
    assert back == []
    b1, b2, b3, a2, a3 = FILTERS[name]
    loop = np.polymul([1.0, -1.0], [1.0, a2, a3])
    logs = lfilter([b1, b2, b3], loop, np.log(aim / errors) / order)
    np.testing.assert_allclose(np.log(taken[1:]), logs[:-1], rtol=1e-9, atol=1e-12)


def test_the_limiter_is_one_plus_the_arctangent_of_what_is_beyond_one():
    errors = 10 ** np.random.default_rng(5).uniform(-3, 0, 9)
    taken, _ = feed(PID(TOL, first=1.0, filter="elementary", **WIDE), lambda n, v: TOL * errors[n], 9)
    plain = 0.9 * errors[1:-1] ** (-1 / DT.order)
    np.testing.assert_allclose(np.divide(taken[2:], taken[1:-1]), 1 + np.arctan(plain - 1), rtol=1e-12)


def test_filters_have_the_orders_in_their_names():
    # Of zeros at -1, which the fastest swings do not pass: one, for 312 two.
    for name, (b1, b2, b3, a2, a3) in FILTERS.items():
        errors, values = np.array([b1, b2, b3]), np.array([1.0, a2, a3])
        if name.startswith("h0_"):  # all roots of the closed loop at 0: settled after three steps
            np.testing.assert_allclose(
                np.polyadd(np.polymul([1, -1], values), errors), [1, 0, 0, 0], atol=1e-15
            )
        digits = name.removeprefix("h0_").removeprefix("h")[:3]
        if digits.isdigit():
            assert np.polyval(errors, -1) == pytest.approx(0, abs=1e-15)
            assert (digits == "312") == (abs(np.polyval(np.polyder(errors), -1)) < 1e-15)
        # Second order of adaptivity: what grows steadily is followed.
        assert (digits == "321") == (abs(values.sum()) < 1e-15)


def radau(errors, first, order, safe=0.9, least=1 / 5, most=8.0):
    """Steps as the code of Hairer and Wanner has them, with its own names; errors of attempts in turn."""
    h, hacc, erracc, values, stands, reject = first, None, None, [first], [], False
    for err in errors:
        quot = max(1 / most, min(1 / least, err ** (1 / order) / safe))
        hnew = h / quot
        if err < 1:
            if hacc is not None:
                facgus = (hacc / h) * (err**2 / erracc) ** (1 / order) / safe
                quot = max(quot, 1 / most, min(1 / least, facgus))
                hnew = h / quot
            hacc, erracc = h, max(1e-2, err)
            if reject:
                hnew = min(hnew, h)
            reject = False
        else:
            reject = True
        stands.append(err < 1)
        h = hnew
        values.append(h)
    return values, stands


def test_predictive_control_is_that_of_radau5():
    rng = np.random.default_rng(5)
    errors = 10 ** rng.uniform(-3, 0, 60)
    errors[[7, 20, 33, 45]] = [3.0, 1.7, 30.0, 2.0]  # never two in a row
    expected, stands = radau(errors, 1.0, 4.0)
    knob = Knob("dt", "s", 1e-30, 1e30, order=4.0)
    controller = Predictive(TOL, first=1.0, factor_max=8.0, factor_first=8.0)
    memory, values = controller.init(knob), []
    for err, stood in zip(errors, stands, strict=True):
        value, memory = controller.choose(memory, StepState(0.0, 1e40, knob))
        values.append(value)
        verdict, memory = controller.judge(memory, told(value, knob, TOL * err))
        assert verdict.accepted == stood
    np.testing.assert_allclose(values, expected[:-1], rtol=1e-12)


def test_predictive_control_learns_the_order_from_two_rejections():
    # The error goes with the power 2 of the value, not 5: the third attempt is at the aim.
    taken, back = feed(
        Predictive(TOL, first=1.0, factor_min=1e-3), lambda n, v: TOL * (1e6 if n else 0.5) * v**2, 3
    )
    assert len(back) == 2
    assert 1e6 * taken[1] ** 2 == pytest.approx(0.9**2)
    # The elementary rule needs more.
    assert (
        len(feed(PI(TOL, first=1.0, factor_min=1e-3), lambda n, v: TOL * (1e6 if n else 0.5) * v**2, 3)[1])
        > 4
    )


def test_newton_iterations_near_the_limit_lower_the_aim():
    def second(iterations):
        controller = Predictive(TOL, first=1.0, most_iterations=7)
        memory = controller.init(DT)
        memory = controller.judge(memory, told(1.0, DT, TOL, iterations=iterations))[1]
        return memory["wanted"]

    assert second(1) == pytest.approx(0.9)
    assert second(7) == pytest.approx(0.9 * 15 / 21)


@pytest.mark.parametrize("knob", [DT, MU], ids=["dt", "mu"])
@pytest.mark.parametrize("name", BY_ERROR)
def test_the_error_settles_at_the_aim(name, knob):
    controller = BY_ERROR[name].replace(safety=0.95)
    for constant in (1e-7, 1e3):
        taken, back = feed(controller, lambda n, v, c=constant: c * v**knob.order, 300, knob)
        error = constant * taken[-1] ** knob.order
        assert error / TOL == pytest.approx(0.95**knob.order, rel=1e-3)
        assert len(back) <= 12
        assert all(constant * v**knob.order <= TOL for v in taken)


@given(st.floats(0.01, 2.5), st.floats(0.0, 1.5))
def test_gains_are_taken_where_the_closed_loop_is_stable(k_i, k_p):
    radius = np.abs(np.roots([1.0, k_i + k_p - 1, -k_p])).max()
    assume(abs(radius - 1) > 1e-6)
    if radius > 1:
        with pytest.raises(Invalid, match="unstable"):
            PI(TOL, k_i=k_i, k_p=k_p)
        return
    controller = PI(TOL, first=1.0, safety=0.5, k_i=k_i, k_p=k_p, **WIDE)
    aim = TOL * 0.5**5
    # A little off the aim at first, and no error so large that a step is taken back.
    steps = int(min(3 / (1 - radius), 200)) + 5
    values, back = feed(controller, lambda n, v: aim * (1.02 if n < 2 else v**5), steps)
    assert back == []
    assert abs(math.log(values[-1])) < 0.2


@given(st.tuples(*[st.floats(-1.5, 1.5)] * 5))
def test_coefficients_are_taken_where_the_closed_loop_is_stable(betas):
    b1, b2, b3, a2, a3 = betas
    loop = np.polyadd(np.polymul([1.0, -1.0], [1.0, a2, a3]), [b1, b2, b3])
    radius = np.abs(np.roots(loop)).max()
    assume(abs(radius - 1) > 1e-3)
    if radius < 1:
        assert PID(TOL, betas=betas).coefficients == betas
    else:
        with pytest.raises(Invalid, match="unstable"):
            PID(TOL, betas=betas)


def test_a_trend_is_followed_by_predictive_control_alone():
    def growing(n, v):
        return 1e-6 * 1.8**n * v**5

    trend = feed(Predictive(TOL, first=1.0), growing, 40)[1]
    elementary = feed(PI(TOL, first=1.0, k_i=1.0, k_p=0.0), growing, 40)[1]
    assert len(trend) <= 2
    assert len(elementary) >= 20  # 0.9^5 * 1.8 > 1: every step at the aim is followed by one above


def test_proportional_control_has_fewer_steps_taken_back_where_errors_swing():
    def rejected(controller):
        stepper = Oscillator(5.0)
        return len(Stepping(stepper, controller).to(20.0).rejected)

    assert rejected(PI(1e-3)) < 0.75 * rejected(PI(1e-3, k_i=1.0, k_p=0.0))


@pytest.mark.parametrize("name", BY_ERROR)
def test_a_jump_of_the_error_is_met_by_shorter_steps_and_no_growth_after(name):
    controller = BY_ERROR[name]
    jump = 60

    def error(n, v):
        return (1e-6 if n < jump else 1e-1) * v**5

    taken, back = feed(controller, error, 120)
    late = [v for v in back if error(jump, v) > TOL and v > taken[jump]]
    assert 1 <= len(late) <= 4
    assert all(b > a for a, b in zip([*late[1:], taken[jump]], late, strict=True))
    assert taken[jump + 1] <= taken[jump] * (1 + 1e-12)
    assert error(jump, taken[-1]) == pytest.approx(TOL * 0.9**5, rel=0.05)


def test_a_step_that_failed_is_cut_and_not_learned_from():
    controller = PI(TOL, first=1.0, cut=0.1)
    memory = controller.init(DT)
    verdict, memory = controller.judge(memory, told(1.0, DT, math.nan, converged=False))
    assert verdict.retry == pytest.approx(0.1)
    verdict, memory = controller.judge(memory, told(0.1, DT, 1e-12))
    assert verdict.accepted
    assert memory["wanted"] == 0.1  # no growth right after, however small the error
    assert controller.judge(memory, told(0.1, DT, 1e-12))[1]["wanted"] == 0.5


@pytest.mark.parametrize("name", BY_ERROR)
def test_a_step_that_was_shortened_does_not_shorten_the_next(name):
    controller = BY_ERROR[name].replace(first=0.5)
    memory = controller.init(DT)
    for _ in range(8):
        value, memory = controller.choose(memory, StepState(0.0, 1e9, DT))
        memory = controller.judge(memory, told(value, DT, TOL * 0.9**5 * (value / 0.5) ** 5))[1]
    before = controller.choose(memory, StepState(0.0, 1e9, DT))[0]
    for part in (1e-6, 0.3, 0.9):
        memory = controller.judge(memory, told(part * before, DT, TOL * 0.5 * part**5))[1]
        assert controller.choose(memory, StepState(0.0, 1e9, DT))[0] == pytest.approx(before, rel=0.15)
        assert controller.choose(memory, StepState(0.0, 1e9, DT))[0] >= before
    # An interval that ended early tells less than a whole one.
    memory = controller.init(MU)
    short = StepResult(0.0, 0.01, 0.5, MU, TOL * 1e-9)
    assert controller.judge(memory, short)[1]["wanted"] == 0.5


@pytest.mark.parametrize("name", BY_ERROR)
def test_the_unit_of_time_and_of_the_error_change_nothing(name):
    controller = BY_ERROR[name]

    def lengths(unit):
        stepper = Oscillator(2.0, unit)
        leg = Stepping(stepper, controller).to(8.0 * unit)
        return [r.length / unit for r in leg.taken], [r.length / unit for r in leg.rejected]

    (taken, back), (other, other_back) = lengths(1.0), lengths(3600.0)
    np.testing.assert_allclose(taken, other, rtol=1e-6)
    np.testing.assert_allclose(back, other_back, rtol=1e-6)

    def told_in(unit):
        return feed(
            controller.replace(tolerance=TOL * unit), lambda n, v: unit * (1 + n % 5) * 1e-5 * v**5, 40
        )

    np.testing.assert_allclose(told_in(1.0)[0], told_in(1e6)[0], rtol=1e-9)


def test_work_falls_with_the_tolerance_as_the_order_says():
    def work(tolerance):
        stepper = Oscillator(2.0)
        Stepping(stepper, PI(1e-12, 1e-3)).to(1.0)  # away from the start
        return Stepping(stepper, PI(tolerance, 1e-4)).to(7.0).cost

    assert work(1e-8) / work(1e-5) == pytest.approx(1e3 ** (1 / 3), rel=0.15)


def test_growth_that_is_not_worth_a_factorisation_is_not_made():
    taken, _ = feed(PI(TOL, first=1.0, least_growth=1.5), lambda n, v: TOL * 0.2 * v**5 / 1.02**n, 60)
    ratios = {round(b / a, 9) for a, b in pairwise(taken)}
    assert 1.0 in ratios
    assert all(r == 1 or r >= 1.4 for r in ratios)


def test_the_lower_bound_is_tried_before_the_run_ends_or_the_step_stands():
    knob = Knob("dt", "s", 1e-3, 1.0, order=3.0)

    def run(controller):
        stepper = Scripted(knob, lambda t, v: 1.0 if 0.5 < t < 0.55 else 4.0 * v**3)
        Stepping(stepper, controller).to(1.0)
        return stepper

    with pytest.raises(Diverged, match=r"pi wants dt = 0\.0002 .* takes no less than 0\.001"):
        run(PI(1e-3))
    stepper = run(PI(1e-3, lowest="accept"))
    assert any(t > 0.5 and v == 1e-3 for t, v in stepper.tried)
    assert max(v for t, v in stepper.tried if t > 0.7) > 0.04


def test_the_first_value():
    assert PI(TOL).init(Knob("dt", "s", 1e-8, 1.0))["wanted"] == pytest.approx(1e-4)
    assert PI(TOL, first=0.1).init(DT)["wanted"] == 0.1
    with pytest.raises(Invalid, match=r"pi: first = 0\.1, and the solver takes dt from 1 to 2 s"):
        PI(TOL, first=0.1).init(Knob("dt", "s", 1.0, 2.0))
    # Far off on either side it is found in a few steps.
    for constant in (1e-20, 1e12):
        taken, back = feed(PI(TOL), lambda n, v, c=constant: c * v**5, 12)
        assert constant * taken[-1] ** 5 > 1e-2 * TOL
        assert len(back) < 4


@pytest.mark.parametrize("name", ["pi", "predictive", "pid_h211b"])
def test_without_an_estimate_there_is_no_control_by_error(name):
    controller = BY_ERROR[name]
    with pytest.raises(Invalid, match="needs an estimate of the error .* fixed_step or iteration_count"):
        Stepping(Scripted(DT, lambda t, v: math.nan), controller).to(1.0)
    # An infinite error is one.
    verdict, _ = controller.judge(controller.init(DT), told(1.0, DT, math.inf))
    assert 0 < verdict.retry < 1


def test_a_fixed_step_is_fixed():
    stepper = Scripted(Knob("dt", "s", 1e-3, 1.0), lambda t, v: math.nan)
    leg = Stepping(stepper, FixedStep(0.25)).to(1.0)
    assert [r.value for r in leg.taken] == [0.25] * 4
    with pytest.raises(Diverged, match="fixed_step retries no step"):
        Stepping(Scripted(DT, lambda t, v: 0.0, fails=lambda t, v: t > 1), FixedStep(0.5)).to(3.0)
    with pytest.raises(Invalid, match=r"fixed_step: value = 2, and the solver takes dt from 0\.001 to 1 s"):
        Stepping(stepper, FixedStep(2.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedStep(-1.0), "positive number"),
        (lambda: FixedStep(math.inf), "positive number"),
        (lambda: PI(0.0), "tolerance must be positive"),
        (lambda: PI(math.nan), "tolerance must be positive"),
        (lambda: PI(TOL, first=0.0), "first value must be positive"),
        (lambda: PI(TOL, safety=1.5), "safety"),
        (lambda: PI(TOL, cut=1.0), "cut"),
        (lambda: PI(TOL, factor_min=2.0), "factor_min"),
        (lambda: PI(TOL, factor_max=0.9), "factor_min"),
        (lambda: PI(TOL, factor_first=0.5), "factor_first"),
        (lambda: PI(TOL, least_growth=9.0), "least_growth"),
        (lambda: PI(TOL, lowest="panic"), "not one of fail, accept"),
        (lambda: PI(TOL, k_i=1.0, k_p=0.6), "unstable"),
        (lambda: PID(TOL, filter="h999"), "not one of elementary, pi34"),
        (lambda: PID(TOL, betas=(2.5, 0.0, 0.0, 0.0, 0.0)), "unstable"),
        (lambda: PID(TOL, limiter="hope"), "not one of arctan, clip"),
        (lambda: Predictive(TOL, most_iterations=-1), "most_iterations"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, message):
    with pytest.raises(Invalid, match=message):
        make()


@pytest.mark.parametrize("name", BY_ERROR)
def test_they_conform(name):
    check_component(BY_ERROR[name])
    check_step_controller(BY_ERROR[name])
