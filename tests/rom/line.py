"""The numerics of the problems in one dimension: elements, laws, a full-order solver."""

import numpy as np

from sciflow import Diverged
from sciflow.reduction import Integrals


class Line(Integrals):
    """Linear elements on [0, 1] with `gauss` points per cell; generalised strains (value, slope).

    The unknowns are those of all nodes; what is fixed is left to the vectors.
    """

    def __init__(self, comm, cells, gauss, end_load):
        self.comm = comm
        h = 1.0 / cells
        mine = np.arange(cells * comm.rank // comm.size, cells * (comm.rank + 1) // comm.size)
        xi, w = np.polynomial.legendre.leggauss(gauss)
        self._share = 0.5 * (1 + xi)
        self._cells, self._n, self._h = mine, cells + 1, h
        last = comm.rank == comm.size - 1
        self.rows = np.append(mine, mine[-1] + 1) if last else mine
        self.places = (mine[:, None] * gauss + np.arange(gauss)).ravel()
        self.points = ((mine[:, None] + self._share) * h).reshape(-1, 1)
        self.weights = np.tile(0.5 * h * w, len(mine))
        self.loads = np.zeros((len(self.rows), 1 if end_load else 0))
        if end_load and last:
            self.loads[-1, 0] = 1.0
        self.mesh = f"line-{cells}-{gauss}"

    def strains(self, vectors):
        whole = np.zeros((self._n, vectors.shape[1]))
        whole[self.rows] = vectors
        if self.comm.size > 1:
            total = np.empty_like(whole)
            self.comm.Allreduce(whole, total)
            whole = total
        left, right = whole[self._cells], whole[self._cells + 1]
        slope = (right - left) / self._h
        value = [(1 - s) * left + s * right for s in self._share]
        found = np.stack([np.stack([v, slope], axis=1) for v in value], axis=1)
        return found.reshape(-1, 2, vectors.shape[1])


def newton(integrals, law, u, history, step, free, force):
    """The full-order model, dense, independent of what is tested."""
    basis = integrals.strains(np.eye(len(u)))[:, :, free]
    for _ in range(40):
        strain = integrals.strains(u[:, None])[:, :, 0]
        stress, tangent, new = law(strain, history, step)
        forces = np.einsum("qcn,qc->n", basis, integrals.weights[:, None] * stress)
        residual = forces - force[free]
        size = np.einsum("qcn,qc->n", np.abs(basis), integrals.weights[:, None] * np.abs(stress))
        if np.linalg.norm(residual) <= 1e-13 * np.linalg.norm(size):
            return u, new
        moved = (integrals.weights[:, None, None] * (tangent @ basis)).reshape(-1, len(free))
        matrix = basis.reshape(-1, len(free)).T @ moved
        u = u.copy()
        u[free] -= np.linalg.solve(matrix, residual)
    if np.linalg.norm(residual) > 1e-11 * np.linalg.norm(size):
        raise Diverged(f"step {step}: residual {np.linalg.norm(residual):.1e}")
    return u, new


class Conducting:
    """(-f, (1 + u^2) u'), f a bump of height `amplitude` at `place`."""

    def __init__(self, points, mu):
        x = points[:, 0]
        self._source = mu["amplitude"] * np.exp(-0.5 * ((x - mu["place"]) / 0.08) ** 2)

    def __call__(self, strain, history, step):
        u, slope = strain[:, 0], strain[:, 1]
        k = 1 + u**2
        stress = np.stack([-self._source, k * slope], axis=1)
        tangent = np.zeros((len(u), 2, 2))
        tangent[:, 1, 0], tangent[:, 1, 1] = 2 * u * slope, k
        return stress, tangent, history


class Creeping:
    """An elastic foundation, and viscoplastic flow with isotropic and kinematic hardening.

    History: plastic strain, cumulated plastic strain. The implicit step is linear, so it is exact.
    """

    MODULUS, HARDENING, KINEMATIC, VISCOSITY, FOUNDATION = 100.0, 10.0, 20.0, 5.0, 30.0

    def __init__(self, points, mu, dt):
        self._yield = mu["strength"] * (1 + 0.3 * np.sin(6 * points[:, 0]))
        self._dt = dt

    def __call__(self, strain, history, step):
        e, h, k = self.MODULUS, self.HARDENING, self.KINEMATIC
        plastic, cumulated = history[:, 0], history[:, 1]
        trial = e * (strain[:, 1] - plastic) - k * plastic
        over = np.abs(trial) - self._yield - h * cumulated
        stiff = e + k + h + self.VISCOSITY / self._dt
        flow = np.where(over > 0, over, 0.0) / stiff
        new = np.stack([plastic + flow * np.sign(trial), cumulated + flow], axis=1)
        stress = np.stack([self.FOUNDATION * strain[:, 0], e * (strain[:, 1] - new[:, 0])], axis=1)
        tangent = np.zeros((len(strain), 2, 2))
        tangent[:, 0, 0] = self.FOUNDATION
        tangent[:, 1, 1] = np.where(over > 0, e - e * e / stiff, e)
        return stress, tangent, new


class Recall:
    """Errors of the member that is nearest."""

    def __init__(self, features, errors):
        self._features, self._errors = np.asarray(features), np.asarray(errors)

    def rank(self, features):
        return self._errors[np.abs(self._features - features).sum(axis=1).argmin()]

    def state(self):
        return {"features": self._features, "errors": self._errors}
