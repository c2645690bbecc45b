"""Ensembles whose members learn from each other: what is stored, and that a kill changes no decision."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sciflow import Resources, Store, run
from sciflow.artifact import Artifact
from sciflow.executors.local import Local
from sciflow.executors.mpi import Mpi
from sciflow.flow import Session, within
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.space import Relaxation
from tests.control.learning import Gamble, Lottery

TUNER = Thompson(Relaxation(1.0, 1.9, 10))
PROBLEM = Lottery(solver=Gamble(TUNER))


def ensemble(problem, count=8, executor=None, width=1, ranks=1):
    async def flow():
        design = await run(Design(problem=problem, count=count))
        resources = Resources(ranks=ranks, parallel=width)
        return await run(Simulate(problem), design=design, executor=executor, resources=resources)

    return asyncio.run(flow())


def test_decisions_are_sealed_member_after_member(plain):
    data = ensemble(PROBLEM, executor=Local())
    assert data.read("decision_member").tolist() == np.repeat(range(8), 5).tolist()
    known = data.read("decision_known").reshape(8, 5)
    assert (known == 5 * np.arange(8)[:, None]).all(), "each member knows what all before it had decided"
    omegas = np.array([arm["omega"] for arm in TUNER.arms])[data.read("decision_arm")]
    np.testing.assert_array_equal(omegas, data.read("u")[:, :, 0].ravel())
    cost = data.read("decision_cost").reshape(8, 5)
    assert cost[-3:].mean() < cost[:2].mean(), "it learns"
    assert data.schema["decision_arm"].dtype == "int64"
    assert data.schema["decision_cost"].unit == "any"
    assert data.schema["decision_probability"].axes == ("decision",)
    assert "decision" in data.to_xarray().dims


def test_where_nobody_learns_nothing_changes(plain):
    data = ensemble(Lottery(), count=3)
    assert not [name for name in data.schema.fields if name.startswith("decision")]
    assert "solver" not in data.attributes["problem"]


def test_several_workers_learn_from_each_other(plain):
    data = ensemble(PROBLEM, count=12, executor=Mpi(), width=2)
    assert (data.read("status") == 1).all()
    known = data.read("decision_known").reshape(12, 5)
    assert known.max() >= 25
    assert (known % 5 == 0).all(), "whole logs"


def test_what_is_learned_is_shown(plain, capsys):
    from sciflow.cli import main

    data = ensemble(PROBLEM, count=3)
    main(["show", str(data.path)])
    assert "decision_cost" in capsys.readouterr().out


def test_members_of_an_online_training_learn_too(tmp_path):
    pytest.importorskip("zmq")
    from tests.online.runs import session, stage, train

    here = session(tmp_path)
    model = train(here, stage(PROBLEM, inputs_of=("a", "time"), keep=True), count=8, parallel=2)
    data = Artifact.open(here.store.root / "artifacts" / model.attributes["ensemble_name"])
    assert sorted(set(data.read("decision_member").tolist())) == list(range(8))
    assert data.read("decision_known").max() >= 15


DRIVER = """
import sys
from pathlib import Path
from sciflow import Store
from sciflow.flow import Session, within
from sciflow.executors.mpi import Mpi
from tests.control.test_ensemble_learning import ensemble, {problem}
with within(Session(Store(Path(sys.argv[1])))):
    ensemble({problem}, {count}, Mpi()).digest
"""


def alive(root):
    """Whether a job of this store has not noticed yet that its driver is gone."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(root).encode() in entry.read_bytes():
                return True
    return False


def logged(root):
    """Bytes that members have noted."""
    return sum(f.stat().st_size for f in root.glob("partial/ensemble-*/scratch/experience/*.log"))


def killed_and_resumed(root, moments, problem="SLOW", count=8):
    """Kill the driver, and with it the one job, at these moments; then let it finish."""
    command = [sys.executable, "-c", DRIVER.format(problem=problem, count=count), str(root)]
    for moment in moments:
        before, until = logged(root), time.monotonic() + 30
        process = subprocess.Popen(command)
        # Counted from where another member is solved: starting takes as long as it takes.
        while logged(root) == before and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(moment)
        process.kill()
        process.wait()
        while alive(root):
            time.sleep(0.02)
    with within(Session(Store(root))):
        return ensemble(globals()[problem], count, Local())


SLOW = PROBLEM.replace(pause=0.03)


def test_a_kill_changes_no_decision(tmp_path):
    rng = np.random.default_rng(int(time.time()))
    moment = rng.uniform(0.0, 0.4)
    with within(Session(Store(tmp_path / "whole"))):
        whole = ensemble(SLOW, executor=Local())
    again = killed_and_resumed(tmp_path / "killed", [moment])
    assert again.digest == whole.digest, f"killed after {moment} s"


@pytest.mark.torture
def test_many_kills_change_no_decision(tmp_path):
    rng = np.random.default_rng(int(os.environ.get("SCIFLOW_TORTURE_SEED", "0")))
    with within(Session(Store(tmp_path / "whole"))):
        whole = ensemble(SLOW, executor=Local())
    for i in range(10):
        moments = rng.uniform(0.0, 0.4, size=2)
        again = killed_and_resumed(tmp_path / f"killed{i}", moments)
        assert again.digest == whole.digest, f"killed after {moments} s"


def test_the_report_says_what_was_learned(plain):
    from sciflow_control.learned.report import sections

    data = ensemble(PROBLEM, count=12)
    ((title, body),) = sections(data)
    assert title == "What the solver learned"
    assert "60 decisions in 12 members" in body
    best = np.argmax(np.bincount(data.read("decision_arm")))
    assert f"omega {TUNER.arms[best]['omega']:.4g}" in body
    assert f"{data.read('decision_cost').mean():.4g}" in body
    assert body.count("<img") >= 1
    assert sections(ensemble(Lottery(), count=2)) is None


def test_decisions_that_no_solver_made_are_not_reported():
    """A problem may note what it likes, for example how it chose its time steps."""
    from types import SimpleNamespace

    from sciflow_control.learned.report import sections

    fields = {"decision_arm": np.zeros(3, int), "decision_cost": np.ones(3)}
    schema = SimpleNamespace(kind="ensemble", fields=fields)
    problem = {"component": "steps"}
    made = SimpleNamespace(schema=schema, attributes={"problem": problem}, read=fields.get, path=Path("x"))
    assert sections(made) is None


def test_the_report_names_a_feature_that_the_problem_does_not_tell():
    from types import SimpleNamespace

    from sciflow_control.bandits.chebcb import ChebCB
    from sciflow_control.learned.report import sections
    from sciflow_control.space import Relaxation
    from sciflow_control.tuned.solver import Tuned

    solver = Tuned(ChebCB(Relaxation(), "log_dif", -3.0, 1.0))
    log = {"arm": [-1, -1], "cost": [3.0, 4.0], "member": [0, 1], "feature_log_diffusion": [0.1, 0.2]}
    fields = {f"decision_{name}": np.array(values) for name, values in log.items()}
    schema = SimpleNamespace(kind="ensemble", fields=fields)
    about = {"problem": {"solver": solver.to_json()}}
    ((title, body),) = sections(SimpleNamespace(schema=schema, read=fields.__getitem__, attributes=about))
    assert title == "What the solver learned"
    assert "looks at log_dif, and the problem tells: log_diffusion." in body


def test_the_best_arm_of_every_system_is_the_one_that_cost_least_and_did_not_fail():
    from sciflow_control.learned.decisions import Decisions

    rng = np.random.default_rng(0)
    cost, status = rng.random((6, 4)), rng.integers(0, 2, (6, 4))
    status[:, 0] = 0
    shape = {"arm": np.tile(range(4), 6), "member": np.repeat([0, 0, 1, 1, 2, 2], 4)}
    solve, mix = np.repeat([0, 1, 0, 1, 0, 1], 4), rng.permutation(24)
    made = Decisions(
        shape["arm"][mix], status.ravel()[mix], cost.ravel()[mix], np.zeros(24, bool), {}, (),
        shape["member"][mix], solve[mix],
    )  # fmt: skip
    mean, best = made.oracle()
    possible = np.where(status == 0, cost, np.inf)
    assert mean == pytest.approx(possible.min(axis=1).mean())
    assert best.tolist() == possible.argmin(axis=1).tolist()
