"""Sequences of systems, solved by every method with every preconditioner."""

import asyncio
import runpy
from pathlib import Path

import numpy as np
import pytest

petsc4py = pytest.importorskip("petsc4py")
from petsc4py import PETSc
from scipy import sparse
from scipy.sparse.linalg import spsolve

from sciflow import Context, Invalid
from sciflow.store import Store
from sciflow_control.recycling import contenders
from sciflow_control.recycling.contenders import Settings, contender, preconditioner
from sciflow_control.recycling.ordering import order
from sciflow_control.recycling.trial import (
    METHODS,
    PRECONDITIONERS,
    STATUSES,
    RecyclingTrial,
    allowed,
    matrix_of,
    overwrite,
    solved,
)
from sciflow_control.recycling.trial_report import ratios, sections, summary
from sciflow_control.systems.darcy import DarcySystems
from sciflow_control.systems.helmholtz import HelmholtzSystems
from sciflow_control.systems.poisson import PoissonSystems
from sciflow_control.systems.thermal import ThermalSystems

SHARED = Settings(m=12, k=5, blocks=3, tolerance=1e-8, limit=500, symmetric=True)
SETS = [
    DarcySystems(10),
    DarcySystems(10, form="skr"),
    HelmholtzSystems(10),
    ThermalSystems(1),
    PoissonSystems(10),
]


def made(tmp_path, stage):
    with Store(tmp_path).writer(stage.output, stage.digest()) as out:
        stage.run({}, out, Context())
        return out.publish({})


def places(artifact, method):
    return [i for i, row in enumerate(artifact.attributes["rows"]) if row["method"] == method]


@pytest.mark.parametrize("systems", SETS, ids=lambda s: f"{s.name}-{getattr(s, 'form', '')}")
def test_every_method_solves_every_system_with_every_preconditioner(systems, tmp_path):
    stage = RecyclingTrial(systems, count=4, m=12, k=5, blocks=3)
    found = made(tmp_path, stage)
    rows = found.attributes["rows"]
    assert [(r["preconditioner"], r["method"]) for r in rows] == stage.rows()
    assert {r["method"] for r in rows} == set(allowed(systems))
    assert {r["preconditioner"] for r in rows} == {*PRECONDITIONERS, ""}
    status, residual = found.read("status"), found.read("residual")
    for at, row in enumerate(rows):
        # GMRES with a short memory may stall; what it then says must be so.
        if row["method"] not in ("gmres", "lgmres", "bcgs"):
            assert (status[at] == STATUSES.index("solved")).all(), row
        assert (residual[at][status[at] == 0] <= 2 * systems.tolerance).all(), row
    assert (found.read("seconds") > 0).all()
    assert found.attributes["errors"] == {}
    for direct in places(found, "direct"):
        assert (residual[direct] < 1e-11).all()
        assert (found.read("iterations")[direct] == 0).all()
    bcgs = places(found, "bcgs")
    assert np.array_equal(found.read("products")[bcgs], 2 * found.read("iterations")[bcgs])


def test_sorted_systems_are_noted_under_their_own_number(tmp_path):
    systems = DarcySystems(10)
    found = made(tmp_path, RecyclingTrial(systems, count=9, preconditioners=("jacobi",), m=12, k=5))
    permutation = found.read("permutation")
    fields = np.stack([s.parameters for s in systems.draw(9, 0)])
    assert np.array_equal(permutation, order(fields, "greedy"))
    assert not np.array_equal(permutation, np.arange(9))
    before, after = found.attributes["path_lengths"]
    assert after < before
    iterations = found.read("iterations")
    (unsorted,), (by_order,) = places(found, "gcro_dr"), places(found, "gcro_dr_sorted")
    # The first system starts from nothing either way; greedy paths start with it.
    assert permutation[0] == 0
    assert iterations[by_order][0] == iterations[unsorted][0]
    # The same, solved by hand in that order.
    solver = contender("gcro_dr", "jacobi", Settings(12, 5, 8, 1e-8, 10000, True))
    listed = list(systems.draw(9, 0))
    matrix = matrix_of(listed[0].matrix, True)
    for place in permutation:
        overwrite(matrix, listed[place].matrix)
        assert solved(solver, matrix, listed[place], False)["iterations"] == iterations[by_order][place]


def test_two_solutions_are_enough_where_right_hand_sides_are_sums_of_two(tmp_path):
    found = made(tmp_path, RecyclingTrial(ThermalSystems(1), count=5, preconditioners=("icc",)))
    (projected,), (cg,) = places(found, "cg_projected"), places(found, "cg")
    assert (found.read("iterations")[projected][:2] > 0).all()
    # The third finds the errors of the first two, which are as large as their tolerance.
    assert found.read("iterations")[projected][2] < found.read("iterations")[cg][2] / 3
    assert (found.read("iterations")[projected][3:] == 0).all()
    assert (found.read("iterations")[cg] > 9).all()
    assert found.attributes["rank"] == 2


def test_repeats_give_the_same_iterations(tmp_path):
    stage = RecyclingTrial(HelmholtzSystems(8), count=3, preconditioners=("ilu",), m=12, k=5)
    one, two = (made(tmp_path / name, stage) for name in "ab")
    for field in ("iterations", "products", "residual", "status", "permutation"):
        assert np.array_equal(one.read(field), two.read(field))


def test_iterations_of_cg_are_those_of_a_few_lines_of_numpy():
    system = next(DarcySystems(12).draw(1, 4))
    x, r = np.zeros(144), system.rhs.copy()
    p, rho, steps = r.copy(), r @ r, 0
    while np.sqrt(r @ r) > 1e-8 * np.linalg.norm(system.rhs):
        q = system.matrix @ p
        x, r = x + rho / (p @ q) * p, r - rho / (p @ q) * q
        p, rho, steps = r + (r @ r) / rho * p, r @ r, steps + 1
    found = solved(contender("cg", "none", SHARED), matrix_of(system.matrix, True), system, False)
    assert found["iterations"] == steps
    assert found["products"] == steps


def applied(name, csr, blocks):
    """The preconditioner's inverse as a dense matrix."""
    pc = PETSc.PC().create(PETSc.COMM_SELF)
    preconditioner(pc, name, Settings(12, 5, blocks, 1e-8, 500, True))
    matrix = matrix_of(csr, True)
    pc.setOperators(matrix)
    pc.setUp()
    x, y = matrix.createVecs()
    found = np.empty(csr.shape)
    for i, row in enumerate(np.eye(len(found))):
        x.array[:] = row
        pc.apply(x, y)
        found[:, i] = y.array
    return found


def test_preconditioners_are_what_they_are_called():
    csr = next(DarcySystems(4).draw(1, 0)).matrix
    dense, diagonal = csr.toarray(), np.diag(csr.diagonal())
    lower = np.tril(dense)
    inverses = {name: applied(name, csr, 4) for name in PRECONDITIONERS}
    np.testing.assert_allclose(inverses["none"], np.eye(16))
    np.testing.assert_allclose(inverses["jacobi"], np.linalg.inv(diagonal))
    sweep = np.linalg.inv(lower @ np.linalg.inv(diagonal) @ lower.T)
    np.testing.assert_allclose(inverses["sor"], sweep, atol=1e-14)
    # Four blocks are four rows of the grid, each tridiagonal: no fill is left out.
    blocks = np.linalg.inv(dense * np.kron(np.eye(4), np.ones((4, 4))))
    np.testing.assert_allclose(inverses["bjacobi"], blocks, atol=1e-14)
    np.testing.assert_allclose(inverses["ilu"], inverses["icc"], atol=1e-14)
    np.testing.assert_allclose(applied("asm", csr, 1), inverses["ilu"], atol=1e-14)
    # Where nothing can fill in, incomplete is complete.
    line = sparse.diags([-np.ones(7), 2.5 * np.ones(8), -np.ones(7)], [-1, 0, 1], format="csr")
    np.testing.assert_allclose(applied("icc", line, 1), np.linalg.inv(line.toarray()), atol=1e-14)
    for name in PRECONDITIONERS:
        np.testing.assert_allclose(inverses[name], inverses[name].T, atol=1e-14)
        assert np.linalg.eigvalsh(inverses[name]).min() > 0


@pytest.mark.parametrize("method", ["direct", "direct_kept"])
def test_a_factorisation_follows_the_operator(method):
    solver = contender(method, "", SHARED)
    first, second = DarcySystems(6).draw(2, 0)
    matrix = matrix_of(first.matrix, True)
    for system, same in ((first, False), (first, True), (second, False), (first, False)):
        if not same:
            overwrite(matrix, system.matrix)
        b, x = matrix.createVecs()
        b.array[:] = system.rhs
        assert solver.solve(matrix, b, x, same) > 0
        np.testing.assert_allclose(x.array, spsolve(system.matrix.tocsc(), system.rhs), rtol=1e-10)


def test_factors_are_kept_only_where_that_is_asked_for():
    system = next(PoissonSystems(6).draw(1, 0))
    PETSc.Log.begin()
    event = PETSc.Log.Event("MatCholFctrNum")
    for method, wanted in (("direct", 3), ("direct_kept", 1)):
        solver, matrix = contender(method, "", SHARED), matrix_of(system.matrix, True)
        before = event.getPerfInfo()["count"]
        for same in (False, True, True):
            solved(solver, matrix, system, same)
        assert event.getPerfInfo()["count"] - before == wanted


def test_a_package_that_is_missing_gives_way_to_petsc(monkeypatch):
    monkeypatch.setitem(contenders.FACTORS, "cholesky", ("no_such_package", "petsc"))
    solver, system = contender("direct", "", SHARED), next(DarcySystems(6).draw(1, 0))
    assert solved(solver, matrix_of(system.matrix, True), system, False)["residual"] < 1e-12
    assert solver.package == "petsc"


class Odd(contenders.Contender):
    """Stops with an error on its second system, and believes that it solved the third."""

    calls = 0

    def solve(self, matrix, b, x, same):
        self.calls += 1
        if self.calls == 2:
            raise PETSc.Error(76)
        x.set(1.0 if self.calls == 3 else np.nan)
        return 2


def test_failures_are_recorded_and_shown(tmp_path, monkeypatch):
    kept = contenders.contender
    monkeypatch.setattr(contenders, "contender", lambda m, p, s: Odd() if m == "bcgs" else kept(m, p, s))
    stage = RecyclingTrial(DarcySystems(10), 3, preconditioners=("none",), limit=7, m=6, k=2)
    found = made(tmp_path, stage)
    status, rows = found.read("status"), summary(found)
    (bcgs,) = places(found, "bcgs")
    # Not a number, an error, wrong.
    assert status[bcgs].tolist() == [1, 1, 2]
    assert found.attributes["errors"] == {"bcgs with none": "PETSc error 76"}
    assert rows["none", "bcgs"].failed == 3
    for method in ("gmres", "cg", "gcro_dr"):
        (at,) = places(found, method)
        assert (status[at] == 1).all()
        assert (found.read("residual")[at] > 1e-8).all()
        assert (found.read("iterations")[at] == 7).all()
    ((_, body),) = sections(found)
    assert "7 (3)<br>" in body
    assert "bcgs with none: PETSc error 76" in body
    assert "Fastest of all: direct" in body
    assert "Fastest with GCRO-DR" not in body
    # No ratio to what was not solved, and no iteration is the fastest.
    assert ratios(rows, "none")[1:] == ["–"] * 7


def test_the_report_has_every_row_and_ratios_that_are_right(tmp_path):
    stage = RecyclingTrial(ThermalSystems(1), 4, preconditioners=("jacobi", "icc"), m=12, k=5)
    found = made(tmp_path, stage)
    rows = summary(found)
    ((title, body),) = sections(found)
    assert title == "Recycling on thermal systems"
    for name in METHODS.values():
        assert name in body or name.capitalize() in body
    assert body.count("<tr><td>jacobi</td>") == body.count("<tr><td>icc</td>") == 2
    assert "span 2 dimensions" in body
    assert "data:image/" in body
    line = ratios(rows, "icc")
    gmres, recycled = rows["icc", "gmres"], rows["icc", "gcro_dr"]
    assert float(line[1].lstrip(">")) == pytest.approx(gmres.iterations / recycled.iterations, abs=0.006)
    assert float(line[2].lstrip(">")) == pytest.approx(gmres.products / recycled.products, abs=0.006)
    assert float(line[3].lstrip(">")) == pytest.approx(gmres.seconds / recycled.seconds, abs=0.006)
    assert sections(made(tmp_path, RecyclingTrial.example())) is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count=0"),
        ({"limit": 0}, "limit=0"),
        ({"seed": -1}, "seed=-1"),
        ({"k": 40}, "not k=40"),
        ({"preconditioners": ()}, "no preconditioner; there are none, jacobi"),
        ({"preconditioners": ("icx",)}, "no preconditioner 'icx'.*icc"),
        ({"methods": ("gcrodr",)}, "no method 'gcrodr'.*gcro_dr"),
        ({"methods": ("direct_kept",)}, "factors kept does not suit darcy_systems"),
        ({"systems": HelmholtzSystems(), "methods": ("cg",)}, "CG does not suit helmholtz_systems"),
        ({"ordering": "best"}, "greedy, hilbert"),
    ],
)
def test_what_cannot_be_tried_is_refused(settings, message):
    with pytest.raises(Invalid, match=message):
        RecyclingTrial(**settings)


def test_several_processes_are_refused(tmp_path):
    class Two:
        rank, size = 0, 2

    stage = RecyclingTrial.example()
    with Store(tmp_path).writer(stage.output, stage.digest()) as out, pytest.raises(Invalid, match="on 2"):
        stage.run({}, out, Context(comm=Two()))


def test_the_flow_refuses_an_unknown_data_set():
    pytest.importorskip("prefect")
    flow = runpy.run_path(str(Path(__file__).parents[2] / "flows" / "skr.py"))["skr"]
    with pytest.raises(Invalid, match="no data set 'darcy_flow'; there are darcy, darcy_symmetric"):
        asyncio.run(flow.fn(sets=("darcy_flow",)))
