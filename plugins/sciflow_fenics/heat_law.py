"""Transient heat conduction at an integration point, stepping from stored level to stored level; numpy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

HISTORY = 3
"""History variables at each point: the rise at the ends of the last three steps, K; the latest first."""

EULER = ((1.0, (-1.0, 0.0, 0.0), 0.0),)
"""Formula of implicit Euler: see `LEVELS`."""

LEVELS = (
    (2.0, (0.0, 0.0, 0.0), -1.0),
    (2.0, (-4.0, 0.0, 0.0), 1.0),
    (11 / 6, (-3.0, 3 / 2, -1 / 3), 0.0),
)
"""Rates at the end of a step as ``(c T + h . history) / dt + d r``, with the rate r at the start; the last
one holds for all further steps.

The derivatives of the parabola and the cubic that begin at zero with the rate r, then of the cubic through
the last four levels (BDF3). Their local errors are of order 3, 4 and 4 in dt, which gives order 3 in all.
"""


class HeatLaw:
    """``s = (rho c dT/dt - q, k0 (1 + beta T) grad T)`` for the generalised strain ``(T, grad T)``.

    Parameters
    ----------
    points : ndarray, shape (point, 2)
        m.
    mu : mapping of str to float
        ``x``, ``y``, ``width``, ``amplitude`` and ``beta``.
    cells : int
        Of the mesh, along each side: the source is interpolated at its nodes, as the full model has it.
    side : float
        m.
    conductivity : float
        k0, W m-1 K-1.
    capacity : float
        rho c, J m-3 K-1.
    dt : float
        Length of a step, s.
    formula : tuple
        `LEVELS` or `EULER`.

    Notes
    -----
    The plate has the ambient temperature at the start, so that its rate is ``q / (rho c)`` inside. About 15
    numpy calls whatever the number of points; the source is evaluated once.

    References
    ----------
    E. Hairer, G. Wanner, "Solving Ordinary Differential Equations II", 2nd ed. 1996, section V.2: BDF3 is
    stable in a sector of 86 degrees and damps what decays fast.
    """

    def __init__(
        self,
        points: np.ndarray,
        mu: Mapping[str, float],
        cells: int,
        side: float,
        conductivity: float,
        capacity: float,
        dt: float,
        formula: tuple[tuple[float, tuple[float, float, float], float], ...],
    ) -> None:
        self._source = nodal_gaussian(points, mu, cells, side)
        self._k0, self._slope = conductivity, conductivity * mu["beta"]
        self._steps = [
            (capacity / dt * c, np.array([capacity / dt * f for f in h]), (d - 1) * self._source)
            for c, h, d in formula
        ]

    def __call__(
        self, strain: np.ndarray, history: np.ndarray, step: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `sciflow.reduction.Law`; components are the rise and its derivatives along x and y."""
        heat, past, source = self._steps[min(step, len(self._steps) - 1)]
        rise, gradient = strain[:, 0], strain[:, 1:]
        conductivity = self._slope * rise
        conductivity += self._k0
        stress = np.empty(strain.shape)
        stress[:, 0] = heat * rise + history @ past + source
        np.multiply(gradient, conductivity[:, None], out=stress[:, 1:])
        tangent = np.zeros((len(strain), 3, 3))
        tangent[:, 0, 0] = heat
        np.multiply(gradient, self._slope, out=tangent[:, 1:, 0])
        tangent[:, 1, 1] = conductivity
        tangent[:, 2, 2] = conductivity
        after = np.empty(history.shape)
        after[:, 0] = rise
        after[:, 1:] = history[:, :-1]
        return stress, tangent, after


def nodal_gaussian(points: np.ndarray, mu: Mapping[str, float], cells: int, side: float) -> np.ndarray:
    """The source of `Heat`, linear in each triangle of the mesh.

    Parameters
    ----------
    points : ndarray, shape (point, 2)
        m.
    mu : mapping of str to float
        ``x``, ``y``, ``width`` in m and ``amplitude`` in W m-3.
    cells : int
        Squares along each side; each is cut from its lower left to its upper right corner.
    side : float
        m.

    Returns
    -------
    ndarray, shape (point,)
        W m-3.
    """
    at = points * (cells / side)
    low = np.clip(np.floor(at), 0, cells - 1)
    part = at - low
    edges = np.stack([low, low + 1]) * (side / cells)  # (end, point, direction)
    values = np.exp(-((edges - np.array([mu["x"], mu["y"]])) ** 2) / (2 * mu["width"] ** 2))
    (left, below), (right, above) = (v.T for v in values)
    less, more = part.min(axis=1), part.max(axis=1)
    third = np.where(part[:, 0] >= part[:, 1], right * below, left * above)
    return np.asarray(
        mu["amplitude"] * ((1 - more) * left * below + (more - less) * third + less * right * above)
    )
