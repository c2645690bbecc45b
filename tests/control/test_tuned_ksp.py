"""A tuned solver solves what the plain one solves, at twice its cost at most, whatever arms and tuner do."""

import inspect
import warnings

import numpy as np
import pytest

PETSc = pytest.importorskip("petsc4py.PETSc")

from sciflow import Diverged, Invalid
from sciflow.context import Context
from sciflow.experience import Experience
from sciflow_control.bandits.binned import Binned
from sciflow_control.bandits.fixed import Fixed
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.space import Relaxation, Solvers
from sciflow_control.tuned import EveryArm, Tuned, TunedKSP
from sciflow_control.tuned.arms import Arms
from sciflow_control.tuned.costs import price
from tests.control.ksp_tools import InTurn, convection, laplacian, load, mat, plain, residual, vectors

GOOD = ({"method": "cg+icc"}, {"method": "cg+ssor", "omega": 1.5}, {"method": "cg+jacobi"})
BAD = tuple(
    {"method": m}
    for m in (
        "richardson+none", "gmres+none", "preonly+jacobi", "minres+none", "bcgs+none", "cg+gamg", "cholesky",
        "fcg+none", "cg+none", "richardson+ssor",
    )
)  # fmt: skip


class Broken:
    """A preconditioner in Python that misbehaves."""

    def __init__(self, how):
        self.how = how

    def apply(self, pc, x, y):
        x.copy(y)
        if self.how == "raises":
            raise RuntimeError("broken on purpose")
        if self.how == "nan":
            y.scale(float("nan"))
        if self.how == "stagnates":
            y.set(0.0)
            y.setValue(0, 1.0)
            y.assemble()
        if self.how == "indefinite":
            y.scale(-1.0)
        if self.how == "explodes":
            y.scale(1e200)


def broken(monkeypatch, how):
    """Every ``cg+jacobi`` or ``richardson+jacobi`` is broken from here on."""
    made = Arms._made

    def make(self, wanted, ksp):
        arm = made(self, wanted, ksp)
        if wanted.preconditioner == "jacobi":
            arm.getPC().setType("python")
            arm.getPC().setPythonContext(Broken(how))
        return arm

    monkeypatch.setattr(Arms, "_made", make)


def systems(kind):
    """Operators and right-hand sides of one pattern."""
    rng = np.random.default_rng(5)
    for i in range(45):
        if kind == "random":
            matrix = laplacian(9, seed=i)
        elif kind == "smooth":
            matrix = laplacian(9, 10 ** rng.uniform(-3, 1))
        elif kind == "steady":
            matrix = laplacian(9, seed=1)
        elif kind == "drifting":
            matrix = laplacian(9, 10 ** (2 * np.sin(i / 4)), seed=1)
        elif kind == "hopping":
            matrix = laplacian(9, 10 ** rng.uniform(-2, 2), seed=1)
        else:
            matrix = convection(9, rng.uniform(0, 0.9))
        yield matrix, np.ones(81) if kind == "smooth" else rng.normal(size=81)


@pytest.mark.parametrize("how", ["raises", "nan", "stagnates", "indefinite", "explodes"])
@pytest.mark.parametrize("method", ["cg+jacobi", "richardson+jacobi"])
def test_a_broken_arm_never_stops_a_simulation(how, method, monkeypatch):
    broken(monkeypatch, how)
    made = mat(laplacian(9, seed=1))
    b, x = vectors(made)
    b.setArray(np.ones(81))
    tuned = TunedKSP(
        plain(made, "gmres", "jacobi"), InTurn(({"method": method}, {"method": "cg+ssor"})), limit=9.0, hold=1
    )
    for _ in range(8):
        tuned.solve(b, x)
        assert tuned.getConvergedReason() > 0
        assert residual(made, b, x) < 1e-7
    np.testing.assert_array_equal(b.getArray(), 1.0)
    told = tuned._tuning.book.state["told"]
    works = how == "indefinite" and method == "cg+jacobi"  # where the signs cancel
    status = tuned.history["status"][tuned.history["arm"] == 0]
    assert set((status == 0).tolist()) == {works}
    assert {s for *_, s in told} == {"ok"}, "what was paid is a cost like any other"
    assert all(np.isfinite(c) and c > 0 for _, c, _ in told)
    assert tuned.history["fell_back"].tolist() == (tuned.history["status"] > 0).astype(int).tolist()


@pytest.mark.parametrize("kind", ["random", "steady", "drifting", "hopping", "smooth", "convection"])
@pytest.mark.parametrize("safe", [("gmres", "ilu"), ("gmres", "jacobi"), ("cg", "icc"), ("preonly", "lu")])
def test_no_solve_takes_more_than_twice_the_safe_arm(kind, safe):
    if kind == "convection" and safe[0] == "cg":
        safe = ("bcgs", "ilu")
    first, _ = next(iter(systems(kind)))
    made = mat(first)
    alone, tuned = plain(made, *safe), TunedKSP(plain(made, *safe), InTurn(BAD), hold=1)
    before, tried = None, 0
    for matrix, rhs in systems(kind):
        changed = 2 if before is None else int((before != matrix).nnz > 0)
        before = matrix
        if changed:
            load(made, matrix)
        b, x = vectors(made, rhs)
        alone.solve(b, x)
        tuned.solve(b, x)
        cost = price(*safe, tuned._tuning.size)
        work = alone.getIterationNumber() * cost.iteration + (0.0, cost.numeric, cost.setup)[changed]
        assert tuned.solved.work <= 2.0 * work, tuned.solved
        assert tuned.getConvergedReason() > 0
        assert residual(made, b, x) < 2e-7
        tried += tuned.solved.arm not in ("given", "preonly+cholesky", "cg+gamg")
    assert tried > 12


def test_it_goes_on_from_where_the_arm_got_to():
    made = mat(laplacian(15, 0.5))
    b, x = vectors(made)
    alone = plain(made, "cg", "jacobi")
    alone.solve(b, x)
    tuned = TunedKSP(plain(made, "cg", "jacobi"), InTurn(({"method": "cg+none"},)), hold=1)
    for _ in range(2):
        tuned.solve(b, x)
    assert tuned.solved.status == "censored"
    assert tuned.getIterationNumber() == tuned.history["iterations"][-1]
    rest = tuned._tuning.ksp.getIterationNumber()
    assert 0 < rest < 0.7 * alone.getIterationNumber()
    assert tuned.getIterationNumber() - rest > 5
    assert not tuned.getInitialGuessNonzero()
    assert residual(made, b, x) < 1e-7


def test_what_an_arm_left_to_do_is_not_taken_for_the_cost_of_a_system():
    made = mat(laplacian(15, 0.5))
    b, x = vectors(made)
    tuned = TunedKSP(plain(made, "cg", "jacobi"), InTurn(({"method": "cg+none"},)), hold=1)
    tuned.solve(b, x)
    whole = tuned.getIterationNumber() * price("cg", "jacobi", tuned._tuning.size).iteration
    for _ in range(5):
        tuned.solve(b, x)
        assert tuned.solved.status == "censored"
        assert tuned._tuning.ksp.getIterationNumber() < 0.7 * tuned.getIterationNumber()
    assert {w for _, w in tuned._tuning.book.reference.to_json()["records"]} == {whole}


def test_a_solver_that_fails_is_reported_as_it_would_be_alone():
    made = mat(laplacian(6))
    b, x = vectors(made)
    alone = plain(made)
    for values in (np.full(36, np.nan), np.full(36, np.inf)):
        b.setArray(values)
        tuned = TunedKSP(plain(made), InTurn(GOOD))
        alone.solve(b, x)
        for _ in range(3):
            tuned.solve(b, x)
            assert tuned.getConvergedReason() == alone.getConvergedReason() < 0
        assert tuned.history == {}  # nothing to learn
    b, x = vectors(made)
    short = plain(made)
    short.setTolerances(max_it=2)
    tuned = TunedKSP(short, InTurn(({"method": "richardson+none"},)))
    tuned.solve(b, x)
    assert tuned.reason == PETSc.KSP.ConvergedReason.DIVERGED_MAX_IT
    assert not tuned.converged
    solving = Tuned(Thompson(Solvers(("cg+icc",)))).wrap(short, Context())
    with pytest.raises(Diverged, match="PETSc reason -3"):
        solving.solve(b, x, {})


def test_a_zero_right_hand_side_and_a_solved_system_leave_nothing_to_choose():
    made = mat(laplacian(6))
    b, x = vectors(made)
    tuned = TunedKSP(plain(made), InTurn(GOOD))
    tuned.solve(b, x)
    b.set(0.0)
    x.set(3.0)
    tuned.solve(b, x)
    assert not x.getArray().any()
    assert (tuned.its, tuned.converged, tuned.history) == (0, True, {})
    b, x = vectors(made)
    tuned.solve(b, x)
    tuned.setInitialGuessNonzero(True)
    rows = len(tuned.history["arm"])
    tuned.solve(b, x)
    assert tuned.its <= 1
    assert len(tuned.history["arm"]) == rows


@pytest.mark.parametrize("method", ["cg+icc", "cg+eisenstat", "gmres+ilu", "richardson+ssor", "bcgs+none"])
def test_a_guess_is_started_from_when_the_solver_says_so(method):
    made = mat(laplacian(9, 3.0))
    b, x = vectors(made)
    ksp = plain(made)
    tuned = TunedKSP(ksp, InTurn(({"method": method},)), limit=2000.0, hold=1)
    tuned.solve(b, x)
    tuned.solve(b, x)
    cold, solution = tuned.its, x.getArray().copy()
    ksp.setInitialGuessNonzero(True)
    x.setArray(solution * (1 + 1e-5 * np.sin(np.arange(81))))
    tuned.solve(b, x)
    assert tuned.solved.status == "ok"
    assert 0 < tuned.its < 0.8 * cold
    ksp.setInitialGuessNonzero(False)
    x.setArray(solution * 1e6)
    tuned.solve(b, x)
    assert tuned.its == pytest.approx(cold, abs=2)  # eisenstat has learned how far its norm is off


def test_operators_and_sizes_may_change():
    rng = np.random.default_rng(0)
    tuned = TunedKSP(plain(mat(laplacian(5))), InTurn((*GOOD, {"method": "cholesky"})), hold=1)
    for i in range(16):
        matrix = laplacian(5 + i % 3, float(i % 2), seed=i // 4)
        made = mat(matrix)
        tuned.reset()  # PETSc wants it before another size
        tuned.setOperators(made)
        b, x = vectors(made, rng.normal(size=matrix.shape[0]))
        tuned.solve(b, x)
        np.testing.assert_allclose(matrix @ x.getArray(), b.getArray(), atol=1e-6)
        assert tuned.getOperators()[0].handle == made.handle


def test_it_answers_like_the_solver_it_stands_for():
    made = mat(laplacian(6))
    ksp = plain(made)
    tuned = TunedKSP(ksp, InTurn(({"method": "given"},)), hold=1)
    b, x = vectors(made)
    alone = plain(made)
    alone.solve(b, x)
    for _ in range(3):
        tuned.solve(b, x)
        assert tuned.getIterationNumber() == alone.getIterationNumber()
        assert tuned.getResidualNorm() == alone.getResidualNorm()
        assert tuned.getConvergedReason() == alone.getConvergedReason()
    assert tuned.history["arm"].tolist() == [0, 0]
    assert not tuned.history["fell_back"].any()
    tuned.rtol = 1e-3
    assert tuned.getTolerances()[0] == ksp.rtol == 1e-3
    assert tuned.getType() == "cg"
    with pytest.raises(AttributeError):
        tuned.no_such_thing  # noqa: B018


def test_an_arm_must_be_as_exact_as_a_direct_solver_that_it_stands_in_for():
    made = mat(laplacian(9))
    b, x = vectors(made)
    tuned = TunedKSP(plain(made, "preonly", "lu", rtol=1e-5), InTurn(({"method": "cg+icc"},)), limit=1000.0)
    tuned.solve(b, x)
    tuned.solve(b, x)
    assert tuned.solved.status == "ok"
    assert tuned.solved.arm == "cg+icc"
    assert residual(made, b, x) < 1.1e-10


@pytest.mark.parametrize("raises", ["propose", "observe"])
def test_a_tuner_that_raises_is_warned_of_once(raises):
    made = mat(laplacian(6))
    b, x = vectors(made)
    tuned = TunedKSP(plain(made), InTurn(GOOD, raises), hold=1)
    tuned.solve(b, x)
    with pytest.warns(
        RuntimeWarning, match="in_turn could not (choose|learn), the given solver takes over: "
    ):
        tuned.solve(b, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            tuned.solve(b, x)
    assert residual(made, b, x) < 1e-7
    assert tuned.history == {}


def test_settings_that_make_no_sense_are_refused():
    ksp = plain(mat(laplacian(4)))
    for wrong, message in [
        ({"cost": "money"}, "cost 'money' is not one of work, iterations, seconds"),
        ({"limit": 1.0}, "greater than 1"),
        ({"limit": float("nan")}, "greater than 1"),
        ({"hold": -1}, "held for 0"),
        ({"rtol": 0.0}, "rtol must lie"),
    ]:
        with pytest.raises(Invalid, match=message):
            TunedKSP(ksp, Thompson(), **wrong)
    with pytest.raises(Invalid, match="not threshold"):
        TunedKSP(ksp, InTurn(({"method": "cg+gamg", "threshold": 0.5},)))
    for wrong, message in [({"limit": 0.5}, "greater than 1"), ({"cost": "money"}, "is not one of")]:
        with pytest.raises(Invalid, match=message):
            Tuned(Thompson(), **wrong)


def test_an_expensive_set_up_waits_until_it_is_amortised():
    made = mat(laplacian(20))
    b, x = vectors(made)
    arms = InTurn(({"method": "cg+gamg"},))
    strict = TunedKSP(plain(made, "cg", "icc"), arms, hold=1)
    patient = TunedKSP(plain(made, "cg", "icc"), arms, hold=1, amortise=True)
    spent, seen = 0.0, []
    for _ in range(40):
        strict.solve(b, x)
        assert strict.solved.arm == "given"
        assert strict.solved.status in ("ok", "censored")
        patient.solve(b, x)
        seen.append(patient.solved.arm)
        if patient.solved.arm == "cg+gamg":
            break
        spent += patient.solved.work
    whole = price("cg", "gamg", patient._tuning.size).setup
    assert seen[-1] == "cg+gamg"
    assert spent >= whole
    assert spent - patient._tuning.book.reference.to_json()["records"][-1][1] < whole
    assert strict.history["cost"].min() > whole  # it is told what it would have cost at least


@pytest.mark.parametrize("cost", ["work", "seconds"])
def test_a_pattern_is_analysed_when_that_is_amortised_and_not_held_against_the_arm(cost):
    made = mat(laplacian(20))
    b, x = vectors(made)
    arms = InTurn(({"method": "cholesky"},))
    tuned = TunedKSP(plain(made, "gmres", "ilu"), arms, cost=cost, hold=1, amortise=True)
    works, spent = [], 0.0
    for seed in range(12):
        load(made, laplacian(20, seed=seed))
        tuned.solve(b, x)
        used = tuned.solved.arm == "preonly+cholesky"
        if used:
            works.append(tuned.solved.work)
        spent += 0.0 if works else tuned.solved.work
    analysis = works[0] - works[1]
    assert len(works) > 5
    assert works[1:] == [works[1]] * (len(works) - 1)
    assert 0 < analysis <= spent
    told = [c for _, c, _ in tuned._tuning.book.state["told"]]
    assert len(told) == len(works), "what had to wait was not tried"
    assert cost == "seconds" or told == pytest.approx([works[1]] * len(works))


def test_a_decision_is_held_while_solves_are_short():
    made = mat(laplacian(5))
    b, x = vectors(made)
    tuned = TunedKSP(plain(made), Thompson(Relaxation(count=3)), context={"t": 0.5}, limit=20.0)
    for _ in range(60):
        tuned.solve(b, x)
    solves = tuned.history["solves"]
    assert solves.max() == 16
    held = tuned._tuning.book.held
    assert solves.sum() + held.spent["solves"] + 1 <= 60
    tuned.solve(b, x, features={"t": 0.9})  # another case: another decision
    assert tuned._tuning.book.held.features["t"] == 0.9
    every = TunedKSP(plain(made), Thompson(Relaxation(count=3)), hold=1, limit=20.0)
    for _ in range(12):
        every.solve(b, x)
    assert every.history["solves"].tolist() == [1] * 11


def run(solving, made, start, stop, restart_at=None):
    """Solve a sequence with a component's solving."""
    for i in range(start, stop):
        load(made, laplacian(8, float(i % 3), seed=i // 4))
        b, x = vectors(made, seed=i)
        solving.solve(b, x, {"t": i / 40})
    return x.getArray().copy()


@pytest.mark.parametrize("hold", [0, 1])
def test_a_killed_member_goes_on_with_the_same_bits(hold):
    tuned = Tuned(Thompson(Solvers(("cg+icc", "cg+ssor", "cg+eisenstat", "cholesky"), (1.0, 1.6))), hold=hold)
    for cut in (1, 13, 22):
        made = mat(laplacian(8))
        whole = tuned.wrap(plain(made), Context(seed=3))
        last = run(whole, made, 0, 40)
        first = tuned.wrap(plain(made), Context(seed=3))
        run(first, made, 0, cut)
        other = mat(laplacian(8))
        second = tuned.wrap(plain(other), Context(seed=3), dict(first.restart()))
        assert run(second, other, cut, 40).tobytes() == last.tobytes()
        a, b = whole._tuning.book.history.columns(), second._tuning.book.history.columns()
        assert (
            a.keys()
            == b.keys()
            >= {"arm", "probability", "cost", "status", "iterations", "feature_t", "feature_ranks"}
        )
        for name in a.keys() - {"seconds"}:
            assert a[name].tobytes() == b[name].tobytes(), name


def test_a_member_does_not_depend_on_the_set_ups_of_an_earlier_one():
    tuned = Tuned(Thompson(Solvers(("cg+icc", "cholesky", "cg+jacobi"))), hold=1)
    made = mat(laplacian(8))
    ksp = plain(made)
    costs = []
    for _ in range(2):
        solving = tuned.wrap(ksp, Context(seed=1))
        run(solving, made, 0, 12)
        costs.append(solving._tuning.book.history.columns()["cost"].tolist())
    assert costs[0] == costs[1]
    assert Arms.of(ksp) is solving._tuning.arms


def test_members_learn_from_those_before(tmp_path):
    tuned = Tuned(InTurn(GOOD), hold=1)
    made = mat(laplacian(8))
    taken = []
    for member in range(3):
        ctx = Context(experience=Experience(tmp_path, member))
        solving = tuned.wrap(plain(made), ctx)
        absorbed = [a for a, _, s in solving._tuning.book.state["told"] if s == "absorbed"]
        assert absorbed == taken
        run(solving, made, 0, 5)
        found = solving._tuning.book.history.columns()
        # Only the first member has to find out what its own solver costs.
        assert (found["arm"] == -1).sum() == (member == 0)
        chosen = found["arm"] >= 0
        assert found["known"][chosen].tolist() == list(range(len(taken), len(taken) + chosen.sum()))
        taken += found["arm"][chosen].tolist()
        solving.close()
    logs = Experience(tmp_path, 9).others()
    assert sorted(logs) == [0, 1, 2]
    assert {"arm", "probability", "cost", "status", "safe", "work", "digits", "mass"} <= logs[0].keys()
    assert {"fell_back", "setup", "known", "solves", "feature_t"} <= logs[0].keys()


@pytest.mark.parametrize("seed", range(3))
def test_a_relaxation_parameter_is_learned_within_sixty_solves(seed):
    made = mat(laplacian(40))
    own = plain(made, "cg", "jacobi")
    tuned = TunedKSP(
        plain(made, "cg", "jacobi"), Thompson(Relaxation(1.0, 1.9, 10)), cost="iterations", seed=seed
    )
    taken = []
    for i in range(60):
        b, x = vectors(made, seed=i)
        tuned.solve(b, x)
        taken.append(tuned.getIterationNumber())
    own.solve(b, x)
    assert np.mean(taken[-20:]) < 0.5 * own.getIterationNumber()


def test_a_feature_that_the_problem_does_not_give_is_refused(tmp_path):
    tuned = Tuned(Binned(Thompson(Solvers(("given", "cg+icc"))), "log_dif", 0.0, 1.0))
    solving = tuned.wrap(plain(mat(laplacian(4))), Context())
    b, x = vectors(mat(laplacian(4)))
    with pytest.raises(Invalid, match="binned decides by log_dif, .* gives dt, log_n, ranks"):
        solving.solve(b, x, {"dt": 1.0})


def test_members_of_one_solve_each_try_arms_from_the_second_on(tmp_path):
    tuned = Tuned(InTurn(GOOD), hold=1, limit=1000.0)
    made, arms = mat(laplacian(8)), []
    for member in range(5):
        solving = tuned.wrap(plain(made), Context(experience=Experience(tmp_path, member)))
        run(solving, made, member, member + 1)
        arms += solving._tuning.book.history.columns()["arm"].tolist()
        solving.close()
    assert arms[0] == -1
    assert -1 not in arms[1:]


def test_the_pattern_of_an_ensemble_is_analysed_once(tmp_path):
    tuned = Tuned(Fixed(Solvers(("cg+icc",)), 0), hold=1, limit=1000.0)
    made, setups = mat(laplacian(8)), []
    for member in range(4):
        solving = tuned.wrap(plain(made), Context(experience=Experience(tmp_path, member)))
        run(solving, made, member, member + 1)
        setups += solving._tuning.book.history.columns()["setup"].tolist()
        solving.close()
    assert setups == [2, 2, 1, 1]  # the problem's own solver, the arm, and the arm again


@pytest.mark.parametrize("cost", ["work", "iterations", "seconds"])
def test_every_arm_is_tried_on_the_same_systems(cost, tmp_path):
    space = Solvers(("cg+icc", "cg+ssor", "richardson+none", "cholesky", "given"), (1.0, 1.5))
    every = EveryArm(space, cost, limit=100.0)
    made = mat(laplacian(8))
    solving = every.wrap(plain(made), Context(experience=Experience(tmp_path, 0)))
    run(solving, made, 0, 6)
    again = every.wrap(plain(made), Context(experience=Experience(tmp_path, 0)), dict(solving.restart()))
    last = run(again, made, 6, 10)
    again.close()
    alone = plain(made)
    b, x = vectors(made, seed=9)
    alone.solve(b, x)
    assert x.getArray().tobytes() == last.tobytes()
    log = Experience(tmp_path, 1).others()[0]
    assert log["solve"].tolist() == np.repeat(np.arange(10), 6).tolist()
    assert log["arm"].tolist() == [-1, 0, 1, 2, 3, 4] * 10
    status = log["status"].reshape(10, 6)
    assert not status[:, [0, 1, 2, 3, 5]].any()
    assert status[:, 4].all()
    assert (log["cost"] > 0).all()
    if cost == "iterations":
        assert (log["cost"].reshape(10, 6)[:, 5] == 1).all()
    with pytest.raises(Invalid, match="limit must be positive"):
        EveryArm(space, limit=0.0)


def test_a_context_may_be_asked_for_each_solve():
    times = iter(np.linspace(0, 1, 20))
    made = mat(laplacian(6))
    tuned = TunedKSP(plain(made), InTurn(GOOD), context=lambda: {"t": next(times), "dt": 0.1}, hold=1)
    b, x = vectors(made)
    for _ in range(4):
        tuned.solve(b, x, features={"dt": 0.2})
    np.testing.assert_allclose(tuned.history["feature_t"], np.linspace(0, 1, 20)[1:4])
    assert set(tuned.history["feature_dt"]) == {0.2}
    assert set(tuned.history["feature_ranks"]) == {1.0}
    other = TunedKSP(plain(made), InTurn(GOOD))
    other.learn(tuned.history)
    assert [a for a, *_ in other._tuning.book.state["told"]] == [0, 1, 2]


def test_a_dolfinx_problem_takes_it_in_one_line():
    ufl = pytest.importorskip("ufl")
    pytest.importorskip("dolfinx")
    from dolfinx import fem
    from dolfinx.fem.petsc import LinearProblem
    from mpi4py import MPI

    from sciflow_fenics import compat
    from sciflow_fenics.lattice import square

    mesh = square(MPI.COMM_SELF, 10, 1.0)
    space = compat.function_space(mesh, 1)
    u, v, k = ufl.TrialFunction(space), ufl.TestFunction(space), fem.Constant(mesh, PETSc.ScalarType(1.0))
    a, load_ = k * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx + u * v * ufl.dx, v * ufl.dx

    def problem(name):
        options = {"ksp_type": "cg", "pc_type": "jacobi", "ksp_rtol": 1e-10}

        newer = "petsc_options_prefix" in inspect.signature(LinearProblem).parameters
        return LinearProblem(
            a, load_, petsc_options=options, **({"petsc_options_prefix": name} if newer else {})
        )

    alone, tuned = problem("alone_"), problem("tuned_")
    tuned._solver = TunedKSP(tuned.solver, InTurn((*GOOD, {"method": "cholesky"})), hold=1)
    for value in (1.0, 1.0, 2.0, 2.0, 0.5, 3.0):
        k.value = value
        expected = alone.solve().x.array
        np.testing.assert_allclose(tuned.solve().x.array, expected, rtol=1e-8, atol=1e-12)
    assert tuned.solver.getConvergedReason() > 0
    assert tuned.solver.history["arm"].tolist() == [0, 1, 2, 3, 0]
