"""What happens at an integration point of the reducible problems; numpy alone, no mesh, no solver."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

WIDTH = 0.08
"""Standard deviation of the source of `SteadyHeat`, over the side."""


def gaussian(points: np.ndarray, mu: Mapping[str, float]) -> np.ndarray:
    """The source ``A exp(-|p - c|^2 / (2 w^2))`` of the steady heat problem.

    Parameters
    ----------
    points : ndarray, shape (n, 2 or more)
        Over the side.
    mu : mapping of str to float
        ``x``, ``y`` and ``amplitude``.

    Returns
    -------
    ndarray, shape (n,)
    """
    distance = (points[:, 0] - mu["x"]) ** 2 + (points[:, 1] - mu["y"]) ** 2
    return np.asarray(mu["amplitude"] * np.exp(-distance / (2 * WIDTH**2)))


class ConductionLaw:
    """``s = (-q, (1 + u^2) grad u)`` for the generalised strain ``(u, grad u)``; without history.

    Parameters
    ----------
    points : ndarray, shape (point, 2)
        Over the side.
    mu : mapping of str to float
        ``x``, ``y`` and ``amplitude`` of the source.

    Notes
    -----
    About 10 numpy calls whatever the number of points; the source is evaluated once.
    """

    def __init__(self, points: np.ndarray, mu: Mapping[str, float]) -> None:
        self._load = -gaussian(points, mu)

    def __call__(
        self, strain: np.ndarray, history: np.ndarray, step: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `sciflow.reduction.Law`; components are value, x and y."""
        value, gradient = strain[:, 0], strain[:, 1:]
        conductivity = value * value
        conductivity += 1.0
        stress = np.empty(strain.shape)
        stress[:, 0] = self._load
        np.multiply(gradient, conductivity[:, None], out=stress[:, 1:])
        tangent = np.zeros((len(strain), 3, 3))
        np.multiply(gradient, (value + value)[:, None], out=tangent[:, 1:, 0])
        tangent[:, 1, 1] = conductivity
        tangent[:, 2, 2] = conductivity
        return stress, tangent, history
