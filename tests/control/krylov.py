"""Matrices, preconditioners and dense oracles for the tests of Krylov recycling."""

import numpy as np
from petsc4py import PETSc


def petsc(dense, comm=PETSc.COMM_SELF):
    """A sparse PETSc matrix; on several ranks everyone gives the whole and keeps a part."""
    n = len(dense)
    matrix = PETSc.Mat().createAIJ((n, n), nnz=min(n, int((dense != 0).sum(1).max()) + 1), comm=comm)
    first, last = matrix.getOwnershipRange()
    for i in range(first, last):
        columns = np.unique(np.append(np.flatnonzero(dense[i]), i)).astype(np.int32)
        matrix.setValues(i, columns, dense[i, columns])
    matrix.assemble()
    return matrix


def prepared(matrix, kind="none"):
    pc = PETSc.PC().create(matrix.getComm())
    pc.setType(kind)
    pc.setOperators(matrix)
    pc.setUp()
    return pc


def solver(matrix, kind, pc="none", rtol=1e-8, limit=500):
    """A KSP that measures the residual itself."""
    ksp = PETSc.KSP().create(matrix.getComm())
    ksp.setOperators(matrix)
    ksp.setType(kind)
    ksp.getPC().setType(pc)
    if kind == "gmres":
        ksp.setPCSide(PETSc.PC.Side.RIGHT)
    ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
    ksp.setTolerances(rtol=rtol, max_it=limit)
    return ksp


def diffusion(n, rng, contrast=2.0):
    """A five-point stencil of -div(a grad) with random a on n x n unknowns: SPD."""
    a = np.exp(contrast * rng.standard_normal((n + 1, n + 1)))
    index = np.arange(n * n).reshape(n, n)
    dense = np.zeros((n * n, n * n))
    for axis in (0, 1):
        faces = np.moveaxis(a, axis, 0)
        along = np.moveaxis(index, axis, 0)
        for i in range(n + 1):
            w = faces[i, :n]
            for row in ([along[i - 1]] if i else []) + ([along[i]] if i < n else []):
                dense[row, row] += w
            if 0 < i < n:
                dense[along[i - 1], along[i]] -= w
                dense[along[i], along[i - 1]] -= w
    return dense


def transport(n, rng, speed=0.5):
    """Diffusion with an antisymmetric part."""
    dense = diffusion(n, rng, 0.5)
    skew = np.triu(speed * (dense != 0) * rng.random(dense.shape), 1)
    return dense + skew - skew.T


def rotations(angles, sizes):
    """A block diagonal matrix with the complex pairs ``size exp(+- i angle)``."""
    dense = np.zeros((2 * len(angles), 2 * len(angles)))
    for i, (a, s) in enumerate(zip(angles, sizes, strict=True)):
        dense[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = s * np.array(
            [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
        )
    return dense


def angle(u, v):
    """The sine of the largest angle from span(u) to span(v)."""
    p, q = np.linalg.qr(u)[0], np.linalg.qr(v)[0]
    return np.linalg.norm(p - q @ (q.T @ p), 2)
