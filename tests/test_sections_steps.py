"""The report shows how the steps of an ensemble were chosen."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sciflow import Field
from sciflow.schema import Schema
from sciflow.sections import ensemble as section
from sciflow.sections import stepping
from sciflow.sections.stepping import NAMES, steps
from sciflow.stages import simulate


def ensemble(log, controller="pi"):
    columns = {f"decision_{name}": np.asarray(values) for name, values in log.items()}
    fields = {name: Field(("decision",), "min" if name == "decision_time" else "any") for name in columns}
    return SimpleNamespace(
        schema=Schema("ensemble", fields),
        read=columns.__getitem__,
        attributes={"problem": {"stepping": {"component": controller}}},
    )


LOG = {
    "member": [0, 0, 0, 1],
    "time": [0.0, 0.0, 0.25, 0.0],
    "length": [1.0, 0.25, 0.75, 1.0],
    "value": [1.0, 0.25, 0.75, 1.0],
    "error": [9.0, 0.5, 0.5, 0.1],
    "work": [3.0, 3.0, 3.0, 2.0],
    "accepted": [0.0, 1.0, 1.0, 1.0],
    "fallback": [0.0, 1.0, 0.0, 0.0],
}


def test_steps_that_stand_and_those_taken_back_are_counted_for_each_member():
    shown = steps(ensemble(LOG, "<b>"))
    assert "Steps chosen by &lt;b&gt;:" in shown
    assert "<th>shortest, min</th>" in shown
    cells = [row.split("<td>")[1:] for row in shown.split("<tr>") if "<td>" in row]
    texts = [[cell.split("</td>")[0] for cell in row] for row in cells]
    assert texts == [
        ["0", "2", "1", "50 %", "0.25", "0.5", "0.75", "9"],
        ["1", "1", "0", "0 %", "1", "1", "1", "2"],
    ]
    assert "data:image/" in shown


@pytest.mark.parametrize("absent", NAMES[1:])
def test_an_ensemble_whose_steps_nobody_chose_shows_none(absent):
    assert steps(ensemble({name: values for name, values in LOG.items() if name != absent})) == ""


def test_pictures_of_steps_have_units_and_hide_nothing_under_the_legend():
    log = {name: np.asarray(values) for name, values in LOG.items()}
    made = stepping._picture(log, np.array([0, 1]), "min")
    assert [ax.get_xlabel() for ax in made.axes] == ["time, min", "time, min"]
    assert made.axes[0].get_ylabel() == "length of the step, min"
    assert all(ax.get_legend() is None for ax in made.axes)
    words = [text.get_text() for text in made.legends[0].get_texts()]
    assert words == ["taken, by the policy", "by the fallback", "taken back"]
    made = stepping._picture({**log, "value": 2 * log["value"]}, np.array([0]), "min")
    assert made.axes[0].get_ylabel() == "value of the parameter"


def test_a_field_that_is_zero_at_every_stored_level_is_told_and_not_drawn(monkeypatch):
    arrays = {
        "status": np.ones(2),
        "off": np.zeros((2, 3, 4, 4)),
        "on": np.random.default_rng(0).random((2, 4)),
    }
    fields = {"off": Field(("member", "time", "y", "x"), "W"), "on": Field(("member", "x"), "K")}
    artifact = SimpleNamespace(
        schema=Schema("ensemble", fields),
        read=arrays.__getitem__,
        array=arrays.__getitem__,
        attributes={"problem": {"component": "toy"}},
    )
    drawn = []
    monkeypatch.setattr(section, "_members", lambda artifact, members, shown: drawn.append(list(shown)))
    monkeypatch.setattr(section, "picture", lambda made, text: SimpleNamespace(html=""))
    assert "The same everywhere at each stored level: off." in section.section(artifact).body
    assert drawn == [["on"]]


def test_what_is_noted_of_steps_has_the_unit_of_the_time(monkeypatch):
    log = {name: np.zeros(2) for name in (*NAMES[1:], "seconds", "cost")}
    monkeypatch.setattr(simulate, "Experience", lambda path: SimpleNamespace(logs=lambda records: {0: log}))
    units = {}
    out = SimpleNamespace(scratch=Path(), write=lambda name, values, field: units.update({name: field.unit}))
    simulate._seal_decisions(out, {0: {}}, "year")
    free = {f"decision_{name}": "any" for name in ("value", "work", "cost")}
    known = {"decision_time": "year", "decision_length": "year", "decision_seconds": "s"}
    assert units == {**dict.fromkeys(units, "1"), **free, **known}
    assert set(units) >= {"decision_member", "decision_error"}
