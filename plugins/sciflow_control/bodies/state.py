"""Bodies: masses, positions and velocities at one time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sciflow.errors import Invalid

GRAVITY = 39.47692642137302
"""Gravitational constant in au^3 / (solar mass Julian year^2), from Gauss's constant."""
KM_S = 365.25 * 86400 / 149597870.7
"""A kilometre per second in au per Julian year."""


@dataclass(frozen=True)
class Bodies:
    """Point masses at one time, in any consistent units.

    Attributes
    ----------
    masses : ndarray, shape (body,)
        Positive, at least two of them.
    positions : ndarray, shape (body, 3)
        In a unit of length; no two at one place.
    velocities : ndarray, shape (body, 3)
        In that unit per unit of time.
    gravity : float
        Gravitational constant in these units.

    Raises
    ------
    Invalid
        If shapes do not fit, a number is not finite, a mass or the gravitational constant is not positive,
        or two bodies are at the same place.
    """

    masses: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    gravity: float = GRAVITY

    def __post_init__(self) -> None:
        for name in ("masses", "positions", "velocities"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=np.float64, order="C"))
        m, x, v = self.masses, self.positions, self.velocities
        if m.ndim != 1 or len(m) < 2:
            raise Invalid(f"two bodies at least have a mass each, got masses of shape {m.shape}")
        if x.shape != (len(m), 3) or v.shape != (len(m), 3):
            raise Invalid(
                f"{len(m)} bodies have positions and velocities of shape {(len(m), 3)}, "
                f"got {x.shape} and {v.shape}"
            )
        if not (np.isfinite(m).all() and np.isfinite(x).all() and np.isfinite(v).all()):
            raise Invalid("masses, positions and velocities must be finite")
        if not (m > 0).all() or not 0 < self.gravity < math.inf:
            raise Invalid(f"masses and gravity must be positive, got {m.tolist()} and {self.gravity}")
        first, second = np.triu_indices(len(m), 1)
        same = np.flatnonzero((x[first] == x[second]).all(axis=1))
        if len(same):
            i, j = int(first[same[0]]), int(second[same[0]])
            raise Invalid(f"bodies {i} and {j} are at the same place, {x[i].tolist()}")

    def centred(self) -> Bodies:
        """The same bodies seen from their centre of mass."""
        share = self.masses / self.masses.sum()
        return Bodies(
            self.masses,
            self.positions - share @ self.positions,
            self.velocities - share @ self.velocities,
            self.gravity,
        )

    def energy(self) -> float:
        """Kinetic and potential energy, in the units of ``mass (length / time)^2``."""
        first, second = np.triu_indices(len(self.masses), 1)
        apart = np.linalg.norm(self.positions[first] - self.positions[second], axis=1)
        kinetic = 0.5 * float(self.masses @ (self.velocities**2).sum(axis=1))
        return kinetic - self.gravity * float((self.masses[first] * self.masses[second] / apart).sum())

    def angular_momentum(self) -> np.ndarray:
        """About the origin, shape (3,)."""
        found: np.ndarray = self.masses @ np.cross(self.positions, self.velocities)
        return found
