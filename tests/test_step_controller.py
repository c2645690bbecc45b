"""The driver of steppers: times are met, bad values refused, and a stored run goes on with its bits."""

import json
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciflow.errors import Diverged, Invalid
from sciflow.step_controller import (
    ACCEPT,
    CLOSE,
    Knob,
    StepController,
    Stepper,
    StepResult,
    TakesSteps,
    ending,
    reject,
    shortened,
)
from sciflow.stepping import MEMORY, PREFIX, Leg, Stepping, unsteered
from sciflow.testing import check_step_controller, check_stepper

DT = Knob("dt", "s", 1e-6, 1.0)
MU = Knob("mu", "1", 1e-6, 1.0, order=4.0, held=0.1)


class Decay(Stepper):
    """y' = -y by implicit Euler, with half the second difference as the error."""

    def __init__(self, knob=DT, restart=None, failing=()):
        self.knob = knob
        self.time, self.y, self.failing, self.tried, self.open = 0.0, 1.0, failing, [], False
        if restart is not None:
            self.time, self.y = float(restart["time"]), float(restart["y"])

    def attempt(self, value, until):
        assert not self.open, "the last attempt was neither accepted nor rejected"
        self.open = True
        length = value if self.knob.is_length else min(self.knob.held, until - self.time)
        self.tried.append(value)
        self._y, self._end = self.y / (1 + length), ending(self.time, length, until)
        failed = len(self.tried) in self.failing
        return StepResult(
            *(self.time, length, value, self.knob, abs(self.y) * length**2 / 2, 1, 1.0),
            converged=not failed and math.isfinite(self._y),
        )

    def accept(self):
        self.y, self.time, self.open = self._y, self._end, False

    def reject(self):
        self.open = False

    def restart(self):
        return {"time": np.array(self.time), "y": np.array(self.y)}


@dataclass(frozen=True)
class Scripted(StepController):
    """Chooses given values in turn, for ever the last; halves what does not converge or is above a bound."""

    name: ClassVar[str] = "scripted"
    values: tuple[float, ...] = (0.1,)
    most: float = 1e9
    half: float = 0.5

    def init(self, knob, features=()):
        return {"n": 0}

    def choose(self, memory, state):
        n = memory["n"]
        return self.values[min(n, len(self.values) - 1)], {"n": n + 1}

    def judge(self, memory, result):
        fine = result.converged and result.value <= self.most
        return (ACCEPT if fine else reject(self.half * result.value)), memory


def steps(controller, until, knob=DT, **options):
    stepper = Decay(knob, **options)
    leg = Stepping(stepper, controller).to(until)
    assert stepper.time == until
    return leg


@given(st.floats(1e-3, 1.0), st.lists(st.floats(1e-3, 3.0), min_size=1, max_size=6))
def test_every_time_is_met_exactly_whatever_is_chosen(value, gaps):
    stepper = Decay()
    stepping = Stepping(stepper, Scripted((value,)))
    until = 0.0
    for gap in gaps:
        until += gap
        leg = stepping.to(until)
        assert stepper.time == until
        lengths = [r.length for r in leg.taken]
        assert max(lengths) <= value * (1 + 2 * CLOSE)
        assert min(lengths) >= min(gap, value) * 0.49  # never a sliver
        assert math.fsum(lengths) == pytest.approx(gap)


def test_the_last_steps_before_a_time_share_the_rest():
    assert [r.value for r in steps(Scripted((0.4,)), 1.0).taken] == pytest.approx([0.4, 0.3, 0.3])
    assert [r.value for r in steps(Scripted((0.5,)), 1.0).taken] == pytest.approx([0.5, 0.5])
    # Less than a thousandth would be left: the step goes all the way, however little is missing.
    assert [r.value for r in steps(Scripted((0.3331,)), 0.3333).taken] == [0.3333]
    assert shortened(5.0, 1.0) == 1.0
    assert shortened(0.2, 1.0) == 0.2


def test_values_are_clipped_to_the_bounds_and_a_parameter_is_never_shortened():
    assert [r.value for r in steps(Scripted((7.0,)), 2.5).taken] == [1.0, 0.75, 0.75]
    leg = steps(Scripted((7.0, 0.2)), 0.25, MU)
    assert [r.value for r in leg.taken] == [1.0, 0.2, 0.2]
    assert [r.length for r in leg.taken] == pytest.approx([0.1, 0.1, 0.05])


def test_a_step_below_the_lower_bound_is_taken_only_to_meet_a_time():
    assert [r.value for r in steps(Scripted((0.1,)), 1e-9).taken] == [1e-9]
    with pytest.raises(Diverged, match=r"wants dt = 1e-07 at time 0, the solver takes no less than 1e-06"):
        steps(Scripted((1e-7,)), 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0, "long", None])
def test_a_value_that_is_no_positive_number_is_refused(value):
    with pytest.raises(Invalid, match="scripted chose dt = "):
        steps(Scripted((value,)), 1.0)


def test_errors_that_no_step_avoids_drive_dt_to_its_bound_and_say_so():
    words = r"wants dt = .* at time 0 after an error of .* with 1.91e-06, .* no less than 1e-06; loosen the"
    with pytest.raises(Diverged, match=words):
        steps(Scripted((0.5,), most=0.0), 1.0)
    words = r"wants dt = .* at time 0 after the step failed with 1.91e-06, .* no less than 1e-06; lower that"
    with pytest.raises(Diverged, match=words):
        steps(Scripted((0.5,)), 1.0, failing=range(100))
    with pytest.raises(
        Diverged, match=r"the step with dt = .* s at time 0 was rejected as 40 before it, .* 0\.1"
    ):
        steps(Scripted((0.5,), most=0.0, half=0.999), 1.0)


def test_a_failed_step_that_nothing_retries_ends_the_run_where_it_was():
    @dataclass(frozen=True)
    class Blind(Scripted):
        name: ClassVar[str] = "blind"

        def judge(self, memory, result):
            return ACCEPT, memory

    stepper = Decay(failing=(3,))
    with pytest.raises(Diverged, match=r"dt = 0\.1 s at time 0\.2 failed, and blind retries no step"):
        Stepping(stepper, Blind()).to(1.0)
    assert stepper.time == pytest.approx(0.2)
    stepper = Decay()
    stepper.y = math.nan
    with pytest.raises(Diverged, match="rejected as 5 before it"):
        Stepping(stepper, Scripted(), patience=5).to(1.0)


def test_attempts_are_noted_and_paid_for():
    leg = steps(Scripted((0.4,), most=0.25), 1.0)
    assert [r.value for r in leg.rejected] == pytest.approx([0.4, 0.4, 0.3])
    assert leg.cost == len(leg.taken) + len(leg.rejected)
    assert Leg().cost == 0
    assert Stepping(stepper := Decay(), Scripted()).to(0.0).taken == []
    assert stepper.tried == []


def test_a_controller_may_have_a_time_met():
    @dataclass(frozen=True)
    class Stops(Scripted):
        name: ClassVar[str] = "stops"

        def next_stop(self, time, until):
            return 0.1 + 0.2 if time < 0.1 + 0.2 < until else until

    leg = steps(Stops((1.0,)), 0.3001)
    assert [r.time + r.length for r in leg.taken] == [0.1 + 0.2, 0.3001]


@pytest.mark.parametrize("knob", [DT, MU])
def test_a_stored_run_goes_on_with_the_same_bits(knob):
    controller = Scripted((0.3, 0.01, 0.2, 0.05, 0.11), most=0.15)
    stepper = Decay(knob)
    stepping = Stepping(stepper, controller)
    stepping.to(0.5)
    arrays = {**stepping.saved(), **stepper.restart()}
    assert all(name == MEMORY for name in arrays if name.startswith(PREFIX))
    stepping.to(1.3)
    other = Decay(knob, restart=arrays)
    again = Stepping(other, controller, arrays)
    again.to(1.3)
    assert (other.y, other.time, again.memory) == (stepper.y, stepper.time, stepping.memory)
    with pytest.raises(Invalid, match="solved without a step controller"):
        Stepping(other, controller, other.restart())


@pytest.mark.parametrize("stop", [0.2, 0.1, -1.0, math.nan, math.inf, 0.6])
def test_a_time_to_be_met_lies_ahead(stop):
    @dataclass(frozen=True)
    class Stuck(Scripted):
        name: ClassVar[str] = "stuck"

        def next_stop(self, time, until):
            return stop if time > 0.15 else until

    with pytest.raises(Invalid, match="stuck wants to meet the time"):
        Stepping(Decay(), Stuck((0.2,))).to(0.5)


@pytest.mark.parametrize("time", [0.0, math.nan, 0.7])
def test_a_step_that_stands_goes_on(time):
    class Stuck(Decay):
        def accept(self):
            super().accept()
            self.time = time

    with pytest.raises(Invalid, match="Stuck stands at time"):
        Stepping(Stuck(), Scripted((0.2,))).to(0.5)


def test_a_solver_begins_at_a_time():
    stepper = Decay()
    stepper.time = math.nan
    with pytest.raises(Invalid, match="Decay stands at time nan"):
        Stepping(stepper, Scripted())
    with pytest.raises(Invalid, match=r"for example PI\(1e-3\), got 0.1"):
        Stepping(Decay(), 0.1)


@pytest.mark.parametrize("until", [math.nan, math.inf])
def test_the_end_is_a_time(until):
    with pytest.raises(Invalid, match="up to a finite time"):
        Stepping(Decay(), Scripted((0.2,))).to(until)


def test_only_the_same_controller_goes_on():
    stepping = Stepping(Decay(), Scripted((0.1, 0.2)))
    stepping.to(0.5)
    arrays = stepping.saved()
    unsteered({})
    with pytest.raises(Invalid, match="under a step controller, here there is none"):
        unsteered(arrays)
    with pytest.raises(Invalid, match="was steered by .*0.2.*here it is .*0.3"):
        Stepping(Decay(), Scripted((0.1, 0.3)), arrays)
    for damaged in (b"", b"{", b"7", b'{"memory": {}}'):
        with pytest.raises(Invalid, match="is damaged"):
            Stepping(Decay(), Scripted((0.1, 0.2)), {MEMORY: np.frombuffer(damaged, dtype=np.uint8)})


def test_a_field_that_holds_no_controller_is_refused():
    @dataclass(frozen=True)
    class Steered(TakesSteps):
        name: ClassVar[str] = "steered"
        stepping: StepController | None = None

        def stepper(self, mu, ctx, restart=None):
            return Decay()

    for good in (None, Scripted()):
        Steered(good).check_stepping()
    with pytest.raises(Invalid, match="stepping of steered is a step controller.*got 'pi'"):
        Steered("pi").check_stepping()


def test_memory_that_is_not_json_cannot_be_stored():
    stepping = Stepping(Decay(), Scripted())
    stepping.memory = {"rng": object()}
    with pytest.raises(TypeError):
        stepping.saved()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 1.0, "high": 0.1}, "positive and in order"),
        ({"low": 0.0}, "positive and in order"),
        ({"high": math.inf}, "positive and in order"),
        ({"low": math.nan}, "positive and in order"),
        ({"order": 0.0}, "order and effort"),
        ({"effort": -1.0}, "order and effort"),
        ({"held": 0.0}, "held for a positive time"),
    ],
)
def test_a_knob_that_cannot_be_is_refused(options, message):
    with pytest.raises(Invalid, match=message):
        Knob(**{"name": "dt", "unit": "s", "low": 1e-3, "high": 1.0, **options})


def test_no_controller_leaves_a_problem_as_it_was():
    @dataclass(frozen=True)
    class Old(TakesSteps):
        name: ClassVar[str] = "old"
        stepping: StepController | None = None

        def stepper(self, mu, ctx, restart=None):
            return Decay()

    assert Old().to_json() == {"component": "old"}
    assert Old(Scripted()).to_json()["stepping"]["component"] == "scripted"
    assert Old().digest() != Old(Scripted()).digest()


def test_scripted_ones_conform_and_those_that_do_not_are_caught():
    check_step_controller(Scripted())
    check_stepper(Decay, 0.1)
    check_stepper(lambda: Decay(MU), 0.1)

    class Traced(Decay):
        def reject(self):
            super().reject()
            self.y *= 1 + 1e-15

    class Late(Decay):
        def accept(self):
            super().accept()
            self.time *= 1 + 1e-12

    with pytest.raises(AssertionError, match="leaves a trace"):
        check_stepper(Traced, 0.1)
    with pytest.raises(AssertionError, match="was to end at"):
        check_stepper(Late, 0.1)

    @dataclass(frozen=True)
    class Faulty(Scripted):
        name: ClassVar[str] = "faulty"
        fault: str = ""

        def choose(self, memory, state):
            if self.fault == "in place":
                memory["n"] += 1
            if self.fault == "tuple":  # comes back from JSON as a list
                held = memory.get("held", (1,))
                return 0.1 if isinstance(held, tuple) else 0.2, {**memory, "held": held}
            if self.fault == "counter":
                COUNTER.append(1)
                return 0.1 + 0.01 * len(COUNTER), memory
            return (-1.0 if self.fault == "negative" else 0.1), memory

    COUNTER = []
    for fault, message in {
        "in place": "changes its memory in place",
        "tuple": "memory as JSON goes on with other values",
        "counter": "equal results, other values",
        "negative": "chose -1",
    }.items():
        with pytest.raises(AssertionError, match=message):
            check_step_controller(Faulty(fault=fault))


def test_json_is_the_whole_memory():
    stepping = Stepping(Decay(), Scripted((0.1, 0.2)))
    stepping.to(0.5)
    saved = json.loads(bytes(stepping.saved()[MEMORY]).decode())
    assert stepping.memory in (saved, saved.get("memory"))
