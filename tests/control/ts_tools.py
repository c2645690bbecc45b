"""Time steppers of PETSc for tests: an oscillator on one rank, and heat in a rod on any."""

import numpy as np
from petsc4py import PETSc


def slope(t, y):
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array([y[1], 3.0 * (1 - y[0] ** 2) * y[1] - y[0]])


def oscillator(kind, sub=None, end=2.0):
    """Van der Pol's; the TS and its state."""
    ts, u = PETSc.TS().create(PETSc.COMM_SELF), PETSc.Vec().createSeq(2)
    u.setArray([2.0, 0.0])
    matrix = PETSc.Mat().createDense((2, 2), comm=PETSc.COMM_SELF)
    matrix.setUp()

    def rhs(ts, t, u, f):
        f.setArray(slope(t, u.getArray(readonly=True)))

    def jacobian(ts, t, u, a, p):
        y = u.getArray(readonly=True)
        p.setValues([0, 1], [0, 1], [[0, 1], [-6 * y[0] * y[1] - 1, 3 * (1 - y[0] ** 2)]])
        p.assemble()

    ts.setRHSFunction(rhs, u.duplicate())
    ts.setRHSJacobian(jacobian, matrix, matrix)
    return typed(ts, kind, sub, end), u


def rod(kind, sub=None, n=40, end=0.1, comm=PETSc.COMM_WORLD):
    """``u_t = u_xx`` with two sine waves at the start, of which one decays 9 times as fast."""
    h = 1.0 / (n + 1)
    matrix = PETSc.Mat().createAIJ((n, n), nnz=3, comm=comm)
    first, last = matrix.getOwnershipRange()
    for i in range(first, last):
        for j in (i - 1, i, i + 1):
            if 0 <= j < n:
                matrix.setValue(i, j, (-2.0 if i == j else 1.0) / h**2)
    matrix.assemble()
    u = matrix.createVecRight()
    x = h * (1 + np.arange(first, last))
    u.setArray(np.sin(np.pi * x) + np.sin(3 * np.pi * x))
    ts = PETSc.TS().create(comm)
    ts.setProblemType(PETSc.TS.ProblemType.LINEAR)
    ts.setRHSFunction(lambda ts, t, u, f: matrix.mult(u, f), u.duplicate())
    # PETSc shifts and scales this one.
    shifted = matrix.duplicate(copy=True)
    ts.setRHSJacobian(lambda ts, t, u, a, p: matrix.copy(p), shifted, shifted)
    rates = [(2 - 2 * np.cos(k * np.pi * h)) / h**2 for k in (1, 3)]
    exact = sum(np.exp(-r * end) * np.sin(k * np.pi * x) for r, k in zip(rates, (1, 3), strict=True))
    made = typed(ts, kind, sub, end)
    if kind != "rk":
        ksp = made.getSNES().getKSP()
        ksp.setType("cg")
        ksp.getPC().setType("jacobi")
        ksp.setTolerances(rtol=1e-12)
    return made, u, exact


def typed(ts, kind, sub, end):
    ts.setType(kind)
    if kind == "rk":
        ts.setRKType(sub)
    elif kind == "arkimex":
        ts.setARKIMEXType(sub)
        ts.setARKIMEXFullyImplicit(True)
    if kind != "rk":
        snes = ts.getSNES()
        snes.setTolerances(rtol=1e-10)
        snes.getKSP().setType("preonly")
        snes.getKSP().getPC().setType("lu")
    ts.setMaxTime(end)
    ts.setTimeStep(1e-3)
    return ts
