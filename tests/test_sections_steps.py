"""The report shows how the steps of an ensemble were chosen."""

from types import SimpleNamespace

import numpy as np
import pytest

from sciflow.sections.stepping import NAMES, steps


def ensemble(log, controller="pi"):
    columns = {f"decision_{name}": np.asarray(values) for name, values in log.items()}
    return SimpleNamespace(
        schema=SimpleNamespace(fields=columns),
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
    assert "Steps chosen by &lt;b&gt;." in shown
    cells = [row.split("<td>")[1:] for row in shown.split("<tr>") if "<td>" in row]
    texts = [[cell.split("</td>")[0] for cell in row] for row in cells]
    assert texts == [
        ["0", "2", "1", "50 %", "0.25", "0.5", "0.75", "9"],
        ["1", "1", "0", "", "1", "1", "1", "2"],
    ]
    assert "data:image/png" in shown


@pytest.mark.parametrize("absent", NAMES[1:])
def test_an_ensemble_whose_steps_nobody_chose_shows_none(absent):
    assert steps(ensemble({name: values for name, values in LOG.items() if name != absent})) == ""
