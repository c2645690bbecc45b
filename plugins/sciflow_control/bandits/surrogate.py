"""Bounds on iterations as functions of the relaxation parameter, and hypotheses on what they depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sciflow_control.bandits.relaxation_model import UNIT

NOISE, DOUBT = 0.15, 4.0
"""Standard deviation of a log cost about theory before any outcome, and how many that is worth."""
TILT = 0.3
"""Standard deviation of what theory leaves out over the range of the feature."""
MEMORY = 300.0
"""More outcomes than these do not make the belief in one hypothesis stronger: theory is not exact."""
RADII, RISES = 80, 56
"""Hypotheses on the radius where the solves are hardest, and on its change over the range."""
KEPT = 64
"""Hypotheses that a decision looks at: the likeliest ones."""
BREAKDOWN = 9.0
"""A setting that always fails counts as this many times more expensive than theory has it."""
FARTHEST = 2**18
"""Largest residual, in units."""
LEAST, MOST, BINS = -14.0, 6.0, 1024
"""Range of the logarithm of h = 1/beta - 1 for the Jacobi radius beta, and its steps in a table."""


def best_omega(beta: np.ndarray | float) -> np.ndarray | float:
    """The parameter with the smallest spectral radius of SOR; beta the Jacobi radius in [0, 1), any shape.

    References
    ----------
    D. M. Young, Iterative Solution of Large Linear Systems, Academic Press 1971, section 6.2.
    """
    return 2 / (1 + np.sqrt(1 - beta * beta))


def sor_radius(beta: np.ndarray, omega: np.ndarray) -> np.ndarray:
    """Spectral radius of SOR for consistently ordered matrices with real Jacobi eigenvalues.

    Parameters
    ----------
    beta : ndarray, any shape
        Jacobi radius, in [0, 1).
    omega : ndarray
        In (0, 2); broadcast against `beta`.

    Notes
    -----
    ``((w b + sqrt(w^2 b^2 - 4 (w - 1))) / 2)^2`` up to the best parameter, ``w - 1`` beyond.
    """
    inside = (omega * beta) ** 2 - 4 * (omega - 1)
    slow = (omega * beta + np.sqrt(np.maximum(inside, 0.0))) ** 2 / 4
    return np.where(inside > 0, slow, omega - 1)


def sor_iterations(beta: np.ndarray, omega: np.ndarray, tolerance: float) -> np.ndarray:
    """Iterations of SOR to reduce the residual, ``1 + log(tolerance) / log(radius)``; see `sor_radius`."""
    radius = np.clip(sor_radius(beta, omega), 1e-6, 1 - 1e-12)
    found: np.ndarray = 1 + np.log(tolerance) / np.log(radius)
    return found


def ssor_condition(beta: np.ndarray, omega: np.ndarray) -> np.ndarray:
    """An estimate of one over the smallest eigenvalue of M^-1 A, with M of SSOR; the largest is 1 at most.

    Parameters
    ----------
    beta : ndarray, any shape
        Jacobi radius, in [0, 1).
    omega : ndarray
        In (0, 2); broadcast against `beta`.

    Notes
    -----
    ``A^-1 M = (I + A^-1 ((2 - w)^2 D / (4 w) + w (L D^-1 L^T - D/4))) / (2 - w)``. For the five-point
    stencil with a constant diagonal ``L D^-1 L^T`` is about ``beta^2 D/4`` (at most that of a grid without
    end, of which beta is the limit), and the eigenvalues of ``A^-1 D`` lie between 1 / (1 + beta) and 1 /
    (1 - beta). Within 20 % of the true value on grids of 7 x 7 points and more.

    References
    ----------
    O. Axelsson, Iterative Solution Methods, Cambridge University Press 1994, theorem 7.17.
    """
    excess = (2 - omega) ** 2 / omega - omega * (1 - beta**2)
    found: np.ndarray = (1 + excess / (4 * np.where(excess > 0, 1 - beta, 1 + beta))) / (2 - omega)
    return found


def ssor_cg_iterations(beta: np.ndarray, omega: np.ndarray, tolerance: float) -> np.ndarray:
    """Iterations of conjugate gradients with SSOR: the Chebyshev bound; see `ssor_condition`."""
    root = np.sqrt(np.maximum(ssor_condition(beta, omega), 1 + 1e-9))
    found: np.ndarray = 1 + np.arccosh(root / tolerance) / -np.log(1 - 2 / (1 + root))
    return found


ITERATIONS = {"sor": sor_iterations, "ssor_cg": ssor_cg_iterations}


class Theory(NamedTuple):
    """Predictions of every hypothesis for every arm.

    Attributes
    ----------
    hard, rise : ndarray of float32, shape (hypothesis,)
        h where the solves are hardest, and how much larger it is at the other end.
    logs : ndarray of int32, shape (arm, BINS)
        Log iterations in units of 1/UNIT for every step of h.
    counts : ndarray, shape (BINS, arm)
        Iterations.
    """

    hard: np.ndarray
    rise: np.ndarray
    logs: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, method: str, omegas: Sequence[float], tolerance: float, rises: tuple[float, float]) -> Theory:
        """For arms with these omegas and rises in this range; (0, 0) if the radius is always the same."""
        h = np.exp(LEAST + (np.arange(BINS) + 0.5) * ((MOST - LEAST) / BINS))
        counts = ITERATIONS[method](1 / (1 + h[:, None]), np.array(omegas), tolerance)
        if rises[1]:
            hard, rise = np.geomspace(1e-4, 1, RADII), np.geomspace(*rises, RISES)
        else:
            hard, rise = np.geomspace(1e-5, 3, 120), np.zeros(1)
        pairs = np.meshgrid(hard.astype(np.float32), rise.astype(np.float32), indexing="ij")
        logs = np.rint(np.log(counts.T) * UNIT).astype(np.int32)
        return cls(pairs[0].ravel(), pairs[1].ravel(), np.ascontiguousarray(logs), counts)

    def residuals(self, arm: int, log: int, z: float) -> np.ndarray:
        """A log cost in units minus its predictions at z, within 64 nats; int64, shape (hypothesis,)."""
        found = log - self.logs[arm].take(steps(self.hard + np.float32(z) * self.rise), mode="clip")
        wide: np.ndarray = found.clip(-FARTHEST, FARTHEST).astype(np.int64)
        return wide

    def iterations(self, h: np.ndarray) -> np.ndarray:
        """Of every arm for values of h; shape (h, arm)."""
        return self.counts.take(steps(h), axis=0, mode="clip")


def steps(h: np.ndarray) -> np.ndarray:
    """In which step of the tables values of h, any shape, are; outside, in front of or behind them."""
    place = (np.log(h) - np.float32(LEAST)) * np.float32(BINS / (MOST - LEAST))
    found: np.ndarray = place.astype(np.intp)
    return found


def probabilities(sums: Mapping[str, Any], spread: float) -> np.ndarray:
    """The posterior of the hypotheses; shape (hypothesis,).

    Parameters
    ----------
    sums : mapping
        See `RelaxationModel.empty`.
    spread : float
        Prior deviation of a; that of b is `TILT`.

    Notes
    -----
    For residuals e = a + b u + noise, with a and b normal and the variance of the noise inverse gamma, the
    marginal likelihood is ``(c + e.e - v^T M^-1 v)^(-(c0 + n) / 2)`` up to a constant, v the sums of e and
    e u, and M those of 1, u, u^2 plus the prior precisions. With more than `MEMORY` outcomes n and the
    squares count as those of as many.
    """
    n = sums["count"]
    first, slope = sums["residuals"] / UNIT, sums["slopes"] / UNIT**2
    one, mixed = n + (NOISE / spread) ** 2, sums["u"] / UNIT
    two = sums["uu"] / UNIT**2 + (NOISE / TILT) ** 2
    explained = (two * first**2 - 2 * mixed * first * slope + one * slope**2) / (one * two - mixed**2)
    rest = np.maximum(sums["squares"] / UNIT**2 - explained, 0.0)
    worth = min(n, MEMORY)
    log = -0.5 * (DOUBT + worth) * np.log(DOUBT * NOISE**2 + rest * (worth / max(n, 1)))
    p = np.exp(log - log.max())
    found: np.ndarray = p / p.sum()
    return found


def likeliest(sums: Mapping[str, Any], spread: float) -> tuple[np.ndarray, np.ndarray]:
    """The `KEPT` likeliest hypotheses and their weights; before any outcome, evenly spread ones."""
    p = probabilities(sums, spread)
    if sums["count"]:
        picked = np.sort(np.argpartition(-p, KEPT)[:KEPT])
    else:
        picked = np.arange(0, p.size, max(1, p.size // KEPT))
    weights = p[picked]
    return picked, weights / weights.sum()


def factors(pulls: np.ndarray) -> np.ndarray:
    """How much more every arm is taken to cost because it, or one near it, failed; shape (arm,).

    Parameters
    ----------
    pulls : ndarray of int, shape (2, arm)
        Outcomes, and how many of them failed.
    """
    if not pulls[1].any():
        return np.ones(pulls.shape[1])
    reach = max(1, pulls.shape[1] // 10)
    near = 1 - abs(np.arange(-reach, reach + 1)) / (reach + 1)
    outcomes, failed = (np.convolve(row, near, mode="full")[reach:-reach] for row in pulls)
    found: np.ndarray = 1 + BREAKDOWN * failed / (outcomes + 1)
    return found
