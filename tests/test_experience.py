"""What members learn: logs that are read once, in an order that no kill changes, one for each member."""

import base64
from pathlib import Path

import numpy as np
import pytest

from sciflow import Context, Failed, Field, Invalid, Parameter, ParameterSpace, Problem
from sciflow.artifact.disk import Disk
from sciflow.artifact.journal import Journal
from sciflow.experience import Experience
from sciflow.linear_solver import LinearSolver, Plain, Solving, TakesSolver, wrapped


def log(*costs):
    return {"arm": np.arange(len(costs)), "cost": np.array(costs, dtype=float)}


def order(value, log):
    return (*value, *log["cost"].tolist())


def test_a_member_sees_the_logs_of_the_others(tmp_path):
    for member in (3, 0, 1):
        Experience(tmp_path, member).note(log(member + 0.5, np.nan, np.inf, -0.0))
    seen = Experience(tmp_path, 1).others()
    assert list(seen) == [0, 3]
    assert seen[3]["cost"].tobytes() == np.array([3.5, np.nan, np.inf, -0.0]).tobytes()
    assert seen[3]["arm"].dtype == np.int64
    assert seen[0]["cost"].dtype == np.float64
    assert Experience().others() == {}
    assert Experience().mention() == {}
    Experience().note(log(1.0))
    Experience(tmp_path, 8).note({})
    assert 8 not in Experience(tmp_path).others()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1.0], "b": [1.0, 2.0]}, "no table"),
        ({"member": [1]}, "cannot be called 'member'"),
        ({"../x": [1]}, "cannot be called"),
        ({"a": [[1.0]]}, "row of numbers"),
        ({"a": ["x"]}, "row of numbers"),
        ({"a": [1j]}, "row of numbers"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, columns, message):
    with pytest.raises(Invalid, match=message):
        Experience(tmp_path).note(columns)


def test_each_log_is_folded_once_and_read_once(tmp_path, monkeypatch):
    """Ten thousand members must not cost the square of that: what is read grows with what is there."""
    from sciflow.artifact import journal

    lines = []
    whole = journal.parse
    monkeypatch.setattr(journal, "parse", lambda line: lines.append(line) or whole(line))
    root, steps = Experience(tmp_path), []
    for member in range(50):
        mine = root.of(member)
        value = mine.fold("k", tuple, lambda v, one: steps.append(1) or order(v, one))
        assert value == tuple(map(float, range(member)))
        mine.note(log(member))
    assert len(steps) == 49
    assert len(lines) == 49
    assert root.of(50).fold("another", tuple, order) == tuple(map(float, range(50)))
    assert len(list(tmp_path.glob("*.log"))) == 1, "one file for each process"


def test_logs_of_other_processes_come_in_while_they_grow(tmp_path):
    here, there = Experience(tmp_path), Experience(tmp_path)
    assert here.of(9).fold("k", tuple, order) == ()
    there.of(0).note(log(1.0))
    assert here.of(9).fold("k", tuple, order) == (1.0,)
    there.of(1).note(log(2.0))
    here.of(5).note(log(6.0))
    assert here.of(9).fold("k", tuple, order) == (1.0, 2.0, 6.0)
    assert here.of(9).fold("k", tuple, order) == (1.0, 2.0, 6.0)


def test_torn_and_damaged_lines_are_passed_over_and_finished_ones_seen(tmp_path):
    Experience(tmp_path, 0).note(log(1.0))
    (file,) = tmp_path.glob("*.log")
    Experience(tmp_path / "b", 1).note(log(2.0))
    (other,) = (tmp_path / "b").glob("*.log")
    line = other.read_bytes()
    reader = Experience(tmp_path)
    file.write_bytes(file.read_bytes() + line[: len(line) // 2])
    assert list(reader.others()) == [0]
    file.write_bytes(file.read_bytes() + line[len(line) // 2 :])
    assert list(reader.others()) == [0, 1]
    file.write_bytes(file.read_bytes() + b"0badf00d {}\n" + line.replace(b" {", b"  {") + b"12")
    Experience(tmp_path, 2).note(log(3.0))
    assert list(reader.others()) == [0, 1, 2]


def test_a_member_does_not_learn_from_its_own_killed_attempt(tmp_path):
    first = Experience(tmp_path)
    for member in (0, 1):
        first.of(member).note(log(member))
    killed = Experience(tmp_path, 2)
    killed.note(log(2))
    again = Experience(tmp_path)  # a new process
    assert again.of(2).fold("k", tuple, order) == (0.0, 1.0)
    again.of(2).note(log(2))
    assert again.of(3).fold("k", tuple, order) == (0.0, 1.0, 2.0), "the log of member 2 counts once"
    assert first.of(3).fold("k", tuple, order) == (0.0, 1.0, 2.0)
    assert first.of(1).fold("k", tuple, order) == (0.0, 2.0), "also where it was folded before"
    assert first.of(3).fold("k", tuple, order) == (0.0, 1.0, 2.0)


def test_the_log_of_the_committed_attempt_is_the_members(tmp_path):
    lost, won, later = (Experience(tmp_path, 0) for _ in range(3))
    for one, cost in ((won, 1.0), (lost, 2.0)):
        one.note(log(cost))
    Experience(tmp_path, 4).note(log(5.0))
    assert later.logs({0: won.mention(), 1: {}})[0]["cost"] == [1.0]
    assert later.logs({0: lost.mention()})[0]["cost"] == [2.0]
    assert later.logs({0: {}})[0]["cost"] == [2.0], "else the last"
    assert later.logs({0: {"experience": "of a lost disk"}})[0]["cost"] == [2.0]
    assert list(later.logs({0: {}, 3: {}})) == [0], "not those of members that failed"


RECORD = {"member": 1, "key": "x", "time": 0.0}
THREE = ["<i8", base64.b64encode(np.arange(3).tobytes()).decode()]


@pytest.mark.parametrize(
    "record",
    [
        {"version": 2},
        RECORD,
        {**RECORD, "columns": {}},
        {**RECORD, "columns": [1, 2]},
        {**RECORD, "columns": {"arm": ["|O", "AAAA"]}},
        {**RECORD, "columns": {"arm": ["<f8", "AAAA"]}},
        {**RECORD, "columns": {"arm": ["float1", "AAAA"]}},
        {**RECORD, "columns": {"arm": "<f8"}},
        {**RECORD, "columns": {"member": THREE}},
        {**RECORD, "columns": {"arm": THREE, "cost": ["<f8", "AAAAAAAAAAA="]}},
        {**RECORD, "time": "noon", "columns": {"arm": THREE}},
        {**RECORD, "member": None, "columns": {"arm": THREE}},
    ],
)
def test_what_is_no_log_is_passed_over_with_a_warning(tmp_path, caplog, record):
    assert Experience(tmp_path / "nothing").others() == {}
    Experience(tmp_path, 0).note(log(1.0))
    other = Journal(tmp_path, Disk("none"))
    for more in (record, record, {**RECORD, "member": 5, "columns": {"arm": THREE}}):
        other.append(more)
    reader = Experience(tmp_path)
    assert list(reader.others()) == list(reader.others()) == [0, 5]
    assert list(Experience(tmp_path).logs({0: {}, 1: {}})) == [0]
    said = [r.getMessage() for r in caplog.records]
    assert len([s for s in said if "is no log" in s]) == 2, "once for each file and reader"


def test_what_cannot_be_read_is_passed_over_with_a_warning(tmp_path, caplog):
    Experience(tmp_path, 0).note(log(1.0))
    (tmp_path / "folder.log").mkdir()
    (tmp_path / "gone.log").symlink_to(tmp_path / "nowhere")
    (tmp_path / "bytes.log").write_bytes(bytes(range(256)) * 20 + b"\n")
    reader = Experience(tmp_path, 4)
    assert reader.fold("k", tuple, order) == reader.fold("k", tuple, order) == (1.0,)
    assert [Path(r.getMessage().split()[0]).name for r in caplog.records] == [
        "bytes.log", "folder.log", "gone.log",
    ]  # fmt: skip


def test_a_log_that_cannot_be_written_says_what_to_do(tmp_path, monkeypatch):
    """As `Failed`, which ends the job: the member would else be recorded as one that cannot be solved."""
    import errno
    import os

    one, two = Experience(tmp_path / "log", 0), Experience(tmp_path / "log" / "file", 1)
    one.note(log(1.0))
    (tmp_path / "log" / "file").write_text("in the way")
    with pytest.raises(Failed, match="cannot write"):
        two.note(log(1.0))

    def full(handle, buffers, offset):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", full)
        with pytest.raises(Failed, match="the disk is full.*free some space and run again"):
            one.of(1).note(log(2.0))
    one.of(1).note(log(3.0))
    assert Experience(tmp_path / "log").others()[1]["cost"] == [3.0]


class Ksp:
    reason = 2

    def solve(self, b, x):
        x[:] = b

    def getConvergedReason(self):
        return self.reason

    def getIterationNumber(self):
        return 5

    def getResidualNorm(self):
        return 0.25


class Steps(Solving):
    count = 0

    def solve(self, b, x, features):
        self.count += 1
        return 1

    def restart(self):
        return {"count": np.array(self.count)}


def test_without_a_solver_the_problems_own_one_solves():
    from sciflow import Diverged

    ksp, x = Ksp(), [0.0]
    assert wrapped(None, ksp, Context()).solve([3.0], x, {}) == 5
    assert x == [3.0]
    ksp.reason = -3
    with pytest.raises(Diverged, match=r"residual 2\.50e-01, PETSc reason -3"):
        Plain(ksp).solve([3.0], x, {})
    assert Plain(ksp).saved() == {}


def test_a_restart_goes_through_the_problem_and_back():
    class Way:
        def wrap(self, ksp, ctx, restart=None):
            made = Steps()
            made.count = 0 if restart is None else int(restart["count"])
            assert restart is None or set(restart) == {"count"}
            return made

    solving = wrapped(Way(), Ksp(), Context())
    solving.solve(None, None, {})
    saved = {"level": np.array(3), **solving.saved()}
    assert wrapped(Way(), Ksp(), Context(), saved).count == 1


def test_a_field_that_is_none_changes_no_digest():
    from dataclasses import dataclass
    from typing import ClassVar

    @dataclass(frozen=True)
    class Before(Problem):
        name: ClassVar[str] = "toy_before"
        parameters: ClassVar = ParameterSpace(a=Parameter(0.0, 1.0, "1"))
        fields: ClassVar = {"u": Field(("x",), "1")}
        cells: int = 3

        def coordinates(self):
            return {}

        def solve(self, mu, ctx):
            return iter(())

    @dataclass(frozen=True)
    class After(TakesSolver, Before):
        name: ClassVar[str] = "toy_before"
        solver: LinearSolver | None = None

    assert After().digest() == Before().digest()
    assert After.from_json(After().to_json()) == After()
