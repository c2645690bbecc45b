"""Tests that hold for any number of ranks: run by pytest alone and under ``mpirun -n 2``."""

import numpy as np
import pytest

from sciflow import Context, Diverged, Failed, Invalid, Part, State
from sciflow.context import exchange
from sciflow.states import Collector
from sciflow.worker import communicator
from tests.toys import Wave

COMM = communicator()
RANK, SIZE = COMM.rank, COMM.size


def test_every_rank_gets_every_text():
    assert exchange(COMM, f"rank {RANK} says ä") == [f"rank {r} says ä" for r in range(SIZE)]
    assert exchange(COMM, "") == [""] * SIZE


def test_ranks_agree_on_a_failure():
    ctx = Context(comm=COMM)
    ctx.all_ok(None)
    error = Diverged("mine") if RANK == SIZE - 1 else None
    expected = Diverged if RANK == SIZE - 1 else Failed
    with pytest.raises(expected, match="mine"):
        ctx.all_ok(error)


@pytest.mark.parametrize("points", [1, 5, 8])
def test_parts_of_any_length_make_the_whole(points):
    problem = Wave(points=points)
    collector = Collector(problem, COMM)
    mu = {"a": 1.5, "b": 0.25}
    for state in problem.solve(mu, Context(seed=3, comm=COMM)):
        collector.add(state)
    collector.finish()
    if RANK:
        assert collector.arrays == {}
        return
    x = np.linspace(0, 1, points)
    expected = [1.5 * np.sin(x * (1 + t)) + 0.25 for t in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(collector.arrays["u"], np.array(expected), rtol=1e-6)


def test_a_position_that_two_ranks_claim_is_refused_on_every_rank():
    collector = Collector(Wave(), COMM)
    state = State(0.0, {"u": Part(np.zeros(8, dtype=np.int64), np.zeros(8)), "q": None})
    with pytest.raises(Invalid, match="not each of 8 once"):
        collector.add(state)


def test_generators_depend_on_seed_and_key_alone():
    draws = exchange(COMM, repr(Context(seed=4, comm=COMM).rng(2).random(3).tolist()))
    assert len(set(draws)) == 1
    assert draws[0] != repr(Context(seed=4).rng(3).random(3).tolist())
