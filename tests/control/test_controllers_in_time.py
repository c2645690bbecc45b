"""IterationCount, MaximumStep and StopAt: steps by Newton's method, under a bound, and to the point."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciflow.errors import Diverged, Invalid
from sciflow.step_controller import Knob, StepResult, StepState
from sciflow.stepping import Stepping
from sciflow.testing import check_component, check_step_controller
from sciflow_control.controllers.fixed_step import FixedStep
from sciflow_control.controllers.guarded import Guarded
from sciflow_control.controllers.iteration_count import IterationCount
from sciflow_control.controllers.maximum_step import MaximumStep
from sciflow_control.controllers.pi import PI
from sciflow_control.controllers.stop_at import StopAt
from tests.control.steppers import Scripted

DT = Knob("dt", "s", 1e-6, 10.0, order=3.0)
MU = Knob("mu", "1", 1e-6, 10.0, order=4.0, held=0.1)


def smooth(t, v):
    return 1e-3 * v**3


def counted(controller, iterations, failed=()):
    """Values wanted after steps with given numbers of iterations, from 1; some of them fail."""
    memory, wanted = controller.init(DT), []
    for i, n in enumerate(iterations):
        value, memory = controller.choose(memory, StepState(0.0, 1e9, DT))
        result = StepResult(0.0, value, value, DT, math.nan, n, 1.0, i not in failed)
        verdict, memory = controller.judge(memory, result)
        assert verdict.accepted == (i not in failed)
        wanted.append(memory["wanted"])
        assert verdict.retry in (None, memory["wanted"])
    return wanted


def moose(iterations, failed, optimal, window, growth, cutback, failure):
    """The rule as its documentation states it."""
    dt, grown, out = 1.0, True, []
    for i, n in enumerate(iterations):
        if i in failed:
            dt, grown = dt * failure, False
        elif n < optimal - window and grown:
            dt *= growth
        elif n > optimal + window:
            dt, grown = dt * cutback, True
        else:
            grown = True
        out.append(dt)
    return out


@given(st.lists(st.integers(0, 12), min_size=1, max_size=12), st.sets(st.integers(0, 11), max_size=3))
def test_iterations_decide(iterations, failed):
    controller = IterationCount(6, 1, 1.2, 0.6, 0.5, first=1.0)
    expected = moose(iterations, failed, 6, 1, 1.2, 0.6, 0.5)
    assert counted(controller, iterations, failed) == pytest.approx(expected)


def test_the_window_is_a_fifth_of_the_optimum():
    for optimal, window in {1: 0, 5: 1, 6: 2, 11: 3}.items():
        c = IterationCount(optimal, first=1.0)
        assert counted(c, [optimal + window, max(optimal - window, 1)]) == [1.0, 1.0]
        assert counted(c, [optimal + window + 1]) == [0.5]


def test_steps_settle_where_iterations_are_optimal():
    # Ten iterations for a step of 0.4 that fails beyond: the rule keeps to between 5 and 7.
    def needed(t, v):
        return math.ceil(25 * v)

    stepper = Scripted(DT, smooth, fails=lambda t, v: v > 0.4, iterations=needed)
    leg = Stepping(stepper, IterationCount(6, 1, 1.3, 0.8, first=0.01)).to(20.0)
    late = [needed(0, r.value) for r in leg.taken[15:-2]]
    assert min(late) >= 4
    assert max(late) <= 8
    assert leg.rejected == []
    # A failure is taken back, a shortened step does not shorten what follows.
    stepper = Scripted(DT, smooth, fails=lambda t, v: 1 < t < 1.2 and v > 0.01, iterations=needed)
    stepping = Stepping(stepper, IterationCount(6, 1, 1.3, 0.8, first=0.25))
    assert len(stepping.to(1.3).rejected) >= 5
    before = stepping.memory["wanted"]
    stepping.to(1.3 + 1e-4)
    assert stepping.memory["wanted"] >= before


def test_steps_that_fail_whatever_their_length_end_the_run():
    with pytest.raises(Diverged, match="iteration_count wants dt = .* takes no less than 1e-06"):
        Stepping(Scripted(DT, smooth, fails=lambda t, v: True), IterationCount()).to(1.0)


def cap(controller, times, values, between, t):
    """The bound, by numpy."""
    if between == "linear":
        return float(np.interp(t, times, values))
    return values[max(int(np.searchsorted(times, t, side="right")) - 1, 0)]


@given(
    st.lists(st.tuples(st.floats(0.01, 2.0), st.floats(1e-3, 3.0)), min_size=1, max_size=6),
    st.floats(-1.0, 8.0),
    st.sampled_from(["linear", "constant"]),
)
def test_a_bound_holds_all_along_a_step_and_no_longer_step_keeps_it(points, begin, between):
    times = tuple(np.cumsum([g for g, _ in points]).tolist())
    values = tuple(v for _, v in points)
    controller = MaximumStep(FixedStep(10.0), times, values, between)

    def keeps(h):
        at = [begin + p * h for p in np.linspace(0, 1, 400, endpoint=between == "linear")]
        at += [t for t in times if begin < t < begin + h * (1 - 1e-9)]
        return all(h <= cap(controller, times, values, between, t) * (1 + 1e-7) for t in at)

    h, _ = controller.choose({}, StepState(begin, 1e9, DT))
    assert h > 0
    assert keeps(h)
    assert not keeps(h * 1.01)
    assert controller.at(begin) == pytest.approx(cap(controller, times, values, between, begin))


def test_a_bound_is_kept_in_a_run_and_what_was_wanted_is_not_forgotten():
    def longest(between):
        stepper = Scripted(DT, smooth)
        controller = MaximumStep(PI(1e-4, 0.4), (0.0, 2.0, 4.0), (1.0, 0.05, 1.0), between)
        leg = Stepping(stepper, controller).to(10.0)
        return [(r.time, r.length) for r in leg.taken]

    for between in ("linear", "constant"):
        lengths = longest(between)
        assert all(h <= cap(None, (0.0, 2.0, 4.0), (1.0, 0.05, 1.0), between, t) + 1e-9 for t, h in lengths)
        assert max(h for t, h in lengths if t > 4) > 0.4
    # The step before the jump ends there.
    assert any(t == pytest.approx(2.0, abs=1e-12) for t, _ in longest("constant"))
    # For a parameter the least bound within the interval counts.
    controller = MaximumStep(FixedStep(5.0), (0.0, 0.05, 1.0), (3.0, 2.0, 4.0))
    assert controller.choose({}, StepState(0.0, 9.0, MU))[0] == 2.0
    assert controller.choose({}, StepState(0.0, 0.02, MU))[0] == pytest.approx(2.6)


def test_times_are_met_exactly_and_short_steps_follow():
    stops = (0.1 + 0.2, 1.1, 2.7)
    stepper = Scripted(DT, smooth)
    stepping = Stepping(stepper, StopAt(PI(1e-4, 0.3), stops, after=1e-3, growth=3.0))
    leg = stepping.to(4.0)
    ends = [r.time for r in leg.taken]
    assert set(stops) <= set(ends)
    for stop in stops:
        at = ends.index(stop)
        lengths = [r.length for r in leg.taken[at : at + 4]]
        np.testing.assert_allclose(lengths, [1e-3, 3e-3, 9e-3, 27e-3], rtol=1e-9)
    assert max(r.length for r in leg.taken) > 0.4  # and are forgotten in time
    plain = Stepping(Scripted(DT, smooth), StopAt(PI(1e-4, 0.3), stops)).to(4.0)
    assert set(stops) <= {r.time for r in plain.taken}
    assert len(plain.taken) < len(leg.taken) - 15


def test_a_time_that_is_met_anyway_is_not_met_twice():
    three = 3 * 0.1  # 0.30000000000000004
    controller = StopAt(FixedStep(0.1), (0.3, 0.7), after=0.01)
    stepper = Scripted(DT, smooth)
    stepping = Stepping(stepper, controller)
    stepping.to(three)
    assert stepper.time == three
    leg = stepping.to(0.7000000000000001)
    assert min(r.length for r in leg.taken) > 1e-3
    assert leg.taken[0].length == 0.01  # right after what was passed
    assert stepping.to(1.0).taken[0].length == 0.01
    # What lies before the start is passed over.
    assert controller.next_stop(0.5, 2.0) == 0.7
    assert controller.next_stop(0.7, 2.0) == 2.0
    assert controller.next_stop(0.0, 0.2) == 0.2
    assert StopAt(FixedStep(0.1), (three,)).next_stop(0.3, 2.0) == 2.0
    late = Scripted(DT, smooth)
    late.time = 0.5
    assert Stepping(late, controller).to(0.6).taken[0].length == pytest.approx(0.1)


def test_a_step_taken_back_after_a_time_lowers_its_bound():
    stepper = Scripted(DT, lambda t, v: 1e9 * v**3 if t >= 1 else 1e-6 * v**3)
    leg = Stepping(stepper, StopAt(PI(1e-4, 0.3), (1.0,), after=0.1)).to(1.01)
    tried = [v for t, v in stepper.tried if t == 1.0]
    assert tried[0] == pytest.approx(0.01)  # the rest up to the end
    assert tried[-1] < 1e-4
    assert leg.rejected
    assert all(r.error <= 1e-4 for r in leg.taken)


def test_an_interval_ends_at_a_time():
    stepper = Scripted(MU, smooth)
    leg = Stepping(stepper, StopAt(FixedStep(0.5), (0.25,), after=0.1)).to(1.0)
    assert 0.25 in [r.time for r in leg.taken]
    after = [r.value for r in leg.taken if r.time >= 0.25]
    assert after[:4] == pytest.approx([0.1, 0.2, 0.4, 0.5])


def test_they_stand_in_each_other():
    stops = StopAt(MaximumStep(PI(1e-4), (0.0, 1.0), (0.5, 0.1)), (0.3,), after=0.01)
    for controller in (
        stops,
        MaximumStep(StopAt(PI(1e-4), (0.3,)), (0.0,), (0.2,)),
        StopAt(StopAt(IterationCount(), (0.1,)), (0.3,)),
        Guarded(FixedStep(0.07), stops),
    ):
        check_component(controller)
        check_step_controller(controller)
        leg = Stepping(Scripted(DT, smooth), controller).to(2.0)
        assert 0.3 in [r.time for r in leg.taken]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IterationCount(0), "optimal"),
        (lambda: IterationCount(3, 3), "window"),
        (lambda: IterationCount(growth=1.0), "growth"),
        (lambda: IterationCount(cutback=1.0), "cutback"),
        (lambda: IterationCount(failure=0.0), "failure"),
        (lambda: IterationCount(first=-1.0), "first value"),
        (
            lambda: IterationCount(first=100.0).init(DT),
            "first = 100, and the solver takes dt from",
        ),
        (lambda: IterationCount().init(replace(DT, iterates=False)), "are explicit"),
        (lambda: MaximumStep(PI(1e-4), (), ()), "at least one"),
        (lambda: MaximumStep(PI(1e-4), (0.0, 1.0), (1.0,)), "as many values as times"),
        (lambda: MaximumStep(PI(1e-4), (1.0, 0.0), (1.0, 1.0)), "increase"),
        (lambda: MaximumStep(PI(1e-4), (0.0,), (0.0,)), "positive"),
        (lambda: MaximumStep(PI(1e-4), (0.0,), (1.0,), "curved"), "not one of linear, constant"),
        (lambda: MaximumStep(PI(1e-4), (0.0,), (1e-9,)).init(DT), "takes no dt below 1e-06"),
        (lambda: StopAt(PI(1e-4), (1.0, math.nan)), "finite"),
        (lambda: StopAt(PI(1e-4), (1.0, 1.0)), "increase"),
        (lambda: StopAt(PI(1e-4), (1.0,), after=0.0), "positive"),
        (lambda: StopAt(PI(1e-4), (1.0,), growth=1.0), "growth"),
        (lambda: StopAt(PI(1e-4), (1.0,), after=1e-9).init(DT), "after = 1e-09, and the solver takes dt"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, message):
    with pytest.raises(Invalid, match=message):
        make()
