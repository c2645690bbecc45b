"""Trials of step controllers: a loop by hand, a frontier that is known, a kill, runs that fail, a report."""

import asyncio
import math
import re
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow import Context, Invalid, report, run
from sciflow.artifact.writer import Writer
from sciflow.flow import Session, within
from sciflow.step_controller import ACCEPT, Knob, StepController, Stepper, StepResult, ending, reject
from sciflow.store import Store
from sciflow_control.steering.episodes import Episodes
from sciflow_control.trials import step_trial as module
from sciflow_control.trials.frontier import Frontier, quantiles
from sciflow_control.trials.moving import moving
from sciflow_control.trials.playing import play
from sciflow_control.trials.step_table import Curve, StepTable, shortened, thousands
from sciflow_control.trials.step_trial import STEP_TRIAL, StepTrial
from sciflow_control.trials.watched import Watched, eventful, watched


class Turning(Stepper):
    """Two bodies on circles, by Heun's method; the radius should stay."""

    knob = Knob("dt", "s", 1e-6, 1.0, order=3.0)

    def __init__(self, rate, radius):
        self.time, self.rate, self.radius = 0.0, rate, radius
        self.z = self.start = complex(radius, 0.0)

    def attempt(self, value, until):
        a = 1j * self.rate * self.z
        b = 1j * self.rate * (self.z + value * a)
        self.tried = self.z + value * (a + b) / 2
        self.end = ending(self.time, value, until)
        error = abs(value * (b - a) / 2) / self.radius
        return StepResult(
            self.time, value, value, self.knob, error=error, cost=2.0, converged=abs(self.tried) < 1e3
        )

    def accept(self):
        self.z, self.time = self.tried, self.end

    def reject(self):
        pass

    def drift(self):
        return abs(self.z) / self.radius - 1

    @property
    def positions(self):
        return np.array([[self.z.real, self.z.imag], [-self.z.real / 2, -self.z.imag / 2]])

    def solution(self):
        return np.array([self.z.real, self.z.imag])

    def restart(self):
        return {"z": np.array([self.time, self.z.real, self.z.imag])}


@dataclass(frozen=True)
class Turns(Episodes):
    """Circles whose speed depends on the seed.

    Attributes
    ----------
    wild : int
        Every so many runs turn so fast that they leave the finite numbers; 0: none.
    """

    name: ClassVar[str] = "turns"
    cost_unit: ClassVar[str] = "evaluations"
    wild: int = 0

    @property
    def until(self):
        return 2.0

    def begin(self, seed):
        rng = np.random.default_rng(seed)
        return Turning(500.0 if self.wild and seed % self.wild == 1 else 1 + rng.random(), 1 + rng.random())


@dataclass(frozen=True)
class Same(StepController):
    """One length, whatever comes."""

    name: ClassVar[str] = "same"
    dt: float = 0.1

    def choose(self, memory, state):
        return self.dt, memory

    def judge(self, memory, result):
        return ACCEPT, memory


@dataclass(frozen=True)
class Halving(StepController):
    """Halves the step while the error is too large, and counts how often."""

    name: ClassVar[str] = "halving"
    tolerance: float = 1e-3

    def init(self, knob, features=()):
        return {"dt": 0.5, "counts": {"halved": 0}}

    def choose(self, memory, state):
        return 1.5 * memory["dt"], memory

    def judge(self, memory, result):
        if result.converged and result.error <= self.tolerance:
            return ACCEPT, {**memory, "dt": result.value}
        halved = memory["counts"]["halved"] + 1
        return reject(result.value / 2), {**memory, "counts": {"halved": halved}}


def by_hand(seed, dt):
    """The same as a trial, without any of its parts."""
    rng = np.random.default_rng(seed)
    rate, radius = 1 + rng.random(), 1 + rng.random()
    z, steps = complex(radius, 0), round(2.0 / dt)
    for _ in range(steps):
        a = 1j * rate * z
        z = z + dt * (a + 1j * rate * (z + dt * a)) / 2
    return math.log10(abs(abs(z) / radius - 1)), 2.0 * steps


def test_a_trial_of_fixed_steps_is_a_loop():
    for seed in (0, 3):
        found = play(Turns(), Same(0.125), seed)
        assert (found.error, found.cost) == pytest.approx(by_hand(seed, 0.125), rel=1e-12)
        assert (found.steps, found.rejected, found.reason, found.record) == (16, 0, "", None)
        # The radius only grows, so the largest drift is the last one.
        assert found.largest == found.error


def test_the_largest_drift_is_not_that_at_the_end():
    class Swinging(Turning):
        def drift(self):
            return math.sin(math.pi * self.time / 2) / 10

    class Swings(Turns):
        def begin(self, seed):
            return Swinging(1.0, 1.0)

    found = play(Swings(), Same(0.25), 0)
    assert found.largest == pytest.approx(-1)
    assert found.error < -15


def test_quantiles_are_values_that_occur():
    assert quantiles(np.arange(21.0)[::-1]).tolist() == [10, 18, 20]
    assert quantiles(np.array([0.0, 1.0])).tolist() == [1, 1, 1]


def test_the_record_holds_every_attempt():
    found = play(Turns(), Halving(), 7, watched=True)
    time, length, _, error, accepted, drift, fallback = found.record.T
    stands = accepted == 1
    assert found.counts == {"halved": found.rejected}
    assert not fallback.any()
    assert found.rejected == (~stands).sum() > 0
    assert found.steps == stands.sum() - 1
    np.testing.assert_allclose(np.cumsum(length[stands])[:-1], time[stands][1:])
    assert length[stands].sum() == pytest.approx(2.0)
    assert (error[1:][stands[1:]] <= 1e-3).all()
    assert (error[~stands] > 1e-3).all()
    np.testing.assert_allclose(
        np.abs(found.bodies[stands] @ [1, 1j])[:, 0] / abs(found.bodies[0] @ [1, 1j])[0] - 1, drift[stands]
    )
    assert np.isnan(found.bodies[~stands]).all()
    assert found.cost == 2.0 * (found.steps + found.rejected)
    assert math.log10(abs(drift[-1])) == found.error


def test_a_reference_tells_the_error_where_a_drift_does_not():
    found = play(Turns(), Same(0.125), 5, reference=Same(1e-3))
    rate = 1 + np.random.default_rng(5).random()
    # Heun's phase error: each step turns by rate dt - (rate dt)^3 / 6, to leading order.
    assert 10**found.error == pytest.approx(2.0 * rate**3 * 0.125**2 / 6, rel=0.1)
    finer = play(Turns(), Same(0.0625), 5, reference=Same(1e-3))
    assert found.error - finer.error == pytest.approx(2 * math.log10(2), abs=0.03)

    class Silent(Turns):
        def begin(self, seed):
            stepper = super().begin(seed)
            stepper.solution = None
            return stepper

    with pytest.raises(Invalid, match=r"Turning tells no solution\(\)"):
        play(Silent(), Same(), 5, reference=Same(0.05))


def test_runs_that_fail_are_noted_and_the_others_go_on(tmp_path):
    with within(Session(Store(tmp_path))):
        trial = asyncio.run(run(StepTrial(Turns(wild=4), Same(0.1), count=8)))
        slow = asyncio.run(run(StepTrial(Turns(), Same(1e-3), count=1, limit=50)))
    failed = trial.read("failed")
    assert failed.tolist() == [False, True, False, False] * 2
    assert (trial.read("error")[failed] == np.inf).all()
    assert np.isfinite(trial.read("error")[~failed]).all()
    reasons = trial.attributes["reasons"]
    assert list(reasons) == ["1", "5"]
    assert "same retries no step" in reasons["1"]
    p50, p90, top = quantiles(trial.read("error"))
    assert (p90, top) == (np.inf, np.inf)
    assert p50 < 0
    assert slow.attributes["reasons"]["0"] == "at time 0.05 after 50 attempts"
    assert slow.read("cost") == [100.0]


def test_a_killed_trial_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    stage = StepTrial(Turns(wild=4), Halving(), count=9, watched=2)
    with within(Session(Store(tmp_path / "whole"))):
        whole = asyncio.run(run(stage))
    monkeypatch.setattr(module, "SAVED", -1.0)
    begun = []

    class Killed(BaseException):
        pass

    def begin(self, seed, inner=Turns.begin):
        begun.append(seed)
        if len(begun) == 7:
            raise Killed
        return inner(self, seed)

    monkeypatch.setattr(Turns, "begin", begin)
    with within(Session(Store(tmp_path / "killed"))):
        with pytest.raises(Killed):
            asyncio.run(run(stage))
        again = asyncio.run(run(stage))
    # The one that was cut off is played again, none before it; the last look is for the knob.
    assert begun == [*range(7), 6, 7, 8, 0]
    for name in whole.schema.fields:
        np.testing.assert_array_equal(again.read(name), whole.read(name))
    assert again.attributes["reasons"] == whole.attributes["reasons"]


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[:-40], lambda b: b[:70] + b"x" * 200 + b[270:]]
)
def test_runs_that_cannot_be_read_any_more_are_played_again(damage, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "SAVED", -1.0)
    stage = StepTrial(Turns(), Halving(), count=3, watched=2)
    store = Store(tmp_path, "rename")
    ctx = Context()
    out = Writer(tmp_path / "partial" / "artifact", STEP_TRIAL, "0" * 64, store)
    kept = module._Saved(out, ctx)
    for place in range(3):
        kept.add(stage._played(place, ctx))
    file = out.scratch / "runs.npz"
    assert len(module._Saved(out, ctx).outcomes) == 3
    file.write_bytes(damage(file.read_bytes()))
    assert module._Saved(out, ctx).outcomes == []
    assert "are played again" in caplog.text


@given(
    st.lists(
        st.tuples(st.floats(1, 1e6), st.floats(-12, 0) | st.just(math.inf)),
        min_size=1,
        max_size=12,
        unique_by=lambda p: round(math.log10(p[0]), 6),
    ),
    st.floats(1, 1e6),
)
@settings(max_examples=80, deadline=None)
def test_no_point_beats_the_frontier(points, work):
    work_, error = np.array(points).T
    one = Frontier.of(work_, error)
    for w, e in points:
        if math.isfinite(e):
            # At its work the frontier is as exact, for its error it needs no more.
            assert one.error_at(w) <= e + 1e-9
            assert one.work_at(e) <= w * (1 + 1e-9)
    here = one.error_at(work)
    if not math.isnan(here):
        assert one.work_at(here) <= work * (1 + 1e-9)
        assert here >= error.min() - 1e-12


def test_the_frontier_of_a_method_of_fourth_order_is_a_line():
    work = np.array([100.0, 200.0, 400.0, 800.0])
    one = Frontier.of(work[::-1], -4 * np.log10(work)[::-1])
    assert one.error_at(300) == pytest.approx(-4 * math.log10(300))
    assert one.work_at(-10.0) == pytest.approx(10**2.5)
    # What less or more work than any buys is not known: a longer or shorter step might be as good.
    assert math.isnan(one.error_at(99))
    assert math.isnan(one.error_at(801))
    assert math.isnan(one.work_at(-4 * math.log10(800) - 1e-6))
    assert one.work_at(0.0) == pytest.approx(100)
    # A point where rounding has taken over is none of it.
    rounded = Frontier.of([*work, 1600], [*(-4 * np.log10(work)), -6.0])
    assert rounded.work.shape == (4,)
    assert rounded.error_at(1500) == rounded.error_at(800)
    assert math.isnan(Frontier.of([1.0], [math.inf]).error_at(1.0))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Fixed steps and one that adapts, side by side, in a report."""

    async def flow():
        fixed = {
            f"fixed_{n}": await run(StepTrial(Turns(), Same(2.0 / n), count=9)) for n in (10, 20, 40, 80)
        }
        other = await run(StepTrial(Turns(), Halving(1e-2), count=9, watched=2))
        wild = await run(StepTrial(Turns(wild=4), Same(0.1), count=9))
        table = StepTable(
            (
                Curve("fixed step", tuple(fixed), "circles", frontier=True),
                Curve("halving", ("halving",), "circles"),
                Curve("fixed step", ("wild",), "wild circles", frontier=True),
            )
        )
        both = await run(table, **fixed, halving=other, wild=wild)
        return fixed, other, both, await report("Steps", both, other)

    with within(Session(Store(tmp_path_factory.mktemp("table")))):
        fixed, other, both, page = asyncio.run(flow())
    return fixed, other, both, page.read_text()


def test_trials_stand_side_by_side(made):
    fixed, other, both, _ = made
    figures, compared, rows = both.read("figures"), both.read("compared"), both.attributes["rows"]
    assert [r["trial"] for r in rows] == [*fixed, "halving", "wild"]
    names = both.attributes["figures"]
    for row, values in zip(rows[:5], figures[:5], strict=True):
        trial = {**fixed, "halving": other}[row["trial"]]
        assert values[names.index("max")] == trial.read("error").max()
        assert values[names.index("work_mean")] == trial.read("cost").mean()
    assert rows[4]["counts"] == {"halved": int(other.read("rejected").sum())}
    # Every fixed step lies on the frontier that it is part of.
    np.testing.assert_allclose(compared[:4, 0, :3], 0.0, atol=1e-12)
    np.testing.assert_allclose(compared[:4, 0, 3:], 1.0)
    work, p50 = figures[4, names.index("work_mean")], figures[4, 0]
    line = Frontier.of(figures[:4, names.index("work_mean")], figures[:4, 0])
    assert compared[4, 0, 0] == p50 - line.error_at(work)
    assert compared[4, 0, 3] == work / line.work_at(p50)
    text = both.file("table.md").read_text()
    assert "| circles | halving: halving(tolerance=0.01) |" in text
    assert "| wild circles | fixed step: same |" in text
    assert "failed" in text.splitlines()[-1]


def test_curves_that_cannot_be_compared_are_refused(made, tmp_path):
    fixed, _, _, _ = made
    for curves, message in (
        ((), "different names"),
        ((Curve("a", ("x",)), Curve("b", ("x",))), "different names"),
        ((Curve("a", ("x",)), Curve("a", ("y",))), "two curves are called 'a'"),
        ((Curve("a", ("x",)), Curve("b", ())), "'b' has no trials"),
        ((Curve("a", ("x y",)),), "cannot be the name of an input"),
    ):
        with pytest.raises(Invalid, match=message):
            StepTable(curves)
    for wrong in ({"count": 0}, {"limit": 0}, {"seed": -1}, {"watched": -1}, {"seed": 999_999}):
        with pytest.raises(Invalid, match=next(iter(wrong))):
            StepTrial(Turns(), Same(), **wrong)
    with within(Session(Store(tmp_path))):
        other = asyncio.run(run(StepTrial(Turns(), Same(0.1), count=2, reference=Same(0.05))))
    table = StepTable((Curve("a", ("x",)), Curve("b", ("y",))))
    with pytest.raises(Invalid, match="x and y cannot be compared: their error is drift"):
        table.check({"x": next(iter(fixed.values())), "y": other})


def test_the_report_shows_errors_steps_and_an_orbit(made):
    *_, page = made
    assert "Step controllers side by side" in page
    assert "Steps chosen by halving" in page
    assert "Counted in all runs: halved" in page
    assert "Beside fixed step" in page
    assert "1 runs failed" not in page
    # Of the table, and of one watched run, which moves.
    assert page.count("data:image/") == 2
    assert page.count('class="body"') == 2
    assert "<script" not in page


def test_a_policy_is_called_by_the_beginning_of_its_name():
    text = "guarded(policy=learned(policy=/a b/c/policy-0123456789abcdef, policy_digest=01ab), fallback=pi)"
    assert shortened(text) == "guarded(policy=learned(policy=policy-012345), fallback=pi)"
    assert thousands(1234567.0) == "1\u202f230\u202f000"
    assert [thousands(v) for v in (0.01234, 1.5, 99.96, 340.0)] == ["0.0123", "1.5", "100", "340"]


def test_a_watched_run_tells_steps_and_what_was_taken_back(made):
    trial = made[1]
    for found, steps, rejected in zip(
        watched(trial), trial.read("steps"), trial.read("rejected"), strict=False
    ):
        assert (len(found.time), len(found.back_time), len(found.places)) == (steps, rejected, steps + 1)
        assert found.ends[-1] == pytest.approx(2.0)


def test_a_watched_run_knows_its_closest_approach():
    places = np.zeros((4, 3, 2))
    places[:, 1, 0] = [5.0, 4.0, 3.0, 6.0]
    places[:, 2, 1] = [9.0, 2.0, 0.5, 7.0]
    one, none = np.ones(3), np.empty(0)
    run_ = Watched(0, np.arange(3.0), one, one, one, one > 2, none, none, places)
    np.testing.assert_allclose(run_.closest, [5.0, 2.0, 0.5, 6.0])
    assert (run_.closest.argmin(), run_.pair(2), run_.pair(3)) == (2, (0, 2), (0, 1))
    assert run_.ends.tolist() == [1.0, 2.0, 3.0]
    assert run_.together == 4
    gone = replace(run_, seed=1, places=places * np.array([1.0, 1.0, 9.0, 9.0])[:, None, None])
    assert gone.together == 2
    assert eventful([gone, run_]) is run_
    assert eventful([]) is None
    text = moving(run_, "dt", "s")
    # Four keyframes of each body, at the times of its positions.
    assert re.findall(r"b0{(.*?)}}", text)[0].count("translate") == 4
    assert [float(s) for s in re.findall(r"([\d.]+)%{transform", text)] == [0, 33.33, 66.67, 100] * 3
