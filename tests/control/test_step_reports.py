"""Words and pictures of reports on chosen steps, and words of what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from sciflow import Invalid, Knob
from sciflow_control.components import (
    PI,
    FixedStep,
    Guarded,
    MaximumStep,
    StepTrial,
    StopAt,
    ThreeBody,
    ThreeBodyProblem,
    TrainPolicy,
    WorkReward,
)
from sciflow_control.controllers.guarded import COUNTS
from sciflow_control.learning import report as of_policies
from sciflow_control.trials import report as of_trials


def policy(notes=1, unit="1"):
    names = ("steps", "reward", "value", "error", "cost", "explore", "loss", "whole")
    arrays = {f"history_{name}": np.full(notes, 0.5) for name in names}
    arrays |= {"history_steps": 1000 * np.arange(1, notes + 1), "history_cost": np.full(notes, 20871.4)}
    arrays |= {"values": np.geomspace(1e-4, 0.1, 10), "weight_0": np.zeros((3, 2)), "bias_0": np.zeros(2)}
    about = {
        "signature": {"knob": {"name": "mu", "unit": unit}, "features": ["speed"], "chooses": "level"},
        "chosen_at": 1000,
        "learner": {"component": "dqn"},
        "layers": 1,
        "cost_unit": "force evaluations",
    }
    return SimpleNamespace(attributes=about, read=arrays.__getitem__, array=arrays.__getitem__)


def test_a_knob_without_a_unit_has_none_in_words():
    assert "10 values from 0.0001 to 0.1, by speed." in of_policies.words(policy())
    assert "10 values from 0.0001 to 0.1 s, by speed." in of_policies.words(policy(unit="s"))
    assert "for 20\u2009870 force evaluations each" in of_policies.words(policy())


def test_a_single_note_is_seen_in_the_curves():
    def drawn(notes):
        lines = [line for ax in of_policies._curves(policy(notes)).axes for line in ax.get_lines()]
        return {
            line.get_marker() for line in lines if len(line.get_xdata()) == notes and line.get_ls() != ":"
        }

    assert drawn(1) == {"o"}
    assert drawn(5) == {""}


def test_what_a_guard_counts_is_explained():
    def said(names):
        counts = np.ones((2, len(names)), dtype=int)
        return of_trials._counts(SimpleNamespace(attributes={"counters": names}, read=lambda _: counts))

    assert set(of_trials.COUNTED) == set(COUNTS)
    whole = said(list(COUNTS))
    assert "rolled back 2" in whole
    assert "rolled back: of these the policy" in whole
    assert said(["halved"]) == "<p>Counted in all runs: halved 2.</p>"
    assert said([]) == ""


@pytest.mark.parametrize("group", ["", "hermite"])
def test_runs_of_one_kind_have_no_empty_column(group):
    rows = [
        {"group": group, "curve": name, "controller": name, "frontier": name == "fixed"}
        for name in ("fixed", "pi")
    ]
    page = of_trials._compared({"rows": rows, "frontiers": ["fixed"]}, np.zeros((2, 1, 6)))
    assert ("runs of" in page) == bool(group)
    assert page.count("<td>") == 7 + bool(group)


def test_a_value_without_a_unit_has_none_in_messages():
    knob = Knob("mu", "1", 1e-3, 0.1, held=1.0)
    for controller in (FixedStep(5.0), Guarded(FixedStep(0.1), PI(1e-3), bounds=(1.0, 5.0))):
        with pytest.raises(Invalid, match=r"to 0\.1$"):
            controller.init(knob)
    with pytest.raises(Invalid, match=r"to 0\.1 s$"):
        FixedStep(5.0).init(Knob("dt", "s", 1e-3, 0.1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Guarded("pi", PI(1e-3)),
        lambda: StopAt("pi", (1.0,)),
        lambda: MaximumStep("pi", (1.0,), (1.0,)),
        lambda: StepTrial("stars", PI(1e-3)),
        lambda: ThreeBody("pi"),
        lambda: ThreeBodyProblem("pi"),
        lambda: TrainPolicy("stars", WorkReward(1e-4)),
    ],
)
def test_a_name_in_place_of_a_component_is_refused(make):
    with pytest.raises(Invalid, match="is a component of the kind"):
        make()
