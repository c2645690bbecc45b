"""The table of offline and online training says what the artifacts say; equal time is planned as such."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("zmq")
pytest.importorskip("torch")
from hypothesis import given
from hypothesis import strategies as st

from sciflow import Invalid
from sciflow.loading import load_flow
from sciflow_online.comparison import CLOSER, WAYS, Compare, cells, equal_time, seconds
from sciflow_operators.components import MLP
from tests.online.toys import Mean, Other
from tests.toys import Wave

FLOW = Path(__file__).parents[2] / "flows" / "online_heat.py"


@pytest.fixture
def outcome(plain):
    """The flow at its smallest: its session, and the HTML of its report."""
    report = asyncio.run(
        load_flow(str(FLOW)).fn(
            problem=Wave(),
            mlp=MLP(epochs=2, batch=4, device="cpu", width=4, layers=1),
            # Nine trainings with torch would take three times as long, and say no more of the table.
            fno=Mean(epochs=2),
            mp_pde=Other(epochs=2),
            given=("q",),
            members=8,
            tests=3,
            solvers=1,
        )
    )
    return plain, report.read_text()


def test_the_table_says_what_the_artifacts_say(outcome):
    plain, page = outcome
    rows = [r for r in plain.records if r.stage.name == "compare"]
    table = rows[-1].artifact
    assert table.attributes["surrogates"] == ["mlp", "toy_mean", "toy_other_mean"]
    for i, row in enumerate(rows):
        made = row.inputs
        scores = [made[f"{way}_score"] for way in WAYS]
        assert [s.attributes["model"] for s in scores] == [made[way].digest for way in WAYS]
        assert {s.attributes["ensemble"] for s in scores} != {made["ensemble"].digest}
        np.testing.assert_allclose(table.read("error")[i], [s.read("relative_l2").mean() for s in scores])
        trained = [made[way].read("train_members") for way in WAYS]
        assert table.read("members")[i].tolist() == [len(t) for t in trained]
        # Equal runs are the same members; equal time has those and maybe more.
        assert trained[0].tolist() == trained[1].tolist()
        assert len(trained[2]) >= len(trained[0])
        spent = table.read("seconds")[i]
        assert spent[0] == pytest.approx(seconds(made["ensemble"]) + seconds(made["offline"]))
        assert spent[1:].tolist() == [seconds(made[way]) for way in WAYS[1:]]
        ratio = table.read("error")[i] / table.read("error")[i, 0]
        shown = cells(table)[i]
        assert shown[3] == f"{ratio[1]:.2f}"
        assert shown[5] == f"{ratio[2]:.2f}"
        assert ("more than offline" in shown[7]) == (spent[2] > 1.05 * spent[0])
        assert "".join(f"<td>{cell}</td>" for cell in shown) in page
    first = rows[0].inputs
    swapped = {**first, "offline_score": first["equal_runs_score"]}
    with pytest.raises(Invalid, match="is not an evaluation of"):
        Compare("mlp").check(swapped)


@given(
    start=st.floats(0.5, 5),
    offline=st.floats(10, 100),
    warm=st.floats(0.1, 2),
    streaming=st.floats(0.5, 20),
    drawn=st.floats(600, 5000),
    each=st.integers(1, 20),
    trained=st.integers(1, 60),
    checked=st.integers(1, 9),
)
def test_what_is_planned_fits_into_the_time_and_is_split_as_it_was(
    start, offline, warm, streaming, drawn, each, trained, checked
):
    samples, rest = trained * each, 9.0
    # A first step that takes long, solvers at work until after the second report, then draws alone.
    time = np.array([warm, warm + streaming, warm + streaming + rest])
    draws = 16 + drawn * (time - warm)
    curves = {
        "received": [samples / 4, samples / 2, samples],
        "drawn": draws,
        "drawn_per_second": draws / time,
    }
    start += warm
    spent = start + streaming + rest
    measured = _stub(spent, samples, curves, trained, checked)
    plan = equal_time(_stub(offline / 2), _stub(offline / 2), measured)

    from sciflow.stages.train import split

    parts = split(np.arange(plan.members), plan.train, plan.valid, 0)
    count = len(parts[0])
    assert len(parts[1]) == checked
    assert plan.members == count + checked + 1
    left = CLOSER * (offline - start)
    received = max(samples / 4 / streaming, samples / spent)
    # As many members as fit, never fewer than were stored.
    assert abs(count - max(trained, int(left * received / each))) <= 1e-9 * count + (count > trained)
    if plan.repeats > 1:
        assert count * each * plan.repeats / drawn == pytest.approx(left)


def _stub(spent, samples=0, curves=None, trained=0, checked=0):
    arrays = {f"history_{k}": np.asarray(v) for k, v in (curves or {}).items()}
    arrays |= {"train_members": np.arange(trained), "valid_members": np.arange(checked)}
    return SimpleNamespace(
        provenance={"start": 0.0, "end": spent},
        attributes={"online": {"samples": samples}},
        read=arrays.__getitem__,
    )
