"""Deflated CG: conjugate gradients beside a space that earlier systems left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sciflow_control.recycling.blocks import (
    DEPENDENT,
    Block,
    Reduction,
    add,
    combined,
    dots,
    move,
    orthonormal,
    scale,
)
from sciflow_control.recycling.ritz import Ritz

REASONS = {
    "rtol": 2,
    "atol": 3,
    "its": -3,
    "breakdown": -5,
    "asymmetric": -7,
    "indefinite_pc": -8,
    "nan": -9,
    "indefinite": -10,
}
"""PETSc's numbers for why an iteration ended."""
CONJUGATE = 0.1
"""A direction of which more than this fraction is not conjugate to the one before shows an operator or a
preconditioner that is not symmetric: rounding alone leaves 1e-11."""
EVERY = 2
"""Iterations between two looks at that."""


class DeflatedCG:
    """Preconditioned CG on the complement of a small space, for symmetric positive definite operators.

    Parameters
    ----------
    matrix : petsc4py.PETSc.Mat
        Operator that tells layout and communicator; `solve` takes the one to solve with.
    m : int
        Vectors beside 2 k in the window that Ritz vectors are gathered in.
    k : int
        Largest dimension of the space; 0 is CG.
    refresh : int
        Systems between two updates of the space; 0 keeps that of the first system.

    Attributes
    ----------
    iterations, reason : int
        Of the last solve; `reason` as PETSc numbers it.
    products : int
        Products with the operator in the last solve, those for the space included.
    history : list of float
        Residual norms of the last solve.

    Notes
    -----
    With W such that ``W^T A W = I``, CG runs on the residuals that are orthogonal to W [1]_:
    ``p = z - W (A W)^T z + beta p`` with ``z = M^-1 r``. To the iteration the eigenvalues that belong to
    W are not there: the condition number is that of the rest. Per iteration beside CG: two gemv over k
    vectors and, every second time, a dot product and a sum over the ranks that look for asymmetry.

    References
    ----------
    .. [1] Y. Saad, M. Yeung, J. Erhel, F. Guyomarc'h, "A deflated version of the conjugate gradient
       algorithm", SIAM J. Sci. Comput. 21 (2000), 1909-1926, algorithm 3.5.
    .. [2] J. M. Tang, R. Nabben, C. Vuik, Y. A. Erlangga, "Comparison of two-level preconditioners
       derived from deflation, domain decomposition and multigrid methods", J. Sci. Comput. 39 (2009).
    """

    def __init__(self, matrix: Any, m: int = 40, k: int = 20, refresh: int = 0) -> None:
        self.k, self.every = k, refresh
        self.ranks = Reduction(matrix.getComm())
        self._space, self._image, self._work = Block(matrix, k), Block(matrix, k), Block(matrix, 4)
        self._ritz = Ritz(len(self._work.values), k, 2 * k + m) if k else None
        self.size = self._systems = 0
        self._fresh = False
        self.iterations = self.products = self.reason = 0
        self.history: list[float] = []

    def space(self) -> np.ndarray:
        """The space W, shape (local row, at most k)."""
        return self._space.values[:, : self.size]

    def seed(self, space: np.ndarray) -> None:
        """Deflate this space from now on; with dependent columns or more than k of them, less of it.

        Parameters
        ----------
        space : ndarray, shape (local row, c)
            This rank's rows, in units of the solution.
        """
        kept, _ = orthonormal(np.asarray(space, dtype=np.float64)[:, : self.k], self.ranks)
        self.size = kept.shape[1]
        self._space.values[:, : self.size] = kept
        self._fresh = False
        self._systems = max(self._systems, 1)

    def stale(self) -> None:
        """Make the images of the space anew, whatever operator comes next."""
        self._fresh = False

    def state(self) -> Mapping[str, np.ndarray]:
        """This rank's arrays; `restore` goes on from them with the same bits."""
        n = self.size
        return {
            "space": self._space.values[:, :n].copy(),
            "image": self._image.values[:, :n].copy(),
            "counts": np.array([self._fresh, self._systems], dtype=np.int64),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take up what `state` gave."""
        self.size = n = state["space"].shape[1]
        self._space.values[:, :n] = state["space"]
        self._image.values[:, :n] = state["image"]
        fresh, self._systems = map(int, state["counts"])
        self._fresh = bool(fresh)

    def solve(
        self,
        matrix: Any,
        apply: Any,
        b: np.ndarray,
        x: np.ndarray,
        *,
        tolerances: tuple[float, float],
        limit: int,
        same: bool = False,
    ) -> int:
        """Solve ``A x = b`` from the guess in `x`; collective; see `GCRODR.solve`."""
        self._matrix, self._apply = matrix, apply
        self.iterations = self.products = 0
        norm = float(np.sqrt(self._sum(b @ b)))
        self.history = [norm]
        if not np.isfinite(norm):
            return self._end("nan")
        if norm == 0:
            x[:] = 0.0
            return self._end("atol")
        target = max(tolerances[0] * norm, tolerances[1])
        if self.size and not (same and self._fresh):
            self._project()
        self._fresh = True
        why = "rtol" if target > tolerances[1] else "atol"
        gathers = self._ritz is not None and self._due()
        if gathers and self._ritz is not None:
            self._ritz.begin()
        reason = self._iterate(b, x, target, limit, why, gathers)
        if gathers and reason > 0:
            self._update()
        self._systems += 1
        return reason

    def _due(self) -> bool:
        return not self.size or bool(self.every and self._systems % self.every == 0)

    def _end(self, why: str) -> int:
        self.reason = REASONS[why]
        return self.reason

    def _sum(self, value: float) -> float:
        return float(value) if self.ranks.size == 1 else float(self.ranks.sum(np.array([value]))[0])

    def _project(self) -> None:
        """``A W`` for a new operator, with W such that ``W^T A W = I``."""
        n = self.size
        for j in range(n):
            self._space.touch(j)
            self._matrix.mult(self._space.vectors[j], self._image.vectors[j])
        self.products += n
        space, image = self._space.values[:, :n], self._image.values[:, :n]
        energy = self.ranks.sum(space.T @ image)
        if not np.isfinite(energy).all():
            self.size = 0
            return
        factor = _energy_orthonormal((energy + energy.T) / 2)
        self.size = factor.shape[1]
        self._space.values[:, : self.size] = combined(space, factor)
        self._image.values[:, : self.size] = combined(image, factor)

    def _correct(self, b: np.ndarray, x: np.ndarray, r: np.ndarray) -> float:
        """The residual itself, made orthogonal to W; its norm."""
        if x.any() or self.ranks.size > 1:
            self._work.values[:, 1] = x
            self._work.touch(1)
            self._matrix.mult(self._work.vectors[1], self._work.vectors[2])
            self.products += 1
            np.subtract(b, self._work.values[:, 2], out=r)
        else:
            r[:] = b
        if self.size:
            y = self.ranks.sum(dots(self._space.values[:, : self.size], r))
            add(x, self._space.values[:, : self.size], y)
            add(r, self._image.values[:, : self.size], y, -1.0)
        return float(np.sqrt(self._sum(r @ r)))

    def _iterate(
        self, b: np.ndarray, x: np.ndarray, target: float, limit: int, why: str, gathers: bool
    ) -> int:
        """Rounds of CG; the residual that a round believes in is checked after it."""
        r = self._work.values[:, 0]
        self.history[0] = norm = self._correct(b, x, r)
        for _ in range(6):
            if not np.isfinite(norm):
                return self._end("nan")
            if norm <= target:
                return self._end(why)
            if self.iterations >= limit:
                return self._end("its")
            broken = self._round(x, target, limit, gathers and not self.iterations)
            if broken:
                return self._end(broken)
            norm = self._correct(b, x, r)
        return self._end("breakdown")

    def _round(self, x: np.ndarray, target: float, limit: int, gathers: bool) -> str:
        (r, z, q, p), (vr, vz, vq, vp) = self._work.values.T, self._work.vectors
        space, image = self._space.values[:, : self.size], self._image.values[:, : self.size]
        p[:] = 0.0
        past = before = 0.0
        while self.iterations < limit:
            vr.stateIncrease()
            self._apply(vr, vz)
            found = np.append(dots(image, z), r @ z)
            found = self.ranks.sum(found)
            mu, length = found[:-1], float(found[-1])
            if not length > 0:
                return "nan" if np.isnan(length) else "indefinite_pc" if length < 0 or r.any() else ""
            add(z, space, mu, -1.0)
            beta = length / past if past else 0.0
            scale(p, beta)
            move(p, z)
            vp.stateIncrease()
            self._matrix.mult(vp, vq)
            self.products += 1
            energy = self._sum(p @ q)
            if not 0 < energy < np.inf:
                return "indefinite" if energy <= 0 else "nan"
            # Without asymmetry z A p is the same: z is p and a multiple of the last p, conjugate to this one.
            looks = past and self.iterations % EVERY == EVERY - 1
            if looks and not abs(energy - self._sum(z @ q)) <= CONJUGATE * energy:
                return "asymmetric"
            step = length / energy
            if gathers and self._ritz is not None:
                self._ritz.gather(z, np.sqrt(length), step, before, beta)
            move(x, p, step)
            move(r, q, -step)
            self.iterations += 1
            past, before = length, step
            self.history.append(float(np.sqrt(self._sum(r @ r))))
            if self.history[-1] <= target:
                break
        return ""

    def _update(self) -> None:
        """The best k of the space and the Ritz vectors of this system."""
        if self._ritz is None:
            return
        found = self._ritz.vectors()
        if self.size:
            found = self._best(np.hstack([self.space(), found]))
        self.size = found.shape[1]
        self._space.values[:, : self.size] = found
        self._project()

    def _best(self, vectors: np.ndarray) -> np.ndarray:
        """Of their span, the harmonic Ritz vectors of ``M^-1 A`` with the smallest values."""
        image, back = np.empty_like(vectors), np.empty_like(vectors)
        v, av, mav = (self._work.vectors[i] for i in (1, 2, 3))
        for j in range(vectors.shape[1]):
            self._work.values[:, 1] = vectors[:, j]
            v.stateIncrease()
            self._matrix.mult(v, av)
            self._apply(av, mav)
            image[:, j], back[:, j] = self._work.values[:, 2], self._work.values[:, 3]
        self.products += vectors.shape[1]
        energy = self.ranks.sum(vectors.T @ image)
        factor = _energy_orthonormal((energy + energy.T) / 2)
        pencil = factor.T @ self.ranks.sum(image.T @ back) @ factor
        y = np.linalg.eigh((pencil + pencil.T) / 2)[1][:, : self.k]
        return np.asarray(vectors @ (factor @ y))


def _energy_orthonormal(energy: np.ndarray) -> np.ndarray:
    """F with ``F^T E F = I``, without directions that depend on the others."""
    lengths = np.sqrt(np.maximum(energy.diagonal(), 0.0))
    used = np.flatnonzero(lengths > 0)
    values, vectors = np.linalg.eigh(energy[np.ix_(used, used)] / np.outer(lengths[used], lengths[used]))
    kept = values > DEPENDENT * max(float(values.max(initial=0.0)), 0.0)
    factor = np.zeros((len(energy), int(kept.sum())))
    factor[used] = vectors[:, kept] / np.sqrt(values[kept]) / lengths[used, None]
    return factor
