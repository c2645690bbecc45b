"""The weak form of transient heat, and what its own formula in time is worth."""

import asyncio

import numpy as np
import pytest

pytest.importorskip("dolfinx")

from sciflow import Context, Invalid, run
from sciflow.artifact import Artifact
from sciflow.flow import Session, within
from sciflow.stages.design import Design
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import MODEL, load_model
from sciflow.states import Collector
from sciflow.store import Store
from sciflow_fenics import compat
from sciflow_fenics.components import Heat
from sciflow_fenics.heat import communicator, gaussian, shared
from sciflow_fenics.heat_law import nodal_gaussian
from sciflow_rom.components import BuildRom, Cluster, Compress, KMedoids, RomNet
from sciflow_rom.net.galerkin import Tables
from sciflow_rom.net.galerkin import solve as reduced
from tests.fenics.weak_form import difference, residual

MU = {"x": 0.045, "y": 0.06, "width": 0.012, "amplitude": 8e6, "beta": 3e-3, "boundary": 0.0}
SMALL = Heat(cells=8, grid=9, levels=4, substeps=1)


def stored(problem, mu=MU):
    """The stored temperature, shape (level, node)."""
    collector = Collector(problem, Context().comm)
    for state in problem.solve(mu, Context()):
        collector.add(state)
    collector.finish()
    return collector.arrays["temperature"].reshape(problem.levels, -1).astype(np.float64)


def with_full_basis(problem, mu=MU):
    """The same by the reduced solver with every node inside as a mode, all points."""
    form, n = problem.integrals(Context()), problem.cells + 1
    place = np.pad(np.ones((n - 2, n - 2), dtype=bool), 1).reshape(-1)
    inner = np.flatnonzero(place[form.rows])
    basis = np.eye(n * n)[:, inner]
    tables = Tables(form.strains(basis), form.weights, form.points, form.loads.T @ basis)
    found = reduced(
        tables, problem.law(form.points, mu), problem.levels, history=problem.start(len(form.weights)),
        tolerance=1e-12,
    )  # fmt: skip
    whole = np.zeros((problem.levels, n * n))
    whole[:, form.rows[inner]] = found.coefficients
    return whole


def gap(one, other):
    return np.linalg.norm(one - other) / np.linalg.norm(other)


def test_the_residual_of_a_step_of_euler_is_the_one_that_dolfinx_assembles():
    system, _, order = shared(SMALL, communicator(Context()))
    form, place = SMALL.integrals(Context()), order.index
    basis_place = np.argsort(form.rows)
    law = SMALL.law(form.points, MU)
    for seed in range(2):
        now, before = 60 * np.random.default_rng(seed).standard_normal((2, 81))
        system.begin(MU["beta"], before[place], gaussian(MU["amplitude"], MU["x"], MU["y"], MU["width"]))
        system.weight.value, system._dt.value = 1.0, SMALL.end / SMALL.levels
        system.before.x.array[:] = system.rise.x.array
        system.rise.x.array[:] = now[place]
        compat.assemble_vector(system._vector, system._residual)
        expected = np.empty(81)
        expected[place] = system._vector.array
        history = SMALL.start(len(form.weights))
        history[:, 0] = form.strains(before[form.rows, None])[:, 0, 0]
        found, _, after = residual(form, law, now[form.rows], history, step=3)
        np.testing.assert_allclose(found[basis_place], expected, rtol=0, atol=1e-12 * np.abs(expected).max())
        np.testing.assert_array_equal(after[:, 1], history[:, 0])
        np.testing.assert_array_equal(after[:, 0], form.strains(now[form.rows, None])[:, 0, 0])


@pytest.mark.parametrize("step", [0, 1, 2, 7])
def test_the_tangent_is_the_derivative_of_the_stress(step):
    rng = np.random.default_rng(1)
    problem = SMALL.replace(scheme="crank_nicolson")
    law, strain = problem.law(0.1 * rng.random((20, 2)), MU), 50 * rng.standard_normal((20, 3))
    strain[:, 1:] *= 100
    history = rng.standard_normal((20, 3))
    exact = law(strain, history, step)[1]
    np.testing.assert_allclose(
        exact, difference(law, strain, history, step, 1e-2), rtol=1e-6, atol=1e-8 * np.abs(exact).max()
    )


@pytest.mark.parametrize("step", [0, 1, 2, 7])
def test_the_rate_at_the_end_of_a_step_is_exact_for_a_polynomial(step):
    """A parabola in the first step, a cubic later; stresses are the rate less the source."""
    problem = SMALL.replace(scheme="crank_nicolson")
    points = np.array([[0.02, 0.03], [0.06, 0.05]])
    source = nodal_gaussian(points, MU, problem.cells, problem.side)
    first, third = source / problem.capacity, 0.0 if step == 0 else 1e-4
    rise = [np.zeros(2), first, np.full(2, -0.02), np.full(2, third)]
    dt = problem.end / problem.levels
    at = np.polynomial.Polynomial
    curves = [at(c) for c in zip(*rise, strict=True)]
    history = np.array([[c(max(step - i, 0) * dt) for i in range(3)] for c in curves])
    strain = np.array([[c((step + 1) * dt), 0.0, 0.0] for c in curves])
    stress, _, _ = problem.law(points, MU)(strain, history, step)
    rate = np.array([c.deriv()((step + 1) * dt) for c in curves])
    np.testing.assert_allclose(stress[:, 0], problem.capacity * rate - source, rtol=1e-10)


def test_a_law_at_some_points_is_the_law_at_all_points():
    form, rng = SMALL.integrals(Context()), np.random.default_rng(2)
    strain, history = rng.standard_normal((len(form.places), 3)), rng.standard_normal((len(form.places), 3))
    some = rng.permutation(len(form.places))[:7]
    whole = SMALL.law(form.points, MU)(strain, history, 0)
    few = SMALL.law(form.points[some], MU)(strain[some], history[some], 0)
    for one, other in zip(whole, few, strict=True):
        np.testing.assert_allclose(one[some], other, rtol=1e-13)


def test_with_all_modes_and_its_own_steps_it_is_the_full_model():
    assert gap(with_full_basis(SMALL), stored(SMALL)) < 2e-7  # stored in single precision


def test_between_stored_levels_it_converges_with_order_three():
    """A source in the middle, which the boundary does not feel at the start; the last level."""
    mu = {**MU, "x": 0.05, "y": 0.05}
    fine = SMALL.replace(levels=1, substeps=400, scheme="crank_nicolson")
    exact = stored(fine, mu)[-1]
    gaps = [gap(with_full_basis(fine.replace(levels=n), mu)[-1], exact) for n in (6, 12, 24)]
    orders = np.log2(np.divide(gaps[:-1], gaps[1:]))
    assert orders.min() > 2.6, (gaps, orders)
    assert gaps[-1] < 1e-4


def test_its_time_error_at_all_levels_is_below_that_of_two_substeps():
    """Also where the source reaches the boundary, and the rate at the start jumps there."""
    problem = Heat(cells=8, grid=9, levels=8, substeps=2, scheme="crank_nicolson")
    mu = {**MU, "x": 0.02}
    exact = stored(problem.replace(substeps=32), mu)
    assert gap(with_full_basis(problem, mu), exact) < gap(stored(problem, mu), exact)


@pytest.mark.parametrize(
    ("problem", "mu", "words"),
    [
        (Heat(cells=8, grid=17), MU, "set degree=1 and grid=9 for 8 cells, got degree=1 and grid=17"),
        (Heat(cells=8, grid=9, degree=2), MU, "set degree=1"),
        (SMALL, {**MU, "boundary": 5.0}, r"a rise of 5 K there; give the design fixed=\{'boundary': 0.0\}"),
        (SMALL, {**MU, "width": 0.0}, "the width of the source must be positive, got 0"),
    ],
)
def test_what_cannot_be_reduced_is_refused_with_what_to_set(problem, mu, words):
    with pytest.raises(Invalid, match=words):
        problem.law(np.zeros((1, 2)), mu)
    if problem is not SMALL:
        with pytest.raises(Invalid, match=words):
            problem.integrals(Context())
        with pytest.raises(Invalid, match=words):
            _ = RomNet(problem).reducible


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Of BuildRom."""
    fixed = {"boundary": 0.0, "width": 0.018, "beta": 2e-3}

    async def flow():
        points = await run(Design(problem=SMALL, count=22, fixed=fixed))
        data = await run(Simulate(SMALL), design=points)
        small = await run(Compress("temperature", columns="level", valid=0.1), ensemble=data)
        groups = await run(Cluster(clusterer=KMedoids(1)), compression=small)
        return {"ensemble": data, "compression": small, "clustering": groups}

    with within(Session(Store(tmp_path_factory.mktemp("store")))):
        return asyncio.run(flow())


NET = RomNet(SMALL, modes=16, top=1, indicator_modes=24, calibration=4)


def test_a_reduced_model_answers_members_that_it_has_not_seen(inputs, tmp_path):
    with Store(tmp_path, "rename").writer(MODEL, "0" * 64) as out:
        BuildRom(NET).run(inputs, out, Context())
        model = out.publish({})
    about = model.attributes["rom"]
    assert about["test_error"] < 0.02
    assert about["clusters"][0]["points"] < 200 < 3 * 2 * 8**2
    with pytest.raises(Invalid, match="a rise of 1 K"):
        load_model(model).solve({**MU, "boundary": 1.0})


def test_an_ensemble_with_another_boundary_is_refused_before_anything_is_built(inputs, monkeypatch):
    BuildRom(NET).check(inputs)
    read, column = Artifact.read, list(Heat.parameters).index("boundary")

    def warmer(self, name):
        values = read(self, name)
        if name == "parameters":
            values[-1, column] = 2.0
        return values

    monkeypatch.setattr(Artifact, "read", warmer)
    with pytest.raises(Invalid, match="vanishes at the boundary, got a rise of 2 K"):
        BuildRom(NET).check(inputs)
