"""Operators, plain solvers and tuners for the tests of tuned solvers."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
from petsc4py import PETSc

from sciflow.controller import Proposal
from sciflow.errors import NotFound
from sciflow_control.bandits.tuner import Decision, Tuner


def laplacian(m, shift=0.0, seed=None):
    """Five-point operator on m x m points; with a seed, of a random coefficient."""
    a = (
        np.ones((m + 1, m + 1))
        if seed is None
        else np.exp(np.random.default_rng(seed).normal(size=(m + 1, m + 1)))
    )
    line = sp.diags([-np.ones(m), np.ones(m)], [-1, 0], shape=(m + 1, m))
    east = sp.kron(sp.identity(m), line).tocsr()
    north = sp.kron(line, sp.identity(m)).tocsr()
    found = east.T @ sp.diags(np.resize(a, east.shape[0])) @ east
    found = found + north.T @ sp.diags(np.resize(a.T, north.shape[0])) @ north + shift * sp.identity(m * m)
    found = sp.csr_matrix(found)
    found.sort_indices()
    return found


def convection(m, speed):
    """Not symmetric."""
    line = sp.diags([-1.0 - speed, 2.0, -1.0 + speed], [-1, 0, 1], shape=(m, m))
    rest = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(m, m))
    found = sp.csr_matrix(sp.kron(line, sp.identity(m)) + sp.kron(sp.identity(m), rest))
    found.sort_indices()
    return found


def mat(matrix, comm=PETSc.COMM_SELF):
    """A PETSc matrix, of this rank's rows under several ranks."""
    made = PETSc.Mat().create(comm)
    made.setSizes(matrix.shape)
    made.setType("aij")
    made.setUp()
    first, last = made.getOwnershipRange()
    part = matrix[first:last].tocsr()
    part.sort_indices()
    made.setPreallocationCSR(
        (part.indptr.astype(PETSc.IntType), part.indices.astype(PETSc.IntType), part.data)
    )
    made.assemble()
    return made


def load(made, matrix):
    """Assemble other values into the pattern that is there."""
    first, last = made.getOwnershipRange()
    part = matrix[first:last].tocsr()
    part.sort_indices()
    made.zeroEntries()
    made.setValuesCSR(part.indptr.astype(PETSc.IntType), part.indices.astype(PETSc.IntType), part.data)
    made.assemble()


def plain(made, method="cg", preconditioner="jacobi", rtol=1e-8):
    """A solver as a program has it."""
    ksp = PETSc.KSP().create(made.getComm())
    ksp.setOperators(made)
    ksp.setType(method)
    ksp.getPC().setType(preconditioner)
    ksp.setTolerances(rtol=rtol, max_it=5000)
    return ksp


def vectors(made, values=None, seed=0):
    """Right-hand side and a zero solution."""
    b, x = made.createVecLeft(), made.createVecRight()
    first, last = b.getOwnershipRange()
    whole = np.random.default_rng(seed).normal(size=b.getSize()) if values is None else values
    b.setArray(whole[first:last])
    x.set(0.0)
    return b, x


def residual(made, b, x):
    """True, relative to the right-hand side."""
    r = b.duplicate()
    made.mult(x, r)
    r.aypx(-1.0, b)
    return r.norm() / b.norm()


@dataclass(frozen=True)
class InTurn(Tuner):
    """Plays its arms one after the other; keeps what it is told, or raises."""

    name: ClassVar[str] = "in_turn"
    settings: tuple = field(default=(), hash=False)
    raises: str = ""

    @property
    def arms(self):
        return self.settings

    def init(self, rng):
        return {"count": 0, "open": [], "told": []}

    def propose(self, state, features):
        if self.raises == "propose":
            raise ValueError("no feature 'viscosity'")
        n = state["count"]
        after = {**state, "count": n + 1, "open": [*state["open"], n]}
        return Proposal(self.settings[n % len(self.settings)], n), after

    def decision(self, state, token):
        return Decision(token % len(self.settings), 1.0, {})

    def observe(self, state, token, cost, status):
        if self.raises == "observe":
            raise ValueError("a cost of bad omen")
        if token not in state["open"]:
            raise NotFound("token")
        told = [*state["told"], [token % len(self.settings), cost, status]]
        return {**state, "open": [t for t in state["open"] if t != token], "told": told}

    def absorb(self, state, log):
        told = [[int(a), float(c), "absorbed"] for a, c in zip(log["arm"], log["cost"], strict=True)]
        return {**state, "told": [*state["told"], *told]}

    def merge(self, states):
        return {**states[0], "told": [t for state in states for t in state["told"]]}

    def best(self, state, features):
        return 0
