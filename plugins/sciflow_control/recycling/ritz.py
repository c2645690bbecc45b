"""Ritz vectors: of the Krylov space of CG in a window of bounded size, and harmonic ones of a cycle."""

from __future__ import annotations

import numpy as np

from sciflow_control.recycling.blocks import combined


class Ritz:
    """Ritz vectors of ``M^-1 A`` that CG comes by on its way, in a window of bounded size.

    Parameters
    ----------
    rows : int
        Of this rank.
    count : int
        Ritz vectors that are wanted, those with the smallest values.
    width : int
        Of the window, more than ``2 count``.

    Notes
    -----
    The scaled preconditioned residuals of CG are M-orthonormal and ``V^T A V`` is the tridiagonal matrix
    of its coefficients. When the window is full it is replaced by the Ritz vectors of its last two
    steps, with which the rest of the recurrence still goes (eigCG [1]_): they come close to those of
    the whole, unbounded history. A window costs one product of width x 2 count, per
    ``width - 2 count`` iterations.

    References
    ----------
    .. [1] A. Stathopoulos, K. Orginos, "Computing and deflating eigenvalues while solving multiple
       right-hand side linear systems", SIAM J. Sci. Comput. 32 (2010), 439-462, algorithm 2.1.
    """

    def __init__(self, rows: int, count: int, width: int) -> None:
        self.count, self.width = count, width
        self._window = np.zeros((rows, width), order="F")
        self._matrix = np.zeros((width, width))
        self.begin()

    def begin(self) -> None:
        """Forget what was gathered."""
        self._used, self._diagonal = 0, 0.0
        self._coupling = np.zeros(0)

    def gather(self, z: np.ndarray, length: float, step: float, before: float, beta: float) -> None:
        """One iteration of CG.

        Parameters
        ----------
        z : ndarray, shape (local row,)
            Preconditioned residual, without its part in the deflation space.
        length : float
            Its M-norm.
        step, before, beta : float
            alpha of this iteration and the last one, and beta between them (0 in the first).
        """
        if self._used == self.width:
            self._restart()
        j = self._used
        self._window[:, j] = z / length
        self._matrix[j, :], self._matrix[:, j] = 0.0, 0.0
        if beta:
            self._matrix[j, :j] = self._matrix[:j, j] = -np.sqrt(beta) / before * self._last()
        self._matrix[j, j] = 1 / step + (beta / before if beta else 0.0)
        self._coupling = np.zeros(0)
        self._used += 1

    def _last(self) -> np.ndarray:
        """How the vectors that are there hold the one before the next."""
        if len(self._coupling):
            return self._coupling
        found = np.zeros(self._used)
        found[-1] = 1.0
        return found

    def _restart(self) -> None:
        w, k = self.width, self.count
        now = np.linalg.eigh(self._matrix)[1][:, :k]
        before = np.zeros((w, k))
        before[:-1] = np.linalg.eigh(self._matrix[:-1, :-1])[1][:, :k]
        left, sizes, _ = np.linalg.svd(np.hstack([now, before]), full_matrices=False)
        both = left[:, sizes > 1e-12]
        values, turn = np.linalg.eigh(both.T @ self._matrix @ both)
        both = both @ turn
        n = both.shape[1]
        self._window[:, :n] = combined(self._window, both)
        self._matrix[:] = 0.0
        self._matrix[range(n), range(n)] = values
        self._used, self._coupling = n, both[-1].copy()

    def vectors(self) -> np.ndarray:
        """The Ritz vectors, shape (local row, at most count)."""
        n = self._used
        y = np.linalg.eigh(self._matrix[:n, :n])[1][:, : self.count] if n else np.zeros((0, 0))
        return np.asarray(combined(self._window[:, :n], y))


def harmonic_ritz(G: np.ndarray, images: np.ndarray, count: int) -> np.ndarray | None:
    """Coefficients of the harmonic Ritz vectors with the smallest values.

    Parameters
    ----------
    G : ndarray, shape (s + 1, s)
        Of ``A Y = W G`` with orthonormal W.
    images : ndarray, shape (s + 1, s)
        ``W^T M Y``.
    count : int
        How many at most. Of a complex pair both the real and the imaginary part are taken, or none.

    Returns
    -------
    ndarray, shape (s, at most count), or None
        Orthonormal; None where G is singular to rounding.
    """
    values = np.linalg.svd(G, compute_uv=False)
    if not np.isfinite(values).all() or values[-1] <= 1e-13 * values[0]:
        return None
    inverse, vectors = np.linalg.eig(np.linalg.lstsq(G, images, rcond=None)[0])
    chosen: list[np.ndarray] = []
    for i in np.argsort(-np.abs(inverse), kind="stable"):
        if inverse[i].imag < 0:
            continue
        new = [vectors[:, i].real] if inverse[i].imag == 0 else [vectors[:, i].real, vectors[:, i].imag]
        if len(chosen) + len(new) > count:
            break
        chosen += new
    if not chosen:
        return None
    left, sizes, _ = np.linalg.svd(np.stack(chosen, axis=1), full_matrices=False)
    found: np.ndarray = left[:, sizes > 1e-10 * sizes[0]]
    return found
