from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("dolfinx")
from dolfinx.fem import Function
from mpi4py import MPI

from sciflow import Context, Diverged, Invalid
from sciflow.states import Collector
from sciflow_fenics.compat import function_space
from sciflow_fenics.components import Darcy, Heat
from sciflow_fenics.conduction import Conduction
from sciflow_fenics.kept import LIMIT, kept
from sciflow_fenics.lattice import Sampler, mesh_arrays, square

SMALL = Heat(cells=8, grid=9, levels=3, substeps=2)
MU = {"x": 0.05, "y": 0.05, "width": 0.015, "amplitude": 5e6, "beta": 2e-3, "boundary": 5.0}


def solve(problem, mu=MU, seed=0):
    ctx = Context(seed=seed)
    collector = Collector(problem, ctx.comm)
    for state in problem.solve(mu, ctx):
        collector.add(state)
    collector.finish()
    return collector.arrays


def manufactured(degree, cells, steps, weight, beta=0.5, end=1.0):
    """Error in the discrete L2 norm at the nodes for T = cos(t) (1 + sin(pi x) y^2), k = 1 + beta T."""
    system = Conduction(MPI.COMM_SELF, cells, degree, 1.0, 1.0, 1.0, weight)

    def exact(t):
        return lambda x: np.cos(t) * (1 + np.sin(np.pi * x[0]) * x[1] ** 2)

    def source(t):
        def values(x):
            s, c = np.sin(np.pi * x[0]), np.cos(np.pi * x[0])
            T = np.cos(t) * (1 + s * x[1] ** 2)
            gx, gy = np.cos(t) * np.pi * c * x[1] ** 2, np.cos(t) * 2 * s * x[1]
            laplace = np.cos(t) * (2 * s - np.pi**2 * s * x[1] ** 2)
            return -np.sin(t) * (1 + s * x[1] ** 2) - (1 + beta * T) * laplace - beta * (gx**2 + gy**2)

        return values

    system.begin(beta, exact(0.0), source(0.0))
    dt = end / steps
    for i in range(1, steps + 1):
        system.step(dt, exact(i * dt), source(i * dt))
    x = system.space.tabulate_dof_coordinates().T
    return np.sqrt(np.mean((system.rise.x.array - exact(end)(x)) ** 2))


def orders(errors):
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


@pytest.mark.parametrize(("degree", "expected"), [(1, 2), (2, 3)])
def test_order_in_space(degree, expected):
    """The time step shrinks with the mesh so that the error in space is seen."""
    errors = [manufactured(degree, n, 3 * n, 0.5, end=0.25) for n in (8, 16, 32)]
    assert orders(errors).min() > expected - 0.25


@pytest.mark.parametrize(("weight", "expected"), [(1.0, 1), (0.5, 2)])
def test_order_in_time(weight, expected):
    errors = [manufactured(2, 16, steps, weight) for steps in (2, 4, 8)]
    assert orders(errors).min() > expected - 0.2


@pytest.mark.parametrize(("scheme", "expected"), [("euler", 0.9), ("crank_nicolson", 1.9)])
def test_a_boundary_that_jumps_does_not_spoil_the_order_in_time(scheme, expected):
    mu = {**MU, "boundary": 20.0}
    problem = Heat(cells=24, grid=25, levels=2, dofs=True, scheme=scheme)
    fine = solve(problem.replace(substeps=128, scheme="crank_nicolson"), mu)["temperature_dof"]
    errors = []
    for substeps in (4, 8, 16):
        found = solve(problem.replace(substeps=substeps), mu)["temperature_dof"]
        errors.append(np.linalg.norm(found - fine, axis=1))
    assert orders(errors).min() > expected


def test_nothing_heated_stays_cold():
    fields = solve(SMALL, {**MU, "amplitude": 0.0, "boundary": 0.0})
    assert not fields["temperature"].any()


def test_without_dependence_on_temperature_the_map_is_linear():
    one = solve(SMALL, {**MU, "beta": 0.0})["temperature"]
    two = solve(SMALL, {**MU, "beta": 0.0, "amplitude": 1e7, "boundary": 10.0})["temperature"]
    np.testing.assert_allclose(two, 2 * one, rtol=1e-5)


def test_a_uniform_boundary_with_no_source_only_warms_up_to_it():
    field = solve(SMALL.replace(end=1e5), {**MU, "amplitude": 0.0})["temperature"]
    np.testing.assert_allclose(field[-1], 5.0, rtol=1e-3)


def test_conductivity_that_grows_cools_the_centre():
    hot = solve(SMALL, {**MU, "beta": 0.0})["temperature"].max()
    cooler = solve(SMALL, {**MU, "beta": 4e-3})["temperature"].max()
    assert cooler < 0.99 * hot


def test_a_mirrored_source_gives_the_mirrored_field():
    """The mesh is cut along one diagonal, which maps to itself under (x, y) -> (y, x)."""
    one = solve(SMALL, {**MU, "x": 0.03, "y": 0.06})["temperature"]
    other = solve(SMALL, {**MU, "x": 0.06, "y": 0.03})["temperature"]
    np.testing.assert_allclose(other, one.transpose(0, 2, 1), rtol=1e-4, atol=1e-4)


def test_members_do_not_influence_each_other():
    alone = solve(SMALL)
    solve(SMALL, {**MU, "amplitude": 1e7, "x": 0.02})
    after = solve(SMALL)
    for name, values in alone.items():
        assert values.tobytes() == after[name].tobytes()


def test_a_member_that_diverged_leaves_nothing_behind():
    alone = solve(SMALL)
    with pytest.raises(Diverged):
        solve(SMALL, {**MU, "beta": -1.0})
    for name, values in solve(SMALL).items():
        assert values.tobytes() == alone[name].tobytes()


def test_members_solved_in_turns_do_not_influence_each_other():
    alone = [state.fields["temperature"].values for state in SMALL.solve(MU, Context())]
    other = SMALL.solve({**MU, "amplitude": 1e7, "beta": 0.0, "x": 0.02}, Context())
    turns = [
        state.fields["temperature"].values for state, _ in zip(SMALL.solve(MU, Context()), other, strict=True)
    ]
    assert [values.tobytes() for values in alone] == [values.tobytes() for values in turns]


def test_a_hundred_members_take_no_more_memory_than_twenty():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    problem = SMALL.replace(cells=16, levels=1, substeps=1)
    sizes = []
    for member in range(100):
        solve(problem, {**MU, "amplitude": 1e5 * member})
        sizes.append(resident())
    # One matrix of this mesh or one set of its fields a member would be 2 MB.
    assert sizes[-1] - sizes[19] < 1e6


def test_the_same_mesh_is_used_for_the_next_member():
    made = []
    for _ in range(2):
        kept(MPI.COMM_SELF, "a configuration", lambda: made.append(1))
    for other in range(LIMIT):
        kept(MPI.COMM_SELF, other, lambda: made.append(2))
    kept(MPI.COMM_SELF, "a configuration", lambda: made.append(3))
    assert made == [1, *[2] * LIMIT, 3]


@pytest.mark.parametrize("cells", [2, 3, 7, 32])
@pytest.mark.parametrize("grid", [2, 3, 10, 64, 101])
def test_every_grid_point_lies_in_a_cell(cells, grid):
    """Most of them on an edge or a corner of cells, up to round-off."""
    space = function_space(square(MPI.COMM_SELF, cells, 0.1), 1)
    function = Function(space)
    function.interpolate(lambda x: 3 * x[0] - 2 * x[1])
    part = Sampler(space, grid, 0.1)(function)
    line = np.linspace(0, 0.1, grid)
    np.testing.assert_array_equal(part.index, np.arange(grid**2))
    exact = 3 * line[None, :] - 2 * line[:, None]
    np.testing.assert_allclose(part.values, exact.reshape(-1), atol=1e-14)


@pytest.mark.parametrize("degree", [1, 2])
def test_dofs_and_mesh_describe_the_same_field_as_the_grid(degree):
    problem = SMALL.replace(dofs=True, degree=degree, grid=8 * degree + 1)
    fields = solve(problem, {**MU, "x": 0.03, "y": 0.06})
    shape = (3, problem.grid, problem.grid)
    np.testing.assert_allclose(fields["temperature_dof"].reshape(shape), fields["temperature"], rtol=1e-5)
    mesh = {name: values for name, (_, values) in mesh_arrays(8, degree, 0.1, "m").items()}
    assert mesh["triangles"].shape == (128, 3)
    corners = np.stack([mesh["node_x"][mesh["triangles"]], mesh["node_y"][mesh["triangles"]]], axis=-1)
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2
    np.testing.assert_allclose(area, 0.01 / 128, err_msg="corners go anticlockwise")
    np.testing.assert_array_equal(np.unique(mesh["triangles"], axis=0), mesh["triangles"])
    axis = "node" if degree == 1 else "dof"
    assert len(mesh[f"{axis}_x"]) == len(problem.coordinates()[axis])
    if degree == 2:
        at = np.stack([mesh["dof_x"], mesh["dof_y"]], axis=-1)[mesh["cell_dofs"]]
        np.testing.assert_allclose(at[:, :3], corners, atol=1e-15)
        np.testing.assert_allclose(at[:, 3:], (corners + np.roll(corners, -1, axis=1)) / 2, atol=1e-15)


def test_the_source_on_the_grid_is_the_gaussian():
    fields = solve(SMALL.replace(cells=64, grid=65))
    x = np.linspace(0, 0.1, 65)
    distance = (x[None, :] - 0.05) ** 2 + (x[:, None] - 0.05) ** 2
    np.testing.assert_allclose(fields["source"], 5e6 * np.exp(-distance / (2 * 0.015**2)), rtol=1e-5, atol=1)


def test_a_conductivity_that_turns_negative_is_a_failure_of_the_member():
    with pytest.raises(Diverged, match="time level 0, step 0: .*(conductivity|converge|finite|solver)"):
        solve(SMALL, {**MU, "beta": -1.0})


def test_a_negative_conductivity_is_a_failure_even_where_newton_converges():
    with pytest.raises(Diverged, match="step 0: the conductivity falls to -0.02 of"):
        solve(SMALL, {**MU, "amplitude": 0.0, "boundary": 20.0, "beta": -0.051})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": 1}, "cells must be a whole number of at least 2"),
        ({"degree": 3}, "degree must be 1 or 2"),
        ({"grid": 1}, "grid must be"),
        ({"levels": 0}, "levels must be"),
        ({"substeps": 0}, "substeps must be"),
        ({"cells": 8.5}, "cells must be a whole number"),
        ({"end": 0.0}, "end must be positive"),
        ({"end": float("nan")}, "end must be positive and finite"),
        ({"scheme": "heun"}, "not one of euler"),
    ],
)
def test_bad_configurations_are_refused(change, message):
    with pytest.raises(Invalid, match=message):
        Heat(**change)


def test_bad_darcy_configurations_are_refused():
    for change in ({"cells": 0}, {"degree": 3}, {"grid": 1}):
        with pytest.raises(Invalid, match="must be"):
            Darcy(**change)


@pytest.mark.parametrize("name", ["length", "variance"])
def test_a_medium_without_length_or_variance_is_refused(name):
    with pytest.raises(Invalid, match=f"{name} must be positive"):
        solve(Darcy(cells=4, grid=5), {"length": 0.2, "variance": 1.0, "source": 1.0, name: 0.0})


def test_a_point_that_is_not_complete_is_refused():
    with pytest.raises(Invalid, match="'beta' has no value"):
        solve(SMALL, {name: value for name, value in MU.items() if name != "beta"})


def test_a_source_without_width_is_refused():
    with pytest.raises(Invalid, match="width of the source"):
        solve(SMALL, {**MU, "width": 0.0})


def test_the_variance_is_that_of_the_logarithm():
    problem = Darcy(cells=8, grid=9)
    mu = {"length": 0.2, "variance": 0.5, "source": 1.0}
    narrow, wide = solve(problem, mu), solve(problem, {**mu, "variance": 2.0})
    np.testing.assert_allclose(np.log(wide["permeability"]), 2 * np.log(narrow["permeability"]), atol=1e-5)


def test_darcy_members_are_reproducible_and_different():
    problem = Darcy(cells=8, grid=9)
    mu = {"length": 0.2, "variance": 1.0, "source": 1.0}
    one, again, other = solve(problem, mu, 3), solve(problem, mu, 3), solve(problem, mu, 4)
    assert one["pressure"].tobytes() == again["pressure"].tobytes()
    assert np.abs(one["pressure"] - other["pressure"]).max() > 1e-3
