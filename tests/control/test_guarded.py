"""The guard: what it promises for a policy that may do anything, and that it lets a good one work."""

import json
import math
import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from sciflow.errors import Diverged, Invalid
from sciflow.step_controller import ACCEPT, Knob, StepController, StepResult, StepState
from sciflow.stepping import Stepping
from sciflow.testing import check_component, check_step_controller
from sciflow_control.controllers import ledger as books
from sciflow_control.controllers.fixed_step import FixedStep
from sciflow_control.controllers.guarded import COUNTS, PAUSE, Guarded
from sciflow_control.controllers.iteration_count import IterationCount
from sciflow_control.controllers.pi import PI
from sciflow_control.controllers.pid import PID
from sciflow_control.controllers.predictive import Predictive
from tests.control.steppers import Oscillator, Scripted

TOL = 1e-4
DT = Knob("dt", "s", 1e-8, 1.0, order=3.0)
MU = Knob("mu", "1", 1e-6, 1.0, order=4.0, held=0.02)
LIMIT = 1.5


@dataclass(frozen=True)
class Wild(StepController):
    """Does what a policy should not."""

    name: ClassVar[str] = "wild"
    how: str = "tiny"
    seed: int = 0

    def init(self, knob, features=()):
        if self.how == "other features":
            raise Invalid("trained with speed, told " + ", ".join(features))
        return {"n": 0, "near": 1e-2}

    def choose(self, memory, state):
        n, knob, near = memory["n"], state.knob, memory["near"]
        dice = random.Random(1000 * self.seed + n)
        if self.how == "raises":
            raise Invalid("feature speed is NaN")
        if self.how == "divides":
            raise ZeroDivisionError
        value = {
            "tiny": knob.low,
            "huge": knob.high,
            "nan": math.nan,
            "negative": -1.0,
            "infinite": math.inf,
            "text": "long",
            "random": knob.low * (knob.high / knob.low) ** dice.random(),
            "near": near * 10 ** dice.uniform(-1, 1),
            "small": near * 10 ** dice.uniform(-1, 0),
            "alternate": knob.low if n % 2 else knob.high,
            "lures": knob.high if n % 5 == 4 else near / 2,
            "rest": 0.9 * (state.until - state.time),
        }[self.how]
        return value, {**memory, "n": n + 1}

    def next_stop(self, time, until):
        return {"nan": math.nan, "negative": time - 1.0, "divides": time, "lures": time + 0.05}.get(
            self.how, until
        )

    def judge(self, memory, result):
        if result.converged and result.error > 0:  # it knows where the error would be at the tolerance
            near = result.value * (TOL / result.error) ** (1 / result.knob.order)
            memory = {**memory, "near": min(max(near, result.knob.low), result.knob.high)}
        return ACCEPT, memory


NUMBERS = ("tiny", "huge", "random", "near", "small", "alternate", "lures", "rest")
NONE = ("nan", "negative", "infinite", "text", "raises", "divides")


def constant(t):
    """Of the error of the scripted solver: six orders of magnitude, over and over."""
    return 10 ** (3 * math.sin(3 * t))


@dataclass(frozen=True)
class Wise(StepController):
    """Knows the constant of the error."""

    name: ClassVar[str] = "wise"
    part: float = 0.95
    bad: int = 0

    def init(self, knob, features=()):
        return {"n": 0}

    def choose(self, memory, state):
        value = self.part * (TOL / constant(state.time)) ** (1 / state.knob.order)
        value = state.knob.high if memory["n"] < self.bad else value
        return min(max(value, state.knob.low), state.knob.high), {"n": memory["n"] + 1}

    def judge(self, memory, result):
        return ACCEPT, memory


def scripted(knob=DT, power=None):
    work = (lambda t, v: 1.0) if knob.is_length else (lambda t, v: v**-knob.effort)
    return Scripted(knob, lambda t, v: constant(t) * v ** (power or knob.order), work)


def run(stepper, controller, times):
    stepping = Stepping(stepper, controller)
    legs = [stepping.to(t) for t in times]
    taken = [r for leg in legs for r in leg.taken]
    rejected = [r for leg in legs for r in leg.rejected]
    return stepping, taken, rejected, sum(leg.cost for leg in legs)


TIMES = {"one": [12.0], "some": list(np.linspace(0, 12, 31)[1:]), "many": list(np.linspace(0, 12, 301)[1:])}


@pytest.fixture(scope="module")
def alone():
    """Work and final state of the fallback alone, and the solution."""
    found = {}
    for key, times in TIMES.items():
        stepping, taken, _, cost = run(Oscillator(), PI(TOL), times)
        found[key] = (cost, stepping.stepper.state, [r.length for r in taken])
    found["exact"] = run(Oscillator(), PI(1e-10, 1e-4), [12.0])[0].stepper.state
    return found


@pytest.mark.parametrize("key", TIMES)
@pytest.mark.parametrize("how", NUMBERS)
def test_no_policy_costs_more_than_the_limit_or_the_accuracy(how, key, alone):
    stepping, taken, rejected, cost = run(Oscillator(), Guarded(Wild(how), PI(TOL)), TIMES[key])
    ledger, counts = stepping.memory["ledger"], stepping.memory["counts"]
    plain = alone[key][0]
    assert cost <= LIMIT * plain
    assert ledger["spent"] == cost
    assert ledger["allowed"] <= 1.02 * plain  # the estimate of the fallback's work is fair, and rather low
    assert all(r.error <= TOL for r in taken)
    own = max(np.abs(alone[k][1] - alone["exact"]).max() for k in TIMES)
    assert np.abs(stepping.stepper.state - alone["exact"]).max() <= 2.5 * own
    assert counts["policy"] + counts["fallback"] == len(taken)
    assert counts["rejected"] == len(rejected)
    assert counts["rolled_back"] <= counts["rejected"]
    assert stepping.stepper.time == 12.0


@pytest.mark.parametrize("how", NONE)
def test_a_policy_without_a_number_leaves_the_fallback_to_itself(how, alone):
    stepping, taken, _, cost = run(Oscillator(), Guarded(Wild(how), PI(TOL)), TIMES["some"])
    plain, state, lengths = alone["some"]
    assert cost == plain
    assert [r.length for r in taken] == lengths
    np.testing.assert_array_equal(stepping.stepper.state, state)
    counts = stepping.memory["counts"]
    assert counts["policy"] == counts["rolled_back"] == 0
    assert counts["refused"] > 0
    assert stepping.memory["ledger"]["allowed"] == pytest.approx(cost)


HELD = Knob("eps", "1", 1e-12, 1.0, order=1.0, held=0.02, effort=1 / 7)
RISING = Knob("dt", "s", 1e-8, 1.0, order=5.0, effort=0.6)


@pytest.mark.parametrize("fallback", [PI(TOL), PID(TOL), Predictive(TOL), PI(TOL, k_i=1.0, k_p=0.0)])
@pytest.mark.parametrize("knob", [DT, MU, HELD, RISING], ids=["dt", "mu", "eps", "rising"])
def test_the_limit_holds_for_other_fallbacks_and_knobs(knob, fallback):
    # The error goes with another power than the solver says.
    power = 0.8 * knob.order
    work = {"mu": lambda t, v: 1 / v, "eps": lambda t, v: v ** (-1 / 7)}.get(knob.name, lambda t, v: v**0.4)

    def spent(controller):
        stepper = Scripted(knob, lambda t, v: 0.1 * constant(t) * v**power, work)
        _, taken, _, cost = run(stepper, controller, [0.7, 3.0])
        assert all(r.error <= TOL for r in taken)
        return cost, stepper.total

    plain, own = spent(fallback)
    for how in ("tiny", "near", "small", "lures"):
        cost, error = spent(Guarded(Wild(how), fallback))
        assert cost <= LIMIT * plain
        assert error <= 1.3 * own


@pytest.mark.parametrize("knob", [DT, MU], ids=["dt", "mu"])
def test_a_good_policy_is_followed_and_saves_work(knob):
    _, _, rejected, plain = run(scripted(knob), PI(TOL), [6.0])
    stepping, others, back, cost = run(scripted(knob), Guarded(Wise(), PI(TOL)), [6.0])
    counts = stepping.memory["counts"]
    assert cost < 0.96 * plain
    assert counts["policy"] > 0.65 * len(others)
    assert len(back) < 0.6 * len(rejected)
    # A bad beginning is forgiven.
    counts = run(scripted(knob), Guarded(Wise(bad=20), PI(TOL)), [6.0])[0].memory["counts"]
    assert counts["cooldowns"] >= 1
    assert counts["policy"] > 0.35 * len(others)


@pytest.mark.parametrize(
    ("fallback", "rollback"), [(PI(TOL), None), (FixedStep(0.02), 1e-4), (FixedStep(0.02), 1e-6)]
)
def test_the_limit_holds_where_some_intervals_are_a_hundred_times_dearer(fallback, rollback):
    def spent(controller):
        dear = Scripted(
            MU, lambda t, v: constant(t) * v**4, lambda t, v: (100.0 if t % 1.5 > 1.48 else 1.0) / v
        )
        return run(dear, controller, [6.0])[3]

    plain = spent(fallback)
    for how in NUMBERS:
        assert spent(Guarded(Wild(how), fallback, rollback=rollback)) <= 1.4 * plain


def test_longer_steps_of_an_interval_save_less_than_in_proportion():
    ledger = books.settled(books.opened(), 1e-2, StepState(0.0, 9.0, MU))
    result = StepResult(0.0, MU.held, 1.0, MU, 1e-5, cost=3.0)
    ledger = books.noted(ledger, result, guided=True, accepted=True, retry=None)
    ledger = books.settled(ledger, 1e-2, StepState(MU.held, 9.0, MU))
    assert ledger["allowed"] == pytest.approx(3.0 * 100.0**0.85)


def test_what_is_spent_never_exceeds_what_is_allowed():
    for how in NUMBERS:
        stepping = Stepping(scripted(), Guarded(Wild(how), PI(TOL), work_limit=1.2))
        for until in np.linspace(0, 2, 101)[1:]:
            stepping.to(float(until))
            ledger = stepping.memory["ledger"]
            late = ledger["open"]["cost"] if ledger["open"] else 0.0
            # Work is 1 per attempt; few attempts of the fallback are not counted as its own.
            assert ledger["spent"] - late <= 1.2 * ledger["allowed"] + 4


def attempt(ledger, value, cost, *, guided, accepted, time=0.0, retry=None):
    ledger = books.settled(ledger, 1e-2, StepState(time, 9.0, DT))
    result = StepResult(time, value, value, DT, 1e-5, cost=cost)
    return books.noted(ledger, result, guided=guided, accepted=accepted, retry=retry)


def test_what_the_policy_hid_from_the_fallback_is_not_counted_as_its_own():
    own = attempt(books.opened(), 1e-2, 3.0, guided=False, accepted=False, retry=5e-3)
    assert own["allowed"] == own["spent"] == 3.0
    own = attempt(own, 5e-3, 3.0, guided=False, accepted=True)
    assert own["allowed"] == own["spent"] == 6.0
    short = attempt(books.opened(), 1e-4, 3.0, guided=True, accepted=True)
    assert short["allowed"] == pytest.approx(3.0 * 1e-4 / 1e-2)
    late = attempt(short, 1e-2, 3.0, guided=False, accepted=False, time=0.05, retry=5e-3)
    assert late["allowed"] == short["allowed"]
    late = attempt(late, 1e-2, 3.0, guided=False, accepted=True, time=0.05)
    assert late["allowed"] == pytest.approx(short["allowed"] + 3.0)
    again = attempt(late, 1e-2, 3.0, guided=False, accepted=False, time=0.06, retry=5e-3)
    assert again["allowed"] == pytest.approx(late["allowed"] + 3.0)
    # Steps within one of the fallback's are parts of it, and so is what is left of it.
    part = attempt(books.opened(), 6e-3, 2.0, guided=True, accepted=True)
    part = attempt(part, 4e-3, 2.0, guided=False, accepted=True, time=6e-3)
    assert part["allowed"] == pytest.approx(2.0)


def test_an_attempt_is_expected_to_cost_what_dear_ones_cost():
    ledger = attempt(books.opened(), 1e-2, 5.0, guided=False, accepted=True)
    ledger = attempt(ledger, 1e-2, 1.0, guided=False, accepted=True, time=0.01)
    assert books.price(ledger, 1e-3, DT) == pytest.approx(4.0)
    assert books.price({**ledger, "unit": 2.0}, 1e-2, MU) == pytest.approx(200.0)


def test_errors_of_tiny_steps_that_are_nothing_but_rounding_do_not_starve_the_policy():
    # A tiny step has no error at all, from which the fallback's step would seem too short for ever.
    stepper = Scripted(DT, lambda t, v: 0.0 if v < 1e-7 else constant(t) * v**3)
    stepping, _, _, cost = run(stepper, Guarded(Wild("tiny"), PI(TOL)), [6.0])
    counts = stepping.memory["counts"]
    assert counts["policy"] > 0.3 * counts["fallback"]
    assert cost <= LIMIT * run(scripted(), PI(TOL), [6.0])[3]


def test_a_fallback_without_a_number_ends_the_run():
    with pytest.raises(Invalid, match="guarded chose dt = inf"):
        Stepping(scripted(), Guarded(Wise(), Wild("infinite"))).to(1.0)


def test_cool_downs_double_until_the_policy_is_as_often_right():
    stepping = Stepping(scripted(), Guarded(Wild("huge"), PI(TOL), max_rejects=2))
    pauses, seen = [], 0
    memory = None
    while len(pauses) < 5:
        memory = stepping.memory
        stepping.to(stepping.stepper.time + 0.01)
        if stepping.memory["counts"]["cooldowns"] > seen:
            seen = stepping.memory["counts"]["cooldowns"]
            pauses.append(stepping.memory["pause"] // 2)
            assert stepping.memory["counts"]["rolled_back"] <= 2 * seen
    assert pauses == [PAUSE * 2**i for i in range(5)]
    # Afterwards a wise one makes up for it.
    wise = Stepping(stepping.stepper, Guarded(Wise(), PI(TOL), max_rejects=2))
    wise.memory = {**memory, "rest": 0, "policy": {"n": 0}}
    wise.to(stepping.stepper.time + 9.0)
    assert wise.memory["pause"] == PAUSE


def test_a_rollback_judges_the_policy_and_the_fallback_itself():
    # Alone the fixed value has errors of every size; those of the policy stay below the rollback.
    fixed, bound = FixedStep(0.03), 1e-5
    _, taken, _, plain = run(scripted(MU), fixed, [3.0])
    guarded = Guarded(Wise(0.5), fixed, rollback=bound)
    stepping, others, back, cost = run(scripted(MU), guarded, [3.0])
    own = {r.value for r in others if r.error > bound}
    assert own <= {0.03}
    assert cost <= LIMIT * plain
    assert max(r.error for r in others) <= max(r.error for r in taken)
    stepping, _, back, _ = run(scripted(MU), Guarded(Wild("huge"), fixed, rollback=bound), [3.0])
    assert all(r.error > bound for r in back)
    assert stepping.memory["counts"]["rolled_back"] == len(back) > 0
    with pytest.raises(Invalid, match="rollback=1e-05 needs an estimate"):
        run(Scripted(MU, lambda t, v: math.nan), Guarded(FixedStep(0.5), fixed, rollback=bound), [3.0])


def test_where_nothing_judges_errors_steps_are_not_longer_than_the_fallbacks():
    for fallback in (FixedStep(0.03), IterationCount(first=0.03)):
        stepper = Scripted(DT, lambda t, v: math.nan, iterations=lambda t, v: 6)
        stepping, taken, _, cost = run(stepper, Guarded(Wild("random"), fallback), [1.0])
        assert max(r.value for r in taken) <= 0.03
        assert stepping.memory["counts"]["policy"] > 5
        assert cost <= LIMIT * (math.ceil(1 / 0.03) + 1)


def test_bounds_are_those_of_the_policy_alone():
    guarded = Guarded(Wild("random"), PI(TOL), bounds=(1e-3, 2e-2))
    stepping, taken, rejected, _ = run(scripted(), guarded, [2.0])
    values = [r.value for r in taken + rejected]
    assert min(values) < 1e-3  # of the fallback
    assert stepping.memory["counts"]["policy"] > 0
    memory, chosen = guarded.init(DT), []
    memory = {**memory, "ledger": {**memory["ledger"], "allowed": 1e9}}
    for _ in range(40):
        value, after = guarded.choose(memory, StepState(0.0, 1e3, DT))
        memory = {**memory, "policy": after["policy"]}
        if after["source"] == "policy":
            chosen.append(value)
    assert min(chosen) == 1e-3
    assert max(chosen) == 2e-2


@pytest.mark.parametrize("how", ["near", "alternate", "nan", "lures"])
@pytest.mark.parametrize("knob", [DT, MU], ids=["dt", "mu"])
def test_a_stored_run_goes_on_with_the_same_bits(how, knob):
    controller = Guarded(Wild(how), PI(TOL))
    stepping = Stepping(scripted(knob), controller)
    stepping.to(0.4)
    saved = stepping.saved()
    stepping.to(1.1)
    other = scripted(knob)
    other.time = 0.4
    again = Stepping(other, controller, saved)
    again.to(1.1)
    assert json.dumps(again.memory, sort_keys=True) == json.dumps(stepping.memory, sort_keys=True)


def test_the_unit_of_work_and_of_time_change_nothing():
    def lengths(unit, cost):
        knob = Knob("dt", "s", 1e-8 * unit, unit, order=3.0)
        stepper = Scripted(knob, lambda t, v: constant(t / unit) * (v / unit) ** 3, lambda t, v: cost)
        _, taken, _, _ = run(stepper, Guarded(Wild("lures"), PI(TOL)), [2.0 * unit])
        return [r.length / unit for r in taken]

    assert lengths(1.0, 1.0) == pytest.approx(lengths(64.0, 8.0), rel=1e-9)
    assert lengths(1.0, 1.0) == lengths(1.0, 0.0)  # a solver that does not tell its work: one per attempt


def test_the_fallback_ends_a_run_as_it_would_alone():
    def explode(t, v):
        return 1.0 if t > 0.5 else constant(t) * v**3

    for controller in (PI(TOL), Guarded(Wise(), PI(TOL)), Guarded(Wild("near"), PI(TOL))):
        stepper = Scripted(DT, explode)
        with pytest.raises(Diverged, match="takes no less than 1e-08"):
            Stepping(stepper, controller).to(1.0)
        assert stepper.time > 0.5


def test_a_step_that_failed_is_never_let_pass():
    stepper = Scripted(DT, lambda t, v: constant(t) * v**3, fails=lambda t, v: v > 3e-3)
    for rollback in (None, 1.0):
        _, taken, rejected, _ = run(
            stepper, Guarded(Wild("near"), PI(TOL), rollback=rollback), [stepper.time + 1]
        )
        assert all(r.converged for r in taken)
        assert any(not r.converged for r in rejected)


def test_a_policy_for_other_features_is_refused_at_once():
    with pytest.raises(Invalid, match="trained with speed, told load, slope"):
        Guarded(Wild("other features"), PI(TOL)).init(DT, ("load", "slope"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Guarded(Wise(), PI(TOL), bounds=(0.1, 0.01)), "positive and in order"),
        (lambda: Guarded(Wise(), PI(TOL), bounds=(0.0, 0.01)), "positive and in order"),
        (lambda: Guarded(Wise(), PI(TOL), bounds=(0.1, math.nan)), "positive and in order"),
        (lambda: Guarded(Wise(), PI(TOL), rollback=0.0), "rollback"),
        (lambda: Guarded(Wise(), PI(TOL), max_rejects=0), "max_rejects"),
        (lambda: Guarded(Wise(), PI(TOL), work_limit=1.0), "work_limit"),
        (
            lambda: Guarded(Wise(), PI(TOL), bounds=(2.0, 3.0)).init(DT),
            "from 2 to 3, and the solver takes dt",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(make, message):
    with pytest.raises(Invalid, match=message):
        make()


def test_it_conforms_and_says_who_chose():
    for how in NUMBERS + NONE:
        check_step_controller(Guarded(Wild(how), PI(TOL)))
    check_component(Guarded.example())
    memory = Guarded.example().init(DT)
    assert memory["source"] == "fallback"
    assert tuple(memory["counts"]) == COUNTS
    value, after = Guarded(Wise(), PI(TOL, 0.3)).choose(
        memory | {"policy": {"n": 0}}, StepState(0.0, 9.0, DT)
    )
    assert (value, after["source"]) == (pytest.approx(1e-4), "fallback")  # nothing is affordable yet
    result = StepResult(0.0, value, value, DT, 1e-9, cost=2.0)
    assert Guarded(Wise(), PI(TOL, 0.3)).judge(after, result)[1]["ledger"]["spent"] == 2.0
