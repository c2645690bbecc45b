"""Coordinates: the snapshots of an ensemble in an orthonormal basis of their span."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Coordinates:
    """Snapshots ``S = Q R`` with ``Q^T M Q = I``: what is computed from ``R`` needs no snapshots.

    Attributes
    ----------
    triangle : ndarray of float64, shape (rank, column)
        ``R``. Inner products of its columns are those of the snapshots.
    members : ndarray of int64, shape (column,)
        The member of the ensemble that each column belongs to. One member's columns are consecutive.
    levels : ndarray of int64, shape (column,)
        The time level of each column; -1 for a column that holds all levels of its member, one below
        the other, and for a steady field.
    points : ndarray of float64, shape (column, parameter)
        The parameters of each column's member.
    floor : float
        Size, relative to the largest singular value, below which singular values are noise.
    logarithmic : tuple of bool
        Which parameters are spread evenly in the logarithm.
    """

    triangle: np.ndarray
    members: np.ndarray
    levels: np.ndarray
    points: np.ndarray
    floor: float
    logarithmic: tuple[bool, ...] = ()

    def take(self, columns: np.ndarray) -> Coordinates:
        """Some columns, by their positions in the order given, or by a mask of shape (column,)."""
        return Coordinates(
            self.triangle[:, columns],
            self.members[columns],
            self.levels[columns],
            self.points[columns],
            self.floor,
            self.logarithmic,
        )

    def of(self, members: np.ndarray) -> Coordinates:
        """The columns of some members, shape (n,), in the order of the columns here."""
        return self.take(np.isin(self.members, members))

    @cached_property
    def norms(self) -> np.ndarray:
        """Norm of each snapshot, shape (column,), in the unit of the field and the product."""
        return np.asarray(np.linalg.norm(self.triangle, axis=0))

    @cached_property
    def gram(self) -> np.ndarray:
        """Inner products of the snapshots, shape (column, column)."""
        return np.asarray(self.triangle.T @ self.triangle)

    @cached_property
    def groups(self) -> list[np.ndarray]:
        """Columns of each member, in the order in which members first occur."""
        order = np.sort(np.unique(self.members, return_index=True)[1])
        return [np.flatnonzero(self.members == m) for m in self.members[order]]

    @cached_property
    def scaled_points(self) -> np.ndarray:
        """One row per member (as in `groups`): parameters, logarithms where they are spread in them.

        Returns
        -------
        ndarray, shape (member, parameter)
            With zero mean and unit spread.
        """
        rows = self.points[[g[0] for g in self.groups]].astype(np.float64)
        for column, logarithmic in enumerate(self.logarithmic):
            if logarithmic:
                rows[:, column] = np.log(rows[:, column])
        spread = rows.std(axis=0)
        return np.asarray((rows - rows.mean(axis=0)) / np.where(spread > 0, spread, 1.0))
