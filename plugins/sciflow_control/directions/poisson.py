"""Poisson's equation on some cells of a grid: products without a matrix, and the matrix for others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sciflow.errors import Invalid

if TYPE_CHECKING:
    from sciflow_control.directions.domains import Domain


class Poisson:
    """The 5- or 7-point operator with the value zero outside of the domain; symmetric, positive definite.

    Parameters
    ----------
    cells : ndarray of bool, shape (n1, n2) or (n1, n2, n3)
        Which are inside.

    Attributes
    ----------
    cells : ndarray of bool
        As given.
    places : ndarray of int64, shape (n,)
        Positions of the cells inside in the grid, in C order: the numbering of vectors.

    Raises
    ------
    Invalid
        If there are not two or three axes, or no cell is inside.

    Notes
    -----
    (A u)_i = 2 d u_i - sum of u_j over the neighbours j of i inside, times the square of the grid spacing:
    of no unit. Fields on the grid are zero outside, before and after.
    """

    def __init__(self, cells: np.ndarray) -> None:
        if cells.ndim not in (2, 3) or not cells.any():
            raise Invalid(
                f"a domain has two or three axes and at least one cell, got shape {cells.shape} with "
                f"{int(cells.sum())} cells"
            )
        self.cells = np.asarray(cells, dtype=bool)
        self.places = np.flatnonzero(self.cells)
        self._tensors: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    @classmethod
    def of(cls, domain: Domain) -> Poisson:
        """The operator of a domain."""
        return cls(domain.cells())

    def apply(self, u: np.ndarray) -> np.ndarray:
        """A u; shape (..., grid), zero outside.

        Notes
        -----
        O(d n) operations; no matrix is stored.
        """
        d = self.cells.ndim
        y: np.ndarray = 2 * d * u
        for axis in range(u.ndim - d, u.ndim):
            ahead, behind = [slice(None)] * u.ndim, [slice(None)] * u.ndim
            ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
            y[tuple(ahead)] -= u[tuple(behind)]
            y[tuple(behind)] -= u[tuple(ahead)]
        return np.where(self.cells, y, 0.0)

    def product(self, u: Tensor) -> Tensor:
        """A u with what is outside taken as zero; shape (batch, 1, grid), differentiable."""
        mask, stencil = self._on(u)
        convolve = nn.functional.conv2d if self.cells.ndim == 2 else nn.functional.conv3d
        return mask * convolve(mask * u, stencil, padding=1)

    def mask(self, u: Tensor) -> Tensor:
        """1 inside and 0 outside, shape (1, 1, grid), of the device and dtype of `u`."""
        return self._on(u)[0]

    def _on(self, u: Tensor) -> tuple[Tensor, Tensor]:
        key = (u.device, u.dtype)
        if key not in self._tensors:
            d = self.cells.ndim
            stencil = torch.zeros((3,) * d)
            stencil[(1,) * d] = 2 * d
            for axis in range(d):
                for side in (0, 2):
                    stencil[tuple(side if a == axis else 1 for a in range(d))] = -1
            mask = torch.from_numpy(self.cells)
            self._tensors[key] = mask[None, None].to(u), stencil[None, None].to(u)
        return self._tensors[key]

    def matrix(self) -> Any:
        """The same as a `scipy.sparse.csr_matrix`, shape (n, n), of the cells inside in C order."""
        from scipy import sparse

        d, n = self.cells.ndim, len(self.places)
        number = np.full(self.cells.shape, -1, dtype=np.int32)
        number[self.cells] = np.arange(n)
        rows, columns = [np.arange(n)], [np.arange(n)]
        values = [np.full(n, 2.0 * d)]
        for axis in range(d):
            one = number.take(np.arange(1, self.cells.shape[axis]), axis).ravel()
            other = number.take(np.arange(self.cells.shape[axis] - 1), axis).ravel()
            both = (one >= 0) & (other >= 0)
            rows += [one[both], other[both]]
            columns += [other[both], one[both]]
            values += 2 * [np.full(int(both.sum()), -1.0)]
        made = sparse.coo_matrix(
            (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(n, n)
        ).tocsr()
        made.sort_indices()
        return made

    def scatter(self, values: np.ndarray) -> np.ndarray:
        """Numbers of the cells inside, shape (..., n), as fields on the grid."""
        found = np.zeros((*values.shape[:-1], self.cells.size), dtype=values.dtype)
        found[..., self.places] = values
        return found.reshape(*values.shape[:-1], *self.cells.shape)

    def gather(self, field: np.ndarray) -> np.ndarray:
        """Fields on the grid as numbers of the cells inside, shape (..., n)."""
        return field.reshape(*field.shape[: field.ndim - self.cells.ndim], -1)[..., self.places]
