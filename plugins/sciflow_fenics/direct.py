"""What a cell problem gives: its solution, its weak form, and its law for many macroscopic points."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from sciflow.errors import Invalid
from sciflow.homogenisation import Homogenised
from sciflow.problem import State
from sciflow.reduction import Integrals
from sciflow_fenics.cell import Cell, cell

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow_fenics.rve import RVE


class CellIntegrals(Integrals):
    """`Integrals` of a cell on one rank: the unknowns are all nodes' values.

    Parameters
    ----------
    grid : Cell
        The mesh.
    ctx : Context
        Of one rank.
    """

    def __init__(self, grid: Cell, ctx: Context) -> None:
        self.comm, self._grid = ctx.comm, grid
        count = 2 * len(grid.nodes)
        self.rows, self.places = np.arange(count), np.arange(len(grid.points))
        self.points, self.weights, self.loads = grid.points, grid.weights, np.zeros((count, 0))
        kind = f"periodic unit cell, {grid.cells} cells, vector Q1 with mean dilatation, 4 points"
        self.mesh = hashlib.sha256(kind.encode()).hexdigest()

    def strains(self, vectors: np.ndarray) -> np.ndarray:
        """See `Integrals.strains`."""
        return self._grid.strains(np.asarray(vectors, dtype=np.float64))


def _alone(problem: RVE, ctx: Context) -> Cell:
    if ctx.comm.size > 1:
        raise Invalid(
            f"{problem.name} is solved on one rank, there are {ctx.comm.size}: a cell is small; "
            "give each member one rank and let more members run at the same time"
        )
    return cell(problem.cells)


def integrals(problem: RVE, ctx: Context) -> CellIntegrals:
    """See `Reducible.integrals`."""
    return CellIntegrals(_alone(problem, ctx), ctx)


def solve(problem: RVE, mu: Mapping[str, float], ctx: Context) -> Iterator[State]:
    """Yield the one state; see `Problem.solve`."""
    strain = problem.macroscopic(mu)
    grid = _alone(problem, ctx)
    u, stress, _, newton = grid.solve(problem.material(grid.points), strain, np.zeros(grid.size))
    fields = {
        "fluctuation": grid.whole(u),
        "stress": stress,
        "homogenised": grid.weights @ stress,
    }
    yield State(0.0, fields, {"newton": newton})


class Direct(Homogenised):
    """Solves the cell at every macroscopic point: the full computation on two scales (FE2).

    Parameters
    ----------
    problem : RVE
        The cell.

    Attributes
    ----------
    newton : int
        Factorisations so far.

    Notes
    -----
    Each point begins where the last answer for the point of the same number ended, moved along its
    derivative to the new strain. The tangent is the condensed one, exact in equilibrium. A point keeps
    four vectors of unknowns.
    """

    def __init__(self, problem: RVE) -> None:
        self._problem, self._grid = problem, cell(problem.cells)
        self._law = problem.material(self._grid.points)
        self._last: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self.newton = 0

    def respond(self, strain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Homogenised.respond`."""
        stress, tangent = np.empty(strain.shape), np.empty((len(strain), 3, 3))
        for i, mean in enumerate(strain):
            stress[i], tangent[i] = self._one(i, mean)
        return stress, tangent

    def _one(self, i: int, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        grid = self._grid
        begin = np.zeros(grid.size)
        if i in self._last:
            before, u, change = self._last[i]
            begin = u + change @ (mean - before)
        u, stress, tangent, newton = grid.solve(self._law, mean, begin)
        condensed, change = grid.condensed(tangent, grid.factorised(tangent))
        self._last[i] = (mean.copy(), u, change)
        self.newton += newton + 1
        return grid.weights @ stress, condensed

    def bounds(self) -> np.ndarray | None:
        """Without limits: the cell is solved, whatever the strain."""
        return None
