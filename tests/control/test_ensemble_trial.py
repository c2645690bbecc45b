"""Ensembles under step controllers as trials: errors beside a reference, work, and what is refused."""

import asyncio
import re
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sciflow import Invalid
from sciflow.flow import Session, run, within
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.store import Store
from sciflow.testing import check_component
from sciflow_control.components import PI, EnsembleTrial, FixedStep, Guarded, Learned, StepTable
from sciflow_control.trials.ensembles import _noted
from sciflow_control.trials.pictures import steps
from sciflow_control.trials.report import sections
from sciflow_control.trials.step_table import Curve
from sciflow_control.trials.watched import Watched
from sciflow_fenics.components import MovingHeat
from sciflow_spectral.components import Burgers

PROBLEM = Burgers(points=16, solve_points=64, levels=4, end=0.3, steps=30)
TRIAL = EnsembleTrial(field="u", cost="evaluations", unit="evaluations")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Ensembles of three members: fixed steps, PI, a fixed step guarded by PI, a reference; and trials."""

    async def everything():
        points = await run(Design(problem=PROBLEM, count=3))
        found = {}
        controllers = {
            "reference": PI(1e-9),
            "fixed": FixedStep(0.02),
            "pi": PI(1e-5),
            "guarded": Guarded(FixedStep(0.05), PI(1e-5)),
        }
        for name, controller in controllers.items():
            found[name] = await run(Simulate(PROBLEM.replace(stepping=controller)), design=points)
        found["plain"] = await run(Simulate(PROBLEM), design=points)
        found["other"] = await run(Simulate(PROBLEM.replace(stepping=PI(1e-5)), seed=1), design=points)
        for name in ("fixed", "pi", "guarded"):
            pair = {"ensemble": found[name], "reference": found["reference"]}
            found[f"trial_{name}"] = await run(TRIAL, **pair)
        whole = TRIAL.replace(at="all", watched=2)
        found["whole"] = await run(whole, ensemble=found["pi"], reference=found["reference"])
        curves = (Curve("fixed", ("trial_fixed",), frontier=True), Curve("pi", ("trial_pi", "trial_guarded")))
        names = [name for curve in curves for name in curve.trials]
        found["table"] = await run(StepTable(curves), **{name: found[name] for name in names})
        return found

    with within(Session(Store(tmp_path_factory.mktemp("store")))):
        return asyncio.run(everything())


def test_errors_are_those_of_the_fields(made):
    u, r = made["pi"].read("u").astype(float), made["reference"].read("u").astype(float)
    wrong, size = np.linalg.norm(u - r, axis=2), np.linalg.norm(r, axis=2)
    levels = wrong / size
    trial, whole = made["trial_pi"], made["whole"]
    np.testing.assert_allclose(10 ** trial.read("error"), levels[:, -1], rtol=1e-6)
    np.testing.assert_allclose(10 ** trial.read("largest"), levels.max(axis=1), rtol=1e-6)
    total = np.sqrt((wrong**2).sum(axis=1) / (size**2).sum(axis=1))
    np.testing.assert_allclose(10 ** whole.read("error"), total, rtol=1e-6)
    assert (trial.read("error") < -4).all()


def test_a_reference_that_is_zero_at_the_end_leaves_no_error_of_an_earlier_time():
    def error(u, r):
        one, exact = (SimpleNamespace(path="here", array=lambda _, a=a: np.array([a])) for a in (u, r))
        return TRIAL._errors(one, exact, 0)

    assert error([[1.0, 1.0], [1.0, 0.0]], [[1.0, 1.1], [0.0, 0.0]]) == (np.inf, np.inf)
    assert error([[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [1.1, 0.0]]) == pytest.approx([np.log10(1 / 11)] * 2)
    with pytest.raises(Invalid, match="of member 0 is zero"):
        error([[1.0]], [[0.0]])


@pytest.mark.parametrize("name", ["fixed", "pi", "guarded"])
def test_work_and_steps_are_the_solvers(made, name):
    trial = made[f"trial_{name}"]
    np.testing.assert_array_equal(trial.read("cost"), made[name].read("solver_evaluations"))
    np.testing.assert_array_equal(trial.read("steps"), made[name].read("solver_steps"))
    np.testing.assert_array_equal(trial.read("rejected"), made[name].read("solver_rejected"))
    record, first = trial.read("record"), trial.read("steps")[0] + trial.read("rejected")[0]
    assert len(record) == 1 + first
    assert set(trial.read("record_seed")) == {0}
    length = record[:, trial.attributes["columns"].index("length")]
    accepted = record[:, trial.attributes["columns"].index("accepted")] == 1
    assert length[accepted].sum() == pytest.approx(0.3)


def test_who_chose_under_a_guard_is_counted(made):
    trial = made["trial_guarded"]
    assert trial.attributes["counters"] == ["policy", "fallback"]
    counts = trial.read("counts")
    np.testing.assert_array_equal(counts.sum(axis=1), trial.read("steps"))
    assert (counts.sum(axis=0) > 0).all()
    assert made["trial_pi"].read("counts").shape == (3, 0)


def test_what_a_fallback_took_back_is_none_of_its_steps():
    logs = {
        "member": [0.0, 0.0, 0.0, 2.0],
        "accepted": [1.0, 0.0, 1.0, 1.0],
        "fallback": [1.0, 1.0, 0.0, 1.0],
    }
    steps, rejected, fallback = _noted({k: np.array(v) for k, v in logs.items()}, 4)
    assert (steps.tolist(), rejected.tolist(), fallback.tolist()) == (
        [2, 0, 1, 0],
        [1, 0, 0, 0],
        [1, 0, 1, 0],
    )


def test_the_table_and_the_report_show_them(made):
    titles = [title for name in ("table", "trial_guarded") for title, _ in sections(made[name])]
    assert titles == ["Step controllers side by side", "Steps chosen by guarded"]
    rows = made["table"].attributes["rows"]
    assert [row["controller"].partition("(")[0] for row in rows] == ["fixed_step", "pi", "guarded"]
    assert rows[0]["cost_unit"] == "evaluations"


@pytest.mark.parametrize(
    ("trial", "ensemble", "message"),
    [
        (TRIAL.replace(field="v"), "pi", "no field 'v'"),
        (TRIAL.replace(cost="solves"), "pi", "does not know the work 'solves'"),
        (TRIAL, "plain", "does not know the work"),
        (TRIAL, "other", "not of the same design and seed"),
    ],
)
def test_what_cannot_be_compared_is_refused(made, trial, ensemble, message):
    with pytest.raises(Invalid, match=message):
        trial.check({"ensemble": made[ensemble], "reference": made["reference"]})


def test_settings_are_checked():
    with pytest.raises(Invalid, match="at 'start'"):
        EnsembleTrial(at="start")
    with pytest.raises(Invalid, match="watched"):
        EnsembleTrial(watched=-1)


def flow_file():
    pytest.importorskip("prefect")
    return runpy.run_path(str(Path(__file__).parents[2] / "flows" / "adaptive_heat.py"))


@pytest.mark.parametrize("size", ["ci", "full"])
def test_what_the_flow_runs_can_be_made(size):
    flow = flow_file()
    policy = Learned.example()
    settings = flow["contenders"](size, policy)
    assert list(settings) == ["fixed", "pi", "predictive", "iterations", "learned", "guarded"]
    assert "learned" not in flow["contenders"](size, None)
    for controller in (c for group in settings.values() for c in group):
        assert MovingHeat(stepping=controller).to_json()["stepping"]["component"] == controller.name
    check_component(flow["training"](4000, 1))


@pytest.mark.torture
def test_the_flow_compares_fixed_and_adaptive_steps(tmp_path):
    """On a mesh that shows the point: the same error as the best fixed steps for half of their solves."""
    pytest.importorskip("dolfinx")
    flow = flow_file()["adaptive_heat"]
    with within(Session(Store(tmp_path))):
        page = asyncio.run(flow.fn(cells=6, members=2, steps=0)).read_text()
    beside = page[page.index("Beside fixed") :]
    found = re.findall(r"<td>pi: pi\(tolerance=0.003\)</td>(?:<td>[^<]*</td>){3}<td>([\d.]+)</td>", beside)
    assert len(found) == 1
    assert float(found[0]) < 0.5
    assert "Steps chosen by pi" in page


def test_a_picture_marks_the_switches_and_shows_the_busy_part_once_more():
    ends = np.concatenate([np.linspace(0.1, 2, 20), np.linspace(3, 60, 8)])
    starts = np.concatenate([[0.0], ends[:-1]])
    even = np.ones(len(ends))
    nothing = np.empty(0)
    run = Watched(2, starts, ends - starts, ends - starts, even, even > 2, nothing, nothing)
    knob = {"name": "dt", "unit": "s", "marks": {"2": [0.7, 1.4], "3": [5.0]}}
    whole, busy = steps(run, knob, "s").axes
    for ax in (whole, busy):
        marks = [line.get_xdata()[0] for line in ax.lines if line.get_ls() == ":"]
        assert marks == [0.7, 1.4]
    assert whole.get_xlim()[1] > starts[-1]
    assert 1.5 < busy.get_xlim()[1] < 2.5
    nine = np.ones(9)
    steady = replace(run, time=np.arange(9.0), length=nine, value=nine, fallback=nine > 2)
    assert len(steps(steady, knob, "s").axes) == 1


def test_the_switches_of_a_plate_are_marked():
    plate = MovingHeat(end=4.0, pause=1.0, length=0.05)
    mu = {"speed": 0.05, "power": 4e4, "width": 0.007, "offset": 0.0, "turn": 0.0, "beta": 0.0}
    assert plate.switches(mu) == pytest.approx((1.0, 2.0, 3.0))
    assert PROBLEM.switches({"viscosity": 0.1}) == ()
