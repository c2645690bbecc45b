"""Samples from disk: what a batch holds, in which order, for whom, and after what damage."""

import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sciflow.errors import Invalid, NotFound
from sciflow.schema import Field, Schema
from sciflow.store import Store
from sciflow.stored import Stored

MEMBERS, LEVELS = 7, 6


def ensemble(root, points=9, steps=None):
    """u[m, t, x] = 100 m + 10 t + x / 10; member 3 failed. With `steps` members end early."""
    axis = "time" if steps is None else "step"
    with Store(root, "rename").writer(Schema("ensemble"), "0" * 64) as out:
        out.create("u", Field(("member", axis, "x"), "K"), (MEMBERS, LEVELS, points), member=True)
        out.create("q", Field(("member", "x"), "W"), (MEMBERS, points), member=True)
        out.write("x", np.arange(points) / 10, Field(("x",), "m", "float64"))
        out.write(axis, np.arange(float(LEVELS)), Field((axis,), "s", "float64"))
        parameters = np.stack([np.arange(MEMBERS), -np.arange(MEMBERS)], axis=1).astype(float)
        out.write("parameters", parameters, Field(("member", "parameter"), "any", "float64"))
        out.describe(parameters=["a", "b"], parameter_units=["m", "s"])
        status = np.ones(MEMBERS, np.uint8)
        for m in range(MEMBERS):
            if m == 3:
                status[m] = 2
                out.write_member(m, {}, {"status": 2})
                continue
            with out.member(m) as one:
                for t in range(LEVELS if steps is None else steps[m]):
                    q = {"q": np.full(points, m)} if t == 0 else {}
                    one.append({"u": truth(m, t, points), **q})
                one.commit({"status": 1})
        out.write("status", status, Field(("member",), "1", "uint8"))
        if steps is not None:
            out.write("n_steps", np.array(steps), Field(("member",), "1", "int64"))
        return out.publish({})


def truth(m, t, points=9):
    return (100 * m + 10 * t + np.arange(points) / 10).astype("float32")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return ensemble(tmp_path_factory.mktemp("stored"))


def test_members_as_samples(data):
    samples = Stored(data, ["a", "u[0]", "q"], ["u", "u[-1]"])
    assert samples.members.tolist() == [0, 1, 2, 4, 5, 6]
    batch = samples.all()
    assert batch.x["a"].tolist() == [0, 1, 2, 4, 5, 6]
    for i, m in enumerate(samples.members):
        np.testing.assert_array_equal(batch.x["u[0]"][i], truth(m, 0))
        np.testing.assert_array_equal(batch.y["u"][i], [truth(m, t) for t in range(LEVELS)])
        np.testing.assert_array_equal(batch.y["u[-1]"][i], truth(m, LEVELS - 1))
        assert (batch.x["q"][i] == m).all()
    assert samples.signature.shape("u") == (LEVELS, 9)
    assert samples.signature.inputs["a"] == Field((), "m")


@pytest.mark.parametrize(("k", "m"), [(1, 1), (2, 1), (1, 3), (3, 3)])
def test_windows_hold_consecutive_levels(data, k, m):
    samples = Stored(data, ["u", "a", "q"], ["u"], window=(k, m))
    assert len(samples) == 6 * (LEVELS - k - m + 1)
    batch = samples.all()
    seen = set()
    for x, y, a, q in zip(batch.x["u"], batch.y["u"], batch.x["a"], batch.x["q"], strict=True):
        start = round(float(x.reshape(k, 9)[0, 0]) % 100 / 10)
        seen.add((int(a), start))
        np.testing.assert_array_equal(x.reshape(k, 9), [truth(a, start + i) for i in range(k)])
        np.testing.assert_array_equal(y.reshape(m, 9), [truth(a, start + k + i) for i in range(m)])
        assert (q == a).all()
    assert len(seen) == len(samples), "every window once"
    axes = samples.signature.outputs["u"].axes
    assert axes == (("lead", "x") if m > 1 else ("x",))
    if m > 1:
        assert samples.signature.coordinates["lead"].tolist() == list(range(1, m + 1))


@pytest.mark.parametrize(("k", "m"), [(0, 1), (0, 2), (0, LEVELS), (1, 1), (2, 3)])
def test_time_is_that_of_the_first_level_that_is_predicted(data, k, m):
    inputs = ["time", "a", "q"] if k == 0 else ["u", "time", "a"]
    samples = Stored(data, inputs, ["u"], window=(k, m))
    assert len(samples) == 6 * (LEVELS - k - m + 1)
    assert samples.signature.inputs["time"] == Field(
        (), "s", "float32", "time of the first level that is predicted"
    )
    assert samples.signature.outputs["u"].axes == (("lead", "x") if m > 1 else ("x",))
    batch = samples.take(samples.order(3))
    assert batch.x["time"].dtype == np.float32
    assert batch.x["time"].shape == (len(samples),)
    for t, a, y in zip(batch.x["time"], batch.x["a"], batch.y["u"], strict=True):
        np.testing.assert_array_equal(y.reshape(m, 9), [truth(a, t + i) for i in range(m)])
    np.testing.assert_array_equal(samples.sample_members[samples.order(3)], batch.x["a"])
    assert set(batch.x["time"].tolist()) == set(range(k, LEVELS - m + 1))


def test_the_member_of_every_sample_is_known(data):
    whole = Stored(data, ["a"], ["u"])
    assert whole.sample_members.tolist() == whole.members.tolist()
    some = Stored(data, ["a"], ["u"], members=[5, 1], window=(1, 2))
    np.testing.assert_array_equal(some.sample_members, some.all().x["a"])
    assert some.sample_members.tolist() == [5] * 4 + [1] * 4


def test_members_that_end_early_give_the_windows_that_they_have(tmp_path):
    steps = [6, 2, 3, 0, 1, 4, 5]
    data = ensemble(tmp_path, steps=steps)
    samples = Stored(data, ["u"], ["u"], window=(1, 1))
    assert len(samples) == sum(max(s - 1, 0) for m, s in enumerate(steps) if m != 3)
    assert np.isfinite(samples.all().y["u"]).all()
    last = Stored(data, ["u[0]"], ["u[-1]"]).all().y["u[-1]"]
    np.testing.assert_array_equal(last, [truth(m, steps[m] - 1) for m in range(MEMBERS) if m != 3])
    with pytest.raises(Invalid, match="steps of their own"):
        Stored(data, ["a"], ["u"])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 99),
    st.integers(0, 5),
    st.integers(1, 7),
    st.sampled_from([None, 1, 2, 5]),
    st.integers(1, 4),
)
def test_every_epoch_is_a_permutation_that_the_seed_decides(data, seed, epoch, size, block, ranks):
    whole = Stored(data, ["u"], ["u"], window=(1, 1), block=block)
    count = len(whole)
    assert sorted(whole.order(seed, epoch)) == list(range(count))
    assert whole.order(seed, epoch).tolist() == whole.order(seed, epoch).tolist()
    shares = [Stored(data, ["u"], ["u"], window=(1, 1), block=block, shard=(r, ranks)) for r in range(ranks)]
    together = np.concatenate([s.order(seed, epoch) for s in shares])
    assert set(together) == set(range(count)), "the ranks together see everything"
    assert len({len(s.order(seed, epoch)) for s in shares}) == 1, "all ranks take equally many steps"
    batches = [b.x["u"] for b in whole.batches(size, seed=seed, epoch=epoch)]
    start = len(batches) // 2
    rest = [b.x["u"] for b in whole.batches(size, seed=seed, epoch=epoch, start=start)]
    assert len(rest) == len(batches) - start
    for one, other in zip(batches[start:], rest, strict=True):
        np.testing.assert_array_equal(one, other)


def test_blocks_of_members_are_read_together(data):
    samples = Stored(data, ["u"], ["u"], window=(1, 1), block=2)
    members = samples.members.repeat(LEVELS - 1)[samples.order(5)]
    per_block = 2 * (LEVELS - 1)
    groups = [set(members[i : i + per_block]) for i in range(0, len(members), per_block)]
    assert all(len(g) == 2 for g in groups)
    assert samples.order(5).tolist() != samples.order(6).tolist()


def test_what_is_refused(data):
    for arguments, match in [
        ({"window": (0, 1)}, r"'u' has time levels and the window \(0, 1\) takes none of the inputs"),
        ({"window": (1, 0)}, "at least one out"),
        ({"window": (-1, 1)}, "no negative number of levels"),
        ({"window": (4, 4)}, "longer than the trajectories"),
        ({"shard": (2, 2)}, "below the number of ranks"),
        ({"block": 0}, "at least one member"),
        ({"members": [3]}, r"members \[3\] have no result"),
        ({"members": [99]}, r"members \[99\] have no result"),
    ]:
        with pytest.raises(Invalid, match=match):
            Stored(data, ["u"], ["u"], **arguments)
    with pytest.raises(NotFound, match="no field or parameter 'w'"):
        Stored(data, ["w"], ["u"])
    with pytest.raises(Invalid, match="no time axis"):
        Stored(data, ["q[0]"], ["u"])
    with pytest.raises(Invalid, match="'time' is an input with a window alone"):
        Stored(data, ["time"], ["u"])
    with pytest.raises(NotFound, match="no field or parameter 'time'"):
        Stored(data, ["a"], ["time"], window=(0, 1))
    with pytest.raises(Invalid, match="there are 6 time levels"):
        Stored(data, ["u[6]"], ["u"])
    with pytest.raises(Invalid, match="name the field alone"):
        Stored(data, ["u[0]"], ["u"], window=(1, 1))
    for level in (-1, 6):
        with pytest.raises(Invalid, match="there are 6 time levels, asked for"):
            data.gather("u").read(np.array([0]), np.array([level]))


@pytest.mark.parametrize("points", [9, 2000])
def test_damage_is_noticed_when_it_is_read(tmp_path, points):
    data = ensemble(tmp_path, points)
    shard = data.path / "data.zarr" / "u" / "c.2.0.0"
    good = shard.read_bytes()
    shard.chmod(0o644)
    shard.write_bytes(good[:30] + bytes([good[30] ^ 4]) + good[31:])
    for verify in ("first", "always"):
        samples = Stored(data, ["u"], ["u"], members=[2], window=(1, 1), verify=verify)
        for _ in range(2):
            with pytest.raises(Invalid, match=r"c\.2\.0\.0: the checksum of time level 0 does not match"):
                samples.all()
    assert Stored(data, ["u"], ["u"], members=[1], window=(1, 1)).all()
    Stored(data, ["u"], ["u"], members=[2], window=(1, 1), verify="off").all()
    shard.write_bytes(good[:-1])
    with pytest.raises(Invalid, match="it was truncated"):
        Stored(data, ["u"], ["u"], members=[2], verify="off").all()
    shard.unlink()
    with pytest.raises(NotFound, match="member 2 is not there"):
        Stored(data, ["u"], ["u"], members=[2]).all()
    shard.symlink_to(data.path / "data.zarr" / "u" / "c.1.0.0")
    with pytest.raises(Invalid, match="symbolic link"):
        Stored(data, ["u"], ["u"], members=[2]).all()


def test_a_fork_and_a_copy_read_the_same(data):
    samples = Stored(data, ["u"], ["u"], window=(1, 1))
    expected = [b.x["u"].sum() for b in samples.batches(4, seed=1)]
    again = pickle.loads(pickle.dumps(samples))  # noqa: S301 - what a spawned loader does with its own object
    assert [b.x["u"].sum() for b in again.batches(4, seed=1)] == expected
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        same = [b.x["u"].sum() for b in samples.batches(4, seed=1)] == expected
        os.write(writer, b"1" if same else b"0")
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == b"1"
    os.close(reader)


def test_a_torch_loader_with_processes_reads_every_sample_once(data):
    torch = pytest.importorskip("torch")
    samples = Stored(data, ["a"], ["u"], window=(1, 2))
    loader = torch.utils.data.DataLoader(samples, batch_size=5, num_workers=2)
    got = torch.cat([y["u"] for _, y in loader]).numpy()
    np.testing.assert_array_equal(got, samples.all().y["u"])


def test_more_files_than_may_be_mapped(data, monkeypatch):
    import sciflow.artifact.gather as module

    monkeypatch.setattr(module, "MAPPED", 2)
    samples = Stored(data, ["u"], ["u"], window=(1, 1))
    expected = [truth(m, t)[0] for m in samples.members for t in range(LEVELS - 1)]
    np.testing.assert_array_equal(samples.all().x["u"][:, 0], expected)
