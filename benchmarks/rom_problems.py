"""Five families of solutions for reduced-order models, generated with numpy and scipy alone and seeded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import fft, sparse
from scipy.sparse.linalg import splu

if TYPE_CHECKING:
    from sciflow_rom.coordinates import Coordinates


@dataclass(frozen=True)
class Family:
    """Solutions of one problem at random points.

    Attributes
    ----------
    points : ndarray, shape (member, parameter)
        Where.
    logarithmic : tuple of bool
        Which parameters are spread evenly in the logarithm.
    snapshots : ndarray, shape (dof, member) or (dof, level, member)
        The solutions.
    root : sparse matrix, shape (row, dof), or None
        ``B`` with ``B^T B`` the inner product; None for that of vectors.
    """

    points: np.ndarray
    logarithmic: tuple[bool, ...]
    snapshots: np.ndarray
    root: Any = None

    def coordinates(self, members: np.ndarray | None = None) -> Coordinates:
        """Coordinates of some members, as the stage ``compress`` would give them."""
        from sciflow_rom.coordinates import Coordinates

        rows = np.arange(len(self.points)) if members is None else members
        some = self.snapshots[..., rows]
        levels = np.full(len(rows), -1)
        if some.ndim == 3:
            some = some.transpose(0, 2, 1).reshape(len(some), -1)
            levels = np.tile(np.arange(self.snapshots.shape[1]), len(rows))
        each = len(levels) // len(rows)
        root = some if self.root is None else self.root @ some
        points, names = self.points[rows].repeat(each, axis=0), rows.repeat(each)
        triangle = np.linalg.qr(root)[1]
        return Coordinates(triangle, names, levels, points, 1e-14, self.logarithmic)


@dataclass(frozen=True)
class Mesh:
    """Linear triangles on the unit square: every cell of a square grid cut in two.

    Attributes
    ----------
    nodes : ndarray, shape (dof, 2)
        Their places.
    stiffness : list of list of sparse matrix
        ``[i][j]``: integrals of ``d_i phi d_j psi``.
    transport : list of sparse matrix
        ``[j]``: integrals of ``phi d_j psi``; rows are ``phi``.
    mass : sparse matrix
        Integrals of ``phi psi``.
    root : sparse matrix
        ``B`` with ``mass = B^T B``: values at the midpoints of edges, exact for squares.
    inner : ndarray of int
        Nodes that are not on the boundary.
    """

    nodes: np.ndarray
    stiffness: list[list[Any]]
    transport: list[Any]
    mass: Any
    root: Any
    inner: np.ndarray


@cache
def mesh(cells: int = 40) -> Mesh:
    """The mesh with so many cells a side."""
    n = cells + 1
    x, y = np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n))
    nodes = np.stack([x.ravel(), y.ravel()], axis=1)
    corner = (np.arange(cells)[:, None] * n + np.arange(cells)).ravel()
    lower = np.stack([corner, corner + 1, corner + n + 1], axis=1)
    upper = np.stack([corner, corner + n + 1, corner + n], axis=1)
    triangles, area = np.vstack([lower, upper]), 0.5 / cells**2
    edges = nodes[np.roll(triangles, -2, axis=1)] - nodes[np.roll(triangles, -1, axis=1)]
    slopes = np.stack([-edges[..., 1], edges[..., 0]], axis=2) / (2 * area)
    rows, columns = np.repeat(triangles, 3, axis=1).ravel(), np.tile(triangles, 3).ravel()

    def assemble(blocks: np.ndarray) -> Any:
        return sparse.csr_matrix((np.ravel(blocks), (rows, columns)), shape=(n * n, n * n))

    stiffness = [
        [assemble(area * slopes[:, :, None, i] * slopes[:, None, :, j]) for j in (0, 1)] for i in (0, 1)
    ]
    transport = [assemble(np.tile(area / 3 * slopes[:, None, :, j], (1, 3, 1))) for j in (0, 1)]
    points = np.arange(triangles.size).reshape(triangles.shape)
    ends = np.stack([triangles, np.roll(triangles, -1, axis=1)])
    values = np.full(ends.size, 0.5 * np.sqrt(area / 3))
    root = sparse.csr_matrix((values, (np.tile(points.ravel(), 2), ends.ravel())), (points.size, n * n))
    edge = (nodes == 0) | (nodes == 1)
    return Mesh(nodes, stiffness, transport, root.T @ root, root, np.flatnonzero(~edge.any(axis=1)))


def bump(places: np.ndarray, centres: np.ndarray, width: float) -> np.ndarray:
    """``exp(-|x - c|^2 / (2 w^2))``, shape (place, member)."""
    squares = np.square(places[:, None] - centres).sum(axis=2)
    return np.asarray(np.exp(-squares / (2 * width**2)))


def heat(count: int = 400, seed: int = 0) -> Family:
    """``-div((1 + u^2) grad u) = A exp(-|x - c|^2 / 2 w^2)`` with w = 0.08 and u = 0 on the boundary.

    With ``v = u + u^3 / 3`` it is ``-lap v = f``, which linear elements solve; u is its one real root.
    """
    rng = np.random.default_rng([seed, 1])
    centres, amplitudes = rng.uniform(0.1, 0.9, (count, 2)), 10 ** rng.uniform(0, 3, count)
    m = mesh()
    loads = m.mass @ (bump(m.nodes, centres, 0.08) * amplitudes)
    v = np.zeros(loads.shape)
    matrix = (m.stiffness[0][0] + m.stiffness[1][1])[m.inner][:, m.inner].tocsc()
    v[m.inner] = splu(matrix).solve(loads[m.inner])
    # Cardano: u^3 + 3 u - 3 v = 0, as 2 sinh(asinh(3 v / 2) / 3), which does not cancel.
    u = 2 * np.sinh(np.arcsinh(1.5 * v) / 3)
    return Family(np.column_stack([centres, amplitudes]), (False, False, True), u, m.root)


def advdiff(count: int = 400, seed: int = 0) -> Family:
    """``-eps lap u + b . grad u = A exp(-|x - c|^2 / 2 w^2)`` with w = 0.06 in the middle, u = 0 outside.

    ``b`` is a direction; linear elements with streamline diffusion, tau = h / 2.
    """
    rng = np.random.default_rng([seed, 2])
    angles = rng.uniform(0, 2 * np.pi, count)
    eps, amplitudes = 10 ** rng.uniform(-2, -0.5, count), 10 ** rng.uniform(-1, 1, count)
    m = mesh()
    tau = 0.5 / (np.sqrt(len(m.nodes)) - 1)
    source = bump(m.nodes, np.full((1, 2), 0.5), 0.06)[:, 0]
    free = np.ix_(m.inner, m.inner)
    (xx, xy), (yx, yy) = ([part[free].tocsc() for part in row] for row in m.stiffness)
    along = [part[free].tocsc() for part in m.transport]
    # The test function's derivative: the transpose of the transport matrix.
    plain, slopes = (m.mass @ source)[m.inner], [(t.T @ source)[m.inner] for t in m.transport]
    u = np.zeros((len(m.nodes), count))
    for k in range(count):
        c, s = np.cos(angles[k]), np.sin(angles[k])
        streamline = c * c * xx + c * s * (xy + yx) + s * s * yy
        matrix = eps[k] * (xx + yy) + c * along[0] + s * along[1] + tau * streamline
        load = plain + tau * (c * slopes[0] + s * slopes[1])
        u[m.inner, k] = amplitudes[k] * splu(matrix.tocsc()).solve(load)
    return Family(np.column_stack([angles, eps, amplitudes]), (False, True, True), u, m.root)


def burgers(count: int = 400, seed: int = 0, levels: int = 1, cells: int = 512) -> Family:
    """``u_t + (u^2 / 2)_x = nu u_xx`` on [0, 1] up to t = 0.25, from a bump; Rusanov's flux.

    Several levels give the trajectory, evenly spaced and without the start.
    """
    rng = np.random.default_rng([seed, 3])
    amplitudes, centres = 10 ** rng.uniform(-0.7, 0.7, count), rng.uniform(0.15, 0.55, count)
    nu, widths = 10 ** rng.uniform(-2.7, -1.7, count), rng.uniform(0.05, 0.12, count)
    h = 1 / cells
    x = (np.arange(cells) + 0.5)[:, None] * h
    u = amplitudes * np.exp(-np.square(x - centres) / (2 * widths**2))
    limit = 0.45 / (amplitudes.max() / h + 2 * nu.max() / h**2)
    steps = int(np.ceil(0.25 / limit / levels)) * levels
    dt, kept = 0.25 / steps, []
    for step in range(1, steps + 1):
        padded = np.concatenate([np.zeros((1, count)), u, np.zeros((1, count))])
        left, right = padded[:-1], padded[1:]
        flux = 0.25 * (left * left + right * right)
        flux -= (0.5 * np.maximum(np.abs(left), np.abs(right)) + nu / h) * (right - left)
        u = u - dt / h * np.diff(flux, axis=0)
        if step % (steps // levels) == 0:
            kept.append(u)
    snapshots = kept[0] if levels == 1 else np.stack(kept, axis=1)
    points = np.column_stack([amplitudes, centres, nu, widths])
    return Family(points, (True, False, True, False), snapshots)


def helmholtz(count: int = 500, seed: int = 0, n: int = 48) -> Family:
    """Real part of ``-lap u - k^2 (1 + 0.05 i) u = A exp(-|x - c|^2 / 2 w^2)``, w = 0.05, u = 0 outside.

    Second-order differences, solved in their eigenvectors.
    """
    rng = np.random.default_rng([seed, 4])
    centres, k = rng.uniform(0.1, 0.9, (count, 2)), rng.uniform(6, 14, count)
    amplitudes = 10 ** rng.uniform(-1, 1, count)
    x = np.arange(1, n + 1) / (n + 1)
    places = np.stack(np.meshgrid(x, x, indexing="ij"), axis=2).reshape(-1, 2)
    source = fft.dstn(bump(places, centres, 0.05).reshape(n, n, count), type=1, axes=(0, 1))
    values = 4 * (n + 1) ** 2 * np.sin(0.5 * np.pi * x) ** 2
    operator = (values[:, None] + values)[..., None] - k**2 * (1 + 0.05j)
    u = fft.idstn((source / operator).real, type=1, axes=(0, 1)).reshape(n * n, count)
    points = np.column_stack([centres, k, amplitudes])
    return Family(points, (False, False, False, True), amplitudes * u)


def allencahn(count: int = 400, seed: int = 0, n: int = 48) -> Family:
    """``u_t = eps^2 lap u + u - u^3``, periodic, eps = 0.03, 160 steps of 0.05 from 12 random waves.

    What varies is the whole initial field: there are few modes that all solutions share.
    """
    rng = np.random.default_rng([seed, 5])
    waves = rng.standard_normal((count, 12))
    x = np.arange(n) / n
    phases = (
        2
        * np.pi
        * np.array([a * x[:, None] + b * x for a, b in ((1, 0), (0, 1), (1, 1), (1, -1), (2, 0), (0, 2))])
    )
    shapes = np.concatenate([np.cos(phases), np.sin(phases)])
    u = np.einsum("mk,kyx->myx", waves, shapes) / np.sqrt(12)
    across, along = np.fft.fftfreq(n, 1 / n)[:, None], np.fft.rfftfreq(n, 1 / n)
    damped = 1 + 0.05 * (0.03 * 2 * np.pi) ** 2 * (across**2 + along**2)
    for _ in range(160):
        u = fft.irfft2(fft.rfft2(u + 0.05 * (u - u**3)) / damped, s=(n, n))
    return Family(waves, (False,) * 12, u.reshape(count, -1).T)


PROBLEMS: Mapping[str, Callable[[], Family]] = {
    "advdiff": advdiff,
    "burgers": burgers,
    "heat": heat,
    "helmholtz": helmholtz,
    "allencahn": allencahn,
}
