"""Steps that a controller chooses are the same on every rank, and on any number of them."""

from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("dolfinx")
from sciflow import Context
from sciflow.context import exchange
from sciflow.errors import Diverged, Invalid
from sciflow.stepping import Stepping
from sciflow.worker import communicator
from sciflow_fenics.components import Heat
from sciflow_fenics.conduction import Conduction
from sciflow_fenics.moving_heat import MovingHeat
from tests.fenics.controllers import Toy

COMM = communicator()
HEAT = Heat(cells=6, grid=5, levels=3, dofs=True, scheme="crank_nicolson", stepping=Toy(1e-4, 5.0))
MOVING = MovingHeat(cells=6, grid=5, levels=3, end=12.0, dofs=True, events=False, stepping=Toy(1e-3))
BOTH = pytest.mark.parametrize("problem", [HEAT, MOVING], ids=["heat", "moving"])


def middle(problem):
    return {n: p.low + 0.6 * (p.high - p.low) for n, p in problem.parameters.items()}


def steps(problem, comm):
    """Beginnings, lengths, errors and what was taken back."""
    ctx = Context() if comm is None else Context(comm=comm)
    stepping = Stepping(problem.stepper(middle(problem), ctx), problem.stepping)
    leg = stepping.to(problem.end)
    return [(r.time, r.length, r.error, r.cost) for r in [*leg.taken, *leg.rejected]], len(leg.rejected)


@BOTH
def test_every_rank_does_the_same(problem):
    found, rejected = steps(problem, COMM)
    assert rejected > 0
    assert len(set(exchange(COMM, repr(found[-8:]) + str(len(found))))) == 1


@BOTH
def test_the_steps_do_not_depend_on_the_number_of_ranks(problem):
    together, alone = steps(problem, COMM), steps(problem, None)
    assert together[1] == alone[1]
    np.testing.assert_allclose(
        [row[:3] for row in together[0]], [row[:3] for row in alone[0]], rtol=1e-4, atol=1e-9
    )


@BOTH
def test_a_step_that_fails_on_one_rank_is_taken_back_on_all(problem, monkeypatch):
    calls, step = [], Conduction.step

    def failing(self, *arguments):
        found = step(self, *arguments)
        calls.append(1)
        if len(calls) == 9 and COMM.rank == COMM.size - 1:
            raise Diverged("on the last rank")
        return found

    plain = steps(problem, COMM)
    monkeypatch.setattr(Conduction, "step", failing)
    found = steps(problem, COMM)
    assert found != plain
    assert len(set(exchange(COMM, repr(found[0][-8:]) + str(found[1])))) == 1
    assert sum(np.isnan(row[2]) for row in found[0]) == 1


@dataclass(frozen=True)
class Own(Toy):
    """Another step on every rank after some time."""

    name = "own_steps"

    def choose(self, memory, state):
        value, memory = super().choose(memory, state)
        return value * (1 + 0.1 * COMM.rank * (state.time > 1.0)), memory


def test_ranks_that_are_told_to_take_different_steps_are_stopped_together():
    problem = MOVING.replace(stepping=Own(1e-3))
    if COMM.size == 1:
        return
    with pytest.raises(Invalid, match="different steps at time .* on rank 1; do all of them"):
        steps(problem, COMM)


@BOTH
def test_a_member_goes_on_after_any_level_with_the_same_bits(problem):
    mu, ctx = middle(problem), Context(comm=COMM)
    saved, whole = [], []
    for state in problem.solve(mu, ctx):
        saved.append({k: v.copy() for k, v in state.restart().items()})
        whole.append((state.time, state.metrics, state.fields["temperature_dof"].values.tobytes()))
    for level, arrays in enumerate(saved[:-1], 1):
        again = [
            (s.time, s.metrics, s.fields["temperature_dof"].values.tobytes())
            for s in problem.resume(mu, ctx, arrays)
        ]
        assert again == whole[level:]
