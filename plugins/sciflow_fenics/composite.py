"""Fibres in a matrix: where they are in a periodic unit cell, and what each does; numpy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sciflow.errors import Invalid

TRIES = 500
"""So many random places are tried for one fibre before the packing is begun anew."""
RESTARTS = 20
"""So often."""
GAP = 0.1
"""Least distance between two packed fibres, over their radius."""


@dataclass(frozen=True)
class Phase:
    """An isotropic elastic material, ``s = K tr(e) 1 + (2 G + a / (b + |dev e|)) dev e``.

    Attributes
    ----------
    bulk : float
        K, MPa.
    shear : float
        2 G, the part that does not depend on the strain, MPa.
    softening : float
        a, MPa: the largest norm of the deviatoric stress where `shear` is zero.
    onset : float
        b, 1: at this deviatoric strain half of it is reached.

    Notes
    -----
    The stress is the derivative of the convex ``K tr(e)^2 / 2 + G n^2 + a (n - b log(1 + n / b))`` with
    ``n = |dev e|``: every cell made of such phases has exactly one solution.
    """

    bulk: float
    shear: float = 0.0
    softening: float = 0.0
    onset: float = 1.0


FIBRE = Phase(bulk=4.345e4, shear=2 * 2.9918e4)
"""A linear elastic fibre, such as glass."""
MATRIX = Phase(bulk=4.78e3, softening=50.0, onset=0.06)
"""A nonlinear elastic matrix, such as a polymer.

References
----------
H. Eivazi et al., "EquiNO: a physics-informed neural operator for multiscale simulations", 2025, section 4.
"""

_VOLUME = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
_DEVIATOR = np.array([[2.0, -1.0, 0.0], [-1.0, 2.0, 0.0], [0.0, 0.0, 1.5]]) / 3


class Composite:
    """The law of points in two phases, in plane strain; without history.

    Parameters
    ----------
    inside : ndarray of bool, shape (point,)
        Which are in the second phase.
    matrix, fibre : Phase
        Of the points outside and inside.

    Notes
    -----
    Trace and deviator are those of the strain in three dimensions, ``e_zz = 0``. About 30 numpy calls
    whatever the number of points.
    """

    def __init__(self, inside: np.ndarray, matrix: Phase = MATRIX, fibre: Phase = FIBRE) -> None:
        self._bulk, self._shear, self._softening, self._onset = (
            np.where(inside, getattr(fibre, name), getattr(matrix, name))
            for name in ("bulk", "shear", "softening", "onset")
        )

    def __call__(
        self, strain: np.ndarray, history: np.ndarray, step: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `sciflow.reduction.Law`; components are xx, yy and (of the strain, twice) xy."""
        trace = strain[:, 0] + strain[:, 1]
        third = trace / 3
        deviator = np.stack([strain[:, 0] - third, strain[:, 1] - third, strain[:, 2] / 2], axis=1)
        size = np.sqrt(
            deviator[:, 0] ** 2 + deviator[:, 1] ** 2 + third * third + 2 * deviator[:, 2] * deviator[:, 2]
        )
        secant = self._softening / (self._onset + size)
        # The derivative of the secant over the norm; the deviators it multiplies vanish with the norm.
        slope = -secant / ((self._onset + size) * np.where(size > 0, size, 1.0))
        secant += self._shear
        stress = secant[:, None] * deviator
        stress[:, :2] += (self._bulk * trace)[:, None]
        tangent = (slope[:, None] * deviator)[:, :, None] * deviator[:, None, :]
        tangent += self._bulk[:, None, None] * _VOLUME
        tangent += secant[:, None, None] * _DEVIATOR
        return stress, tangent, history


def inside(points: np.ndarray, fibres: np.ndarray) -> np.ndarray:
    """Which points lie in a fibre or in one of its periodic images.

    Parameters
    ----------
    points : ndarray, shape (point, 2)
        Over the side of the cell.
    fibres : ndarray, shape (fibre, 3)
        Centre and radius, over the side.

    Returns
    -------
    ndarray of bool, shape (point,)
    """
    found = np.zeros(len(points), dtype=bool)
    for x, y, radius in fibres:
        away = points - (x, y)
        away -= np.rint(away)
        found |= (away * away).sum(axis=1) < radius * radius
    return found


def packing(count: int, fraction: float, seed: int) -> np.ndarray:
    """Equal fibres at random places that do not touch, also across the cell's sides.

    Parameters
    ----------
    count : int
        Of fibres; one alone is in the middle.
    fraction : float
        Of the area that they fill.
    seed : int
        Decides the places.

    Returns
    -------
    ndarray, shape (count, 3)
        Centre and radius, over the side.

    Raises
    ------
    Invalid
        If they find no room: above a fraction of about 0.4 random places do not suffice.

    References
    ----------
    B. Widom, "Random sequential addition of hard spheres to a volume", J. Chem. Phys. 44, 1966.
    """
    radius = np.sqrt(fraction / (count * np.pi))
    if count == 1 and radius < 0.5:
        return np.array([[0.5, 0.5, radius]])
    rng = np.random.default_rng([seed, count])
    least = ((2 + GAP) * radius) ** 2
    for _ in range(RESTARTS if least <= 1 else 0):
        centres = np.empty((0, 2))
        for place in rng.random((TRIES * count, 2)):
            away = centres - place
            away -= np.rint(away)
            if len(centres) == 0 or (away * away).sum(axis=1).min() >= least:
                centres = np.vstack([centres, place])
                if len(centres) == count:
                    return np.column_stack([centres, np.full(count, radius)])
    raise Invalid(
        f"{count} fibres that fill {fraction:.0%} of the cell found no room at random places; "
        "take a smaller volume_fraction, or place them yourself with fibres"
    )
