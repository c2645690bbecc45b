"""Trajectories that are interrupted, that choose their own steps, or whose mesh is split over ranks."""

import asyncio
import collections
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from sciflow import Context, Resources, run
from sciflow.artifact.snapshot import Snapshot
from sciflow.artifact.verify import findings
from sciflow.errors import NotFound
from sciflow.executors.local import Local
from sciflow.executors.mpi import Mpi
from sciflow.flow import Session, within
from sciflow.problem import member_seed
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.states import Collector
from sciflow.store import Store
from sciflow.stored import Stored
from tests.toys import March, Steps


def ensemble(root, problem, count=4, executor=None, ranks=1):
    async def flow():
        design = await run(Design(problem=problem, count=count))
        resources = Resources(ranks=ranks, parallel=1)
        return await run(Simulate(problem, seed=1), design=design, executor=executor, resources=resources)

    with within(Session(Store(root))):
        return asyncio.run(flow())


def alone(problem, data, member):
    mu = dict(zip(problem.parameters, data.read("parameters")[member], strict=True))
    collector = Collector(problem, Context().comm)
    for state in problem.solve(mu, Context(seed=member_seed(1, member))):
        collector.add(state)
    collector.finish()
    return collector.arrays


@pytest.mark.mpi
def test_degrees_of_freedom_are_comparable_for_any_number_of_ranks(tmp_path):
    problem = March()
    found = {}
    for ranks in (1, 2, 3):
        data = ensemble(tmp_path / str(ranks), problem, ranks=ranks, executor=Mpi())
        assert data.attributes["numberings"]["v"], "the order of the ranks is noted"
        assert not any(f.severe for f in findings(data.path, "semantic"))
        raw = np.asarray(data.array("v")[...])
        values = data.read("v")
        np.testing.assert_array_equal(values[1], alone(problem, data, 1)["v"])
        assert not np.array_equal(raw, values), "stored in the solver's order"
        found[ranks] = raw, values
        opened = data.to_xarray()
        np.testing.assert_array_equal(opened.v.values, values)
        np.testing.assert_array_equal(opened.v[2, 1:4, ::2].values, values[2, 1:4, ::2])
        np.testing.assert_array_equal(opened.v.isel(member=[3, 0], dof=-1).values, values[[3, 0]][..., -1])
        batch = Stored(data, ["v"], ["v"], window=(1, 1)).all()
        np.testing.assert_array_equal(batch.y["v"].reshape(4, 5, 7), values[:, 1:])
        np.testing.assert_allclose(values, data.read("u"), rtol=1e-6)
    np.testing.assert_array_equal(found[1][1], found[2][1])
    np.testing.assert_array_equal(found[1][1], found[3][1])
    assert not np.array_equal(found[2][0], found[3][0])


def test_a_tree_has_solver_figures_and_numberings_apart(tmp_path):
    data = ensemble(tmp_path, March())
    tree = data.to_datatree()
    assert isinstance(tree, xr.DataTree)
    assert set(tree.children) == {"solver", "numbering"}
    assert "solver_steps" in tree["solver"]
    np.testing.assert_array_equal(tree["v"].values, data.read("v"))
    assert tree.v.attrs["units"] == "Pa"
    assert tree.attrs["Conventions"].startswith("CF-")


@pytest.mark.parametrize("executor", [Local(), Mpi()])
def test_members_with_steps_of_their_own(tmp_path, executor):
    problem = Steps()
    data = ensemble(tmp_path, problem, count=6, executor=executor)
    steps, times = data.read("n_steps"), data.read("time")
    assert len(set(steps.tolist())) > 1
    for m, a in enumerate(data.read("parameters")[:, 0]):
        expected = problem.times(a)
        assert steps[m] == len(expected)
        np.testing.assert_allclose(times[m, : steps[m]], expected)
        assert np.isnan(times[m, steps[m] :]).all()
        assert np.isfinite(data.read("u")[m, : steps[m]]).all()
        assert np.isnan(data.read("u")[m, steps[m] :]).all()
    assert data.to_xarray().time.dims == ("member", "step")
    assert not list(findings(data.path, "semantic"))


def test_time_that_goes_back_fails_the_member(tmp_path):
    from sciflow import Failed

    with pytest.raises(Failed, match=r"state 1 has time -.*, not later than"):
        ensemble(tmp_path, Steps(back=True))


DRIVER = """
import sys
from pathlib import Path
from tests.stages.test_trajectories import ensemble
from tests.toys import March
from sciflow.executors.mpi import Mpi
from sciflow.executors.local import Local
ranks = int(sys.argv[2])
executor = Mpi() if ranks else Local()
data = ensemble(Path(sys.argv[1]), March(levels=40, pause=0.01), 3, executor, max(1, ranks))
print(data.digest)
"""


def levels_computed(root):
    try:
        lines = (root / "partial" / "computed").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [tuple(map(int, line.split())) for line in lines]


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [0, 2])
def test_an_interrupted_member_loses_at_most_one_step(tmp_path, ranks):
    def command(root):
        return [sys.executable, "-c", DRIVER, str(root), str(ranks)]

    whole = subprocess.run(command(tmp_path / "a"), capture_output=True, text=True, check=True).stdout
    kills = 0
    for wanted in (13, 55, 90):
        process = subprocess.Popen(command(tmp_path / "b"), start_new_session=True, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while len(levels_computed(tmp_path / "b")) < wanted and time.monotonic() < until:
            time.sleep(0.005)
        assert process.poll() is None, "it was meant to be killed in the middle"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        settle(tmp_path / "b")
    done = subprocess.run(command(tmp_path / "b"), capture_output=True, text=True, check=True).stdout
    assert done == whole
    counts = collections.Counter(levels_computed(tmp_path / "b"))
    again = [key for key, count in counts.items() if count > 1]
    assert set(counts.values()) <= {1, 2}
    assert len(counts) == 3 * 40
    assert sum(counts.values()) <= 3 * 40 + kills, again


def settle(root):
    """Wait until the processes of a killed run are gone."""

    def alive():
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if str(root).encode() in (entry / "cmdline").read_bytes():
                        return True
        return False

    until = time.monotonic() + 60
    while alive() and time.monotonic() < until:
        time.sleep(0.02)


def test_a_snapshot_of_a_running_ensemble_stays_as_it_is(tmp_path):
    with pytest.raises(NotFound, match="nothing is being written"):
        Snapshot(tmp_path)
    problem = March(levels=4)
    done = ensemble(tmp_path / "a", problem, 5)
    store = Store(tmp_path / "b")
    with store.writer(Simulate(problem).output, "1" * 64) as out:
        stage = Simulate(problem, seed=1)
        design = next(p for p in Store(tmp_path / "a").artifacts() if p.name.startswith("design"))
        from sciflow import Artifact
        from sciflow.stages.simulate import points_of

        points = points_of(Artifact.open(design), problem)
        stage.begin(out, Artifact.open(design), points)
        for m in (3, 1):
            with out.member(m) as one:
                mu = dict(zip(problem.parameters, points[m], strict=True))
                for state in problem.solve(mu, Context(seed=member_seed(1, m))):
                    one.append(state.fields, metrics=state.metrics)
                one.commit({"status": 1, "metrics": one.metrics, "reason": ""})
        out.write_member(0, {}, {"status": 2, "reason": "no"})
        name = out.path.parent.name
        early = store.snapshot(name)
        assert early.read("status").tolist() == [2, 1, 0, 1, 0]
        assert early.members().tolist() == [1, 3]
        samples = Stored(early, ["a"], ["v"])
        np.testing.assert_array_equal(samples.all().y["v"], done.read("v")[[1, 3]])
        values = early.read("v")
        assert np.isnan(values[[0, 2, 4]]).all()
        np.testing.assert_array_equal(values[[1, 3]], done.read("v")[[1, 3]])
        with out.member(4) as one:
            for state in problem.solve(dict(zip(problem.parameters, points[4], strict=True)), Context()):
                one.append(state.fields)
            one.commit({"status": 1, "metrics": {}, "reason": ""})
        assert early.members().tolist() == [1, 3]
        assert np.isnan(early.read("v")[4]).all()
        late = store.snapshot(name)
        assert late.members().tolist() == [1, 3, 4]
        assert late.digest != early.digest
        assert store.snapshot(name).digest == late.digest
        out.write("status", late.read("status"), Simulate.output["status"])
        out.write("seed", np.zeros(5, np.int64), Simulate.output["seed"])
        out.publish({})
    np.testing.assert_array_equal(samples.all().y["v"], done.read("v")[[1, 3]])
    assert store.snapshot(name).digest != late.digest, "published"


def test_a_disk_that_is_too_small_is_said_before_the_first_member(tmp_path, monkeypatch):
    real = os.statvfs

    def small(path):
        found = real(path)
        return os.statvfs_result((*found[:4], 0, *found[5:7], 2, *found[8:]))

    monkeypatch.setattr(os, "statvfs", small)
    events = []
    here = Session(Store(tmp_path), listener=lambda stage, event: events.append(event))

    async def flow():
        return await run(Simulate(Steps()), design=await run(Design(problem=Steps(), count=3)))

    with within(here):
        asyncio.run(flow())
    said = [e["message"] for e in events if e["event"] == "log"]
    assert any("3 members need" in m and "0.0 GB left" in m for m in said)
    assert any("6 files are to come, 2 inodes are left" in m for m in said)


def test_a_member_damaged_before_publication_is_set_aside_and_solved_again(tmp_path, monkeypatch):
    from sciflow import Failed

    whole = ensemble(tmp_path / "a", March())
    real = Simulate.seal

    def damage(self, out, points, ctx):
        (shard,) = (out.path / "data.zarr" / "u").glob("c.2.*")
        data = bytearray(shard.read_bytes())
        data[5] ^= 1
        shard.write_bytes(data)
        real(self, out, points, ctx)

    with monkeypatch.context() as patch:
        patch.setattr(Simulate, "seal", damage)
        with pytest.raises(Failed, match=r"members \[2\] were damaged .*(.|\n)*Run again"):
            ensemble(tmp_path / "b", March())
    before = len(levels_computed(tmp_path / "b"))
    data = ensemble(tmp_path / "b", March())
    assert data.digest == whole.digest
    assert len(levels_computed(tmp_path / "b")) == before + 6, "only that member"
    assert [p.name[:4] for p in (data.path / "meta" / "damaged").iterdir()] == ["u.c."]
    assert not any(f.severe for f in findings(data.path, "semantic"))
