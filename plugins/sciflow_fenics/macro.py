"""Equilibrium of a structure whose law is homogenised: load steps, Newton's method, all points at once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.context import exchange
from sciflow.errors import Diverged, Invalid
from sciflow_fenics import compat
from sciflow_fenics.lattice import communicator, square
from sciflow_fenics.quadrature import Elements, Ghosts, shapes, triangles
from sciflow_fenics.steady_heat import norms
from sciflow_fenics.stiffness import Stiffness
from sciflow_fenics.viscoplastic import both, strain_blocks

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow.homogenisation import Homogenised
    from sciflow_fenics.structures import Structure

NEWTON = 20
"""Largest number of Newton steps for one load."""
HALVINGS = 4
"""How often a correction that does not make the residual smaller is halved."""
TOLERANCE = 1e-8
"""Norm of the residual over that of the largest load."""


@dataclass(frozen=True)
class Step:
    """The structure at the end of a load step, on this rank's part.

    Attributes
    ----------
    u : ndarray, shape (row,)
        mm.
    strain, stress : ndarray, shape (point, 3)
        1, MPa.
    displacement : float
        Of the loaded edge in the direction of the load, its mean, mm.
    residuals : tuple of float
        Norm over that of the largest load, before each Newton step and at the end.
    calls : int
        Evaluations of the law on all ranks, points times sweeps.
    micro, macro : float
        Seconds in the law, on the rank that took longest, and elsewhere.
    """

    u: np.ndarray
    strain: np.ndarray
    stress: np.ndarray
    displacement: float
    residuals: tuple[float, ...]
    calls: int
    micro: float
    macro: float


class Macro:
    """Mesh, strains and stiffness of a structure on the ranks that share it.

    Parameters
    ----------
    structure : Structure
        Which.
    ctx : Context
        Its ``comm`` shares the mesh.

    Attributes
    ----------
    form : Elements
        Points and strains.
    count : int
        Points on all ranks.
    """

    def __init__(self, structure: Structure, ctx: Context) -> None:
        self.comm: Any = communicator(ctx)
        self._ctx = ctx
        cells = structure.cells
        space = compat.function_space(square(self.comm, cells, 1.0), 2)
        found = triangles(space, cells, 2)
        at = structure.corners().reshape(-1, 2)[found.corners]
        _, gradients, weights = shapes(at, 2)
        ghosts = Ghosts(self.comm, space.dofmap.index_map, 2)
        blocks, dofs = strain_blocks(gradients), both(found.dofs)
        rows = both(found.index[:, None]).reshape(-1)
        mine = rows[: ghosts.owned]
        loads = structure.load()[mine, None]
        mesh = hashlib.sha256(repr(structure).encode()).hexdigest()
        self.form = Elements(self.comm, ghosts, blocks, dofs, found.order, at, weights, mine, loads, mesh)
        self.stiffness = Stiffness(self.form, ghosts, blocks, dofs, structure.fixed()[rows], 2)
        self.count = 6 * cells * cells
        self._size = norms(self.comm, np.where(self.stiffness.free, loads[:, 0], 0.0))[0]

    def march(self, law: Homogenised, forces: np.ndarray) -> Iterator[Step]:
        """Equilibria under growing forces.

        Parameters
        ----------
        law : Homogenised
            Of every point of this rank.
        forces : ndarray, shape (step,)
            N/mm.

        Yields
        ------
        Step

        Raises
        ------
        Diverged
            On every rank alike, naming the step.

        Notes
        -----
        Each step begins at the displacement that the last two extrapolate to. An iteration is one
        `Homogenised.respond` for all points of the rank, an assembly and an LU.
        """
        u = before = np.zeros(len(self.form.rows))
        largest = float(np.abs(forces).max())
        for number, force in enumerate(forces):
            guess = 2 * u - before if number else u
            try:
                step = self._step(law, guess, float(force), largest)
            except Diverged as error:
                raise Diverged(
                    f"load step {number + 1} of {len(forces)}, {force:.4g} N/mm: {error}"
                ) from None
            u, before = step.u, u
            yield step

    def _step(self, law: Homogenised, u: np.ndarray, force: float, largest: float) -> Step:
        began, micro, sweeps = time.perf_counter(), 0.0, 0
        free, load = self.stiffness.free, force * self.form.loads[:, 0]
        residuals: list[float] = []
        last, change, shorter, newton = np.inf, np.zeros_like(u), 0, 0
        while True:
            strain = self.form.strains(u[:, None])[:, :, 0]
            start = time.perf_counter()
            stress, tangent = self._respond(law, strain)
            micro, sweeps = micro + time.perf_counter() - start, sweeps + 1
            residual = np.where(free, self.stiffness.force(stress) - load, 0.0)
            size = norms(self.comm, residual)[0] / (largest * self._size)
            if size <= TOLERANCE:
                break
            if not size < last and shorter < HALVINGS:
                change, shorter = change / 2, shorter + 1
                u = u + change
                continue
            residuals.append(size)
            if newton == NEWTON or not np.isfinite(size):
                raise Diverged(
                    f"Newton's method did not converge in {newton} steps, residual {size:.2e} of the load"
                )
            change, last, shorter = self.stiffness.correction(tangent, residual), size, 0
            u, newton = u - change, newton + 1
        slowest = self._largest(micro)
        return Step(
            u=u,
            strain=strain,
            stress=stress,
            displacement=self._sum(float(self.form.loads[:, 0] @ u)),
            residuals=(*residuals, size),
            calls=sweeps * self.count,
            micro=slowest,
            macro=max(0.0, time.perf_counter() - began - slowest),
        )

    def _respond(self, law: Homogenised, strain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The law at this rank's points; its failure on one rank is that of all."""
        failure, found = "", None
        try:
            if not np.isfinite(strain).all():
                raise Diverged("Newton's method left the finite numbers")
            found = law.respond(strain)
            failure = self._fault(strain, *found)
        except (Diverged, Invalid) as error:
            failure = str(error)
        first = next((text for text in exchange(self.comm, failure) if text), "")
        if first or found is None:
            raise Diverged(first)
        return found

    def _fault(self, strain: np.ndarray, stress: np.ndarray, tangent: np.ndarray) -> str:
        """What is wrong with an answer, and at which point; empty if nothing is."""
        finite = np.isfinite(stress).all(axis=1) & np.isfinite(tangent).all(axis=(1, 2))
        if finite.all():
            least = np.linalg.eigvalsh((tangent + tangent.transpose(0, 2, 1)) / 2)[:, 0]
            if not len(least) or least.min() > 0:
                return ""
            worst = int(least.argmin())
            words = f"a tangent that is not positive definite (eigenvalue {least[worst]:.3g} MPa)"
        else:
            worst, words = int(finite.argmin()), "stresses or tangents that are not finite"
        shown = ", ".join(f"{v:.4g}" for v in strain[worst])
        x, y = self.form.points[worst]
        return (
            f"the law gives {words} at point {self.form.places[worst]} (x = {x:.4g} mm, y = {y:.4g} mm), "
            f"strain ({shown})"
        )

    def _sum(self, mine: float) -> float:
        return float(self.comm.allreduce(mine))

    def _largest(self, mine: float) -> float:
        return float(max(self.comm.allgather(mine)))

    def whole(self, index: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
        """Values of all ranks in an order that does not depend on them; collective.

        Parameters
        ----------
        index : ndarray of int64, shape (n,)
            Positions of this rank's values: ``form.rows`` or ``form.places``.
        values : ndarray, shape (n, ...)
        size : int
            Positions in all.
        """
        mine = np.zeros((size, *values.shape[1:]))
        mine[index] = values
        found = np.empty_like(mine)
        self.comm.Allreduce(mine, found)
        return found
