"""One implicit step of heat conduction: weak form, Newton's method, PETSc."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import ufl
from dolfinx import fem
from mpi4py import MPI
from petsc4py import PETSc

from sciflow.errors import Diverged
from sciflow.linear_solver import Plain, Solving
from sciflow_fenics import compat
from sciflow_fenics.lattice import on_rim, square

NEWTON = 25
"""Largest number of Newton steps."""
TOLERANCE = 1e-10
"""Of the Newton correction and of the linear solver, relative."""

Values = Callable[[np.ndarray], np.ndarray]
"""Takes coordinates of shape (3, n), gives values of shape (n,)."""


class Conduction:
    """``rho c dT/dt = div(k0 (1 + beta T) grad T) + q`` on a square, one implicit step at a time.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Ranks that share the mesh.
    cells, degree : int
        Of the mesh.
    side : float
        m.
    conductivity : float
        k0, W m-1 K-1.
    capacity : float
        rho c, J m-3 K-1.
    weight : float
        w, that of the end of a step: 1 for implicit Euler, 1/2 for Crank-Nicolson.

    Notes
    -----
    Find T in V with ``(rho c (T - T0) / dt, v) + w a(T; v) + (1 - w) a(T0; v) = w (q, v) + (1 - w)
    (q0, v)`` and ``a(T; v) = (k(T) grad T, grad v)``, by Newton's method with the exact
    derivative. Each step costs an assembly and a GMRES solve with ILU in each rank's block.

    Attributes
    ----------
    capacity : float
        rho c, J m-3 K-1.
    solves, linear : int
        Linear systems solved since it was made, and iterations for them; also where a step failed.
    """

    def __init__(
        self,
        comm: Any,
        cells: int,
        degree: int,
        side: float,
        conductivity: float,
        capacity: float,
        weight: float,
    ) -> None:
        self.mesh = square(comm, cells, side)
        self.space = V = compat.function_space(self.mesh, degree)
        self.rise, self.before = fem.Function(V), fem.Function(V)
        self.source, self.source_before = fem.Function(V), fem.Function(V)
        self._beta = fem.Constant(self.mesh, PETSc.ScalarType(0.0))
        self._dt = fem.Constant(self.mesh, PETSc.ScalarType(1.0))
        self.weight = w = fem.Constant(self.mesh, PETSc.ScalarType(weight))
        v = ufl.TestFunction(V)

        def flow(T: Any) -> Any:
            return conductivity * (1 + self._beta * T) * ufl.inner(ufl.grad(T), ufl.grad(v))

        residual = (
            capacity / self._dt * (self.rise - self.before) * v
            + w * flow(self.rise)
            + (1 - w) * flow(self.before)
            - (w * self.source + (1 - w) * self.source_before) * v
        ) * ufl.dx
        self._residual = fem.form(residual)
        self._jacobian = fem.form(ufl.derivative(residual, self.rise))

        self._rim = fem.locate_dofs_geometrical(V, on_rim(side))
        self._owned = V.dofmap.index_map.size_local
        self._inner_rim = self._rim[self._rim < self._owned]
        self._fixed = fem.dirichletbc(PETSc.ScalarType(0.0), self._rim, V)
        # Lagrange elements interpolate at points: dolfinx's own way there takes longer than a small solve.
        self._points = V.tabulate_dof_coordinates().T
        self.capacity = capacity
        self.solves = self.linear = 0
        self._matrix = compat.create_matrix(self._jacobian)
        self._vector, self._change = compat.create_vector(V), compat.create_vector(V)
        self.ksp = PETSc.KSP().create(self.mesh.comm)
        self.ksp.setType("gmres")
        self.ksp.getPC().setType("bjacobi")
        self.ksp.setTolerances(rtol=TOLERANCE, max_it=500)
        self.ksp.setOperators(self._matrix)
        self.solving: Solving = Plain(self.ksp)
        self._smoothing = conductivity / (capacity * (side / (cells * degree)) ** 2)

    def begin(
        self,
        beta: float,
        initial: Values | np.ndarray,
        source: Values | np.ndarray,
        solving: Solving | None = None,
    ) -> None:
        """Set everything that a step depends on; nothing of an earlier member is left.

        Parameters
        ----------
        beta : float
            K-1.
        initial : callable or ndarray
            Rise at the start, K; an array holds the degrees of freedom that this rank owns.
        source : callable or ndarray
            Heat source, W m-3; an array as for `initial`.
        solving : Solving or None
            Solves the linear systems; None: the solver that was made here.
        """
        self._beta.value = beta
        self.solving = solving if solving is not None else Plain(self.ksp)
        self._set(self.rise, initial)
        self._set(self.source, source)
        self.source_before.x.array[:] = self.source.x.array

    def _set(self, function: Any, values: Values | np.ndarray) -> None:
        if isinstance(values, np.ndarray):
            function.x.array[: self._owned] = values
        else:
            function.interpolate(values)
        function.x.scatter_forward()

    def interpolated(self, values: Values) -> np.ndarray:
        """A function of the coordinates at the degrees of freedom that this rank owns."""
        return np.asarray(values(self._points[:, : self._owned]), dtype=np.float64)

    @property
    def inner(self) -> np.ndarray:
        """1 at the degrees of freedom that this rank owns and that are solved for, 0 on the boundary."""
        inside = np.ones(self._owned)
        inside[self._inner_rim] = 0.0
        return inside

    def step(
        self,
        dt: float,
        boundary: Values,
        source: Values | np.ndarray | None = None,
        guess: np.ndarray | None = None,
    ) -> tuple[int, int]:
        """Advance by one time step.

        Parameters
        ----------
        dt : float
            s.
        boundary : callable
            Rise on the boundary at the end of the step, K.
        source : callable, ndarray or None
            Source at the end of the step, W m-3; None keeps the last one.
        guess : ndarray, shape (unknown,), or None
            Where Newton's method begins, K, at the degrees of freedom that this rank owns; None: at the
            beginning of the step.

        Returns
        -------
        newton, linear : int
            Iterations.

        Raises
        ------
        Diverged
            On every rank alike.
        """
        self._dt.value = dt
        self.before.x.array[:] = self.rise.x.array
        if source is not None:
            self.source_before.x.array[:] = self.source.x.array
            self._set(self.source, source)
        if guess is not None:
            self.rise.x.array[: self._owned] = guess
        self.rise.x.array[self._rim] = boundary(self._points[:, self._rim])
        self.rise.x.scatter_forward()
        linear = 0
        for iteration in range(1, NEWTON + 1):
            linear += self._correct(self.features(dt, iteration))
            size, whole = self._norm(self._change.array), self._norm(self.rise.x.array[: self._owned])
            if not np.isfinite(size) or not np.isfinite(whole):
                raise Diverged(f"Newton's method left the finite numbers in iteration {iteration}")
            if size <= TOLERANCE * max(whole, 1e-30) or size == 0.0:
                self._positive()
                return iteration, linear
        raise Diverged(
            f"Newton's method did not converge in {NEWTON} iterations, "
            f"last correction {size:.2e} of {whole:.2e} K"
        )

    def features(self, dt: float, newton: int) -> dict[str, float]:
        """What a linear solver is told of a system.

        Parameters
        ----------
        dt : float
            s.
        newton : int
            Iteration, from 1.

        Returns
        -------
        dict
            ``dt`` in s; ``beta`` in K-1: where it is not 0, the matrix is not symmetric; ``newton``; and
            ``log_diffusion = log10(w dt k0 / (rho c h^2))`` with the distance h of the unknowns.
        """
        number = float(self.weight.value) * dt * self._smoothing
        beta = float(self._beta.value)
        return {"dt": dt, "beta": beta, "newton": float(newton), "log_diffusion": float(np.log10(number))}

    def _correct(self, features: Mapping[str, float]) -> int:
        """One Newton correction; returns the linear iterations."""
        compat.assemble_matrix(self._matrix, self._jacobian, [self._fixed])
        compat.assemble_vector(self._vector, self._residual)
        self._vector.array[self._inner_rim] = 0.0
        self.solves += 1
        iterations = self.solving.solve(self._vector, self._change, features)
        self.linear += iterations
        self.rise.x.array[: self._owned] -= self._change.array
        self.rise.x.scatter_forward()
        return iterations

    def _norm(self, owned: np.ndarray) -> float:
        """Euclidean norm over all ranks; PETSc's own is cached and misses changes through numpy."""
        total = np.empty(1)
        self.mesh.comm.Allreduce(np.array([owned @ owned]), total)
        return float(np.sqrt(total[0]))

    def _positive(self) -> None:
        mine = 1 + float(self._beta.value) * self.rise.x.array[: self._owned]
        lowest = np.empty(1)
        self.mesh.comm.Allreduce(np.array([mine.min(initial=np.inf)]), lowest, op=MPI.MIN)
        if lowest[0] <= 0:
            raise Diverged(f"the conductivity falls to {lowest[0]:.3g} of its reference value")
