"""PETSc's time steppers under step controllers."""

import math

import numpy as np
import pytest

PETSc = pytest.importorskip("petsc4py.PETSc")

from scipy.integrate import DOP853, solve_ivp

from sciflow.errors import Diverged, Invalid
from sciflow.stepping import Stepping
from sciflow.testing import check_stepper
from sciflow_control.controllers.fixed_step import FixedStep
from sciflow_control.controllers.pi import PI
from sciflow_control.integrators.initial_value import InitialValue
from sciflow_control.integrators.runge_kutta import RungeKutta
from sciflow_control.integrators.ts_steer import steer
from sciflow_control.integrators.ts_stepper import TSStepper
from tests.control.ts_tools import oscillator, rod, slope

BOUNDS = (1e-8, 1.0)
METHODS = [
    ("rk", "5dp", "embedded"),
    ("rk", "4", "doubling"),
    ("beuler", None, "differences"),
    ("cn", None, "differences"),
    ("theta", None, "doubling"),
    ("arkimex", "3", "embedded"),
    ("arkimex", "1bee", "embedded"),
    ("rosw", None, "embedded"),
]
ALL = [*METHODS, ("bdf", None, "embedded"), ("beuler", None, "doubling"), ("arkimex", "3", "doubling")]


class Counted(PI):
    """Notes when it was asked for a step."""

    @property
    def asked(self):
        return self.__dict__.setdefault("_asked", [])

    def choose(self, memory, state):
        self.asked.append(state.time)
        return super().choose(memory, state)


def stepper(kind, sub=None, estimate="auto", **settings):
    return TSStepper(*oscillator(kind, sub), BOUNDS, estimate, **settings)


def taken(made, lengths):
    """Take steps; their errors as text, to the bit."""
    found = []
    for length in lengths:
        found.append(made.attempt(length, math.inf).error.hex())
        made.accept()
    return found


@pytest.mark.parametrize(
    ("kind", "sub", "estimate"), [*METHODS, ("rk", "5dp", "doubling"), ("beuler", None, "doubling")]
)
def test_steppers_keep_the_conventions(kind, sub, estimate):
    assert estimate == "doubling" or stepper(kind, sub)._estimate == estimate
    check_stepper(lambda: stepper(kind, sub, estimate), 1e-3)


@pytest.mark.parametrize(("kind", "sub", "estimate"), ALL)
def test_the_estimate_goes_with_the_order_that_is_promised(kind, sub, estimate):
    errors = []
    for length in (4e-3, 2e-3):
        made = stepper(kind, sub, estimate)
        taken(made, [length] * 5)
        made.attempt(length, math.inf)
        errors.append(made._result.error)
    assert math.log2(errors[0] / errors[1]) == pytest.approx(made.knob.order, abs=0.25)


@pytest.mark.parametrize(("kind", "sub", "estimate"), [m for m in ALL if m[0] != "rk"])
def test_the_estimate_is_the_error_of_a_step(kind, sub, estimate):
    """Of the solution that stands, but with a second solution, whose own error it is."""
    made, length = stepper(kind, sub, estimate), 2e-3
    taken(made, [length] * 4)
    start, time = made.solution(), made.time
    result = made.attempt(length, math.inf)
    exact = solve_ivp(slope, (time, time + length), start, DOP853, rtol=1e-13, atol=1e-14).y[:, -1]
    if estimate == "embedded" and kind != "bdf":
        assert result.error > 0
        return
    error = made.solution() - exact
    size = 1 + np.maximum(np.abs(start), np.abs(made.solution()))
    if kind == "bdf":  # also the states before are in error
        assert 0.2 < result.error / np.sqrt(np.mean((error / size) ** 2)) < 5
    else:
        assert result.error == pytest.approx(np.sqrt(np.mean((error / size) ** 2)), rel=0.5)


@pytest.mark.parametrize(
    ("sub", "method"),
    [("2a", "heun_euler"), ("3bs", "bogacki_shampine"), ("5f", "fehlberg"), ("5dp", "dormand_prince")],
)
def test_explicit_methods_are_ours(sub, method):
    def rhs(t, y, p, out):
        out[0] = y[1]
        out[1] = 3.0 * (1 - y[0] ** 2) * y[1] - y[0]

    made, ours = stepper("rk", sub), RungeKutta(InitialValue(rhs, [2.0, 0.0]), method)
    assert made.knob.order == ours.knob.order
    for length in (0.1, 0.07):
        one, other = made.attempt(length, 2.0), ours.attempt(length, 2.0)
        assert one.error == pytest.approx(other.error, rel=1e-9)
        assert one.cost == other.cost
        made.accept()
        ours.accept()
    np.testing.assert_allclose(made.solution(), ours.solution(), rtol=1e-14)


def test_bdf_remembers_nothing_of_a_step_that_was_taken_back():
    plain, tried = stepper("bdf"), stepper("bdf")
    for length in (1e-3, 1e-3, 2e-3, 1e-3):
        for wrong in (4e-3, 3e-4):
            tried.attempt(wrong, math.inf)
            tried.reject()
        assert tried.solution().tobytes() == plain.solution().tobytes()
        assert taken(plain, [length]) == taken(tried, [length])
    assert tried.solution().tobytes() == plain.solution().tobytes()
    with pytest.raises(Invalid, match="bdf cannot be stored"):
        plain.restart()


@pytest.mark.parametrize(("kind", "sub", "estimate"), [m for m in METHODS if m[0] != "arkimex"])
def test_a_restart_goes_on_with_the_same_bits(kind, sub, estimate):
    whole = stepper(kind, sub)
    taken(whole, [1e-3, 2e-3, 1e-3])
    again = stepper(kind, sub, restart=whole.restart())
    assert (again.time, again.observe()) == (whole.time, whole.observe())
    assert taken(again, [1e-3, 3e-3]) == taken(whole, [1e-3, 3e-3])
    assert again.solution().tobytes() == whole.solution().tobytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"state": None}, "lacks state"),
        ({"state": np.zeros(7)}, r"2 finite numbers on this rank, got one of shape \(7,\)"),
        ({"state": np.full(2, np.nan)}, "2 finite numbers"),
    ],
)
def test_a_damaged_restart_is_refused(damage, message):
    whole = stepper("beuler")
    arrays = {k: v for k, v in {**whole.restart(), **damage}.items() if v is not None}
    with pytest.raises(Invalid, match=message):
        stepper("beuler", restart=arrays)


def test_a_restart_of_arkimex_goes_on_to_the_tolerance_of_its_solves():
    whole = stepper("arkimex", "3")
    taken(whole, [1e-3, 2e-3])
    again = stepper("arkimex", "3", restart=whole.restart())
    taken(again, [1e-3, 3e-3])
    taken(whole, [1e-3, 3e-3])
    np.testing.assert_allclose(again.solution(), whole.solution(), rtol=1e-10)


@pytest.mark.parametrize(
    ("kind", "sub", "tolerance"),
    [
        ("rk", "5dp", 1e-6),
        ("beuler", None, 1e-4),
        ("arkimex", "3", 1e-5),
        ("rosw", None, 1e-5),
        ("bdf", None, 1e-4),
    ],
)
def test_as_many_steps_as_with_petscs_own_controller(kind, sub, tolerance):
    ts, u = oscillator(kind, sub)
    leg = Stepping(TSStepper(ts, u, BOUNDS), PI(tolerance, first=1e-3, k_i=1.0, k_p=0.0)).to(2.0)
    peer, v = oscillator(kind, sub)
    options = PETSc.Options("peer_")
    options["ts_adapt_type"] = "basic"
    peer.setOptionsPrefix("peer_")
    peer.setExactFinalTime(PETSc.TS.ExactFinalTime.MATCHSTEP)
    peer.setFromOptions()
    peer.setTolerances(rtol=tolerance, atol=tolerance)
    peer.solve(v)
    assert len(leg.taken) == pytest.approx(peer.getStepNumber(), rel=0.15)
    exact = solve_ivp(slope, (0, 2), [2.0, 0.0], DOP853, rtol=1e-12, atol=1e-12).y[:, -1]
    assert np.abs(u.getArray() - exact).max() < 2 * np.abs(v.getArray() - exact).max()


@pytest.mark.parametrize(("kind", "sub", "estimate"), METHODS)
def test_a_program_that_calls_solve_takes_the_same_steps(kind, sub, estimate):
    ts, u = oscillator(kind, sub, end=1.0)
    leg = Stepping(TSStepper(ts, u, BOUNDS), PI(1e-4, first=0.3)).to(1.0)
    other, v = oscillator(kind, sub, end=1.0)
    steered = steer(other, PI(1e-4, first=0.3), BOUNDS)
    other.solve(v)
    assert leg.rejected
    assert other.getTime() == 1.0
    lengths = [[(r.time, r.length) for r in part] for part in (leg.taken, leg.rejected)]
    theirs = [[(r.time, r.length) for r in part] for part in (steered.leg.taken, steered.leg.rejected)]
    np.testing.assert_allclose(theirs[0], lengths[0], rtol=1e-7)
    np.testing.assert_allclose(theirs[1], lengths[1], rtol=1e-7)
    np.testing.assert_allclose(v.getArray(), u.getArray(), rtol=1e-9)


def test_a_rejected_last_step_and_a_failed_solve_do_not_end_a_solve():
    ts, u = oscillator("beuler", end=0.3)
    ts.getSNES().setTolerances(max_it=3)
    called = []
    ts.setPostStep(lambda ts: called.append(ts.getTime()))
    references = ts.getRefCount()
    controller = Counted(1e-3, first=0.3)
    steered = steer(ts, controller, BOUNDS)
    ts.solve(u)
    assert ts.getTime() == 0.3 == called[-1]
    assert controller.asked == [0.0, *called[:-1]]
    assert called == sorted(called)
    assert len(called) == len(steered.leg.taken)
    assert {r.converged for r in steered.leg.rejected} == {True, False}
    assert len(steered.leg.rejected_by) == len(steered.leg.rejected)
    del steered
    assert ts.getRefCount() == references


@pytest.mark.parametrize("back", [0.0, 0.1])
def test_a_time_to_be_met_lies_ahead(back):
    class Stuck(PI):
        def next_stop(self, time, until):
            return time - back if time > 0.1 else until

    ts, u = oscillator("rosw", end=0.3)
    steer(ts, Stuck(1e-3), BOUNDS)
    with pytest.raises(Invalid, match="pi wants to meet the time"):
        ts.solve(u)


def test_a_time_span_is_refused():
    ts, _ = oscillator("rk", "5dp")
    ts.setTimeSpan([0.0, 0.3, 2.0])
    with pytest.raises(Invalid, match="also store states that are taken back"):
        steer(ts, PI(1e-5), BOUNDS)


def test_a_solve_that_fails_leaves_no_trace_and_one_that_always_fails_ends():
    made = stepper("beuler")
    made.ts.getSNES().setTolerances(max_it=4)
    taken(made, [1e-3] * 3)
    before = {k: v.tobytes() for k, v in made.restart().items()}
    result = made.attempt(1.0, math.inf)
    assert not result.converged
    assert math.isnan(result.error)
    made.reject()
    assert {k: v.tobytes() for k, v in made.restart().items()} == before
    assert made.attempt(1e-3, math.inf).converged
    made.accept()
    made.ts.getSNES().setTolerances(max_it=1, rtol=1e-15, stol=0.0)
    with pytest.raises(Diverged, match="time 0.004"):
        Stepping(made, PI(1e-3, first=1e-3)).to(1.0)
    ts, u = oscillator("beuler")
    ts.getSNES().setTolerances(max_it=1, rtol=1e-15, stol=0.0)
    steer(ts, FixedStep(0.5), BOUNDS)
    with pytest.raises(Diverged, match="time 0"):
        ts.solve(u)


def test_a_state_without_numbers_is_a_failure():
    made = stepper("rk", "5dp")
    result = made.attempt(1e80, math.inf)
    assert not result.converged
    made.reject()
    assert made.solution().tolist() == [2.0, 0.0]
    assert made.attempt(1e-2, math.inf).converged


@pytest.mark.parametrize(("kind", "sub"), [("beuler", None), ("cn", None), ("bdf", None), ("arkimex", "3")])
def test_heat_in_a_rod_is_as_exact_as_it_is_asked_to_be(kind, sub):
    errors = []
    for tolerance in (1e-4, 1e-5):
        ts, u, exact = rod(kind, sub, comm=PETSc.COMM_SELF)
        leg = Stepping(TSStepper(ts, u, (1e-7, 0.1), scale=0.1), PI(tolerance, first=1e-5)).to(0.1)
        errors.append(np.abs(u.getArray() - exact).max())
        assert all(r.error <= tolerance for r in leg.taken)
    order = leg.taken[0].knob.order
    assert errors[0] / errors[1] == pytest.approx(10 ** ((order - 1) / order), rel=0.5)
    assert errors[0] < 0.01


def test_units_of_time_and_state_change_nothing():
    ts, u, _ = rod("arkimex", "3", comm=PETSc.COMM_SELF)
    one = Stepping(TSStepper(ts, u, (1e-7, 0.1), scale=0.1), PI(1e-4, first=1e-4)).to(0.1)
    ts, u, _ = rod("arkimex", "3", comm=PETSc.COMM_SELF)
    u.scale(1e6)
    other = Stepping(TSStepper(ts, u, (1e-7, 0.1), scale=1e5), PI(1e-4, first=1e-4)).to(0.1)
    np.testing.assert_allclose([r.length for r in other.taken], [r.length for r in one.taken], rtol=1e-6)


def test_bad_input_is_refused():
    with pytest.raises(Invalid, match=r"'alpha'.*rk, beuler"):
        stepper("alpha")
    with pytest.raises(Invalid, match="has no estimate 'differences', but embedded"):
        stepper("bdf", estimate="differences")
    with pytest.raises(Invalid, match="has no estimate 'embedded', but doubling"):
        stepper("rk", "4", "embedded")
    with pytest.raises(Invalid, match="scale"):
        stepper("rk", "5dp", scale=0.0)
    ts, u = oscillator("arkimex", "prssp2")
    with pytest.raises(Invalid, match="take 'doubling'"):
        TSStepper(ts, u, BOUNDS).attempt(1e-3, 1.0)


def counted(sub):
    """The oscillator under an explicit method, and a list that grows with each evaluation."""
    (ts, u), calls = oscillator("rk", sub), []

    def rhs(ts, t, u, f):
        calls.append(t)
        f.setArray(slope(t, u.getArray(readonly=True)))

    ts.setRHSFunction(rhs, u.duplicate())
    return ts, u, calls


@pytest.mark.parametrize("estimate", ["embedded", "doubling"])
@pytest.mark.parametrize("sub", ["5dp", "2a", "3bs"])
def test_explicit_steps_cost_what_is_evaluated(sub, estimate):
    ts, u, calls = counted(sub)
    stepper, cost = TSStepper(ts, u, (1e-6, 1.0), estimate), 0.0
    for back in (False, True, False, False, True, False):
        cost += stepper.attempt(0.02, 2.0).cost
        (stepper.reject if back else stepper.accept)()
        assert cost == len(calls)


@pytest.mark.parametrize("sub", ["5dp", "2a"])
def test_steered_explicit_steps_cost_what_is_evaluated(sub):
    ts, u, calls = counted(sub)
    steered = steer(ts, PI(1e-3, first=0.5), (1e-6, 1.0))
    ts.solve(u)
    assert steered.leg.rejected
    assert steered.leg.cost == len(calls)
