"""Steady Darcy flow through a log-normal medium sampled by circulant embedding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import ufl
from dolfinx import fem
from petsc4py import PETSc

from sciflow.artifact.share import Share
from sciflow.errors import Diverged, Invalid
from sciflow.guess import first_guess
from sciflow.linear_solver import ROWS, Plain, Solving, wrapped
from sciflow.problem import Part, State
from sciflow_fenics import compat
from sciflow_fenics.kept import kept
from sciflow_fenics.lattice import (
    DofOrder,
    Sampler,
    communicator,
    lattice_index,
    on_rim,
    resampled,
    square,
)

if TYPE_CHECKING:
    from sciflow.context import Context
    from sciflow_fenics.components import Darcy

LARGEST = 16
"""How many times larger than the domain the torus of the embedding may become, per side."""

SPREAD = 1e30
"""Largest and one over the smallest permeability; float32, in which it is stored, ends at 3e38."""


def covariance(distance: np.ndarray, length: float) -> np.ndarray:
    """Matern correlation of smoothness 3/2.

    Parameters
    ----------
    distance : ndarray, any shape
        In units of `length`'s unit.
    length : float
        Correlation length.

    Returns
    -------
    ndarray
        ``(1 + s) exp(-s)`` with ``s = sqrt(3) distance / length``.
    """
    s = np.sqrt(3) * distance / length
    return np.asarray((1 + s) * np.exp(-s))


def spectrum(points: int, length: float) -> np.ndarray:
    """Eigenvalues of the smallest torus covariance that is positive semi-definite.

    Parameters
    ----------
    points : int
        Lattice points along each side of the unit square.
    length : float
        Correlation length over the side.

    Returns
    -------
    ndarray, shape (n, n)
        Not negative; n is at least twice ``points - 1``.

    Raises
    ------
    Invalid
        If no torus up to `LARGEST` times the domain is large enough.

    References
    ----------
    C. R. Dietrich and G. N. Newsam, "Fast and exact simulation of stationary Gaussian processes
    through circulant embedding of the covariance matrix", SIAM J. Sci. Comput. 18 (1997), section 3.
    """
    h = 1.0 / (points - 1)
    size = 2 * (points - 1)
    while size <= LARGEST * (points - 1):
        step = np.minimum(np.arange(size), size - np.arange(size)) * h
        values = np.fft.fft2(covariance(np.hypot(step[:, None], step[None, :]), length)).real
        # What is negative here is round-off of the FFT; a truly negative eigenvalue asks for a larger torus.
        if values.min() >= -1e-12 * values.max():
            return np.maximum(values, 0.0)
        size *= 2
    raise Invalid(
        f"a correlation length of {length} sides is too long for circulant embedding on this lattice"
    )


def gaussian_field(points: int, length: float, rng: np.random.Generator) -> np.ndarray:
    """A stationary Gaussian field of unit variance on a lattice of the unit square.

    Parameters
    ----------
    points : int
        Lattice points along each side.
    length : float
        Correlation length over the side.
    rng : numpy Generator
        Source of randomness; every rank passes an equal one.

    Returns
    -------
    ndarray, shape (points, points)
        Exactly distributed, at the cost of one FFT.
    """
    values = spectrum(points, length)
    n = len(values)
    noise = rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n))
    field = np.fft.fft2(np.sqrt(values) * noise) / n
    return np.asarray(field.real[:points, :points])


class Flow:
    """``-div(a grad p) = f`` with p = 0 on the boundary of the unit square.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        Ranks that share the mesh.
    cells, degree : int
        Of the mesh and the pressure; the permeability is piecewise linear.

    Attributes
    ----------
    begun : bool
        Whether the last system was solved from the guess.
    """

    def __init__(self, comm: Any, cells: int, degree: int) -> None:
        self.mesh = square(comm, cells, 1.0)
        self.space = compat.function_space(self.mesh, degree)
        self.medium = compat.function_space(self.mesh, 1)
        self.permeability, self.pressure = fem.Function(self.medium), fem.Function(self.space)
        self.source = fem.Constant(self.mesh, PETSc.ScalarType(1.0))
        self._nodes = lattice_index(self.medium.tabulate_dof_coordinates(), cells + 1, 1.0)
        p, v = ufl.TrialFunction(self.space), ufl.TestFunction(self.space)
        self._form = fem.form(self.permeability * ufl.inner(ufl.grad(p), ufl.grad(v)) * ufl.dx)
        self._load = fem.form(self.source * v * ufl.dx)
        dofs = fem.locate_dofs_geometrical(self.space, on_rim(1.0))
        self._fixed = fem.dirichletbc(PETSc.ScalarType(0.0), dofs, self.space)
        self._owned = self.space.dofmap.index_map.size_local
        self._inner_rim = dofs[dofs < self._owned]
        self._matrix = compat.create_matrix(self._form)
        self._vector, self._result = compat.create_vector(self.space), compat.create_vector(self.space)
        self._product = compat.create_vector(self.space)
        self._index = lattice_index(
            self.space.tabulate_dof_coordinates()[: self._owned], cells * degree + 1, 1.0
        )
        place = PETSc.IS().createGeneral(self._index.astype(PETSc.IntType), comm=comm)
        self._matrix.compose(ROWS, place)
        self.ksp = PETSc.KSP().create(self.mesh.comm)
        self.ksp.setType("cg")
        self.ksp.getPC().setType("bjacobi")
        self.ksp.setTolerances(rtol=1e-11, max_it=5000)
        self.ksp.setOperators(self._matrix)
        self.begun = False

    def solve(
        self,
        permeability: np.ndarray,
        source: float,
        solving: Solving | None = None,
        features: Mapping[str, float] | None = None,
        guess: np.ndarray | None = None,
    ) -> int:
        """Solve for the pressure.

        Parameters
        ----------
        permeability : ndarray, shape (cells + 1, cells + 1)
            At the mesh nodes, positive.
        source : float
            f.
        solving : Solving or None
            Solves the linear system; None: conjugate gradients.
        features : mapping of str to float or None
            What it is told.
        guess : ndarray, shape (cells * degree + 1, cells * degree + 1), or None
            Where `ksp` begins, by row of the lattice, if that is nearer to the solution than zero; taken as
            zero on the boundary.

        Returns
        -------
        int
            Iterations.

        Raises
        ------
        Diverged
            On every rank alike.
        """
        self.permeability.x.array[:] = permeability.reshape(-1)[self._nodes]
        self.source.value = source
        compat.assemble_matrix(self._matrix, self._form, [self._fixed])
        compat.assemble_vector(self._vector, self._load)
        self._vector.array[self._inner_rim] = 0.0
        self.begun = guess is not None and self._begin(guess)
        self.ksp.setInitialGuessNonzero(self.begun)
        iterations = (solving or Plain(self.ksp)).solve(self._vector, self._result, features or {})
        self.pressure.x.array[: self._owned] = self._result.array
        self.pressure.x.scatter_forward()
        return iterations

    def _begin(self, guess: np.ndarray) -> bool:
        """Take up a guess if it is nearer to the solution than zero is, in the norm of the operator.

        With the solution u, ``|g - u|_A^2 = g A g - 2 b g + |u|_A^2``: one product tells.
        """
        x = self._result
        x.array[:] = guess.reshape(-1)[self._index]
        x.array[self._inner_rim] = 0.0
        self._matrix.mult(x, self._product)
        return bool(x.dot(self._product) < 2 * x.dot(self._vector))


def _system(darcy: Darcy, comm: Any) -> tuple[Flow, tuple[Sampler, Sampler], tuple[DofOrder, DofOrder]]:
    """The solver, and for permeability and pressure how to sample and how to number them."""
    made = Flow(comm, darcy.cells, darcy.degree)
    samplers = Sampler(made.medium, darcy.grid, 1.0), Sampler(made.space, darcy.grid, 1.0)
    nodes = DofOrder(made.medium, darcy.cells + 1, 1.0)
    return made, samplers, (nodes, DofOrder(made.space, darcy.cells * darcy.degree + 1, 1.0))


def solve(darcy: Darcy, mu: Mapping[str, float], ctx: Context) -> Iterator[State]:
    """Yield the one state; see `Problem.solve`."""
    mu = darcy.parameters.checked(mu)
    for name in ("length", "variance"):
        if mu[name] <= 0:
            raise Invalid(f"{name} must be positive, got {mu[name]}")
    comm = communicator(ctx)
    mesh = darcy.replace(solver=None, guess=None)
    flow, samplers, orders = kept(comm, mesh, lambda: _system(darcy, comm))
    logarithm = np.sqrt(mu["variance"]) * gaussian_field(darcy.cells + 1, mu["length"], ctx.rng(0))
    # Every rank holds the whole field, so that all of them come to the same conclusion.
    if np.abs(logarithm).max() > np.log(SPREAD):
        raise Diverged(f"the permeability leaves [{1 / SPREAD:.0e}, {SPREAD:.0e}], variance {mu['variance']}")
    solving = wrapped(darcy.solver, flow.ksp, ctx)
    unknowns = (darcy.cells * darcy.degree + 1) ** 2
    known = {"length": mu["length"], "variance": mu["variance"], "log_n": float(np.log10(unknowns))}
    permeability = np.exp(logarithm)
    guess = first_guess(darcy, mu, ctx, {"permeability": resampled(permeability, darcy.grid)})
    if guess is not None:
        guess = resampled(guess, darcy.cells * darcy.degree + 1)
    iterations = flow.solve(permeability, mu["source"], solving, known, guess)
    solving.close()
    fields: dict[str, Part | Share] = {
        "permeability": samplers[0](flow.permeability),
        "pressure": samplers[1](flow.pressure),
    }
    if darcy.dofs:
        fields["permeability_node"] = orders[0](flow.permeability)
        fields["pressure_dof"] = orders[1](flow.pressure)
    taken = {} if darcy.guess is None else {"guessed": float(flow.begun)}
    yield State(0.0, fields, {"linear": iterations, **taken})
