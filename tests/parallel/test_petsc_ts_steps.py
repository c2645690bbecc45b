"""The steps of a TS are the same on every rank, and to rounding on any number of them."""

import numpy as np
import pytest

PETSc = pytest.importorskip("petsc4py.PETSc")

from sciflow.context import exchange
from sciflow.stepping import Stepping
from sciflow.worker import communicator
from sciflow_control.controllers.pi import PI
from sciflow_control.integrators.ts_steer import steer
from sciflow_control.integrators.ts_stepper import TSStepper
from tests.control.ts_tools import rod

COMM = communicator()
# An explicit method at its limit of stability makes rounding large.
METHODS = [("beuler", None), ("cn", None), ("bdf", None), ("arkimex", "3")]


def stepped(kind, sub, comm):
    """Steps, their errors to the bit, and the largest error of this rank's part at the end."""
    ts, u, exact = rod(kind, sub, n=20, end=0.05, comm=comm)
    stepper = TSStepper(ts, u, (1e-8, 0.1), scale=0.1)
    leg = Stepping(stepper, PI(1e-3, first=0.05)).to(0.05)
    assert leg.rejected
    steps = [(r.length.hex(), r.error.hex(), r.cost) for r in (*leg.taken, *leg.rejected)]
    return leg, steps, np.abs(u.getArray() - exact).max()


@pytest.mark.parametrize(("kind", "sub"), METHODS)
def test_every_rank_takes_the_same_steps_and_one_rank_alone_takes_them_too(kind, sub):
    leg, steps, error = stepped(kind, sub, PETSc.COMM_WORLD)
    assert len(set(exchange(COMM, repr(steps)))) == 1
    alone, _, _ = stepped(kind, sub, PETSc.COMM_SELF)
    assert len(alone.taken) == len(leg.taken)
    np.testing.assert_allclose([r.length for r in alone.taken], [r.length for r in leg.taken], rtol=1e-5)
    assert max(float(e) for e in exchange(COMM, repr(float(error)))) < 0.02


def test_a_solve_under_control_takes_the_same_steps_on_every_rank():
    ts, u, exact = rod("beuler", n=20, end=0.05)
    steered = steer(ts, PI(1e-3, first=0.05), (1e-8, 0.1), scale=0.1)
    ts.solve(u)
    leg, _, _ = stepped("beuler", None, PETSc.COMM_WORLD)
    assert [r.length for r in steered.leg.taken] == [r.length for r in leg.taken]
    assert len(set(exchange(COMM, repr(steered.leg)))) == 1
    assert np.abs(u.getArray() - exact).max() < 0.02


def test_a_number_that_is_none_on_one_rank_is_a_failure_on_all():
    ts, u, _ = rod("rk", "3bs", n=20)
    stepper = TSStepper(ts, u, (1e-8, 1e9), scale=0.1)
    if COMM.rank == 0:
        part = u.getArray()
        part[0] = np.nan
    u.stateIncrease()
    result = stepper.attempt(1e-4, 1.0)
    assert not result.converged
    stepper.reject()


def test_a_restart_on_these_ranks_goes_on_with_the_same_bits():
    def made(restart=None):
        ts, u, _ = rod("cn", n=20)
        return TSStepper(ts, u, (1e-8, 0.1), restart=restart)

    def taken(stepper):
        found = []
        for length in (1e-3, 5e-4, 1e-3):
            found.append(stepper.attempt(length, 1.0).error.hex())
            stepper.accept()
        return found

    whole = made()
    taken(whole)
    again = made(whole.restart())
    assert taken(again) == taken(whole)
    assert again.solution().tobytes() == whole.solution().tobytes()
