"""The online solver: Newton's method for the coefficients of a reduced basis, on a few integration points."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sciflow.errors import Diverged
from sciflow.reduction import Law

Load = Callable[[int], np.ndarray]
"""Factors of the load vectors at the end of a step, shape (load,)."""

HALVINGS = 6
"""How often a step that makes the residual larger is halved."""


@dataclass(frozen=True)
class Tables:
    """What a local model needs of its basis: its strains at the points of a cubature, and its loads.

    Attributes
    ----------
    strains : ndarray, shape (point, component, mode)
        Generalised strains of the modes.
    weights : ndarray, shape (point,)
        Of the cubature.
    points : ndarray, shape (point, dimension)
        Coordinates, for the law.
    loads : ndarray, shape (load, mode)
        Load vectors times modes.
    """

    strains: np.ndarray
    weights: np.ndarray
    points: np.ndarray
    loads: np.ndarray

    @cached_property
    def matrix(self) -> np.ndarray:
        """`strains` as shape (point * component, mode)."""
        return np.ascontiguousarray(self.strains.reshape(-1, self.strains.shape[2]))

    @cached_property
    def weighted(self) -> np.ndarray:
        """Strains times weights, shape (mode, point * component)."""
        scaled = self.strains * self.weights[:, None, None]
        return np.array(scaled.reshape(-1, self.strains.shape[2]).T, order="C")

    @cached_property
    def magnitudes(self) -> np.ndarray:
        """Magnitudes of `weighted`, to know how large the forces are that a residual is the sum of."""
        return np.asarray(np.abs(self.weighted))


@dataclass(frozen=True)
class Response:
    """Coefficients of all steps, and what the law gave at the points of the cubature.

    Attributes
    ----------
    coefficients : ndarray, shape (step, mode)
        In the unit of the field times that of the product's square root.
    stress : ndarray, shape (step, point, component)
    history : ndarray, shape (step, point, variable)
    iterations : ndarray of int64, shape (step,)
        How often the law was evaluated.
    """

    coefficients: np.ndarray
    stress: np.ndarray
    history: np.ndarray
    iterations: np.ndarray


def solve(
    tables: Tables,
    law: Law,
    steps: int,
    *,
    load: Load | None = None,
    history: np.ndarray | None = None,
    guess: np.ndarray | None = None,
    tolerance: float = 1e-6,
    iterations: int = 25,
) -> Response:
    """Solve all steps of a reduced problem.

    Parameters
    ----------
    tables : Tables
        Of the basis.
    law : Law
        At ``tables.points``.
    steps : int
        How many.
    load : callable or None
        Factors of the load vectors for each step; None where there are none.
    history : ndarray, shape (point, variable), or None
        Before the first step; None for a law without.
    guess : ndarray, shape (mode,), or None
        Where the first step begins; 0 by default. A later one begins where the parabola through the last
        three leads, and where it does not converge from there, at the end of the last one.
    tolerance : float
        Largest norm of the residual, relative to that of the magnitudes it is the sum of.
    iterations : int
        Most evaluations of the law in a step.

    Returns
    -------
    Response

    Raises
    ------
    Diverged
        If a step does not converge; the message names it.

    Notes
    -----
    Seeks ``a`` with ``r(a) = sum_q w_q E_q^T s(E_q a, z_q) - F^T g = 0``. An iteration costs the law at
    the k points, ``E a`` and ``E^T s`` (2 k c n each), the tangent ``(w E)^T (C E)`` (2 k c n (c + n)), and
    one solve of n^3: nothing depends on the size of the mesh. A step of Newton that makes the residual
    larger is halved.

    References
    ----------
    J. A. Hernandez, M. A. Caicedo, A. Ferrer, CMAME 313, 2017, section 5, for hyper-reduced forces and
    tangents with positive weights.
    """
    count, n = len(tables.weights), tables.matrix.shape[1]
    state = np.zeros((count, 0)) if history is None else history
    a = np.zeros(n) if guess is None else guess
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, int]] = []
    for step in range(steps):
        force = None if load is None else load(step) @ tables.loads
        begin = a if step < 3 else 3 * (a - rows[-2][0]) + rows[-3][0]
        try:
            row = _step(tables, law, step, state, begin, force, tolerance, iterations, steps)
        except Diverged:
            if begin is a:
                raise
            row = _step(tables, law, step, state, a, force, tolerance, iterations, steps)
        a, stress, state, used = row
        rows.append(row)
    if steps == 1:
        return Response(a[None], stress[None], state[None], np.array([used]))
    found = [np.stack(part) for part in zip(*rows, strict=True)]
    return Response(found[0], found[1], found[2], found[3])


def _step(
    tables: Tables, law: Law, step: int, history: np.ndarray, a: np.ndarray, force: np.ndarray | None,
    tolerance: float, iterations: int, steps: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:  # fmt: skip
    """One step: coefficients, stress, history at its end, evaluations of the law."""
    matrix, weighted, strains = tables.matrix, tables.weighted, tables.strains
    shape, flat = strains.shape[:2], (-1, strains.shape[2])
    bound, last, halved = -1.0, np.inf, 0
    change = np.zeros(0)
    for used in range(1, iterations + 1):
        stress, tangent, new = law((matrix @ a).reshape(shape), history, step)
        forces = stress.reshape(-1)
        residual = weighted @ forces
        if bound < 0:
            size = tables.magnitudes @ np.abs(forces)
            if force is not None:
                size += np.abs(force)
            bound = tolerance * _norm(size)
        if force is not None:
            residual -= force
        norm = _norm(residual)
        if norm <= bound:
            return a, stress, new, used
        if not norm < last and halved < HALVINGS and change.size:
            halved += 1
            change = 0.5 * change
            a = a + change
            continue
        last, halved = norm, 0
        matrix_n = weighted @ np.matmul(tangent, strains).reshape(flat)
        try:
            change = np.linalg.solve(matrix_n, residual)
        except np.linalg.LinAlgError:
            raise Diverged(f"step {step} of {steps}: the reduced tangent is singular") from None
        a = a - change
    raise Diverged(
        f"step {step} of {steps}: residual {norm / max(bound, 1e-300) * tolerance:.1e} after {iterations} "
        f"iterations, asked for {tolerance:.1e}"
    )


def _norm(vector: np.ndarray) -> float:
    return math.sqrt(vector @ vector)
