"""The numerics of the toy cell: its law, its weak form as a sparse matrix, Newton's method."""

from functools import lru_cache

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from sciflow import Diverged
from sciflow.context import SerialComm
from sciflow.reduction import Integrals

DEVIATOR = np.array([[2.0, -1.0, 0.0], [-1.0, 2.0, 0.0], [0.0, 0.0, 1.5]]) / 3
VOLUME = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])


class Softening:
    """``s = K tr(e) 1 + a1 / (a2 + |dev e|) dev e`` in plane strain; linear in the fibre."""

    def __init__(self, points, share, matrix, fibre):
        inside = ((points[:, :2] - 0.5) ** 2).sum(axis=1) < share / np.pi
        self.bulk = np.where(inside, fibre[0], matrix[0])
        self.top = np.where(inside, fibre[1], matrix[1])
        self.base = np.where(inside, 1.0, matrix[2])
        self.soft = np.where(inside, 0.0, 1.0)

    def __call__(self, strain, history, step):
        trace = strain[:, 0] + strain[:, 1]
        x, y, xy = strain[:, 0] - trace / 3, strain[:, 1] - trace / 3, strain[:, 2] / 2
        size = np.sqrt(x * x + y * y + trace * trace / 9 + 2 * xy * xy)
        factor = self.top / (self.base + self.soft * size)
        pressure = self.bulk * trace
        stress = np.empty(strain.shape)
        stress[:, 0] = pressure + factor * x
        stress[:, 1] = pressure + factor * y
        stress[:, 2] = factor * xy
        slope = -self.soft * factor * factor / self.top / np.maximum(size, 1e-300)
        tangent = np.empty((len(strain), 3, 3))
        diagonal, off = self.bulk + 2 / 3 * factor, self.bulk - factor / 3
        tangent[:, 0, 0] = diagonal + slope * x * x
        tangent[:, 1, 1] = diagonal + slope * y * y
        tangent[:, 2, 2] = factor / 2 + slope * xy * xy
        tangent[:, 0, 1] = tangent[:, 1, 0] = off + slope * x * y
        tangent[:, 0, 2] = tangent[:, 2, 0] = slope * x * xy
        tangent[:, 1, 2] = tangent[:, 2, 1] = slope * y * xy
        return stress, tangent, history


class Squares(Integrals):
    """Weak form of the cell; the unknowns are all nodes' displacements, (x, y) of one node after another."""

    def __init__(self, comm, cells):
        n, h = cells, 1 / cells
        self.comm = comm
        self.rows = np.arange(2 * (n + 1) ** 2)
        self.places = np.arange(4 * n * n)
        self.mesh = f"squares-{n}"
        j, i = np.divmod(np.arange(n * n), n)
        nodes = np.stack(
            [j * (n + 1) + i, j * (n + 1) + i + 1, (j + 1) * (n + 1) + i, (j + 1) * (n + 1) + i + 1]
        )
        gauss = np.array([0.5 - 0.5 / np.sqrt(3), 0.5 + 0.5 / np.sqrt(3)])
        local = np.array([(a, b) for b in gauss for a in gauss])
        corner = np.stack([i, j], axis=1) * h
        self.points = (corner[:, None] + h * local[None]).reshape(-1, 2)
        self.weights = np.full(len(self.points), h * h / 4)
        self.loads = np.zeros((len(self.rows), 0))
        rows, columns, values = [], [], []
        for q, (a, b) in enumerate(local):
            dx = np.array([-(1 - b), 1 - b, -b, b]) / h
            dy = np.array([-(1 - a), -a, 1 - a, a]) / h
            point = 3 * (4 * np.arange(n * n) + q)
            for node, gx, gy in zip(nodes, dx, dy, strict=True):
                for component, direction, value in ((0, 0, gx), (1, 1, gy), (2, 0, gy), (2, 1, gx)):
                    rows.append(point + component)
                    columns.append(2 * node + direction)
                    values.append(np.full(n * n, value))
        shape = (3 * len(self.points), len(self.rows))
        triplets = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
        self.matrix = sp.coo_matrix(triplets, shape).tocsr()
        at = np.arange((n + 1) ** 2)
        master = (at // (n + 1) % n) * n + at % (n + 1) % n
        both = (2 * master[:, None] + np.arange(2)).reshape(-1)
        self.periodic = sp.csr_matrix(
            (np.ones(len(both)), (np.arange(len(both)), both)), (len(both), 2 * n * n)
        )

    def strains(self, vectors):
        return (self.matrix @ vectors).reshape(len(self.points), 3, vectors.shape[1])


@lru_cache(maxsize=4)
def _system(cells):
    """Weak form, its strains in free periodic unknowns, and how these become all nodes' values."""
    form = Squares(SerialComm(), cells)
    free = form.periodic[:, 2:]  # the first node stands still
    return form, (form.matrix @ free).tocsr(), free.tocsr()


def solve(problem, macroscopic, tolerance=1e-11):
    """Fluctuation, stress and mean stress for one macroscopic strain."""
    form, gradient, free = _system(problem.cells)
    law = problem.material(form.points)
    weights = np.repeat(form.weights, 3)
    blocks = np.arange(len(form.points))
    v, first = np.zeros(gradient.shape[1]), 0.0
    for _ in range(30):
        stress, tangent, _ = law((gradient @ v).reshape(-1, 3) + macroscopic, np.zeros((len(blocks), 0)), 0)
        residual = gradient.T @ (weights * stress.reshape(-1))
        size = np.abs(gradient).T @ (weights * np.abs(stress.reshape(-1))) if not first else None
        first = first or float(np.linalg.norm(size)) or 1.0
        if np.linalg.norm(residual) <= tolerance * first:
            return free @ v, stress, form.weights @ stress
        scaled = tangent * form.weights[:, None, None]
        middle = sp.bsr_matrix((scaled, blocks, np.arange(len(blocks) + 1)), shape=(len(weights),) * 2)
        v -= splu((gradient.T @ (middle @ gradient)).tocsc(), permc_spec="MMD_AT_PLUS_A").solve(residual)
    raise Diverged(f"the cell did not converge for the strain {macroscopic}")
