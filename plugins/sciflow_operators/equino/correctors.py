"""What corrects a network's answer: what correctors share, and Newton on all integration points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sciflow.errors import Diverged

if TYPE_CHECKING:
    from sciflow.reduction import Law
    from sciflow_operators.equino.modes import Modes

Material = Callable[[np.ndarray], "Law"]
"""The law at some points of the cell."""

WORK = 2**15
"""Evaluations of the law in one call, about: what they need stays in the cache."""


@dataclass(frozen=True)
class Corrected:
    """Corrected answers to macroscopic strains.

    Attributes
    ----------
    coefficients : ndarray, shape (n, mode)
        Of the fluctuation.
    stress : ndarray, shape (n, point, component)
        What the law gives with them, at the corrector's points.
    mean : ndarray, shape (n, component)
        Homogenised stress.
    tangent : ndarray, shape (n, component, component)
        Its derivative.
    """

    coefficients: np.ndarray
    stress: np.ndarray
    mean: np.ndarray
    tangent: np.ndarray


class Points:
    """The law at some points for several macroscopic strains at once.

    Parameters
    ----------
    material : callable
        The law at points.
    points : ndarray, shape (point, dimension)
        Coordinates.
    strains : ndarray, shape (point, component, mode)
        Of the fluctuation modes at the points.
    """

    def __init__(self, material: Material, points: np.ndarray, strains: np.ndarray) -> None:
        self._material, self.points, self.strains = material, points, strains
        self._matrix = np.ascontiguousarray(strains.reshape(-1, strains.shape[2]).T)
        self._laws: dict[int, Law] = {}

    @property
    def together(self) -> int:
        """Macroscopic strains to take at once."""
        return max(1, WORK // len(self.points))

    def respond(self, strain: np.ndarray, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stress and tangent, shapes (n, point, component) and (n, point, component, component)."""
        n, (count, size) = len(strain), self.strains.shape[:2]
        if n not in self._laws:
            if len(self._laws) > 3:  # a full block, a last one, single strains
                self._laws.clear()
            self._laws[n] = self._material(np.tile(self.points, (n, 1)))
        local = (coefficients @ self._matrix).reshape(n, count, size) + strain[:, None]
        stress, tangent, _ = self._laws[n](local.reshape(-1, size), np.zeros((n * count, 0)), 0)
        return stress.reshape(n, count, size), tangent.reshape(n, count, size, size)


def solved(matrix: np.ndarray, right: np.ndarray, strain: np.ndarray) -> np.ndarray:
    """Solutions of small systems, shape (n, mode, right-hand side).

    Raises
    ------
    Diverged
        If a matrix is singular.
    """
    try:
        return np.asarray(np.linalg.solve(matrix, right))
    except np.linalg.LinAlgError:
        raise Diverged(f"a reduced tangent is singular for one of the strains {strain.tolist()}") from None


class Newton:
    """Galerkin on the fluctuation modes with all integration points.

    Parameters
    ----------
    material : callable
        The law at points.
    modes : Modes

    Notes
    -----
    Seeks b with ``mean(Phi_e^T s(E + Phi_e b)) = 0``. With K = mean(Phi_e^T C Phi_e) and
    G = mean(Phi_e^T C) the homogenised tangent at a solution is mean(C) - G^T K^-1 G; it is the derivative
    of what was computed as far as the last step has reached the solution. Errors of the homogenised stress
    are of the square of those of b, for a law with an energy. A step costs the law at all points of the
    cell and 2 k c r (r + c) operations.
    """

    def __init__(self, material: Material, modes: Modes) -> None:
        self._points = Points(material, modes.points, modes.strains)
        self._weights = modes.metric.weights
        weighted = modes.strains * self._weights[:, None, None]
        self._test = np.ascontiguousarray(weighted.reshape(-1, weighted.shape[2]).T)

    def __call__(self, strain: np.ndarray, coefficients: np.ndarray, steps: int) -> Corrected:
        """Correct coefficients for macroscopic strains.

        Parameters
        ----------
        strain : ndarray, shape (n, component)
        coefficients : ndarray, shape (n, mode)
        steps : int
        """
        size = self._points.together
        blocks = [slice(i, i + size) for i in range(0, max(1, len(strain)), size)]
        return join([self._block(strain[b], coefficients[b], steps) for b in blocks])

    def _block(self, strain: np.ndarray, coefficients: np.ndarray, steps: int) -> Corrected:
        for step in range(steps + 1):
            stress, tangent = self._points.respond(strain, coefficients)
            gradient = stress.reshape(len(strain), self._test.shape[1]) @ self._test.T
            matrix, mixed = self._stiffness(tangent)
            if step < steps:
                change = solved(matrix, gradient[:, :, None], strain)[:, :, 0]
                coefficients = coefficients - change
        mean = np.einsum("q,nqc->nc", self._weights, stress)
        whole = np.einsum("q,nqij->nij", self._weights, tangent)
        condensed = whole - mixed.transpose(0, 2, 1) @ solved(matrix, mixed, strain)
        return Corrected(coefficients, stress, mean, condensed)

    def _stiffness(self, tangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """K and G of every strain."""
        strains, modes = self._points.strains, self._points.strains.shape[2]
        matrix = np.empty((len(tangent), modes, modes))
        mixed = np.empty((len(tangent), modes, tangent.shape[3]))
        for i, one in enumerate(tangent):
            matrix[i] = self._test @ np.matmul(one, strains).reshape(-1, modes)
            mixed[i] = self._test @ one.reshape(-1, one.shape[2])
        return matrix, mixed


def join(parts: list[Corrected]) -> Corrected:
    """Answers to several blocks of strains as one."""
    if len(parts) == 1:
        return parts[0]
    names = ("coefficients", "stress", "mean", "tangent")
    return Corrected(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))
