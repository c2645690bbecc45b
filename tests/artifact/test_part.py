"""Some values of a time level, read without the others."""

import numpy as np
import pytest

from sciflow import Invalid, NotFound
from sciflow.artifact.gather import Gather
from sciflow.schema import Field, Schema

FIELDS = {
    "small": (Field(("member", "time", "dof"), "K"), (4, 6, 50)),
    "large": (Field(("member", "time", "dof"), "K", "float64"), (4, 6, 3000)),
    "steady": (Field(("member", "y", "x"), "K", "float64"), (4, 30, 20)),
    "pair": (Field(("member", "time", "channel", "dof"), "K"), (4, 6, 2, 40)),
}


@pytest.fixture
def written(store):
    values = {
        n: np.random.default_rng(len(n)).random(shape).astype(f.dtype) for n, (f, shape) in FIELDS.items()
    }
    with store.writer(Schema("ensemble"), "0" * 64) as out:
        for name, (field, shape) in FIELDS.items():
            out.create(name, field, shape, member=True)
        for member in range(3):
            out.write_member(member, {n: v[member] for n, v in values.items()}, {"status": 1})
        artifact = out.publish({})
    return artifact, values


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_part_is_the_part_of_the_level(written, name, dtype):
    artifact, values = written
    gather = artifact.gather(name)
    whole = values[name][:3].reshape(3, gather.layout.levels, -1)
    rng = np.random.default_rng(0)
    for member in range(3):
        for level in range(gather.layout.levels):
            for where in (slice(7, 31), slice(0, 0), rng.integers(0, 50, 9)):
                out = np.empty(len(np.arange(50)[where]), dtype)
                gather.part(member, level, where, out)
                np.testing.assert_array_equal(out, whole[member, level][where].astype(dtype))


def test_a_solvers_own_order_is_undone(written):
    artifact, _ = written
    order = np.random.default_rng(1).permutation(40)
    folder = artifact.path / "data.zarr" / "pair"
    gather = Gather(folder, inverse={1: order})
    for member in range(3):
        expected = gather.read(np.array([member]), np.array([4]))[0, 0].reshape(-1)
        for where in (slice(30, 55), np.array([79, 0, 41])):
            out = np.empty(len(expected[where]))
            gather.part(member, 4, where, out)
            np.testing.assert_array_equal(out, expected[where])
    assert not np.array_equal(expected, gather.read(np.array([1]), np.array([4])).reshape(-1))


def test_damage_is_seen_by_who_checks_and_by_nobody_else(written):
    artifact, _ = written
    file = next((artifact.path / "data.zarr" / "large").glob("c.1.*"))
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[3 * (24000 + 4) + 16000] ^= 1
    file.write_bytes(data)
    out = np.empty(10)
    gather = artifact.gather("large")
    gather.part(1, 3, slice(0, 10), out, check=False)
    gather.part(1, 2, slice(0, 10), out)
    for _ in range(2):
        with pytest.raises(Invalid, match="level 3 does not match"):
            gather.part(1, 3, slice(0, 10), out)


def test_what_is_not_there_is_refused(written):
    gather = written[0].gather("large")
    for level in (-1, 6):
        with pytest.raises(Invalid, match="no time level"):
            gather.part(0, level, slice(0, 1), np.empty(1))
    with pytest.raises(NotFound, match="member 3 is not there"):
        gather.part(3, 0, slice(0, 1), np.empty(1))
