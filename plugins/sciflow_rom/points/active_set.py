"""Non-negative least squares over the rows of a matrix, with an updated factorisation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_TINY = float(np.finfo(np.float64).tiny)


class ActiveSet:
    """Chosen rows and the non-negative coefficients that bring their combination closest to a target.

    The rows ``C = T Q`` are kept factorised, ``T`` lower triangular and the rows of ``Q`` orthonormal;
    one is appended or deleted in O(k n) for k chosen rows of length n.

    Parameters
    ----------
    target : ndarray, shape (n,)
        What a combination of rows has to meet.

    Attributes
    ----------
    chosen : list of int
        Numbers of the chosen rows, in the order of the factorisation.
    values : ndarray, shape (k,)
        Their coefficients.
    """

    dependent = 1e-11

    def __init__(self, target: np.ndarray) -> None:
        self.target = target
        self.chosen: list[int] = []
        self.values = np.zeros(0)
        self._q = np.zeros((32, len(target)))
        self._t = np.zeros((32, 32))
        self._part = np.zeros(32)

    def __len__(self) -> int:
        return len(self.chosen)

    def residual(self) -> np.ndarray:
        """What is left of the target at the least squares solution of the chosen rows, shape (n,)."""
        k = len(self)
        return np.asarray(self.target - self._part[:k] @ self._q[:k])

    def append(self, number: int, row: np.ndarray, value: float = 0.0) -> bool:
        """Choose one more row.

        Parameters
        ----------
        number : int
            What it is called in `chosen`.
        row : ndarray, shape (n,)
        value : float
            Its coefficient; with 0 the row enters only where its best coefficient is positive.

        Returns
        -------
        bool
            False, and nothing is changed, if it depends on those chosen or cannot enter.
        """
        k = len(self)
        if k == len(self._q):
            self._grow()
        basis = self._q[:k]
        first = basis @ row
        rest = row - first @ basis
        second = basis @ rest
        rest = rest - second @ basis
        norm = np.linalg.norm(rest)
        if norm <= self.dependent * np.linalg.norm(row) or k >= len(self.target):
            return False
        rest /= norm
        part = rest @ self.target
        if value == 0.0 and part <= 0:
            return False
        self._t[k, :k], self._t[k, k] = first + second, norm
        self._q[k], self._part[k] = rest, part
        self.chosen.append(number)
        self.values = np.append(self.values, value)
        return True

    def delete(self, places: Sequence[int]) -> None:
        """Give up some of the chosen rows, by their places in `chosen`."""
        for place in sorted(places, reverse=True):
            k = len(self)
            t, q = self._t, self._q
            t[place : k - 1, :k] = t[place + 1 : k, :k]
            for i in range(place, k - 1):
                a, b = t[i, i], t[i, i + 1]
                size = np.hypot(a, b)
                turn = np.array([[a, b], [-b, a]]) / size
                t[i : k - 1, i : i + 2] = t[i : k - 1, i : i + 2] @ turn.T
                t[i, i + 1] = 0.0
                q[i : i + 2] = turn @ q[i : i + 2]
                self._part[i : i + 2] = turn @ self._part[i : i + 2]
            del self.chosen[place]
            self.values = np.delete(self.values, place)

    def unconstrained(self) -> np.ndarray:
        """Least squares coefficients of the chosen rows, of any sign, shape (k,)."""
        from scipy.linalg import solve_triangular

        k = len(self)
        found = solve_triangular(self._t[:k, :k], self._part[:k], trans=1, lower=True, check_finite=False)
        return np.asarray(found)

    def settle(self) -> None:
        """Move to the least squares solution; rows whose coefficient becomes zero are given up."""
        while len(self):
            goal = self.unconstrained()
            falling = goal <= 0
            if not falling.any():
                self.values = goal
                return
            reach = np.full(len(self), np.inf)
            reach[falling] = self.values[falling] / (self.values[falling] - goal[falling] + _TINY)
            step = float(reach.min())
            self.values = self.values + step * (goal - self.values)
            gone = (reach <= step) | (falling & (self.values <= 0))
            self.delete(np.flatnonzero(gone).tolist())

    def thin(self, enough: float, kept: Sequence[int] | np.ndarray = ()) -> None:
        """Give up the cheapest rows, none of `kept`, while the squared residual stays below `enough`."""
        while len(self) > 1:
            residual = self.residual()
            growth, least = self.without()
            fit = (residual @ residual + growth <= enough) & (least > 0) & ~np.isin(self.chosen, kept)
            if not fit.any():
                return
            self.delete([int(np.argmin(np.where(fit, growth, np.inf)))])
            self.settle()

    def without(self) -> tuple[np.ndarray, np.ndarray]:
        """What giving up each chosen row alone would do, by a formula that needs no new solution.

        Returns
        -------
        growth : ndarray, shape (k,)
            Of the squared residual: the squared coefficient over its diagonal entry of (C C^T)^-1.
        least : ndarray, shape (k,)
            The smallest coefficient that would be left.
        """
        from scipy.linalg import solve_triangular

        k = len(self)
        inverse = solve_triangular(self._t[:k, :k], np.eye(k), lower=True, check_finite=False)
        spread = inverse.T @ inverse
        ratio = self.values / spread.diagonal()
        left = self.values[:, None] - spread * ratio
        np.fill_diagonal(left, np.inf)
        return self.values * ratio, np.asarray(left.min(axis=0))

    def _grow(self) -> None:
        k = len(self)
        q, t, part = self._q, self._t, self._part
        self._q = np.zeros((2 * k, q.shape[1]))
        self._t = np.zeros((2 * k, 2 * k))
        self._part = np.zeros(2 * k)
        self._q[:k], self._t[:k, :k], self._part[:k] = q, t, part
