from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sciflow import Context, Diverged, Invalid
from sciflow_fenics.cell import cell
from sciflow_fenics.components import RVE
from sciflow_fenics.composite import FIBRE, MATRIX, Composite, Phase, inside, packing
from sciflow_fenics.direct import Direct

SMALL = RVE(cells=8)
MEAN = {"exx": 0.03, "eyy": -0.02, "gxy": 0.035}
OFF = (0.25, 0.375, 0.22)
SOFT = Phase(bulk=2e3, shear=1e3)


@dataclass(frozen=True)
class Stripes(RVE):
    """Two linear materials in layers across x."""

    name: ClassVar[str] = "stripes"

    def material(self, points):
        return Composite(points[:, 0] % 1 < 0.25, SOFT, FIBRE)


@dataclass(frozen=True)
class Smooth(RVE):
    """A matrix whose stiffness goes smoothly up and down."""

    name: ClassVar[str] = "smooth"

    def material(self, points):
        def law(strain, history, step):
            wave = smooth(points[:, 0], points[:, 1], np)
            stress, tangent, _ = Composite(np.zeros(len(points), bool))(strain, history, step)
            return wave[:, None] * stress, wave[:, None, None] * tangent, history

        return law


@dataclass(frozen=True)
class Broken(RVE):
    """A law without an answer."""

    name: ClassVar[str] = "broken"

    def material(self, points):
        return lambda strain, history, step: (strain * np.nan, np.full((*strain.shape, 3), np.nan), history)


def smooth(x, y, of):
    return 1 + 0.4 * of.cos(2 * np.pi * x) * of.cos(2 * np.pi * y)


def solved(problem, mu=MEAN):
    (state,) = problem.solve(mu, Context())
    return state.fields


def law_at(strain, matrix=MATRIX, fibre=None):
    law = Composite(np.full(len(strain), fibre is not None), matrix, fibre or FIBRE)
    return law(strain, np.zeros((len(strain), 0)), 0)[:2]


def differences(answer, strain, step=1e-6):
    """Central differences of stresses, shape (point, component, component)."""
    moves = step * np.eye(3)
    return np.stack([(answer(strain + m) - answer(strain - m)) / (2 * step) for m in moves], axis=-1)


def test_the_law_is_the_formula_for_tensors():
    """Against 3 x 3 matrices, one point after the other."""
    strains = np.random.default_rng(0).uniform(-0.1, 0.1, (20, 3))
    for fibre in (None, FIBRE):
        stress, tangent = law_at(strains, fibre=fibre)
        for (xx, yy, xy), found in zip(strains, stress, strict=True):
            e = np.array([[xx, xy / 2, 0], [xy / 2, yy, 0], [0, 0, 0]])
            d = e - np.trace(e) / 3 * np.eye(3)
            norm = np.sqrt((d * d).sum())
            k, g = (4.345e4, 2 * 2.9918e4) if fibre else (4.78e3, 50 / (0.06 + norm))
            s = k * np.trace(e) * np.eye(3) + g * d
            np.testing.assert_allclose(found, [s[0, 0], s[1, 1], s[0, 1]], rtol=1e-12)
        there = differences(lambda e: law_at(e, fibre=fibre)[0], strains)  # noqa: B023
        np.testing.assert_allclose(tangent, there, rtol=1e-5, atol=1e-5 * abs(tangent).max())


def test_the_law_is_smooth_where_nothing_is_strained():
    stress, tangent = law_at(np.zeros((1, 3)))
    assert not stress.any()
    np.testing.assert_allclose(tangent, law_at(np.full((1, 3), 1e-9))[1], rtol=1e-6, atol=1e-4)


def test_a_cell_of_one_material_answers_as_the_material():
    fields = solved(SMALL.replace(fibres=()))
    assert np.abs(fields["fluctuation"]).max() < 1e-14
    strain = np.array([list(MEAN.values())])
    stress, tangent = law_at(strain)
    np.testing.assert_allclose(fields["homogenised"], stress[0], rtol=1e-12)
    found = Direct(SMALL.replace(fibres=())).respond(strain)
    np.testing.assert_allclose(found[0], stress, rtol=1e-12)
    np.testing.assert_allclose(found[1], tangent, rtol=1e-10, atol=1e-9)


def layered(one, other, share):
    """Mean stiffness of layers across x: eyy is the same in both, sxx and sxy go on from one to the next."""
    free, tied = np.array([0, 2]), np.array([1])
    parts = []
    for c in (one, other):
        inverse = np.linalg.inv(c[np.ix_(free, free)])
        across = inverse @ c[np.ix_(free, tied)]
        parts.append((inverse, across, c[np.ix_(tied, tied)] - c[np.ix_(tied, free)] @ across))
    inverse, across, along = (share * a + (1 - share) * b for a, b in zip(*parts, strict=True))
    stiffness = np.empty((3, 3))
    stiffness[np.ix_(free, free)] = np.linalg.inv(inverse)
    stiffness[np.ix_(free, tied)] = np.linalg.inv(inverse) @ across
    stiffness[np.ix_(tied, free)] = stiffness[np.ix_(free, tied)].T
    stiffness[np.ix_(tied, tied)] = along + across.T @ np.linalg.inv(inverse) @ across
    return stiffness


def stiffness(phase):
    return law_at(np.zeros((1, 3)), fibre=phase)[1][0]


def test_layers_have_the_stiffness_of_a_laminate():
    strain = np.array([list(MEAN.values())])
    stress, tangent = Direct(Stripes(cells=8)).respond(strain)
    exact = layered(stiffness(FIBRE), stiffness(SOFT), 0.25)
    np.testing.assert_allclose(tangent[0], exact, rtol=1e-9, atol=1e-9 * exact.max())
    np.testing.assert_allclose(stress[0], exact @ strain[0], rtol=1e-9)


@dataclass(frozen=True)
class Linear(RVE):
    """Fibres in a linear matrix."""

    name: ClassVar[str] = "linear"

    def material(self, points):
        return Composite(inside(points, self.placed()), SOFT, FIBRE)


def test_a_linear_cell_is_between_uniform_stress_and_uniform_strain():
    problem = Linear(cells=9, inclusions=3, volume_fraction=0.3, packing_seed=2)
    found = Direct(problem).respond(np.zeros((1, 3)))[1][0]
    share = inside(cell(9).points, problem.placed()).mean()
    stiff, soft = stiffness(FIBRE), stiffness(SOFT)
    voigt = share * stiff + (1 - share) * soft
    reuss = np.linalg.inv(share * np.linalg.inv(stiff) + (1 - share) * np.linalg.inv(soft))
    assert np.linalg.eigvalsh(voigt - found).min() > 0
    assert np.linalg.eigvalsh(found - reuss).min() > 0


@given(
    strain=st.tuples(*[st.floats(-0.05, 0.05)] * 3),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
    r=st.floats(0.1, 0.4),
)
def test_work_on_both_scales_is_the_same_and_the_tangent_is_symmetric(strain, x, y, r):
    problem = RVE(cells=6, fibres=((x, y, r),))
    mean = dict(zip(problem.components, strain, strict=True))
    fields = solved(problem, mean)
    form = problem.integrals(Context())
    local = form.strains(fields["fluctuation"][:, None])[:, :, 0] + np.array(strain)
    work = np.einsum("q,qi,qi->", form.weights, fields["stress"], local)
    scale = np.abs(fields["stress"]).max() * max(np.abs(strain)) + 1e-300
    assert abs(work - fields["homogenised"] @ strain) <= 1e-8 * scale
    tangent = Direct(problem).respond(np.array([strain]))[1][0]
    np.testing.assert_allclose(tangent, tangent.T, atol=1e-9 * tangent.max())
    assert np.linalg.eigvalsh(tangent).min() > 0


def test_the_fluctuation_is_periodic_and_in_equilibrium_with_every_periodic_one():
    problem = SMALL.replace(fibres=(OFF,))
    fields = solved(problem)
    form = problem.integrals(Context())
    v = fields["fluctuation"].reshape(9, 9, 2)
    np.testing.assert_array_equal(v[0], v[-1])
    np.testing.assert_array_equal(v[:, 0], v[:, -1])
    assert not v[0, 0].any()
    assert np.abs(v).max() > 1e-3
    others = np.random.default_rng(1).standard_normal((9, 9, 2, 5))
    others[-1], others[:, -1] = others[0], others[:, 0]
    strains = form.strains(others.reshape(-1, 5))
    np.testing.assert_allclose(np.einsum("q,qcn->cn", form.weights, strains), 0, atol=1e-12)
    residual = np.einsum("q,qc,qcn->n", form.weights, fields["stress"], strains)
    assert np.abs(residual).max() < 1e-8 * np.abs(fields["stress"]).max() * np.abs(strains).max()
    again, _, _ = problem.law(form.points, MEAN)(
        form.strains(v.reshape(-1, 1))[:, :, 0], np.zeros((256, 0)), 0
    )
    np.testing.assert_allclose(again, fields["stress"], rtol=1e-9)
    np.testing.assert_array_equal(problem.observe("stress", again, np.zeros((256, 0))), again)
    assert form.weights.sum() == pytest.approx(1)


def test_the_tangent_is_the_derivative_of_the_mean_stress():
    problem = SMALL.replace(fibres=(OFF,))
    strain = np.array([list(MEAN.values()), [0.0, 0.0, 0.0], [-0.04, 0.04, 0.01]])
    tangent = Direct(problem).respond(strain)[1]
    found = differences(lambda e: Direct(problem).respond(e)[0], strain)
    np.testing.assert_allclose(tangent, found, atol=1e-5 * tangent.max())


def test_a_point_answers_the_same_whatever_it_was_asked_before():
    problem = SMALL.replace(fibres=(OFF,))
    strains = np.random.default_rng(3).uniform(-0.04, 0.04, (3, 3))
    one = Direct(problem)
    for strain in strains:
        found = one.respond(strain[None])
    cold = Direct(problem).respond(strains[-1:])
    for a, b in zip(found, cold, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8 * np.abs(b).max())
    far = one.respond(np.array([[0.6, -0.5, 0.9]]))[0]
    np.testing.assert_allclose(
        far, solved(problem, {"exx": 0.6, "eyy": -0.5, "gxy": 0.9})["homogenised"][None]
    )


@pytest.mark.parametrize(
    ("place", "turn"),
    [
        (lambda x, y: (1 - y, x), lambda e: np.array([e[1], e[0], -e[2]])),  # a quarter turn
        (lambda x, y: (1 - x, y), lambda e: np.array([e[0], e[1], -e[2]])),  # a mirror
        (lambda x, y: (x + 0.375, y - 0.25), lambda e: e),  # a shift by whole cells
    ],
    ids=["turned", "mirrored", "shifted"],
)
def test_a_moved_cell_answers_a_moved_strain(place, turn):
    x, y, r = OFF
    strain = np.array(list(MEAN.values()))
    first = solved(SMALL.replace(fibres=(OFF,)))
    other = SMALL.replace(fibres=((*(float(v % 1) for v in place(x, y)), r),))
    second = solved(other, dict(zip(other.components, turn(strain), strict=True)))
    np.testing.assert_allclose(second["homogenised"], turn(first["homogenised"]), rtol=1e-8)


def test_strains_of_linear_displacements_are_exact_and_volume_changes_by_quadrilaterals():
    """One number of volume for four points, else the matrix locks; what is left has no volume."""
    grid = cell(5)
    x, y = grid.nodes.T
    linear = np.stack([0.1 * x + 0.4 * y, -0.2 * x + 0.3 * y], axis=1).reshape(-1, 1)
    exact = np.broadcast_to([0.1, 0.3, 0.2], (100, 3))
    np.testing.assert_allclose(grid.strains(linear)[:, :, 0], exact, atol=1e-13)
    strains = grid.strains(np.random.default_rng(4).standard_normal((72, 1)))[:, :, 0].reshape(25, 4, 3)
    volume = strains[..., 0] + strains[..., 1]
    np.testing.assert_allclose(volume, volume[:, :1] + np.zeros(4), atol=1e-12)
    assert np.ptp(strains[..., 0] - strains[..., 1], axis=1).min() > 1e-3


def test_the_mean_stress_converges_with_the_square_of_the_cells():
    fine, *coarse = (solved(Smooth(cells=c))["homogenised"] for c in (64, 8, 16, 32))
    errors = [np.linalg.norm(c - fine) for c in coarse]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (orders > 1.8).all(), orders


def test_another_solver_with_other_elements_agrees():
    """dolfinx with quadratic triangles and the law as a UFL expression, periodic by elimination."""
    pytest.importorskip("dolfinx")
    fine, finer = (solved(Smooth(cells=c))["homogenised"] for c in (24, 48))
    limit = finer + (finer - fine) / 3
    np.testing.assert_allclose(limit, by_dolfinx(12), rtol=3e-4)


def by_dolfinx(cells):
    import dolfinx.fem.petsc
    import ufl
    from dolfinx import fem, mesh
    from mpi4py import MPI
    from petsc4py import PETSc
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import spsolve

    domain = mesh.create_unit_square(MPI.COMM_SELF, cells, cells)
    if hasattr(fem, "functionspace"):
        space = fem.functionspace(domain, ("Lagrange", 2, (2,)))
    else:
        space = fem.VectorFunctionSpace(domain, ("Lagrange", 2))
    v, w, at = fem.Function(space), ufl.TestFunction(space), ufl.SpatialCoordinate(domain)
    mean = fem.Constant(domain, np.array([[0.03, 0.0175], [0.0175, -0.02]], dtype=PETSc.ScalarType))
    e = mean + ufl.sym(ufl.grad(v))
    third = ufl.tr(e) / 3
    d = e - third * ufl.Identity(2)
    norm = ufl.sqrt(ufl.inner(d, d) + third**2)
    stress = smooth(at[0], at[1], ufl) * (4.78e3 * ufl.tr(e) * ufl.Identity(2) + 50 / (0.06 + norm) * d)
    dx = ufl.Measure("dx", domain=domain, metadata={"quadrature_degree": 6})
    residual = ufl.inner(stress, ufl.grad(w)) * dx
    forms = fem.form(residual), fem.form(ufl.derivative(residual, v))
    lattice = np.rint(space.tabulate_dof_coordinates()[:, :2] * 2 * cells).astype(int) % (2 * cells)
    node = lattice[:, 1] * 2 * cells + lattice[:, 0]
    column = (2 * node[:, None] + np.arange(2)).reshape(-1)
    spread = csr_matrix((np.ones(len(column)), (np.arange(len(column)), column)))[:, 2:]
    for _ in range(12):
        vector = dolfinx.fem.petsc.assemble_vector(forms[0]).array
        matrix = dolfinx.fem.petsc.assemble_matrix(forms[1])
        matrix.assemble()
        k = csr_matrix(matrix.getValuesCSR()[::-1], shape=matrix.getSize())
        change = spread @ spsolve((spread.T @ k @ spread).tocsc(), spread.T @ vector)
        v.x.array[:] -= change
    assert np.abs(change).max() < 1e-12
    pick = fem.Constant(domain, np.zeros((2, 2), dtype=PETSc.ScalarType))
    chosen = fem.form(ufl.inner(stress, pick) * dx)
    found = []
    for one in ([[1, 0], [0, 0]], [[0, 0], [0, 1]], [[0, 1], [0, 0]]):
        pick.value = one
        found.append(fem.assemble_scalar(chosen))
    return np.array(found)


@given(count=st.integers(1, 12), fraction=st.floats(0.05, 0.35), seed=st.integers(0, 50))
def test_packed_fibres_fill_their_share_and_do_not_touch(count, fraction, seed):
    found = packing(count, fraction, seed)
    assert (np.pi * found[:, 2] ** 2).sum() == pytest.approx(fraction)
    away = found[:, None, :2] - found[None, :, :2]
    away -= np.rint(away)
    gaps = np.hypot(away[..., 0], away[..., 1]) + 9 * np.eye(count)
    assert gaps.min() > 2 * found[0, 2] or count == 1
    np.testing.assert_array_equal(found, packing(count, fraction, seed))


def test_a_fibre_goes_on_across_the_sides_of_the_cell():
    points = np.array([[0.01, 0.01], [0.99, 0.99], [0.99, 0.01], [0.5, 0.5]])
    assert inside(points, np.array([[0.0, 0.0, 0.1]])).tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": 1}, "cells must be a whole number of at least 2"),
        ({"inclusions": 0}, "inclusions must be"),
        ({"volume_fraction": 1.0}, "volume_fraction is between 0 and 1"),
        ({"fibres": ((0.5, 0.5, -0.1),)}, "fibre 0 must be x, y and a radius"),
        ({"fibres": ((0.5, float("nan"), 0.1),)}, "fibre 0 must be"),
    ],
)
def test_cells_that_make_no_sense_are_refused(change, message):
    with pytest.raises(Invalid, match=message):
        RVE(**change)


def test_what_cannot_be_solved_is_refused_or_ends_with_a_reason():
    with pytest.raises(Invalid, match="found no room at random places"):
        RVE(inclusions=9, volume_fraction=0.7).placed()
    with pytest.raises(Invalid, match="solved on one rank, there are 2"):
        list(SMALL.solve(MEAN, SimpleNamespace(comm=SimpleNamespace(size=2))))
    with pytest.raises(Invalid, match="'gxy' is nan"):
        solved(SMALL, {**MEAN, "gxy": float("nan")})
    with pytest.raises(Diverged, match=r"mean strain \(0.03, -0.02, 0.035\): .* residual nan"):
        solved(Broken(cells=4))
