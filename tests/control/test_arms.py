"""Arms reach the same residual, keep set-ups of the operator at hand alone, and know what they cost."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

PETSc = pytest.importorskip("petsc4py.PETSc")

from sciflow import Invalid
from sciflow_control.tuned import arms as arms_module
from sciflow_control.tuned import library
from sciflow_control.tuned.arms import DIRECT, METHODS, PRECONDITIONERS, Arms, Choice, check, choice, obstacle
from sciflow_control.tuned.attempt import SLACK, Goal, Workspace, attempt
from sciflow_control.tuned.costs import Price, Size, price
from sciflow_control.tuned.history import History, pack, unpack
from sciflow_control.tuned.limits import KEPT, Case, Reference, budget
from sciflow_control.tuned.operator import Operator
from tests.control.ksp_tools import laplacian, load, mat, plain, vectors

SPD = [f"{m}+{p}" for m in ("cg", "fcg", "gmres", "bcgs") for p in PRECONDITIONERS if p != "sor"]
FORWARD = [f"{m}+sor" for m in ("gmres", "bcgs", "richardson")]
SLOW = ["richardson+ssor", "richardson+icc", "richardson+gamg", "minres+none", "minres+jacobi", "minres+icc"]


@pytest.fixture(scope="module")
def system():
    made = mat(laplacian(12, seed=3))
    b, x = vectors(made)
    return made, b, x


def tried(arm, made, b, x, rtol=1e-7, budget_=1e6):
    """An attempt with one arm, from zero."""
    given_ = plain(made)
    arms = Arms.of(given_)
    arms.look(given_)
    space = Workspace(b)
    b.copy(space.b)
    space.x.set(0.0)
    goal = Goal(rtol * b.norm(), b.norm(), b.norm(), False)
    outcome = attempt(arms.ready(arm, given_), space, goal, Price(0.0, 0.0, 1.0, 1.0), budget_, 1.0)
    space.x.copy(x)
    return outcome


@pytest.mark.parametrize("method", [*SPD, *FORWARD, *SLOW, *DIRECT])
def test_every_arm_reaches_the_same_true_residual(method, system):
    made, b, x = system
    arm = choice({"method": method, "omega": 1.3})
    if obstacle(arm, 1):
        pytest.skip(obstacle(arm, 1))
    outcome = tried(arm, made, b, x)
    rows, columns, values = made.getValuesCSR()
    import scipy.sparse as sp

    true = np.linalg.norm(b.getArray() - sp.csr_matrix((values, columns, rows)) @ x.getArray())
    assert outcome.status == "ok"
    assert outcome.residual == pytest.approx(true, rel=1e-6)
    assert true <= SLACK * 1e-7 * b.norm()


def test_a_method_that_stops_early_by_its_own_norm_goes_on(system):
    made, b, x = system
    alone = plain(made, "cg", "eisenstat", 1e-7)
    alone.solve(b, x)
    r = b.duplicate()
    made.mult(x, r)
    r.aypx(-1.0, b)
    assert r.norm() > SLACK * 1e-7 * b.norm()  # else this tests nothing
    assert tried(Choice("cg", "eisenstat", 1.0), made, b, x).iterations > alone.getIterationNumber()


def test_richardson_with_sor_stops_at_the_tolerance(system):
    """PETSc hands all iterations to PCSOR, unchecked, unless somebody watches."""
    made, b, x = system
    arm = Choice("richardson", "sor", 1.5)
    outcome = tried(arm, made, b, x)
    assert 10 < outcome.iterations < 1000
    assert tried(arm, made, b, x, rtol=1e-3).iterations < outcome.iterations


@pytest.mark.parametrize("preconditioner", ["ssor", "eisenstat", "sor"])
def test_omega_is_set_without_a_set_up_and_is_the_one_of_the_options(preconditioner, system, monkeypatch):
    made, b, x = system
    method = "gmres" if preconditioner == "sor" else "cg"
    omegas = [0.8, 1.0, 1.4, 1.7, 1.9]
    fast = [tried(Choice(method, preconditioner, w), made, b, x).iterations for w in omegas]
    assert len(set(fast)) > 2
    monkeypatch.setattr(library, "function", lambda *_: None)
    assert [tried(Choice(method, preconditioner, w), made, b, x).iterations for w in omegas] == fast
    monkeypatch.undo()
    ksp = plain(made)
    arms = Arms.of(ksp)
    arms.look(ksp)
    PETSc.Log.begin()
    arms.ready(Choice(method, preconditioner, 1.1), ksp).solve(b, x)
    before = PETSc.Log.Event("PCSetUp").getPerfInfo()["count"]
    arms.ready(Choice(method, preconditioner, 1.6), ksp).solve(b, x)
    assert PETSc.Log.Event("PCSetUp").getPerfInfo()["count"] == before


@pytest.mark.parametrize("fast", [True, False])
def test_an_operator_is_known_by_its_values(fast, monkeypatch):
    if not fast:
        monkeypatch.setattr(library, "function", lambda *_: None)
    first, second = laplacian(7, seed=1), laplacian(7, seed=2)
    made = mat(first)
    ksp, operator = plain(made), Operator()

    def look():
        operator.look(ksp)
        return operator.epoch, operator.shape

    assert look() == (1, 1)
    assert look() == (1, 1)
    load(made, first)
    assert look() == (1, 1)
    digest = operator.digest()
    load(made, second)
    assert look() == (2, 1)
    assert operator.digest() != digest
    ksp.setOperators(mat(second))
    assert look() == (2, 1)  # another object, the same operator
    ksp.setOperators(mat(laplacian(8)))
    assert look() == (3, 2)
    one = first.copy()
    one.data[5] = np.nextafter(one.data[5], 9.0)
    ksp.setOperators(made)
    load(made, first)
    assert look() == (4, 3)
    load(made, one)
    assert look() == (5, 3)  # one bit


def test_a_pattern_that_changes_under_equal_values_is_seen():
    made = PETSc.Mat().create(PETSc.COMM_SELF)
    made.setSizes((6, 6))
    made.setType("aij")
    ksp, operator, seen = plain(made), Operator(), []
    for reach in (1, 2):
        made.setPreallocationNNZ(2)
        for i in range(6):
            made.setValue(i, i, 4.0)
            made.setValue(i, (i + reach) % 6, 4.0)
        made.assemble()
        operator.look(ksp)
        seen.append((operator.epoch, operator.shape))
    assert seen == [(1, 1), (2, 2)]


def test_a_matrix_without_rows_is_known_by_its_count():
    class Twice:
        def mult(self, mat_, x, y):
            x.copy(y)
            y.scale(2.0)

    made = PETSc.Mat().createPython((4, 4), Twice(), comm=PETSc.COMM_SELF)
    made.setUp()
    ksp, operator = plain(made, "cg", "none"), Operator()
    operator.look(ksp)
    operator.look(ksp)
    assert operator.epoch == 1
    made.stateIncrease()
    operator.look(ksp)
    assert operator.epoch == 2


def test_mass_tells_diffusion_from_reaction():
    found = []
    for shift in (1e-3, 1.0, 1e3):
        operator = Operator()
        operator.look(plain(mat(laplacian(20, shift))))
        found.append(operator.mass)
    assert found[0] < 0.2 < found[2]
    assert found == sorted(found)
    assert found[2] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    "method",
    [*(f"cg+{p}" for p in PRECONDITIONERS if p not in ("sor", "gamg")), "gmres+ilu", *DIRECT],
)
def test_no_set_up_serves_another_operator(method):
    """Iterations and solution are those of a solver that is made for each system."""
    arm = choice({"method": method, "omega": 1.5})
    if obstacle(arm, 1):
        pytest.skip(obstacle(arm, 1))
    made = mat(laplacian(9, seed=0))
    b, x = vectors(made)
    ksp = plain(made)
    arms = Arms.of(ksp)
    order = [0, 0, 1, 1, 2, 0, 0, 2, 3]
    for seed in order:
        load(made, laplacian(9, shift=10.0 * seed, seed=seed))
        arms.look(ksp)
        solver = arms.ready(arm, ksp)
        solver.setTolerances(rtol=1e-7, max_it=500)
        solver.solve(b, x)
        other = mat(laplacian(9, shift=10.0 * seed, seed=seed))
        ksp2 = plain(other)
        arms2, y = Arms.of(ksp2), x.duplicate()
        arms2.look(ksp2)
        fresh = arms2.ready(arm, ksp2)
        fresh.setTolerances(rtol=1e-7, max_it=500)
        fresh.solve(b, y)
        assert solver.getIterationNumber() == fresh.getIterationNumber()
        np.testing.assert_allclose(x.getArray(), y.getArray(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("method", "event"), [("lu", "MatLUFactor"), ("cholesky", "MatCholFctr")])
def test_factors_are_reused_and_patterns_analysed_once(method, event):
    first, second = laplacian(9, seed=0), laplacian(9, seed=1)
    made = mat(first)
    b, x = vectors(made)
    ksp = plain(made)
    arms = Arms.of(ksp)
    PETSc.Log.begin()
    events = [PETSc.Log.Event(event + "Num"), PETSc.Log.Event(event + "Sym")]
    start = [e.getPerfInfo()["count"] for e in events]
    found = []
    for matrix in (first, first, second, second, first):
        load(made, matrix)
        arms.look(ksp)
        arms.ready(choice({"method": method}), ksp).solve(b, x)
        found.append([e.getPerfInfo()["count"] - s for e, s in zip(events, start, strict=True)])
    assert found == [[1, 1], [1, 1], [2, 1], [2, 1], [3, 1]]


def test_arms_are_read_and_refused_with_what_there_is():
    assert choice({"omega": 1.5}) == Choice("cg", "ssor", 1.5)
    assert choice({"method": "lu"}) == Choice("preonly", "lu")
    assert choice({"method": "given"}) == Choice("given")
    for values, message in [
        ({"method": "cgs+icc"}, "no method 'cgs' in the arm 'cgs.icc'.*There is: bcgs, cg"),
        ({"method": "cg+icd"}, "no preconditioner 'icd'.*icc, ilu"),
        ({"omega": 2.0}, r"must lie in \(0, 2\), got 2.0"),
        ({"method": "cg+gamg", "threshold": 0.1}, "not threshold"),
    ]:
        with pytest.raises(Invalid, match=message):
            choice(values)
    assert set(METHODS) > {"cg", "gmres", "bcgs", "minres", "richardson", "fcg", "preonly"}


def test_arms_that_cannot_run_here_are_named_with_those_that_can(monkeypatch):
    space = [{"method": "cg+icc"}, {"method": "cg+eisenstat", "omega": 1.0}, {"method": "cg+hypre"}]
    monkeypatch.setattr(arms_module, "_has_hypre", lambda: False)
    with pytest.raises(
        Invalid, match=r"cg\+eisenstat: .*one rank, here are 2; cg\+hypre: .*; these can: cg\+icc"
    ):
        check(space, 2)
    monkeypatch.setattr(arms_module, "packages", lambda *_: ())
    with pytest.raises(Invalid, match="no parallel lu.*these can: none of them"):
        check([{"method": "lu"}], 2)


@given(
    st.sampled_from(METHODS),
    st.sampled_from([*PRECONDITIONERS, *DIRECT]),
    st.floats(1, 1e8),
    st.floats(1, 100),
)
def test_prices_are_positive_and_finite(method, preconditioner, unknowns, row):
    found = price(method, preconditioner, Size(unknowns, unknowns * row, unknowns**0.6))
    assert found.setup >= found.numeric >= 0
    assert found.check >= 0
    assert found.iteration > 0
    assert np.isfinite([found.setup, found.iteration, found.check]).all()


@given(st.floats(1.01, 10), *[st.floats(0, 1e6)] * 3)
def test_a_budget_leaves_room_for_the_safe_arm(limit, safe, setup, more):
    spent = budget(limit, safe, setup, setup + more)
    assert spent >= 0
    assert spent == 0 or spent + setup + more + safe <= limit * (setup + safe) * (1 + 1e-12)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1, 100)), min_size=1, max_size=40), st.floats(0, 1))
def test_the_safe_arm_is_taken_to_cost_what_it_cost_nearby(records, where):
    reference = Reference({"t": (0.0, 1.0)})
    assert reference.due()
    for t, work in records:
        reference.note(Case({"t": t}, 8.0, 0.1), work)
    case = Case({"t": where}, 8.0, 0.1)
    assert min(w for _, w in records) <= reference.least(case) <= max(w for _, w in records)
    assert reference.least(Case({"t": where}, 4.0, 0.1)) == pytest.approx(reference.least(case) / 2)
    assert reference.least(Case({"t": where}, 8.0, 1.0)) <= reference.least(case)
    again = Reference({"t": (0.0, 1.0)})
    again.load(json.loads(json.dumps(reference.to_json())))
    assert again.least(case) == reference.least(case)
    assert len(reference.to_json()["records"]) <= KEPT
    assert not reference.due()
    reference.spend(1e9)
    assert reference.due()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
    st.lists(st.integers(-(2**62), 2**62), max_size=5),
)
def test_states_come_back_with_their_bits(document, numbers):
    sums = np.array(numbers, dtype=np.int64)
    found = unpack(pack({"a": document, "sums": sums, "x": np.array([[0.1, -0.0]])}))
    assert found["a"] == document
    assert found["sums"].dtype == np.int64
    assert found["sums"].tobytes() == sums.tobytes()
    assert found["x"].tobytes() == np.array([[0.1, -0.0]]).tobytes()


def test_a_history_is_a_table_with_nan_where_a_row_lacks_a_feature():
    history = History()
    assert history.columns() == {}
    history.add({"arm": 1, "cost": 2.0}, {"t": 0.5, "ranks": 1.0})
    history.add({"arm": 0, "cost": 3.0}, {"ranks": 1.0})
    found = history.columns()
    assert sorted(found) == ["arm", "cost", "feature_ranks", "feature_t"]
    np.testing.assert_array_equal(found["feature_t"], [0.5, np.nan])
    assert found["arm"].dtype == np.int64
