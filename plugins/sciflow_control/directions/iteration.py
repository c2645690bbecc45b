"""The conjugate direction method with proposed directions, as published; numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sciflow.errors import Invalid

Map = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Solved:
    """How a system was solved.

    Attributes
    ----------
    x : ndarray, shape of b
        The last iterate.
    residuals : ndarray, shape (iterations + 1,)
        Norms of b - A x, the first that of the start.
    directions : ndarray, shape (kept, ...)
        The last search directions, the latest last.
    replaced : int
        Iterations in which the proposal was useless (not finite, or spanned by the last directions) and
        the residual was taken in its place.
    converged : bool
        Whether the tolerance was met.
    """

    x: np.ndarray
    residuals: np.ndarray
    directions: np.ndarray
    replaced: int
    converged: bool

    @property
    def iterations(self) -> int:
        """How many."""
        return len(self.residuals) - 1


def conjugate_directions(
    apply: Map,
    propose: Map,
    b: np.ndarray,
    x: np.ndarray | None = None,
    *,
    rtol: float = 1e-4,
    iterations: int = 100,
    previous: int = 2,
) -> Solved:
    """Solve A x = b for a symmetric, positive definite A.

    Parameters
    ----------
    apply : callable
        A v.
    propose : callable
        A direction for a residual; any map, its length means nothing.
    b, x : ndarray, any shape
        Right-hand side, and where to start (None: at zero).
    rtol : float
        Of the residual's norm, relative to that of `b`.
    iterations : int
        At most.
    previous : int
        Directions that a new one is made conjugate to, at least one.

    Raises
    ------
    Invalid
        If `previous` is less than one.

    Notes
    -----
    d = q - sum_p p (q.A p) / (p.A p) over the last directions p, x += d (d.r) / (d.A d), and r = b - A x
    anew. With q = r it is the method of conjugate gradients, as r is then conjugate to all directions but
    the last; with q = A^-1 r it ends after one iteration. Two products with A an iteration.

    References
    ----------
    Kaneda et al., ICML 2023, algorithm 1.
    """
    if previous < 1:
        raise Invalid(f"a direction is conjugate to at least one before it, got previous={previous}")
    x = np.zeros_like(b) if x is None else x.copy()
    r = b - apply(x)
    norms, goal = [float(np.linalg.norm(r))], rtol * float(np.linalg.norm(b))
    kept: list[tuple[np.ndarray, np.ndarray, float]] = []
    replaced = 0
    while norms[-1] > goal and len(norms) <= iterations:
        found = _conjugate(apply, propose(r), kept)
        if found is None:
            replaced += 1
            found = _conjugate(apply, r, kept)
            if found is None:  # the residual itself is spanned: nothing is left to gain
                break
        d, _, curvature = found
        x = x + d * (float(np.vdot(d, r)) / curvature)
        r = b - apply(x)
        norms.append(float(np.linalg.norm(r)))
        kept = [*kept, found][-previous:]
    directions = np.array([d for d, _, _ in kept]).reshape(len(kept), *b.shape)
    return Solved(x, np.array(norms), directions, replaced, norms[-1] <= goal)


def _conjugate(
    apply: Map, q: np.ndarray, kept: list[tuple[np.ndarray, np.ndarray, float]]
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """A direction conjugate to those kept, its product with A and its curvature; None if nothing is left."""
    length = float(np.linalg.norm(q))
    if not 0 < length < np.inf:
        return None
    d = q / length
    for p, product, curvature in kept:
        d = d - p * (float(np.vdot(q, product)) / length / curvature)
    product = apply(d)
    curvature = float(np.vdot(d, product))
    # Against what was there before: rounding alone leaves about 1e-16.
    if not curvature > 1e-24 * float(np.vdot(d, d)) or float(np.linalg.norm(d)) < 1e-12:
        return None
    return d, product, curvature
