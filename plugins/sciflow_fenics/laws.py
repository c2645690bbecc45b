"""What happens at an integration point of the reducible problems; numpy alone, no mesh, no solver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sciflow.errors import Diverged

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


@dataclass(frozen=True)
class Metal:
    """An elasto-viscoplastic metal; the parameters of a problem add yield stress and drag.

    Attributes
    ----------
    young : float
        Pa.
    poisson : float
        1.
    exponent : float
        Norton's n, at least 1.
    kinematic : float
        C, slope of the back stress over the plastic strain, Pa.
    recall : float
        D, one over the plastic strain at which the back stress saturates; C / D is the largest one.
    isotropic : float
        Q, rise of the yield stress at saturation, Pa.
    rate : float
        b, one over the cumulated plastic strain at which it saturates.
    """

    young: float = 150e9
    poisson: float = 0.3
    exponent: float = 6.0
    kinematic: float = 30e9
    recall: float = 300.0
    isotropic: float = 30e6
    rate: float = 10.0


METAL = Metal()
"""A steel at high temperature, in the order of magnitude."""

PLASTIC = slice(0, 3)
"""Plastic strain xx, yy, xy in the history; zz is minus the sum of the first two."""
BACK = slice(3, 6)
"""Back stress xx, yy, xy, Pa; it has no trace either."""
CUMULATED = 6
"""Cumulated plastic strain."""
HISTORY = 7
"""History variables at each point."""

_DEVIATOR = np.array([[2.0, -1.0, 0.0], [-1.0, 2.0, 0.0], [0.0, 0.0, 1.5]]) / 3
_VOLUME = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
_MISES = np.array([[3.0, 1.5, 0.0], [1.5, 3.0, 0.0], [0.0, 0.0, 3.0]])
BLEND = 2.8
"""Exponent between the roots without drag and without stiffness, best for N = 6."""
LOCAL = 60
"""Largest number of iterations for the multipliers."""


class ViscoplasticLaw:
    """Von Mises flow with Norton's rate and two hardenings in plane strain, one implicit step at a time.

    Parameters
    ----------
    metal : Metal
        What does not change from member to member.
    yield_stress, drag : float
        R0 and K, Pa.
    dt : float
        Length of a step, s.

    Notes
    -----
    With ``J`` the von Mises norm, ``xi = dev s - X`` and ``n = 3/2 xi / J(xi)``:

        s = K_b tr(e) 1 + 2 G (dev e - e_p),       de_p = dp n,
        dX = 2/3 C de_p - D X dp,                  R(p) = Q (1 - exp(-b p)),
        dp/dt = <(J(xi) - R0 - R(p)) / K>^N        (in 1/s).

    Implicit Euler leaves the direction ``dev s_trial - X / (1 + D dp)`` and one equation for ``dp``,
    which is solved for ``y = (dp/dt)^(1/N)`` by Halley's method (of the second derivative only the
    power counts), from the root of what is left to first order in ``dp``. The tangent is the exact
    derivative of the step; it is not symmetric where D is not zero. About 20 numpy calls, and where
    points flow 150 more.

    References
    ----------
    J. Lemaitre and J.-L. Chaboche, "Mechanics of Solid Materials", 1990, chapters 5 and 6 (the law);
    J. C. Simo and T. J. R. Hughes, "Computational Inelasticity", 1998, chapter 3 (return mapping).
    """

    def __init__(self, metal: Metal, yield_stress: float, drag: float, dt: float) -> None:
        self._metal, self._yield, self._drag, self._dt = metal, yield_stress, drag, dt
        self._shear = metal.young / (2 * (1 + metal.poisson))
        self._bulk = metal.young / (3 * (1 - 2 * metal.poisson))
        self.elastic = self._bulk * _VOLUME + 2 * self._shear * _DEVIATOR

    def __call__(
        self, strain: np.ndarray, history: np.ndarray, step: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `sciflow.reduction.Law`; strains are xx, yy and twice xy, stresses xx, yy, xy in Pa."""
        trial = strain @ (2 * self._shear * _DEVIATOR)
        trial -= 2 * self._shear * history[:, PLASTIC]
        back = history[:, BACK]
        excess = _mises(trial - back) - self._radius(history[:, CUMULATED])
        stress = trial + strain @ (self._bulk * _VOLUME)
        tangent = np.empty((len(strain), 3, 3))
        tangent[:] = self.elastic
        flows = np.flatnonzero(excess > 1e-9 * self._yield)
        if not len(flows):
            return stress, tangent, history
        after = history.copy()
        some = history[flows]
        change, tangent[flows], after[flows] = self._flow(trial[flows], some, excess[flows])
        stress[flows] += change
        return stress, tangent, after

    def _radius(self, cumulated: np.ndarray) -> np.ndarray:
        """Yield stress with isotropic hardening, Pa."""
        metal = self._metal
        return np.asarray(self._yield + metal.isotropic * (1 - np.exp(-metal.rate * cumulated)))

    def _flow(
        self, trial: np.ndarray, history: np.ndarray, excess: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Change of the stress, tangent and history of points that flow."""
        metal, shear, back = self._metal, self._shear, history[:, BACK]
        y, dp, slope = self._multiplier(trial, back, history[:, CUMULATED], excess)
        theta = 1 / (1 + metal.recall * dp)
        direction = trial - theta[:, None] * back
        size = _mises(direction)
        direction /= size[:, None]
        after = history.copy()
        after[:, PLASTIC] += 1.5 * dp[:, None] * direction
        after[:, BACK] += metal.kinematic * dp[:, None] * direction
        after[:, BACK] *= theta[:, None]
        after[:, CUMULATED] += dp
        # Derivative: dp changes by 3 G (n' : de) / H, the direction turns with the trial stress.
        h = -slope / (metal.exponent * dp / y)
        turn = dp / size
        recall = turn * metal.recall * theta * theta
        along = ((direction @ _MISES) * back).sum(axis=1)  # 3/2 of the double contraction
        left = direction * (turn - (1 - recall * along) / h)[:, None] - (recall / h)[:, None] * back
        tangent = 9 * shear**2 * left[:, :, None] * direction[:, None, :]
        tangent += (2 * shear * (1 - 3 * shear * turn))[:, None, None] * _DEVIATOR + self._bulk * _VOLUME
        return -3 * shear * dp[:, None] * direction, tangent, after

    def _multiplier(
        self, trial: np.ndarray, back: np.ndarray, cumulated: np.ndarray, excess: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``y``, ``dp`` and the slope of the equation over ``y``, each of shape (point,)."""
        metal, dt, n, stiff = self._metal, self._dt, self._metal.exponent, 3 * self._shear
        weighted = back @ _MISES
        b, c = (trial * weighted).sum(axis=1), (back * weighted).sum(axis=1)
        a = ((trial @ _MISES) * trial).sum(axis=1)
        first = np.sqrt(a - b - b + c)
        saturated = metal.isotropic * np.exp(-metal.rate * cumulated)
        tolerance, least = 1e-10 * self._yield, self._yield + metal.isotropic
        # To first order in dp: stiffness * dt * y^n + drag * y = excess.
        stiffness = stiff + metal.kinematic + metal.rate * saturated - metal.recall * (b - c) / first
        rigid = (excess / (dt * stiffness)) ** (1 / n)
        drag = rigid * self._drag / excess
        share = (1 + drag**BLEND) ** (-1 / BLEND)
        for _ in range(2):
            power = share ** (n - 1)
            share -= (drag * share + power * share - 1) / (drag + n * power)
        y = rigid * share
        for _ in range(LOCAL):
            dp = dt * y**n
            theta = 1 / (1 + metal.recall * dp)
            pull = theta * c
            size = np.sqrt(a - theta * (b + b - pull))
            soft = saturated * np.exp(-metal.rate * dp)
            stiffness = stiff + metal.kinematic * theta
            gap = size - stiffness * dp - self._drag * y - (least - soft)
            bend = (metal.recall * (b - pull) / size - metal.kinematic) * (theta * theta)
            slope = (bend - stiff - metal.rate * soft) * (n * dp / y) - self._drag
            if np.abs(gap).max() <= tolerance:
                return y, dp, slope
            share = gap / (slope * y)
            bent = share * ((n - 1) / 2) * (1 + self._drag / slope)
            y = y * np.maximum(1 - share / np.maximum(1 - bent, 0.5), 0.1)
        raise Diverged(
            f"the plastic multiplier of {int((np.abs(gap) > tolerance).sum())} points was not found"
        )


def _mises(deviator: np.ndarray) -> np.ndarray:
    """Von Mises norm of deviators given by xx, yy, xy."""
    return np.asarray(np.sqrt(((deviator @ _MISES) * deviator).sum(axis=1)))


def full_stress(metal: Metal, stress: np.ndarray, history: np.ndarray) -> np.ndarray:
    """Stress xx, yy, zz, xy from that in the plane, Pa.

    Parameters
    ----------
    metal : Metal
    stress : ndarray, shape (point, 3)
        xx, yy, xy.
    history : ndarray, shape (point, 7)

    Returns
    -------
    ndarray, shape (point, 4)
    """
    plane = stress[:, 0] + stress[:, 1]
    plastic = history[:, 0] + history[:, 1]
    normal = metal.poisson * plane + metal.young * plastic
    return np.stack([stress[:, 0], stress[:, 1], normal, stress[:, 2]], axis=1)
