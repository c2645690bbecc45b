import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sciflow import Context, Failed, Invalid, Resources, Schema, run
from sciflow.executor import JobState
from sciflow.executors.local import Local
from sciflow.executors.mpi import Mpi
from sciflow.problem import member_seed
from sciflow.schema import Field
from sciflow.stages.design import DESIGN, Design
from sciflow.stages.simulate import Campaign, Simulate, _Running
from sciflow.store import Store
from tests.toys import Block, Wave


async def ensemble(problem, count=12, executor=None, ranks=1, minimum=0.5, seed=0):
    design = await run(Design(problem=problem, count=count))
    stage = Simulate(problem, seed=seed, minimum=minimum)
    return await run(stage, design=design, executor=executor, resources=Resources(ranks=ranks))


def go(*args, **kwargs):
    return asyncio.run(ensemble(*args, **kwargs))


def expected(problem, points, seed):
    out = []
    for m, row in enumerate(points):
        mu = dict(zip(problem.parameters, row, strict=True))
        ctx = Context(seed=member_seed(seed, m))
        states = list(problem.solve(mu, ctx))
        parts = [s.fields["u"] for s in states]
        out.append([p.values if hasattr(p, "values") else p for p in parts])
    return np.array(out)


@pytest.mark.parametrize("executor", [Local(), Mpi()])
@pytest.mark.parametrize("problem", [Wave(), Block()])
def test_an_ensemble_is_what_the_problem_says(plain, problem, executor):
    data = go(problem, executor=executor, seed=5)
    points = data.read("parameters")
    good = data.read("status") == 1
    np.testing.assert_allclose(data.read("u")[good], expected(problem, points, 5)[good], rtol=1e-6)
    assert good.sum() >= 11
    assert data.read("seed").tolist() == [member_seed(5, m) for m in range(12)]
    if problem.name == "toy_wave":
        assert (data.read("solver_iterations") == 9).all()
    assert data.provenance["stage"]["problem"] == problem.to_json()


@pytest.mark.mpi
def test_ranks_and_executors_give_the_same_bits(plain, tmp_path):
    digests = []
    for i, (executor, ranks) in enumerate([(Local(), 1), (Mpi(), 1), (Mpi(), 2)]):
        plain.store = Store(tmp_path / str(i))
        digests.append(go(Wave(points=9), executor=executor, ranks=ranks).digest)
    assert len(set(digests)) == 1


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        ("diverge", "Diverged: residual 1e9 after 50 iterations"),
        ("raise", "RuntimeError: a bug in the solver"),
        ("nan", "Diverged: field 'u' is not finite at time level 2"),
    ],
)
def test_a_failing_member_is_recorded_and_ends_nothing(plain, fail, reason):
    data = go(Wave(fail=fail), count=16)
    bad = data.read("parameters")[:, 0] > 1.8
    assert 0 < bad.sum() < 8
    np.testing.assert_array_equal(data.read("status"), np.where(bad, 2, 1))
    assert data.attributes["failures"] == {str(m): reason for m in np.flatnonzero(bad)}
    assert np.isnan(data.read("u")[bad]).all()
    assert np.isfinite(data.read("u")[~bad]).all()


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_member_that_kills_its_process_is_recorded_too(plain, ranks):
    data = go(Wave(fail="kill"), count=16, executor=Mpi(), ranks=ranks)
    bad = data.read("parameters")[:, 0] > 1.8
    np.testing.assert_array_equal(data.read("status"), np.where(bad, 2, 1))
    assert all("SIGSEGV" in reason for reason in data.attributes["failures"].values())


@pytest.mark.mpi
def test_an_exception_on_ranks_is_recorded_too(plain):
    data = go(Wave(fail="raise"), count=8, executor=Mpi(), ranks=2)
    assert all("a bug in the solver" in reason for reason in data.attributes["failures"].values())
    assert data.attributes["failures"]


def test_too_few_successes_fail_the_stage_and_keep_the_members(plain):
    with pytest.raises(
        Failed, match=r"\d of 12 members succeeded, fewer than the minimum of 90%.*residual 1e9"
    ):
        go(Wave(fail="diverge", above=1.0), minimum=0.9)
    calls = len(plain.events)
    data = go(Wave(fail="diverge", above=1.0), minimum=0.1)
    solved = [e for _, e in plain.events[calls:] if e.get("state") == "started"]
    assert solved == []  # nothing is computed again, only accepted
    assert (data.read("status") == 1).any()


def test_an_ensemble_that_only_crashes_is_given_up(plain):
    with pytest.raises(Failed, match="SIGSEGV.*members are kept"):
        go(Wave(fail="kill", above=0.0), executor=Mpi())


def published(store, names, units, points):
    with store.writer(Schema("design"), "a" * 64) as out:
        out.write("parameters", np.array(points), DESIGN["parameters"])
        out.describe(parameters=names, parameter_units=units, bounds=[], log=[False] * len(names), method="x")
        return out.publish({"stage": {"component": "design"}, "start": 0.0, "end": 0.0})


@pytest.mark.parametrize(
    ("names", "units", "points", "message"),
    [
        (["a", "b"], ["m", "s"], [[1.0, 0.5], [1.0, np.nan]], "member 1, parameter 'b' is nan"),
        (["a", "c"], ["m", "s"], [[1.0, 0.5]], "no parameter 'c'. "),
        (["a"], ["m"], [[1.0]], "no column for the parameter 'b'"),
        (["a", "b"], ["m", "h"], [[1.0, 0.5]], "'b' is in 'h', toy_wave takes 's'"),
    ],
)
def test_a_design_that_does_not_fit_is_refused(plain, store, names, units, points, message):
    design = published(store, names, units, points)
    with pytest.raises(Invalid, match=message):
        asyncio.run(run(Simulate(Wave()), design=design))


def test_columns_are_matched_by_name(plain, store):
    design = published(store, ["b", "a"], ["s", "m"], [[0.25, 1.5]])
    data = asyncio.run(run(Simulate(Wave()), design=design))
    assert data.read("parameters").tolist() == [[1.5, 0.25]]


def test_an_input_of_the_wrong_kind_is_refused(plain):
    data = go(Wave(), count=3)
    with pytest.raises(Invalid, match="a design was asked for, this is a ensemble"):
        asyncio.run(run(Simulate(Wave()), design=data))
    with pytest.raises(Invalid, match="needs the input 'design'"):
        asyncio.run(run(Simulate(Wave())))
    with pytest.raises(Invalid, match="no input 'desing'. Did you mean 'design'"):
        asyncio.run(run(Simulate(Wave()), desing=data))


DRIVER = """
import asyncio, sys
from sciflow.flow import Session, run, within
from sciflow import Store, Resources
from sciflow.executors.mpi import Mpi
from sciflow.stages.design import Design
from sciflow.stages.simulate import Campaign, Simulate, _Running
from sciflow.registry import registry
problem = registry().find("toy_wave")(pause=0.03)
async def main():
    design = await run(Design(problem=problem, count=30))
    stage = Simulate(problem)
    resources = Resources(ranks=int(sys.argv[2]), parallel=1)
    data = await run(stage, design=design, executor=Mpi(), resources=resources)
    print(data.digest)
with within(Session(Store(sys.argv[1]))):
    asyncio.run(main())
"""


def workers():
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"sciflow.worker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def committed(root):
    logs = Path(root).glob("partial/ensemble-*/artifact/meta/journal/*.log")
    return sum(len(log.read_bytes().splitlines()) for log in logs)


def kill_and_resume(root, ranks, moments):
    """SIGKILL the driver once so many members are there or a moment passed; then let one finish."""
    command = [sys.executable, "-c", DRIVER, root, str(ranks)]
    counts = []
    for members, delay in moments:
        process = subprocess.Popen(command)
        end = time.monotonic() + delay
        while committed(root) < members and time.monotonic() < end and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.wait()
        end = time.monotonic() + 60
        while workers() and time.monotonic() < end:
            time.sleep(0.05)
        assert workers() == [], "a killed driver must not leave workers behind"
        counts.append(committed(root))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), counts


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2])
def test_kill_9_loses_only_what_was_in_flight(tmp_path, ranks):
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "a"), str(ranks)]
    whole = subprocess.run(command, capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    digest, counts = kill_and_resume(str(tmp_path / "b"), ranks, [(3, 60.0), (12, 60.0)])
    assert digest == whole.stdout.strip()
    assert 0 < counts[-1] < 30, "the kills were meant to hit the middle"
    (published_,) = (tmp_path / "b" / "artifacts").glob("ensemble-*")
    solved = [
        json.loads(line.split(b" ", 1)[1])["member"]
        for line in (published_ / "meta" / "journal.log").read_bytes().splitlines()
    ]
    assert sorted(solved) == list(range(30)), "every member was computed exactly once"


@pytest.mark.torture
def test_many_kills(tmp_path):
    rng = np.random.default_rng(int(os.environ.get("SCIFLOW_TORTURE_SEED", "0")))
    whole = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path / "a"), "2"], capture_output=True, text=True
    )
    for i in range(10):
        digest, _ = kill_and_resume(
            str(tmp_path / f"b{i}"), 2, [(99, delay) for delay in rng.uniform(0.1, 3.0, size=4)]
        )
        assert digest == whole.stdout.strip()


def test_units_of_coordinates_follow_the_problem(plain):
    data = go(Wave(), count=3)
    assert data.schema["time"] == Field(("time",), "s", "float64")
    assert data.to_xarray().u.dims == ("member", "time", "x")


def test_stragglers_are_named_once_and_shown(store):
    """A member that takes many times as long as the others is worth a look at its node."""
    said = []
    ctx = Context(log=SimpleNamespace(warning=lambda text, *values: said.append(text % values)))
    campaign = Campaign(Simulate(Wave()), np.zeros((9, 2)), None, ctx)
    job = SimpleNamespace(id="17_3", directory="somewhere")
    late = _Running(job, [4], current=4, since=time.time() - 60, node="n7")
    usual = _Running(job, [5], current=5, since=time.time() - 1, node="n7")
    assert campaign._stragglers([late, usual]) == "", "nothing is known of the others yet"
    campaign._seconds = [2.0, 2.5, 3.0]
    assert campaign._stragglers([late, usual]) == " (1 slow: 4)"
    campaign._stragglers([late, usual])
    assert len(said) == 1
    assert "member 4 takes 60.0 s so far, others took 2.5 s (job 17_3 on n7" in said[0]
    # A process that begins loads its libraries first: beside members of milliseconds that is no straggler.
    campaign._seconds = [0.015, 0.016, 0.02]
    assert campaign._stragglers([_Running(job, [6], current=6, since=time.time() - 2, node="n7")]) == ""
    campaign._stragglers([_Running(job, [7], current=7, since=time.time() - 9, node="n7")])
    assert "others took 16 ms (job" in said[1]


def test_jobs_are_large_first_and_small_last(store):
    """Every member is in one job, no job is more than its share, and the last ones hold one member."""
    campaign = Campaign(Simulate(Wave()), np.zeros((1000, 2)), None, Context(resources=Resources(parallel=8)))
    blocks, sizes = [[m] for m in range(1000)], []
    while blocks:
        sizes.append(len(campaign._take(blocks)))
    assert sum(sizes) == 1000
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 1000 // 16 + 1
    assert sizes[-8:] == [1] * 8
    assert len(sizes) < 100


class Reporting:
    """A job that reports a member in one round and has ended in the next."""

    id, directory = "17", "somewhere"

    def __init__(self, member, *, dies=False):
        self._states = [JobState.FAILED] if dies else [JobState.RUNNING, JobState.DONE]
        self._events = [
            {"event": "member", "member": member, "state": "started", "time": 0.0},
            {"event": "member", "member": member, "state": "ok", "time": 0.0},
        ][: 1 if dies else 2]

    def state(self):
        return self._states.pop(0)

    def wait(self, timeout):
        return self.state()

    def events(self):
        found, self._events = self._events, []
        return found

    def cause(self):
        return None

    def reason(self):
        return "ended by SIGKILL"

    def waits_for(self):
        return ""

    def settle(self):
        return


def test_jobs_that_ended_well_do_not_count_as_fruitless(store):
    """A member that takes its job down after many small jobs is tried again, and ends nothing."""
    campaign = Campaign(Simulate(Wave()), np.zeros((30, 2)), None, Context())
    for member in range(20):
        running = [_Running(Reporting(member), [member])]
        while running:
            running, left = campaign._round(running)
        assert left == []
    assert campaign._round([_Running(Reporting(20, dies=True), [20, 21])]) == ([], [20, 21])
