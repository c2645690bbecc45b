import json
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from sciflow import Context, Field, Invalid, NotFound, Parameter, ParameterSpace, Part, Problem, State
from sciflow.jobs import EventLog, EventReader, JobSpec, tail
from sciflow.states import Collector
from tests.toys import Wave

X = np.arange(8.0)


def collect(*states, problem=None):
    collector = Collector(problem or Wave(), Context().comm)
    for state in states:
        collector.add(state)
    collector.finish()
    return collector.arrays


def level(t, u=X, **more):
    return State(t, {"u": u, **more})


def test_states_are_put_together():
    arrays = collect(level(0.0, q=X), level(0.5), level(1.0, Part(np.arange(8)[::-1], X)))
    np.testing.assert_array_equal(arrays["u"], [X, X, X[::-1]])
    np.testing.assert_array_equal(arrays["q"], X)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ([level(0.0, q=X), level(0.4)], "state 1 has time 0.4, not 0.5"),
        ([level(0.0, q=X)], "yielded 1 of 3 states"),
        ([level(0.0, q=X), level(0.5), level(1.0), level(1.5)], "more than 3 states"),
        ([level(0.0, X[:4])], r"shape \(4,\), declared \(8,\)"),
        ([level(0.0, v=X)], "a field 'v' that it does not declare"),
        ([level(0.0, q=X), level(0.5, q=X)], "'q' has no time axis but came with state 1"),
        ([level(0.0, Part(np.arange(7), X[:7]))], "7 positions"),
        ([level(0.0, Part(np.zeros(8, int), X))], "not each of 8 once"),
        ([level(0.0, Part(np.arange(8), X[:7]))], "equally long"),
    ],
)
def test_a_problem_that_breaks_its_word_is_told_so(states, message):
    with pytest.raises(Invalid, match=message):
        collect(*states)


def test_a_field_that_never_comes_is_missed():
    with pytest.raises(Invalid, match="field 'q' came 0 times, not 1"):
        collect(level(0.0), level(0.5), level(1.0))


def worker(path):
    return subprocess.run(
        [sys.executable, "-m", "sciflow.worker", path], capture_output=True, text=True, check=False
    )


def test_a_job_file_of_another_version_is_refused(tmp_path):
    file = JobSpec("members", Wave().to_json(), str(tmp_path)).write(tmp_path)
    document = json.loads(file.read_text())
    assert JobSpec.read(file).component == Wave().to_json()
    for change, message in (
        ({"format": 2}, "job format 2, this sciflow runs format 1"),
        ({"task": "dance"}, "task 'dance' is not one of"),
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
    ):
        file.write_text(json.dumps({**document, **change}))
        done = worker(file)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    file.write_text("not json")
    with pytest.raises(Invalid, match="is not a job file"):
        JobSpec.read(file)
    with pytest.raises(NotFound, match="no such job file"):
        JobSpec.read(tmp_path / "nothing.json")


def test_a_job_that_fails_leaves_its_reason(tmp_path):
    spec = JobSpec(
        "members", {"component": "nonsense"}, str(tmp_path), payload={"members": [], "parameters": []}
    )
    done = worker(spec.write(tmp_path))
    assert done.returncode == 1
    record = json.loads((tmp_path / "exit.json").read_text())
    assert record["nonce"] == spec.nonce
    assert "no problem 'nonsense' is installed" in record["reason"]


def test_the_command_line_of_the_worker():
    done = subprocess.run(
        [sys.executable, "-m", "sciflow.worker"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_events_are_followed_line_by_line(tmp_path):
    log, reader = EventLog(tmp_path), EventReader(tmp_path)
    assert reader.new() == []
    log({"event": "a"})
    with (tmp_path / "status.jsonl").open("a") as file:
        file.write('{"event": "half')
    assert [e["event"] for e in reader.new()] == ["a"]
    with (tmp_path / "status.jsonl").open("a") as file:
        file.write('"}\n')
    assert [e["event"] for e in reader.new()] == ["half"]
    assert len(tail(tmp_path / "status.jsonl").splitlines()) == 2


def test_axis_names_and_units_are_required():
    with pytest.raises(Invalid, match="needs a unit"):
        Field(("x",), "")
    with pytest.raises(Invalid, match="axis name 'X '"):
        Field(("X ",), "1")
    with pytest.raises(Invalid, match="dtype 'float16' cannot be stored"):
        Field(("x",), "1", "float16")


@dataclass(frozen=True)
class Counted(Problem):
    """A field of integers, which cannot hold NaN."""

    name: ClassVar[str] = "counted"
    parameters: ClassVar[ParameterSpace] = ParameterSpace(a=Parameter(0.0, 1.0, "1"))
    fields: ClassVar[dict] = {"n": Field(("time", "x"), "1", "int32")}

    def coordinates(self):
        return {"time": np.array([0.0, 1.0]), "x": np.arange(3.0)}

    def solve(self, mu, ctx):
        yield State(0.0, {"n": np.arange(3)})
        yield State(1.0, {"n": np.arange(3)} if mu["a"] else {})


def test_integers_are_collected_and_missed_too():
    whole = collect(*Counted().solve({"a": 1.0}, Context()), problem=Counted())
    assert whole["n"].dtype == np.int32
    assert whole["n"].tolist() == [[0, 1, 2], [0, 1, 2]]
    with pytest.raises(Invalid, match="field 'n' came 1 times, not 2"):
        collect(*Counted().solve({"a": 0.0}, Context()), problem=Counted())
