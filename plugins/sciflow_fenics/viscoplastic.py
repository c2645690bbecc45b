"""Cyclic loading of an elasto-viscoplastic plate with a hole: Newton's method step by step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.artifact.share import Share
from sciflow.errors import Diverged
from sciflow.problem import Part, State
from sciflow_fenics import compat
from sciflow_fenics.kept import kept
from sciflow_fenics.lattice import communicator, square
from sciflow_fenics.plate import nodes, pull, quadratic, supports
from sciflow_fenics.quadrature import Elements, Ghosts, shapes, triangles
from sciflow_fenics.steady_heat import norms
from sciflow_fenics.stiffness import Stiffness

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow.reduction import Law
    from sciflow_fenics.weak_forms import ElastoViscoplastic

NEWTON = 25
"""Largest number of Newton steps."""
HALVINGS = 4
"""How often a correction that does not make the residual smaller is halved."""
TOLERANCE = 1e-8
"""Norm of the residual over that of the largest load."""


class Plate:
    """Mesh, strains and stiffness of a configuration.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Ranks that share the mesh.
    cells : int
        Along each side of the lattice.
    side, hole : float
        m.
    """

    def __init__(self, comm: Any, cells: int, side: float, hole: float) -> None:
        space = compat.function_space(square(comm, cells, 1.0), 2)
        found = triangles(space, cells, 2)
        at = nodes(cells, side, hole).reshape(-1, 2)[found.corners]
        _, gradients, weights = shapes(at, 2)
        ghosts = Ghosts(comm, space.dofmap.index_map, 2)
        blocks = strain_blocks(gradients)
        dofs = both(found.dofs)
        rows = both(found.index[:, None]).reshape(-1)
        kind = f"quarter plate {side} {hole}, {cells} cells, vector Lagrange 2, 3 points"
        loads = pull(cells, side)[rows[: ghosts.owned], None]
        self.form = Elements(
            comm,
            ghosts,
            blocks,
            dofs,
            found.order,
            at,
            weights,
            rows[: ghosts.owned],
            loads,
            hashlib.sha256(kind.encode()).hexdigest(),
        )
        self.stiffness = Stiffness(self.form, ghosts, blocks, dofs, supports(cells)[rows], 2)
        self.comm, self.load = comm, norms(comm, loads[:, 0])[0]

    def step(
        self, law: Law, u: np.ndarray, history: np.ndarray, force: float, largest: float, step: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Equilibrium at the end of a step by Newton's method.

        Parameters
        ----------
        law : Law
            At this rank's points.
        u : ndarray, shape (row,)
            Where to begin, m.
        history : ndarray, shape (point, variable)
            At the end of the last step.
        force : float
            Traction, Pa.
        largest : float
            That which the residual is compared with, Pa.
        step : int
            For the law.

        Returns
        -------
        u, stress, history : ndarray
            At the end of the step.
        newton : int
            Linear solves.

        Raises
        ------
        Diverged
            On every rank alike.
        """
        free, load = self.stiffness.free, force * self.form.loads[:, 0]
        last, change, shorter, newton = np.inf, np.zeros_like(u), 0, 0
        while True:
            strain = self.form.strains(u[:, None])[:, :, 0]
            stress, tangent, after = self._respond(law, strain, history, step)
            residual = np.where(free, self.stiffness.force(stress) - load, 0.0)
            size = norms(self.comm, residual)[0]
            if size <= TOLERANCE * largest * self.load:
                return u, stress, after, newton
            if not size < last and shorter < HALVINGS:
                change, shorter = change / 2, shorter + 1
                u = u + change
                continue
            if newton == NEWTON or not np.isfinite(size):
                raise Diverged(
                    f"Newton's method did not converge in {newton} steps, last residual {size:.2e} N/m, "
                    f"load {largest * self.load:.2e} N/m"
                )
            change, last, shorter, newton = self.stiffness.correction(tangent, residual), size, 0, newton + 1
            u = u - change

    def _respond(
        self, law: Law, strain: np.ndarray, history: np.ndarray, step: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The law at this rank's points; its failure on one rank is that of all."""
        if self.comm.size == 1:
            return law(strain, history, step)
        failure, found = "", None
        try:
            found = law(strain, history, step)
        except Diverged as error:
            failure = str(error)
        first = next((text for text in self.comm.allgather(failure) if text), "")
        if first or found is None:
            raise Diverged(first)
        return found


def both(scalar: np.ndarray) -> np.ndarray:
    """Numbers of the two displacements at nodes, shape (..., node): the last axis becomes twice as long."""
    return (2 * scalar[..., None] + np.arange(2)).reshape(*scalar.shape[:-1], -1)


def strain_blocks(gradients: np.ndarray) -> np.ndarray:
    """Strains xx, yy and twice xy of the displacements at the nodes of each cell.

    Parameters
    ----------
    gradients : ndarray, shape (cell, 3, local, 2)
        Of the shape functions, one over m.

    Returns
    -------
    ndarray, shape (cell, 9, 2 * local)
    """
    cells, points, local, _ = gradients.shape
    blocks = np.zeros((cells, points, 3, local, 2))
    blocks[:, :, 0, :, 0] = blocks[:, :, 2, :, 1] = gradients[..., 0]
    blocks[:, :, 1, :, 1] = blocks[:, :, 2, :, 0] = gradients[..., 1]
    return blocks.reshape(cells, 3 * points, 2 * local)


def plate(problem: ElastoViscoplastic, ctx: Context) -> Plate:
    """Mesh and stiffness on these ranks, kept for the next member; they do not depend on the cycles."""
    comm = communicator(ctx)
    key = ("plate", problem.cells, problem.side, problem.hole)
    return kept(comm, key, lambda: Plate(comm, problem.cells, problem.side, problem.hole))


def integrals(problem: ElastoViscoplastic, ctx: Context) -> Elements:
    """See `Reducible.integrals`."""
    return plate(problem, ctx).form


def solve(
    problem: ElastoViscoplastic,
    mu: Mapping[str, float],
    ctx: Context,
    restart: Mapping[str, np.ndarray] | None = None,
) -> Iterator[State]:
    """Stream all steps, or those after a restart point; see `Problem.solve`."""
    mu = problem.checked(mu)
    system = plate(problem, ctx)
    form = system.form
    law = problem.law(form.points, mu)
    largest = mu["amplitude"] + abs(mu["mean"])
    u = before = np.zeros(len(form.rows))
    history, first = problem.start(len(form.places)), 0
    if restart is not None:
        u, before, history = restart["u"], restart["before"], restart["history"]
        first = int(restart["step"])
    places = (4 * form.places[:, None] + np.arange(4)).reshape(-1)
    for step, time in enumerate(problem.steps()):
        if step < first:
            continue
        guess = 2 * u - before
        force = float(problem.load(mu, step)[0])
        try:
            found, stress, history, newton = system.step(law, guess, history, force, largest, step)
        except Diverged as error:
            raise Diverged(f"step {step}: {error}") from None
        u, before = found, u
        fields: dict[str, Part | Share] = {
            "displacement": Share(u, form.rows),
            "cumulated": Share(problem.observe("cumulated", stress, history), form.places),
            "stress": Part(places, problem.observe("stress", stress, history).reshape(-1)),
        }
        saved: Callable[[], dict[str, np.ndarray]] = partial(
            dict, u=u, before=before, history=history, step=np.array(step + 1)
        )
        yield State(float(time), fields, {"newton": newton}, saved)


def mesh(problem: ElastoViscoplastic) -> dict[str, np.ndarray]:
    """Positions of the mesh's nodes, of the displacements and of the integration points.

    Returns
    -------
    mapping
        ``node`` (node, 2), ``dof`` (dof, 2), ``point`` (point, 2), m, and ``triangles`` (face, 3).
    """
    from sciflow_fenics.lattice import mesh_arrays
    from sciflow_fenics.quadrature import BARYCENTRIC

    corners = nodes(problem.cells, problem.side, problem.hole)
    triangles_ = mesh_arrays(problem.cells, 1, 1.0, "1")["triangles"][1]
    at = corners.reshape(-1, 2)[np.sort(triangles_, axis=1)]
    return {
        "node": corners.reshape(-1, 2),
        "dof": np.repeat(quadratic(corners).reshape(-1, 2), 2, axis=0),
        "point": np.einsum("pa,cad->cpd", BARYCENTRIC, at).reshape(-1, 2),
        "triangles": triangles_,
    }
