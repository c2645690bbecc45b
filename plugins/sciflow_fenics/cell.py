"""The periodic cell: bilinear quadrilaterals, Newton's method, condensation to the mean strain."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu

from sciflow.errors import Diverged

if TYPE_CHECKING:
    from sciflow.reduction import Law

NEWTON = 30
"""Largest number of Newton steps for one increment of the mean strain."""
HALVINGS = 6
"""How often a correction that does not make the residual smaller is halved."""
TOLERANCE = 1e-10
"""Norm of the residual over that of the forces that cancel in it."""
INCREMENTS = (1, 4, 16)
"""Into so many equal parts the mean strain is cut, one after the other, where Newton's method fails."""


class Cell:
    """The unit square, periodic, cut into equal bilinear quadrilaterals.

    Parameters
    ----------
    cells : int
        Along each side.

    Attributes
    ----------
    nodes : ndarray, shape (node, 2)
        Row by row, opposite sides both.
    corners : ndarray of int64, shape (face, 4)
        Nodes of each quadrilateral, in the order of `nodes`.
    points : ndarray, shape (point, 2)
        Four in each quadrilateral (Gauss), one quadrilateral after the other.
    weights : ndarray, shape (point,)
        Equal; they sum to one.
    size : int
        Unknowns: those of the nodes that differ, without the corner of the cell, which stays.

    Notes
    -----
    The change of volume is replaced by its mean over the quadrilateral (B-bar): with four points a
    bilinear quadrilateral locks in a matrix that hardly changes its volume, and the mean is linear, so
    that the weak form stays a sum over points. In plane the mean is shared by xx and yy alone.

    All quadrilaterals are equal, so strains and element matrices are products with one small dense
    matrix. The unknowns are ordered once so that the factors stay sparse, ``O(n log n)`` entries for n
    unknowns; each tangent costs ``O(n^1.5)`` operations, each further right-hand side ``O(n log n)``.

    References
    ----------
    T. J. R. Hughes, "Generalization of selective integration procedures to anisotropic and nonlinear
    media", IJNME 15, 1980.
    """

    def __init__(self, cells: int) -> None:
        self.cells = cells
        line = np.linspace(0.0, 1.0, cells + 1)
        self.nodes = np.stack([np.tile(line, cells + 1), np.repeat(line, cells + 1)], axis=1)
        row, column = np.divmod(np.arange(cells * cells), cells)
        first = row * (cells + 1) + column
        self.corners = first[:, None] + np.array([0, 1, cells + 1, cells + 2])
        gauss, self.block = _reference(cells)
        self.points = (np.stack([column, row], axis=1)[:, None] + gauss).reshape(-1, 2) / cells
        self.weights = np.full(len(self.points), 1 / len(self.points))
        weighted = self.block * self.weights[0]
        self._back = np.ascontiguousarray(weighted.reshape(12, 8))
        # Element matrices are linear in the 36 entries of the four tangents.
        self._square = np.einsum("qia,qjb->qijab", weighted, self.block).reshape(36, 64)
        self._mixed = np.einsum("qia,qjk->qijak", weighted, np.broadcast_to(np.eye(3), (4, 3, 3)))
        self._mixed = self._mixed.reshape(36, 24)
        self.dofs = (2 * self.corners[:, :, None] + np.arange(2)).reshape(-1, 8)
        self.size = 2 * cells * cells - 2
        self._number()

    def _number(self) -> None:
        """Numbers of the unknowns at every node, in an order that keeps the factors sparse."""
        row, column = np.divmod(np.arange((self.cells + 1) ** 2), self.cells + 1)
        master = (row % self.cells) * self.cells + column % self.cells
        self._unknown = (2 * master[:, None] + np.arange(2)).reshape(-1) - 2
        self._pattern()
        identity = np.broadcast_to(np.eye(3), (len(self.points), 3, 3))
        order = splu(self._matrix(identity), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
        place = np.append(order.perm_c, [-2, -1])  # those of the corner stay behind
        self._unknown = place[self._unknown]
        self._pattern()

    def _pattern(self) -> None:
        """Where each entry of each element matrix goes; those of the corner go behind the last one."""
        mine = self._unknown[self.dofs]
        self._at = np.where(mine < 0, self.size, mine).reshape(-1)
        rows, columns = np.repeat(mine, 8, axis=1).reshape(-1), np.tile(mine, (1, 8)).reshape(-1)
        free = (rows >= 0) & (columns >= 0)
        keys, place = np.unique(columns[free] * self.size + rows[free], return_inverse=True)
        self._scatter = np.full(len(rows), len(keys))
        self._scatter[free] = place
        self._rows = (keys % self.size).astype(np.int32)
        ends = np.cumsum(np.bincount(keys // self.size, minlength=self.size))
        self._ends = np.concatenate([[0], ends]).astype(np.int32)

    def whole(self, u: np.ndarray) -> np.ndarray:
        """Values at all nodes of a vector of unknowns, shape (2 * node,)."""
        return np.asarray(np.append(u, [0.0, 0.0])[self._unknown])

    def strains(self, vectors: np.ndarray) -> np.ndarray:
        """Strains of vectors of all nodes' values.

        Parameters
        ----------
        vectors : ndarray, shape (2 * node, n)

        Returns
        -------
        ndarray, shape (point, 3, n)
        """
        found = np.matmul(self.block.reshape(12, 8), vectors[self.dofs])
        return np.asarray(found.reshape(-1, 3, vectors.shape[1]))

    def _strain(self, u: np.ndarray) -> np.ndarray:
        return np.asarray((self.whole(u)[self.dofs] @ self.block.reshape(12, 8).T).reshape(-1, 3))

    def force(self, stress: np.ndarray) -> tuple[np.ndarray, float]:
        """``B^T (w s)`` of stresses s, shape (point, 4), and its norm if nothing in it cancelled."""
        each = stress.reshape(-1, 12)
        found = np.bincount(self._at, weights=(each @ self._back).reshape(-1), minlength=self.size + 1)
        parts = (np.abs(each) @ np.abs(self._back)).reshape(-1)
        total = np.bincount(self._at, weights=parts, minlength=self.size + 1)
        return found[: self.size], float(np.linalg.norm(total))

    def _matrix(self, tangent: np.ndarray) -> csc_matrix:
        elements = (tangent.reshape(-1, 36) @ self._square).reshape(-1)
        values = np.bincount(self._scatter, weights=elements, minlength=len(self._rows) + 1)[:-1]
        return csc_matrix((values, self._rows, self._ends), shape=(self.size, self.size))

    def factorised(self, tangent: np.ndarray) -> Any:
        """An LU of ``B^T (w D) B``, with a method ``solve``; tangents D of shape (point, 4, 4).

        Raises
        ------
        Diverged
            If it is singular or not finite.
        """
        matrix = self._matrix(tangent)
        if not np.isfinite(matrix.data).all():
            raise Diverged("the tangent of the cell is not finite")
        try:
            return splu(matrix, permc_spec="NATURAL", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        except RuntimeError as error:
            raise Diverged(f"the tangent of the cell cannot be factorised: {error}") from None

    def condensed(self, tangent: np.ndarray, factors: Any) -> tuple[np.ndarray, np.ndarray]:
        """The derivative of the mean stress, and of the unknowns, with respect to the mean strain.

        Parameters
        ----------
        tangent : ndarray, shape (point, 3, 3)
            In equilibrium.
        factors
            From `factorised`, of the same tangent.

        Returns
        -------
        mean : ndarray, shape (3, 3)
        change : ndarray, shape (unknown, 3)

        Notes
        -----
        With ``L = B^T (w D)`` the derivative of the unknowns is ``-K^-1 L``, and that of the mean stress
        ``sum_q w_q D_q - L'^T K^-1 L`` with L' of the transposed tangents.
        """
        right = self._mixed_of(tangent)
        left = self._mixed_of(tangent.transpose(0, 2, 1))
        change = -factors.solve(right)
        return self.weights[0] * tangent.sum(axis=0) + left.T @ change, change

    def _mixed_of(self, tangent: np.ndarray) -> np.ndarray:
        elements = (tangent.reshape(-1, 36) @ self._mixed).reshape(-1, 3)
        return np.stack(
            [np.bincount(self._at, weights=c, minlength=self.size + 1)[: self.size] for c in elements.T],
            axis=1,
        )

    def solve(
        self, law: Law, strain: np.ndarray, u: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Equilibrium under a mean strain by Newton's method.

        Parameters
        ----------
        law : Law
            In the total strain, at `points`.
        strain : ndarray, shape (3,)
            The mean.
        u : ndarray, shape (unknown,)
            Where to begin.

        Returns
        -------
        u : ndarray, shape (unknown,)
        stress : ndarray, shape (point, 3)
        tangent : ndarray, shape (point, 3, 3)
        newton : int
            Factorisations.

        Raises
        ------
        Diverged
            Also if its parts (`INCREMENTS`) fail.
        """
        failure = Diverged("")
        newton = 0
        for parts in INCREMENTS:
            found = u if parts == 1 else np.zeros_like(u)
            try:
                for part in range(1, parts + 1):
                    found, stress, tangent, more = self._newton(law, strain * (part / parts), found)
                    newton += more
                return found, stress, tangent, newton
            except Diverged as error:
                failure = error
        raise Diverged(f"mean strain {_shown(strain)}: {failure}")

    def _newton(
        self, law: Law, mean: np.ndarray, u: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        none = np.zeros((len(self.points), 0))
        last, change, shorter, newton = np.inf, np.zeros_like(u), 0, 0
        while True:
            stress, tangent, _ = law(self._strain(u) + mean, none, 0)
            residual, scale = self.force(stress)
            size = float(np.linalg.norm(residual))
            if size <= TOLERANCE * scale:
                return u, stress, tangent, newton
            if not size < last and shorter < HALVINGS:
                change, shorter = change / 2, shorter + 1
                u = u + change
                continue
            if newton == NEWTON or not np.isfinite(size):
                raise Diverged(
                    f"Newton's method did not converge in {newton} steps, residual {size:.2e} of {scale:.2e}"
                )
            change, last, shorter = self.factorised(tangent).solve(residual), size, 0
            u, newton = u - change, newton + 1


def _shown(strain: np.ndarray) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in strain) + ")"


def _reference(cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss points in the unit square and strains there, the change of volume averaged.

    Returns
    -------
    points : ndarray, shape (4, 2)
    block : ndarray, shape (4, 3, 8)
        Strains xx, yy, twice xy of a quadrilateral of side ``1 / cells`` for a one at each corner and
        direction.
    """
    low = 0.5 - np.sqrt(1 / 12)
    points = np.array([[low, low], [1 - low, low], [low, 1 - low], [1 - low, 1 - low]])
    x, y = points[:, :1], points[:, 1:]
    slopes = cells * np.stack(
        [np.hstack([y - 1, 1 - y, -y, y]), np.hstack([x - 1, -x, 1 - x, x])], axis=-1
    )  # (point, corner, direction)
    block = np.zeros((4, 3, 4, 2))
    block[:, 0, :, 0] = block[:, 2, :, 1] = slopes[:, :, 0]
    block[:, 1, :, 1] = block[:, 2, :, 0] = slopes[:, :, 1]
    volume = slopes.mean(axis=0) - slopes
    block[:, :2] += volume[:, None] / 2
    return points, block.reshape(4, 3, 8)


@lru_cache(maxsize=4)
def cell(cells: int) -> Cell:
    """The cell of so many quadrilaterals a side, built once."""
    return Cell(cells)
