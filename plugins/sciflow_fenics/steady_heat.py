"""Steady heat conduction that stiffens with the temperature: Newton's method, sparse LU, weak form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import ufl
from dolfinx import fem
from petsc4py import PETSc

from sciflow.errors import Diverged
from sciflow.guess import first_guess
from sciflow.linear_solver import ROWS, Plain, Solving, wrapped
from sciflow.problem import Part, State
from sciflow_fenics import compat
from sciflow_fenics.kept import kept
from sciflow_fenics.lattice import communicator, lattice_index, on_rim, square
from sciflow_fenics.laws import WIDTH, gaussian
from sciflow_fenics.quadrature import Elements, nodal

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow_fenics.weak_forms import SteadyHeat

NEWTON = 40
"""Largest number of Newton steps."""
TOLERANCE = 1e-6
"""Of the Newton correction, relative; what is left is about its square."""


class SteadyConduction:
    """``-div((1 + u^2) grad u) = q`` on the unit square with u = 0 on its boundary.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Ranks that share the mesh.
    cells : int
        Along each side.

    Notes
    -----
    Find u with ``((1 + u^2) grad u, grad v) = (q, v)`` by Newton's method with the exact derivative
    from u = 0 or a guess; three integration points in each triangle. Each iteration costs an assembly and
    the numbers of an LU; its ordering and pattern are found once.

    Attributes
    ----------
    steps : int
        Newton steps since `begin`, those of an attempt that failed included.
    """

    def __init__(self, comm: Any, cells: int) -> None:
        self.mesh = square(comm, cells, 1.0)
        self.space = V = compat.function_space(self.mesh, 1)
        self.u = fem.Function(V)
        self._point = {n: fem.Constant(self.mesh, PETSc.ScalarType(0.0)) for n in ("x", "y", "amplitude")}
        v, at = ufl.TestFunction(V), ufl.SpatialCoordinate(self.mesh)
        distance = (at[0] - self._point["x"]) ** 2 + (at[1] - self._point["y"]) ** 2
        source = self._point["amplitude"] * ufl.exp(-distance / (2 * WIDTH**2))
        dx = ufl.Measure("dx", domain=self.mesh, metadata={"quadrature_degree": 2})
        residual = ((1 + self.u**2) * ufl.inner(ufl.grad(self.u), ufl.grad(v)) - source * v) * dx
        self._residual, self._jacobian = fem.form(residual), fem.form(ufl.derivative(residual, self.u))
        rim = fem.locate_dofs_geometrical(V, on_rim(1.0))
        self.owned = V.dofmap.index_map.size_local
        self.rim = rim[rim < self.owned]
        self._fixed = [fem.dirichletbc(PETSc.ScalarType(0.0), rim, V)]
        self._matrix = compat.create_matrix(self._jacobian)
        self._vector, self._change = compat.create_vector(V), compat.create_vector(V)
        self.ksp = linear_solver(comm, self._matrix)
        self._first: Any = None
        self.steps = 0
        self.at = V.tabulate_dof_coordinates()[: self.owned]
        self.index = lattice_index(self.at, cells + 1, 1.0)
        place = PETSc.IS().createGeneral(self.index.astype(PETSc.IntType), comm=comm)
        self._matrix.compose(ROWS, place)

    def begin(self, mu: Mapping[str, float], guess: np.ndarray | None = None) -> bool:
        """Set the source, and the temperature: to the guess if that is nearer to the solution than zero.

        Parameters
        ----------
        mu : mapping of str to float
            Centre and amplitude of the source.
        guess : ndarray, shape (cells + 1, cells + 1), or None
            At the nodes, by row; taken as zero on the boundary.

        Returns
        -------
        bool
            Whether the guess was taken.

        Notes
        -----
        How far away u is is measured by the size of ``J(0)^-1 F(u)``, with the residual F and its
        derivative J(0) at zero, which is the same for all sources and is factorised once. Unlike the
        residual itself it is not dominated by what is rough in a guess, which Newton's method removes in a
        step. Costs two assemblies of the residual and two solves with that factor.

        References
        ----------
        P. Deuflhard, "Newton Methods for Nonlinear Problems", Springer 2004, section 3.3, on natural
        monotonicity.
        """
        for name, constant in self._point.items():
            constant.value = mu[name]
        self.steps = 0
        self.u.x.array[:] = 0.0
        if guess is None:
            return False
        farthest = self._distance()
        self.u.x.array[: self.owned] = guess.reshape(-1)[self.index]
        self.u.x.array[self.rim] = 0.0
        self.u.x.scatter_forward()
        with np.errstate(over="ignore", invalid="ignore"):
            nearer = self._distance() < farthest
        if not nearer:  # NaN is not
            self.u.x.array[:] = 0.0
        return bool(nearer)

    def _distance(self) -> float:
        """Size of the correction that the derivative at zero gives for the present temperature."""
        if self._first is None:
            now = self.u.x.array.copy()
            self.u.x.array[:] = 0.0
            matrix = compat.create_matrix(self._jacobian)
            compat.assemble_matrix(matrix, self._jacobian, self._fixed)
            self.u.x.array[:] = now
            self._first = linear_solver(self.mesh.comm, matrix)
            if self._first.getType() != "preonly":
                self._first.setTolerances(rtol=1e-2)
        self.residual()[self.rim] = 0.0
        self._first.solve(self._vector, self._change)
        return norms(self.mesh.comm, self._change.array)[0]

    def residual(self) -> np.ndarray:
        """That of the present temperature at this rank's nodes, those of the boundary included.

        Returns
        -------
        ndarray, shape (node,)
            PETSc's own memory.
        """
        compat.assemble_vector(self._vector, self._residual)
        return np.asarray(self._vector.array)

    def solve(self, solving: Solving | None = None) -> int:
        """Newton's method from the present temperature.

        Parameters
        ----------
        solving : Solving or None
            Solves the linear systems, and is told ``newton``, the iteration from 1, and
            ``log_amplitude``, the decimal logarithm of that of the source; None: `linear_solver`.

        Returns
        -------
        int
            Newton steps.

        Raises
        ------
        Diverged
            On every rank alike.
        """
        solving = solving or Plain(self.ksp)
        amplitude = abs(float(self._point["amplitude"].value))
        known = {"log_amplitude": float(np.log10(max(amplitude, 1e-300)))}
        for iteration in range(1, NEWTON + 1):
            self.steps += 1
            compat.assemble_matrix(self._matrix, self._jacobian, self._fixed)
            self.residual()[self.rim] = 0.0
            try:
                solving.solve(self._vector, self._change, {"newton": float(iteration), **known})
            except Diverged as error:
                raise Diverged(f"Newton step {iteration}: {error}") from None
            change = self._change.array
            self.u.x.array[: self.owned] -= change
            self.u.x.scatter_forward()
            size, whole = norms(self.mesh.comm, change, self.u.x.array[: self.owned])
            if not np.isfinite(size) or not np.isfinite(whole):
                raise Diverged(f"Newton's method left the finite numbers in step {iteration}")
            if size <= TOLERANCE * whole or size == 0.0:
                return iteration
        raise Diverged(
            f"Newton's method did not converge in {NEWTON} steps, last correction {size:.2e} of {whole:.2e}"
        )


def linear_solver(comm: Any, matrix: Any) -> Any:
    """A PETSc solver: LU where PETSc has one for these ranks, else GMRES with ILU in each rank's block."""
    solver = PETSc.KSP().create(comm)
    package = compat.direct_solver(comm)
    if package:
        solver.setType("preonly")
        solver.getPC().setType("lu")
        solver.getPC().setFactorSolverType(package)
    else:
        solver.setType("gmres")
        solver.getPC().setType("bjacobi")
        solver.setTolerances(rtol=1e-12, max_it=5000)
    solver.setOperators(matrix)
    return solver


def norms(comm: Any, *owned: np.ndarray) -> list[float]:
    """Euclidean norms of vectors, shape (owned,), that are spread over the ranks; collective."""
    mine = np.array([v @ v for v in owned])
    total = np.empty_like(mine)
    comm.Allreduce(mine, total)
    return [float(v) for v in np.sqrt(total)]


def solve(problem: SteadyHeat, mu: Mapping[str, float], ctx: Context) -> Iterator[State]:
    """Yield the one state; see `Problem.solve`."""
    mu = problem.parameters.checked(mu)
    comm = communicator(ctx)
    system = kept(comm, _mesh(problem), lambda: SteadyConduction(comm, problem.cells))
    guess = None
    if problem.guess is not None:
        row, column = np.divmod(np.arange((problem.cells + 1) ** 2), problem.cells + 1)
        source = gaussian(np.stack([column, row], axis=1) / problem.cells, mu)
        guess = first_guess(problem, mu, ctx, {"source": source.reshape(problem.shape("source"))})
    begun = system.begin(mu, guess)
    solving = wrapped(problem.solver, system.ksp, ctx)
    try:
        system.solve(solving)
    except Diverged as error:
        if not begun:
            raise
        ctx.log.info("from the guess: %s; solving from zero", error)
        before, begun = system.steps, system.begin(mu)
        system.solve(solving)
        system.steps += before
    solving.close()
    fields = {
        "source": Part(system.index, gaussian(system.at, mu)),
        "temperature": Part(system.index, system.u.x.array[: system.owned].copy()),
    }
    taken = {} if problem.guess is None else {"guessed": float(begun)}
    yield State(0.0, fields, {"newton": system.steps, **taken})


def _mesh(problem: SteadyHeat) -> SteadyHeat:
    """All that the forms depend on."""
    return problem.replace(solver=None, guess=None)


def integrals(problem: SteadyHeat, ctx: Context) -> Elements:
    """The weak form on these ranks; see `Reducible.integrals`."""
    comm = communicator(ctx)
    name = f"unit square, {problem.cells} cells, Lagrange 1, 3 points"
    key = (_mesh(problem), "integrals")
    return kept(comm, key, lambda: nodal(comm, problem.cells, 1.0, name))
