"""A tuned solver takes the same decisions on every rank, and a broken arm stops none of them."""

import numpy as np
import pytest

PETSc = pytest.importorskip("petsc4py.PETSc")

from sciflow.context import exchange
from sciflow.worker import communicator
from sciflow_control.bandits.thompson import Thompson
from sciflow_control.space import Solvers
from sciflow_control.tuned import TunedKSP
from sciflow_control.tuned.arms import packages
from tests.control.ksp_tools import InTurn, laplacian, load, mat, plain, residual, vectors

COMM = communicator()
SAME = Solvers(("cg+jacobi", "cg+none", "gmres+jacobi", "bcgs+jacobi"))


def solved(tuned, made, systems):
    """Solve a sequence; what was chosen and how it ended."""
    found = []
    for i in systems:
        load(made, laplacian(12, float(i % 3), seed=i // 4))
        b, x = vectors(made, seed=i)
        tuned.solve(b, x)
        assert residual(made, b, x) < 1e-6
        found.append((tuned.solved.arm, tuned.solved.status, tuned.getIterationNumber()))
    return found


def world(tuner, **settings):
    made = mat(laplacian(12), PETSc.COMM_WORLD)
    return TunedKSP(plain(made), tuner, hold=1, **settings), made


def test_all_ranks_do_the_same_and_one_rank_alone_decides_alike():
    tuned, made = world(Thompson(SAME), limit=5.0)
    together = solved(tuned, made, range(30))
    assert len(set(exchange(COMM, repr(together[-12:])))) == 1
    if COMM.rank == 0:
        arms = tuned.history["arm"].tolist()
        alone = mat(laplacian(12))
        one = TunedKSP(plain(alone), Thompson(SAME), hold=1, limit=5.0)
        solved(one, alone, range(30))
        assert one.history["arm"].tolist() == arms
        assert set(tuned.history["feature_ranks"]) == {float(COMM.size)}
    else:
        assert tuned.history == {}


def test_every_arm_that_can_run_on_these_ranks_does():
    methods = [
        "cg+icc",
        "gmres+ilu",
        "cg+ssor",
        "cg+bjacobi",
        "cg+asm",
        "cg+hypre",
        "cg+gamg",
        "richardson+ssor",
    ]
    methods += [d for d in ("cholesky", "lu") if packages(d, COMM.size)]
    tuned, made = world(InTurn(tuple({"method": m} for m in methods)), limit=1e4)
    found = solved(tuned, made, range(2 * len(methods) + 1))
    assert [status for _, status, _ in found] == ["ok"] * len(found)


def test_a_restart_goes_on_with_the_same_decisions_on_every_rank():
    tuned, made = world(Thompson(SAME), limit=5.0)
    first = solved(tuned, made, range(9))
    state = tuned.restart()
    whole = first + solved(tuned, made, range(9, 20))
    again, other = world(Thompson(SAME), limit=5.0, state=state)
    assert first + solved(again, other, range(9, 20)) == whole


def test_an_arm_that_diverges_stops_no_rank():
    tuned, made = world(InTurn(({"method": "richardson+none"}, {"method": "preonly+jacobi"})))
    found = solved(tuned, made, range(8))
    assert {s for _, s, _ in found[1:]} <= {"failed", "censored"}
    b, x = vectors(made)
    b.setArray(np.full(b.getLocalSize(), np.nan if COMM.rank == 0 else 1.0))
    tuned.solve(b, x)
    assert tuned.getConvergedReason() < 0
