import numpy as np
import pytest

pytest.importorskip("dolfinx")
from dolfinx.fem import Function

from sciflow import Context, Diverged, Invalid
from sciflow.states import Collector
from sciflow_fenics import steady_heat
from sciflow_fenics.lattice import mesh_arrays
from sciflow_fenics.quadrature import triangles
from sciflow_fenics.weak_forms import SteadyHeat
from tests.fenics.weak_form import assert_ranks_agree, difference, residual

SMALL = SteadyHeat(cells=12)
MU = {"x": 0.35, "y": 0.6, "amplitude": 400.0}
INNER = np.pad(np.ones((11, 11), dtype=bool), 1).reshape(-1)


def solve(problem, mu=MU):
    ctx = Context()
    collector = Collector(problem, ctx.comm)
    for state in problem.solve(mu, ctx):
        collector.add(state)
    collector.finish()
    return collector.arrays


def test_the_weights_are_those_of_the_square_and_exact_for_degree_two():
    form = SMALL.integrals(Context())
    x, y = form.points.T
    assert form.weights.min() > 0
    for values, exact in ((1 + 0 * x, 1), (x, 1 / 2), (x * y, 1 / 4), (y**2, 1 / 3)):
        assert np.isclose(form.weights @ values, exact, rtol=1e-13)


def test_the_default_mesh_has_three_points_in_each_triangle():
    assert SteadyHeat().cells == 64
    assert len(SMALL.integrals(Context()).places) == 3 * 2 * SMALL.cells**2


def test_strains_of_a_linear_field_are_its_value_and_slopes():
    form = SMALL.integrals(Context())
    row, column = np.divmod(form.rows, 13)
    linear = 1 + 2 * column / 12 - 3 * row / 12
    strains = form.strains(np.stack([linear, np.ones(169)], axis=1))
    np.testing.assert_allclose(
        strains[:, 0, 0], 1 + 2 * form.points[:, 0] - 3 * form.points[:, 1], atol=1e-13
    )
    np.testing.assert_allclose(strains[:, 1:, 0], [[2, -3]] * len(strains), atol=1e-12)
    np.testing.assert_allclose(strains[:, :, 1], [[1, 0, 0]] * len(strains), atol=1e-12)


def test_the_solution_has_no_residual_in_the_weak_form():
    field = solve(SMALL)["temperature"].reshape(-1)
    form = SMALL.integrals(Context())
    found, _, _ = residual(
        form, SMALL.law(form.points, MU), field[form.rows], np.zeros((len(form.places), 0))
    )
    inner = INNER[form.rows]
    assert np.abs(found[inner]).max() < 1e-10 * np.abs(found[~inner]).max()
    assert not field[~INNER].any()


def test_the_residual_is_the_one_that_dolfinx_assembles():
    system = steady_heat.SteadyConduction(steady_heat.communicator(Context()), SMALL.cells)
    system.begin(MU)
    form = SMALL.integrals(Context())
    place = np.argsort(form.rows)
    for seed in range(3):
        vector = np.random.default_rng(seed).standard_normal(169)
        system.u.x.array[:] = vector[system.index]
        expected = np.empty(169)
        expected[system.index] = system.residual()
        found, _, _ = residual(
            form, SMALL.law(form.points, MU), vector[form.rows], np.zeros((len(form.places), 0))
        )
        np.testing.assert_allclose(found[place], expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_the_tangent_is_the_derivative_of_the_stress():
    rng = np.random.default_rng(1)
    law, strain = SMALL.law(rng.random((20, 2)), MU), rng.standard_normal((20, 3))
    history = np.zeros((20, 0))
    np.testing.assert_allclose(
        law(strain, history, 0)[1], difference(law, strain, history), rtol=1e-6, atol=1e-8
    )


def test_a_law_at_some_points_is_the_law_at_all_points():
    form, rng = SMALL.integrals(Context()), np.random.default_rng(2)
    strain, some = rng.standard_normal((len(form.places), 3)), rng.permutation(len(form.places))[:7]
    whole = SMALL.law(form.points, MU)(strain, np.zeros((len(strain), 0)), 0)
    few = SMALL.law(form.points[some], MU)(strain[some], np.zeros((7, 0)), 0)
    for one, other in zip(whole, few, strict=True):
        np.testing.assert_array_equal(one[some], other)


def test_a_weak_source_gives_the_linear_problem_and_a_strong_one_less():
    weak = solve(SMALL, {**MU, "amplitude": 1e-3})["temperature"]
    double = solve(SMALL, {**MU, "amplitude": 2e-3})["temperature"]
    strong = solve(SMALL, {**MU, "amplitude": 1e3})["temperature"]
    np.testing.assert_allclose(double, 2 * weak, rtol=1e-6, atol=1e-15)
    assert strong.max() < 0.5 * 1e6 * weak.max()


def test_kirchhoff_transform_turns_it_into_the_linear_problem():
    """``v = u + u^3 / 3`` satisfies ``-lap v = q``; second order in the mesh."""
    gaps = []
    for cells in (16, 32):
        problem = SteadyHeat(cells=cells)
        u = solve(problem, {**MU, "amplitude": 60.0})["temperature"]
        v = solve(problem, {**MU, "amplitude": 60e-6})["temperature"] * 1e6
        gaps.append(np.abs(u + u**3 / 3 - v).max() / v.max())
    assert gaps[1] < 0.3 * gaps[0]
    assert gaps[1] < 0.01


def test_mirrored_sources_give_mirrored_fields():
    one = solve(SMALL, {**MU, "x": 0.3, "y": 0.6})
    other = solve(SMALL, {**MU, "x": 0.6, "y": 0.3})
    for name in ("source", "temperature"):
        np.testing.assert_allclose(other[name], one[name].T, rtol=1e-9, atol=1e-12)


def test_fields_are_on_the_nodes_of_the_lattice():
    fields, line = solve(SMALL), np.linspace(0, 1, 13)
    distance = (line[None, :] - MU["x"]) ** 2 + (line[:, None] - MU["y"]) ** 2
    np.testing.assert_allclose(fields["source"], 400 * np.exp(-distance / (2 * 0.08**2)), rtol=1e-9)
    row, column = np.unravel_index(fields["temperature"].argmax(), (13, 13))
    assert abs(line[column] - MU["x"]) < 0.1
    assert abs(line[row] - MU["y"]) < 0.1


@pytest.mark.parametrize("degree", [1, 2])
def test_triangles_are_those_of_the_stored_mesh(degree):
    from sciflow_fenics.compat import function_space
    from sciflow_fenics.lattice import communicator, square

    space = function_space(square(communicator(Context()), 5, 1.0), degree)
    found = triangles(space, 5, degree)
    stored = mesh_arrays(5, degree, 1.0, "1")
    at = np.argsort(found.order)
    np.testing.assert_array_equal(found.order[at], np.arange(50))
    np.testing.assert_array_equal(found.corners[at], np.sort(stored["triangles"][1], axis=1))
    function = Function(space)
    function.x.array[:] = found.index
    if degree == 2:
        middles = np.sort(stored["cell_dofs"][1][:, 3:], axis=1)
        np.testing.assert_array_equal(np.sort(found.index[found.dofs[at, 3:]], axis=1), middles)
        corners = found.index[found.dofs[at, :3]]
        np.testing.assert_array_equal(found.index[found.dofs[at, 3]], corners[:, :2].sum(axis=1) // 2)


def test_members_do_not_influence_each_other():
    alone = solve(SMALL)
    solve(SMALL, {**MU, "amplitude": 1000.0, "x": 0.9})
    for name, values in solve(SMALL).items():
        assert values.tobytes() == alone[name].tobytes()


def test_newton_gives_up_in_a_sentence(monkeypatch):
    monkeypatch.setattr(steady_heat, "NEWTON", 2)
    with pytest.raises(Diverged, match="did not converge in 2 steps, last correction"):
        solve(SMALL)


def test_without_a_parallel_lu_the_solution_is_the_same(monkeypatch):
    found = []
    for package in ("petsc", ""):
        monkeypatch.setattr(steady_heat.compat, "direct_solver", lambda comm, package=package: package)
        system = steady_heat.SteadyConduction(steady_heat.communicator(Context()), 12)
        system.begin(MU)
        system.solve()
        found.append(system.u.x.array.copy())
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-9 * found[0].max())


def test_a_mesh_without_cells_is_refused():
    with pytest.raises(Invalid, match="cells must be a whole number of at least 2"):
        SteadyHeat(cells=1)


def test_meshes_are_told_apart_by_their_fingerprints():
    prints = {SteadyHeat(cells=n).integrals(Context()).mesh for n in (4, 6)}
    assert len(prints) == 2
    assert SteadyHeat(cells=4).integrals(Context()).mesh in prints


@pytest.mark.mpi
def test_one_two_and_three_ranks_give_the_same_form_and_solution(tmp_path):
    assert_ranks_agree(SteadyHeat(cells=9), tmp_path, 1e-11)
