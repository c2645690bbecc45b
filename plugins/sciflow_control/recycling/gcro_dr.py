"""GCRO-DR: GMRES with deflated restarting that carries its deflation space to the next system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sciflow_control.recycling.blocks import Block, Reduction, add, combined, dots, orthonormal
from sciflow_control.recycling.ritz import harmonic_ritz

STALLED = 1e-8
"""A cycle that lowers the residual by less than this fraction stalls; three in a row end the solve."""
AGAIN = 0.5
"""Orthogonalise a second time where the squared norm falls below this fraction."""
CARRIES = ("solution", "residual")
CLEAR = 1.5
"""One way to carry a space that takes so many times the iterations of the other is not tried again."""
TRIALS = 8
"""Systems that begin with a space and on which ways to carry it, then to renew it, are tried."""
REASONS = {"rtol": 2, "atol": 3, "its": -3, "breakdown": -5, "nan": -9}
"""PETSc's numbers for why an iteration ended."""


class GCRODR:
    """GCRO-DR(m, k) with right preconditioning, for any square operator.

    Parameters
    ----------
    matrix : petsc4py.PETSc.Mat
        Operator that tells layout and communicator; `solve` takes the one to solve with.
    m : int
        Largest dimension of the space that a cycle minimises over.
    k : int
        How much of it is carried to the next cycle and the next system; 0 is GMRES(m).
    refresh : int or None
        Cycles between two choices of the carried space. None: 1 and, when some systems were solved and
        if it takes no more iterations, 2.
    carry : {"auto", "solution", "residual"}
        What stays when the operator changes: U, or ``M U``, from which U is made with the new M;
        ``"auto"`` tries both and stays with what took fewer iterations.

    Attributes
    ----------
    iterations, reason : int
        Of the last solve; `reason` as PETSc numbers it.
    products : int
        Products with the operator in the last solve, those for the carried space included.
    history : list of float
        Residual norms of the last solve.

    Notes
    -----
    With the carried space U and ``C = A U``, ``C^T C = I``, a cycle builds an orthonormal V by Arnoldi's
    method on ``(I - C C^T) A M^-1`` so that ``A [U Z] = [C V] G`` with ``Z = M^-1 V``, and minimises the
    residual over ``[U Z]``. The next U are harmonic Ritz vectors of ``A M^-1``, from the pencil
    ``G^T G y = theta G^T W^T [M U V] y`` with ``W = [C V]`` and the smallest ``|theta|`` [1]_. As Z is
    kept, M may vary between iterations.

    An iteration costs a product with A, one with M^-1 and two to four gemv over the ``k + j`` vectors
    that are there, with one or two sums over the ranks. Memory: ``2 m + k`` vectors.

    References
    ----------
    .. [1] M. L. Parks, E. de Sturler, G. Mackey, D. D. Johnson, S. Maiti, "Recycling Krylov subspaces for
       sequences of linear systems", SIAM J. Sci. Comput. 28 (2006), 1651-1674, section 2.3 and appendix.
    """

    def __init__(
        self, matrix: Any, m: int = 40, k: int = 20, refresh: int | None = None, carry: str = "auto"
    ) -> None:
        self.m, self.k, self.refresh, self.carry = m, k, refresh, carry
        self.ranks = Reduction(matrix.getComm())
        self._left, self._right = Block(matrix, m + 1), Block(matrix, m)
        self._preimage = np.zeros((len(self._left.values), k), order="F")
        self.size = 0
        self._cycles = 0
        self._trials: list[int] = []
        self._apart: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._fresh = False
        self._overlap: np.ndarray | None = None
        self.iterations = self.products = self.reason = 0
        self.history: list[float] = []

    def space(self) -> np.ndarray:
        """The carried space U, shape (local row, at most k)."""
        return self._right.values[:, : self.size]

    def seed(self, space: np.ndarray) -> None:
        """Carry this space from now on; with dependent columns or more than k of them, less of it.

        Parameters
        ----------
        space : ndarray, shape (local row, c)
            This rank's rows, in units of the solution.
        """
        kept, _ = orthonormal(np.asarray(space, dtype=np.float64)[:, : self.k], self.ranks)
        self._overlap = None
        self.size, self._fresh, self._apart, self._trials = kept.shape[1], False, {}, []
        self._right.values[:, : self.size] = kept
        self._preimage[:, : self.size] = kept

    def stale(self) -> None:
        """Make the images of the carried space anew, whatever operator comes next."""
        self._fresh, self._overlap = False, None

    def state(self) -> Mapping[str, np.ndarray]:
        """This rank's arrays; `restore` goes on from them with the same bits."""
        n = self.size
        return {
            "space": self._right.values[:, :n].copy(),
            "image": self._left.values[:, :n].copy(),
            "preimage": self._preimage[:, :n].copy(),
            "counts": np.array([self._fresh, self._cycles, *self._trials], dtype=np.int64),
            **({} if self._overlap is None else {"overlap": self._overlap}),
            **{f"{name}_{i}": part for name, pair in self._apart.items() for i, part in enumerate(pair)},
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take up what `state` gave."""
        self.size = n = state["space"].shape[1]
        self._overlap = state.get("overlap")
        self._right.values[:, :n] = state["space"]
        self._left.values[:, :n] = state["image"]
        self._preimage[:, :n] = state["preimage"]
        fresh, self._cycles, *self._trials = map(int, state["counts"])
        self._fresh = bool(fresh)
        self._apart = {c: (state[f"{c}_0"], state[f"{c}_1"]) for c in CARRIES if f"{c}_0" in state}

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
        """Solve ``A x = b`` from the guess in `x`; collective.

        Parameters
        ----------
        matrix : petsc4py.PETSc.Mat
            A.
        apply : callable
            ``apply(v, z)`` writes ``M^-1 v`` to the PETSc vector z.
        b, x : ndarray, shape (local row,)
            This rank's rows; `x` is overwritten.
        tolerances : tuple of float
            Relative to the norm of b, and absolute, of the residual ``b - A x`` itself.
        limit : int
            Largest number of iterations.
        same : bool
            A has not changed since the last solve.

        Returns
        -------
        int
            The reason, positive if it converged.
        """
        self._apply, self._matrix = apply, matrix
        self.iterations = self.products = 0
        norm = self._norm(b)
        self.history = [norm]
        if not np.isfinite(norm):
            return self._end("nan")
        if norm == 0:
            x[:] = 0.0
            return self._end("atol")
        self._target = max(tolerances[0] * norm, tolerances[1])
        tried = bool(self.size) and not same and len(self._trials) < TRIALS
        if tried:
            self._open_trial()
        if self.size and not (same and self._fresh):
            self._project()
        self._fresh = True
        reason = self._iterate(b, x, limit, "rtol" if self._target > tolerances[1] else "atol")
        if tried:
            self._close_trial(self.iterations if reason > 0 else limit)
        return reason

    def _iterate(self, b: np.ndarray, x: np.ndarray, limit: int, done: str) -> int:
        r, stalls, claims = self._residual(b, x), 0, 0
        self.history[0] = self._norm(r)
        while True:
            self._correct(x, r)
            norm = self._norm(r)
            if not np.isfinite(norm):
                return self._end("nan")
            if norm <= self._target:
                return self._end(done)
            if self.iterations >= limit:
                return self._end("its")
            before = norm
            happy = self._cycle(x, r, norm, limit - self.iterations)
            norm = self._norm(r)
            if norm <= self._target or happy:
                # What the recurrence says is checked: the residual itself counts.
                r = self._residual(b, x)
                norm = self._norm(r)
                claims += 1
            stalls = stalls + 1 if norm > (1 - STALLED) * before else 0
            if norm > self._target and (stalls == 3 or claims == 5 or (happy and stalls)):
                return self._end("breakdown")

    def _end(self, why: str) -> int:
        self.reason = REASONS[why]
        return self.reason

    def _norm(self, v: np.ndarray) -> float:
        return float(np.sqrt(self.ranks.sum(np.array([v @ v]))[0]))

    def _residual(self, b: np.ndarray, x: np.ndarray) -> np.ndarray:
        """``b - A x``; the last two columns of Z and V are free between cycles."""
        if not x.any() and self.ranks.size == 1:
            return b.copy()
        self._right.values[:, -1] = x
        self._right.touch(self.m - 1)
        self._matrix.mult(self._right.vectors[-1], self._left.vectors[-1])
        self.products += 1
        return np.asarray(b - self._left.values[:, -1])

    def _project(self) -> None:
        """C and U for a new operator: QR of A U, where U stays or is ``M^-1`` of what stays."""
        left, right, count = self._left, self._right, self.size
        if self._mode() == "residual":
            left.values[:, :count] = self._preimage[:, :count]
            for j in range(count):
                left.touch(j)
                self._apply(left.vectors[j], right.vectors[j])
        for j in range(count):
            right.touch(j)
            self._matrix.mult(right.vectors[j], left.vectors[j])
        self.products += count
        image = left.values[:, :count]
        finite = self.ranks.sum(np.array([0.0 if np.isfinite(image).all() else 1.0]))[0] == 0
        q, factor = orthonormal(image, self.ranks) if finite else (image[:, :0], np.zeros((count, 0)))
        self.size, self._overlap = q.shape[1], None
        n = self.size
        right.values[:, :n] = combined(right.values[:, :count], factor)
        self._preimage[:, :n] = combined(self._preimage[:, :count], factor)
        left.values[:, :n] = q

    def _mode(self) -> str:
        """Whether U or M U stays the same from one operator to the next: what took fewer iterations.

        Each is tried twice, in turn, with a space of its own. Where smooth solutions stay and the
        preconditioner scales with the operator (symmetric diffusion) it is U; where ``A M^-1`` hardly
        changes, it is M U.
        """
        if self.carry != "auto":
            return self.carry
        if len(self._trials) < 4:
            return CARRIES[len(self._trials) % 2]
        return CARRIES[int(sum(self._trials[1:4:2]) < sum(self._trials[:4:2]))]

    def _every(self) -> int:
        """Cycles between two choices: two where that took no more iterations than one."""
        if self.refresh is not None:
            return self.refresh
        tried = len(self._trials)
        if tried < TRIALS:
            return 2 if tried >= 6 else 1
        return 2 if sum(self._trials[6:8]) <= 1.1 * sum(self._trials[4:6]) else 1

    def _open_trial(self) -> None:
        """Take up the space of the way that is to be tried."""
        if self.carry != "auto" or len(self._trials) >= 4:
            return
        if not self._apart:
            self._apart = {name: self._pair() for name in CARRIES}
        self._take(self._apart[self._mode()])

    def _close_trial(self, iterations: int) -> None:
        """Put it away; after the last trial go on with the better one."""
        mode = self._mode()
        self._trials.append(iterations)
        if not self._apart:
            return
        self._apart[mode] = self._pair()
        if len(self._trials) == 2 and max(self._trials) > CLEAR * min(self._trials):
            self._trials *= 2
        if len(self._trials) == 4:
            self._take(self._apart[self._mode()])
            self._apart = {}

    def _pair(self) -> tuple[np.ndarray, np.ndarray]:
        return self.space().copy(), self._preimage[:, : self.size].copy()

    def _take(self, pair: tuple[np.ndarray, np.ndarray]) -> None:
        self._fresh = False
        self.size = n = pair[0].shape[1]
        self._right.values[:, :n], self._preimage[:, :n] = pair

    def _correct(self, x: np.ndarray, r: np.ndarray) -> None:
        """The best that the carried space can do for a residual."""
        if self.size:
            images = self._left.values[:, : self.size]
            y = self.ranks.sum(dots(images, r))
            add(x, self._right.values[:, : self.size], y)
            add(r, images, y, -1.0)

    def _cycle(self, x: np.ndarray, r: np.ndarray, norm: float, limit: int) -> bool:
        """Arnoldi's method until the target, the end of the cycle or a breakdown (then True)."""
        k, steps = self.size, min(self.m - self.size, limit)
        G = np.zeros((self.m + 1, self.m))
        G[:k, :k] = np.eye(k)
        rotations = np.eye(steps + 1)
        triangle = np.zeros((steps, steps))
        self._left.values[:, k] = r / norm
        happy, j = False, -1
        for j in range(steps):
            column, happy = self._extend(k + j)
            G[: k + j + 2, k + j] = column
            turned = rotations[: j + 2, : j + 2] @ column[k:]
            length = float(np.hypot(turned[j], turned[j + 1]))
            if not np.isfinite(length):
                happy = True
                break
            c, s = (turned[j] / length, turned[j + 1] / length) if length else (1.0, 0.0)
            triangle[:j, j], triangle[j, j] = turned[:j], length
            pair = rotations[j : j + 2, : j + 2].copy()
            rotations[j, : j + 2] = c * pair[0] + s * pair[1]
            rotations[j + 1, : j + 2] = c * pair[1] - s * pair[0]
            self.iterations += 1
            self.history.append(norm * abs(float(rotations[j + 1, 0])))
            if happy or self.history[-1] <= self._target:
                break
        n = j + 1
        self._advance(x, r, norm, G[: k + n + 1, : k + n], rotations[:n, 0], triangle[:n, :n])
        if self.k and not happy and (not k or 2 * n >= steps):
            if self._cycles % self._every() == 0:
                self._choose(G[: k + n + 1, : k + n])
            self._cycles += 1
        return happy

    def _extend(self, at: int) -> tuple[np.ndarray, bool]:
        """One step: column `at` of G, and whether the space is exhausted."""
        left, right = self._left, self._right
        left.touch(at)
        self._apply(left.vectors[at], right.vectors[at])
        self._matrix.mult(right.vectors[at], left.vectors[at + 1])
        self.products += 1
        w, basis = left.values[:, at + 1], left.values[:, : at + 1]
        found = self.ranks.sum(dots(left.values[:, : at + 2], w))
        h, whole = found[:-1], float(found[-1])
        add(w, basis, h, -1.0)
        square = whole - float(h @ h)
        if square < AGAIN * whole:
            found = self.ranks.sum(dots(left.values[:, : at + 2], w))
            add(w, basis, found[:-1], -1.0)
            h = h + found[:-1]
            square = float(found[-1] - found[:-1] @ found[:-1])
        length = float(np.sqrt(max(square, 0.0)))
        happy = length <= 1e-14 * np.sqrt(whole)
        if happy:
            w[:] = 0.0
            length = 0.0
        else:
            w /= length
        return np.append(h, length), happy

    def _advance(
        self,
        x: np.ndarray,
        r: np.ndarray,
        norm: float,
        G: np.ndarray,
        first: np.ndarray,
        triangle: np.ndarray,
    ) -> None:
        """Minimise the residual over the space of the cycle."""
        k, n = self.size, len(triangle)
        diagonal = np.abs(triangle.diagonal())
        if n and np.isfinite(triangle).all() and diagonal.min() > 1e-14 * diagonal.max():
            y = np.linalg.solve(triangle, norm * first)
        elif np.isfinite(triangle).all():
            y = np.linalg.lstsq(triangle, norm * first, rcond=1e-14)[0]
        else:
            r[:] = np.nan
            return
        whole = np.concatenate([-G[:k, k:] @ y, y])
        add(x, self._right.values[:, : k + n], whole)
        add(r, self._left.values[:, k : k + n + 1], G[k:, k:] @ y, -1.0)

    def _choose(self, G: np.ndarray) -> None:
        """Carry the harmonic Ritz vectors of this cycle from now on."""
        k, n = self.size, G.shape[1] - self.size
        left, right = self._left.values, self._right.values
        images = np.eye(k + n + 1, k + n)
        if k and self._overlap is None:
            images[:, :k] = self.ranks.sum(left[:, : k + n + 1].T @ self._preimage[:, :k])
        elif k:
            images[:k, :k] = self._overlap
            images[k:, :k] = self.ranks.sum(left[:, k : k + n + 1].T @ self._preimage[:, :k])
        y = harmonic_ritz(G, images, self.k)
        if y is None:
            return
        q, factor = np.linalg.qr(G @ y)
        y = np.linalg.solve(factor.T, y.T).T
        chosen = y.shape[1]
        preimage = combined(left[:, k : k + n], y[k:])
        if k:
            preimage += combined(self._preimage[:, :k], y[:k])
        self._preimage[:, :chosen] = preimage
        right[:, :chosen] = combined(right[:, : k + n], y)
        left[:, :chosen] = combined(left[:, : k + n + 1], q)
        self._overlap = q.T @ images @ y
        self.size = chosen
