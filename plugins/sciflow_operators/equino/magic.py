"""Magic points: where to look at the law, and a corrector that looks nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sciflow.errors import Invalid
from sciflow_operators.equino.correctors import Corrected, Points, join, solved

if TYPE_CHECKING:
    from sciflow_operators.equino.correctors import Material
    from sciflow_operators.equino.modes import Modes, Solutions

FLAT = 1e12
"""Condition from which on modes are taken for dependent at the magic points."""
LEAST = 0.3
"""No point is trusted more than this part of the root mean square of the noise says."""


@dataclass(frozen=True)
class Tables:
    """What the magic points need.

    Attributes
    ----------
    points : ndarray, shape (point, dimension)
        Coordinates.
    strains : ndarray, shape (point, component, mode)
        Of the fluctuation modes there.
    test : ndarray, shape (mode, point * component)
        What the stress at the points is tested with.
    rebuild : ndarray, shape (stress mode, point * component)
        From stresses at the points to coefficients of the stress modes.
    """

    points: np.ndarray
    strains: np.ndarray
    test: np.ndarray
    rebuild: np.ndarray


@dataclass(frozen=True)
class Sites:
    """Magic points: where the law is looked at, and how far the stress modes are to be trusted there.

    Attributes
    ----------
    places : ndarray of int64, shape (point,)
        Positions among the integration points, increasing.
    noise : ndarray, shape (point,)
        Root mean square of what the modes leave of the training stresses there, in the metric.
    """

    places: np.ndarray
    noise: np.ndarray


def noise_of(modes: Modes, solutions: Solutions) -> np.ndarray:
    """`Sites.noise` at all integration points, not below `LEAST` of its mean; 1 where nothing is left."""
    white, stress = (
        modes.metric.stress(solutions.stress),
        modes.metric.stress(modes.stress.transpose(2, 0, 1)),
    )
    left = np.square(white - (white @ stress.T) @ stress).reshape(len(white), len(modes.points), -1)
    square = left.sum(axis=2).mean(axis=0) / modes.metric.weights
    mean = float(square @ modes.metric.weights)
    if mean <= 1e-18 * np.square(white).sum() / len(white):
        return np.ones(len(square))
    return np.asarray(np.sqrt(np.maximum(square, LEAST**2 * mean)))


def choose(modes: Modes, noise: np.ndarray, count: int) -> Sites:
    """Choose magic points: integration points that tell the modes apart.

    Parameters
    ----------
    modes : Modes
    noise : ndarray, shape (point,)
        See `noise_of`.
    count : int
        How many; all where there are fewer.

    Notes
    -----
    QR with column pivots, in which a column is all that the modes have at one integration point, over the
    noise: the next point is the one whose modes stand out most from what the points before can tell. Without
    the noise the points crowd at interfaces, where modes are largest and stresses are represented worst.
    Once all directions are spent it begins again with the points that are left. Cost
    O(point (c (r + r_s))^2).

    References
    ----------
    Z. Drmac, S. Gugercin, "A new selection operator for the discrete empirical interpolation method",
    SIAM J. Sci. Comput. 38, 2016, for QR with pivots; the noise is not from there.
    """
    from scipy.linalg import qr

    parts = []
    for white, values in ((modes.metric.strain, modes.strains), (modes.metric.stress, modes.stress)):
        rows = white(values.transpose(2, 0, 1)).reshape(values.shape[2], len(modes.points), -1)
        parts.append(rows.transpose(1, 0, 2).reshape(len(modes.points), -1))
    whole = np.hstack(parts) / noise[:, None]
    chosen: list[int] = []
    left = np.arange(len(whole))
    while len(chosen) < min(count, len(whole)):
        _, pivots = qr(whole[left].T, mode="r", pivoting=True)
        take = min(whole.shape[1], count - len(chosen), len(left))
        chosen += left[pivots[:take]].tolist()
        left = np.delete(left, pivots[:take])
    places = np.sort(np.array(chosen, dtype=np.int64))
    return Sites(places, noise[places])


def tables(modes: Modes, sites: Sites, material: Material) -> Tables:
    """What belongs to some magic points.

    Parameters
    ----------
    modes : Modes
    sites : Sites
        See `choose`.
    material : callable
        The law at points.

    Raises
    ------
    Invalid
        If the modes are not independent there.
    """
    chosen, (size, count) = sites.places, modes.stress.shape[1:]
    white = modes.metric.inverse[chosen] / sites.noise[:, None, None]
    points, strains = modes.points[chosen], modes.strains[chosen]

    def whitened(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.einsum("qij,qjm->qim", white, values).reshape(len(chosen) * size, -1))

    basis, triangle = np.linalg.qr(whitened(modes.stress[chosen]))
    zero = np.zeros((len(chosen), size))
    stiffness = material(points)(zero, np.zeros((len(chosen), 0)), 0)[1]
    slope = whitened(np.matmul(stiffness, strains))
    left = slope - basis @ (basis.T @ slope)
    small = (len(triangle) < count, left.shape[0] < left.shape[1])
    if any(small) or np.linalg.cond(triangle) > FLAT or np.linalg.cond(left) > FLAT:
        raise Invalid(
            f"{len(chosen)} magic points do not tell {count} stress modes and {strains.shape[2]} fluctuation "
            "modes apart; take more"
        )

    def unwhitened(rows: np.ndarray) -> np.ndarray:
        shaped = rows.reshape(len(rows), len(chosen), size)
        return np.asarray(np.einsum("mqi,qij->mqj", shaped, white).reshape(len(rows), -1))

    return Tables(points, strains, unwhitened(left.T), unwhitened(np.linalg.solve(triangle, basis.T)))


class Magic:
    """Newton's method for the fluctuation coefficients with the law at a few points.

    Parameters
    ----------
    material : callable
        The law at points.
    given : Tables
    homogenise : ndarray, shape (component, stress mode)
        Means of the stress modes.

    Notes
    -----
    The stress at the points P has to be a combination of the stress modes. With Q an orthonormal basis of
    these there, whitened by N = L^-1 / noise, the part that is not,

        (1 - Q Q^T) N C(E + Phi_e b)|_P,

    is made orthogonal to what it changes by with b at zero strain, (1 - Q Q^T) N C_0 Phi_e|_P: as many
    equations as modes. For a linear law that is the least part; test functions that stay as they are make
    the tangent exact at a solution. The stress field is then the combination nearest at the points.

    What a step needs of the tangents at the points is linear in them, and so one product with a table of
    P c^2 (r + c)^2 numbers, which for many strains runs at the speed of the machine. A step costs the law
    at P points and 2 P c^2 (r + c)^2 + r^3 operations, whatever the mesh.
    """

    def __init__(self, material: Material, given: Tables, homogenise: np.ndarray) -> None:
        self._points = Points(material, given.points, given.strains)
        self._rebuild = given.rebuild
        count, size, self._modes = given.strains.shape
        rows = np.concatenate([given.test, homogenise @ given.rebuild])
        self._rows = np.ascontiguousarray(rows.T)
        # A stress changes with the coefficients and with the macroscopic strain.
        follows = np.concatenate([given.strains, np.broadcast_to(np.eye(size), (count, size, size))], axis=2)
        table = np.einsum("aqi,qjm->qijam", rows.reshape(-1, count, size), follows)
        self._table = table.reshape(count * size * size, -1)

    def __call__(self, strain: np.ndarray, coefficients: np.ndarray, steps: int) -> Corrected:
        """See `Newton.__call__`."""
        size = self._points.together
        blocks = [slice(i, i + size) for i in range(0, max(1, len(strain)), size)]
        return join([self._block(strain[b], coefficients[b], steps) for b in blocks])

    def stress_coefficients(self, stress: np.ndarray) -> np.ndarray:
        """Coefficients of the stress modes, shape (n, stress mode), from stresses at the points."""
        return np.asarray(stress.reshape(len(stress), self._rebuild.shape[1]) @ self._rebuild.T)

    def _block(self, strain: np.ndarray, coefficients: np.ndarray, steps: int) -> Corrected:
        n, r, rows = len(strain), self._modes, self._rows.shape[1]
        for step in range(steps + 1):
            stress, tangent = self._points.respond(strain, coefficients)
            forces = stress.reshape(n, len(self._rows)) @ self._rows
            slopes = (tangent.reshape(n, len(self._table)) @ self._table).reshape(n, rows, rows)
            if step < steps:
                change = solved(slopes[:, :r, :r], forces[:, :r, None], strain)
                coefficients = coefficients - change[:, :, 0]
        follow = solved(slopes[:, :r, :r], slopes[:, :r, r:], strain)
        tangent = slopes[:, r:, r:] - slopes[:, r:, :r] @ follow
        return Corrected(coefficients, stress, forces[:, r:], tangent)
