"""Guesses on any number of ranks; run by pytest alone and under ``mpirun -n 2``."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("dolfinx")

from sciflow import Context, Invalid
from sciflow.context import exchange
from sciflow.guess import Guess, first_guess
from sciflow.states import Collector
from sciflow.worker import communicator
from sciflow_control.recycling import seeding
from sciflow_fenics import darcy, steady_heat
from sciflow_fenics.components import Darcy, SteadyHeat
from sciflow_fenics.lattice import communicator as real

COMM = communicator()
HEAT, HOT = SteadyHeat(cells=10), {"x": 0.35, "y": 0.6, "amplitude": 900.0}
FLOW, WET = Darcy(cells=10, grid=11, dofs=True), {"length": 0.2, "variance": 1.0, "source": 1.0}


@dataclass(frozen=True)
class Some(Guess):
    """A field that is told; each rank says something else."""

    name: ClassVar[str] = "toy_some"
    values: tuple[tuple[float, ...], ...] = ()
    error: bool = False

    def check(self, problem):
        pass

    def predict(self, problem, mu, known):
        if self.error:
            raise ValueError("as told")
        return np.array(self.values) + COMM.rank


def some(values):
    return Some(tuple(map(tuple, np.asarray(values, dtype=float).tolist())))


def solve(problem, mu):
    ctx = Context(seed=3, comm=COMM)
    collector = Collector(problem, COMM)
    for state in problem.solve(mu, ctx):
        collector.add(state)
    collector.finish()
    fields = {}
    for name in problem.fields:
        whole = collector.arrays.get(name, np.zeros(problem.shape(name))).astype(np.float64)
        if COMM.size > 1:
            COMM.Bcast(whole, root=0)
        fields[name] = whole
    return fields, collector.metrics


def test_all_ranks_get_what_the_first_one_is_told():
    guess = some(np.arange(121.0).reshape(11, 11))
    found = first_guess(HEAT.replace(guess=guess), HOT, Context(comm=COMM))
    np.testing.assert_array_equal(found, np.arange(121.0).reshape(11, 11))
    with pytest.raises(Invalid, match="ValueError: as told"):
        first_guess(HEAT.replace(guess=Some(error=True)), HOT, Context(comm=COMM))
    assert first_guess(HEAT.replace(guess=some(np.full((11, 11), np.nan))), HOT, Context(comm=COMM)) is None


@pytest.mark.parametrize(("problem", "mu", "field"), [(HEAT, HOT, "temperature"), (FLOW, WET, "pressure")])
def test_iterations_are_saved_and_a_bad_guess_is_dropped(problem, mu, field):
    fields, plain = solve(problem, mu)
    u, count = fields[field], next(iter(plain))
    for factor, taken in ((1.01, 1.0), (-3.0, 0.0)):
        found, metrics = solve(problem.replace(guess=some(factor * u)), mu)
        np.testing.assert_allclose(found[field], u, rtol=0, atol=1e-6 * u.max())
        assert metrics["guessed"] == taken
        assert metrics[count] < plain[count] if taken else metrics[count] == plain[count]
    assert len(set(exchange(COMM, f"{metrics}"))) == 1


def test_the_rows_of_an_operator_are_found_in_the_stored_field():
    """What a member stored, cut up by `seeding`, is what its ranks held."""
    fields, _ = solve(FLOW, WET)
    flow, _, (_, order) = darcy._system(FLOW, real(Context(comm=COMM)))
    mine = seeding.local(fields["pressure_dof"][:, None], flow.ksp)[:, 0]
    np.testing.assert_array_equal(mine, fields["pressure_dof"][order.index])
    heat = steady_heat.SteadyConduction(real(Context(comm=COMM)), 10)
    stored = np.arange(121.0)
    np.testing.assert_array_equal(seeding.local(stored[:, None], heat.ksp)[:, 0], stored[heat.index])
    assert COMM.size == 1 or not np.array_equal(heat.index, np.sort(heat.index))
