"""Where Newton's method and conjugate gradients begin decides how long they take, and nothing else."""

import asyncio
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("dolfinx")

from sciflow import Context, Diverged, Invalid, run
from sciflow.flow import Session, within
from sciflow.guess import FromModel, Guess
from sciflow.linear_solver import LinearSolver
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow.states import Collector
from sciflow.store import Store
from sciflow_fenics import steady_heat
from sciflow_fenics.components import Darcy, SteadyHeat
from sciflow_fenics.lattice import Sampler, communicator, lattice_index, resampled, square
from sciflow_rom.components import PODRegression, Polynomial

HEAT, HOT = SteadyHeat(cells=12), {"x": 0.35, "y": 0.6, "amplitude": 900.0}
FLOW, WET = Darcy(cells=16, grid=17), {"length": 0.2, "variance": 1.0, "source": 1.0}


@dataclass(frozen=True)
class Some(Guess):
    """A field that is told."""

    name: ClassVar[str] = "toy_some"
    values: tuple[tuple[float, ...], ...] = ()

    def check(self, problem):
        pass

    def predict(self, problem, mu, known):
        return np.array(self.values)


def some(values):
    return Some(tuple(map(tuple, np.asarray(values).tolist())))


def solve(problem, mu):
    ctx = Context(seed=3)
    collector = Collector(problem, ctx.comm)
    for state in problem.solve(mu, ctx):
        collector.add(state)
    collector.finish()
    return collector.arrays, collector.metrics


@pytest.fixture(scope="module")
def hot():
    return solve(HEAT, HOT)


@pytest.fixture(scope="module")
def wet():
    return solve(FLOW, WET)


def test_from_anywhere_to_the_same_temperature(hot):
    u, rng = hot[0]["temperature"], np.random.default_rng(0)
    smooth = u.max() * np.outer(*2 * [np.sin(np.pi * np.linspace(0, 1, 13))])
    guesses = [*(k * u for k in (0.0, 0.3, 1.5, 30.0, -2.0, 1e200, np.nan)), u + 1.0, smooth]
    guesses += [u + s * rng.standard_normal(u.shape) for s in (1e-3, 0.3, 3.0)]
    for guess in guesses:
        found, metrics = solve(HEAT.replace(guess=some(guess)), HOT)
        np.testing.assert_allclose(found["temperature"], u, rtol=0, atol=1e-9 * u.max())
        if not metrics["guessed"]:
            np.testing.assert_array_equal(found["temperature"], u)
            assert metrics["newton"] == hot[1]["newton"]


def test_the_nearer_a_guess_the_fewer_newton_steps(hot):
    u = hot[0]["temperature"]
    counts = [solve(HEAT.replace(guess=some((1 + e) * u)), HOT)[1]["newton"] for e in (0.2, 1e-2, 1e-4, 0.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 1
    assert counts[1] <= hot[1]["newton"] / 2


def test_what_is_rough_in_a_guess_does_not_spoil_it(hot):
    """Its residual is many times that of zero, and Newton's method is done with it in a step."""
    u = hot[0]["temperature"]
    rough = u + 0.05 * u.max() * np.random.default_rng(1).choice([-1.0, 1.0], u.shape)
    metrics = solve(HEAT.replace(guess=some(rough)), HOT)[1]
    assert metrics["guessed"] == 1
    assert metrics["newton"] <= hot[1]["newton"] - 3


def test_where_newton_fails_from_a_guess_it_begins_at_zero(hot, monkeypatch):
    u, calls, real = hot[0]["temperature"], [], steady_heat.SteadyConduction.solve

    def fails_once(self, solving=None):
        calls.append(self.u.x.array.any())
        if len(calls) == 1:
            self.steps += 40
            raise Diverged("as told")
        return real(self, solving)

    monkeypatch.setattr(steady_heat.SteadyConduction, "solve", fails_once)
    found, metrics = solve(HEAT.replace(guess=some(1.1 * u)), HOT)
    assert calls == [True, False]
    np.testing.assert_array_equal(found["temperature"], u)
    assert metrics == {"newton": 40 + hot[1]["newton"], "guessed": 0.0}


@pytest.mark.parametrize("degree", [1, 2])
def test_from_anywhere_to_the_same_pressure(degree):
    problem = FLOW.replace(degree=degree, grid=16 * degree + 1)
    plain, counts = solve(problem, WET)
    p = plain["pressure"].astype(np.float64)
    for k, most in ((1.0, 0.75), (0.99, 0.95), (1.9, 1.1), (2.1, 1.0), (-1.0, 1.0), (np.nan, 1.0)):
        found, metrics = solve(problem.replace(guess=some(k * p)), WET)
        np.testing.assert_allclose(found["pressure"], p, rtol=0, atol=1e-6 * p.max())
        assert metrics["guessed"] == (0 < k < 2)
        assert metrics["linear"] <= most * counts["linear"]
        if not metrics["guessed"]:
            np.testing.assert_array_equal(found["pressure"], plain["pressure"])


def test_conjugate_gradients_stop_where_they_would_from_zero(wet):
    """A tolerance relative to the right-hand side: a guess is not solved more exactly than zero is."""
    half = solve(FLOW.replace(guess=some(wet[0]["pressure"])), WET)[1]["linear"]
    assert 0 < half < 0.75 * wet[1]["linear"]


@dataclass(frozen=True)
class Own(LinearSolver):
    name: ClassVar[str] = "toy_own"

    def wrap(self, ksp, ctx, restart=None):
        raise NotImplementedError


def test_another_linear_solver_begins_at_zero():
    with pytest.raises(Invalid, match="leave out the guess or the solver"):
        Darcy(guess=some([[0.0]]), solver=Own())


@pytest.mark.parametrize("grid", [3, 7, 9, 20, 33])
def test_values_on_another_lattice_are_those_of_the_finite_elements(grid):
    from dolfinx.fem import Function

    from sciflow_fenics.compat import function_space

    space = function_space(square(communicator(Context()), 8, 1.0), 1)
    values, function = np.random.default_rng(grid).random((9, 9)), Function(space)
    function.x.array[:] = values.reshape(-1)[lattice_index(space.tabulate_dof_coordinates(), 9, 1.0)]
    part = Sampler(space, grid, 1.0)(function)
    whole = np.empty(grid * grid)
    whole[part.index] = part.values
    np.testing.assert_allclose(resampled(values, grid).reshape(-1), whole, rtol=0, atol=1e-12)


def test_a_reduced_model_serves_back(tmp_path):
    async def flow():
        data = await run(Simulate(HEAT), design=await run(Design(problem=HEAT, count=24)))
        regression = PODRegression(regressor=Polynomial(2), modes=12, logarithmic=("amplitude",))
        return data, await run(Train(regression, ("x", "y", "amplitude"), ("temperature",)), ensemble=data)

    with within(Session(Store(tmp_path))):
        data, model = asyncio.run(flow())
    guided = HEAT.replace(guess=FromModel(str(model.path)))
    guided.check_guess()
    with pytest.raises(Invalid, match="on another grid"):
        guided.replace(cells=10).check_guess()
    found = []
    for member in model.read("test_members").tolist():
        mu = dict(zip(HEAT.parameters, data.read("parameters")[member].tolist(), strict=True))
        fields, metrics = solve(guided, mu)
        np.testing.assert_allclose(fields["temperature"], data.read("temperature")[member], rtol=0, atol=1e-8)
        found.append((metrics["newton"], metrics["guessed"], data.read("solver_newton")[member]))
    newton, guessed, plain = np.mean(found, axis=0)
    assert guessed > 0.5
    assert newton < plain
