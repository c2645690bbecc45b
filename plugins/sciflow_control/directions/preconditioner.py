"""Learned directions in PETSc: a preconditioner for flexible conjugate gradients."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.errors import Diverged, Invalid
from sciflow.linear_solver import Solving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sciflow_control.directions.poisson import Poisson

Map = Callable[[np.ndarray], np.ndarray]
PATIENCE = 3
"""Failures in a row after which the learned directions are not tried any more."""
WINDOW = 20
"""Iterations in which the residual must halve; a network that stands still is not asked hundreds of times."""
_NUMBERS = count()


class DirectionsPC:
    """Context of a PETSc preconditioner of type ``python``: y = f(x) on a grid.

    Parameters
    ----------
    propose : callable
        Residual to direction, arrays on the grid, zero outside.
    operator : Poisson
        Whose cells inside, in C order, are the entries of the vectors.

    Notes
    -----
    Not linear and not symmetric: for flexible methods (``fcg``, ``fgmres``) only. What is not finite, or
    zero, is given on as NaN, on which PETSc ends the iteration.
    """

    def __init__(self, propose: Map, operator: Poisson) -> None:
        self._propose, self._operator = propose, operator
        self.applications = 0

    def apply(self, pc: Any, x: Any, y: Any) -> None:
        """The direction for a residual; called by PETSc."""
        self.applications += 1
        found = self._operator.gather(self._propose(self._operator.scatter(x.getArray(readonly=True))))
        # A flexible method does not mind the length; of the residual's size the numbers stay within range.
        size = float(np.linalg.norm(found))
        if not 0 < size < np.inf:
            y.set(np.nan)
            return
        y.setArray(found * (x.norm() / size))


@contextmanager
def _options(values: Mapping[str, Any]) -> Iterator[None]:
    """Options of PETSc for a while: of flexible CG, petsc4py sets nothing else."""
    from petsc4py import PETSc

    options = PETSc.Options()
    for name, value in values.items():
        options.setValue(name, value)
    try:
        yield
    finally:
        for name in values:
            options.delValue(name)


def flexible_cg(matrix: Any, pc: DirectionsPC, previous: int) -> Any:
    """A flexible CG whose directions are conjugate to the last `previous`; refuses several ranks.

    Parameters
    ----------
    matrix : petsc4py.PETSc.Mat
        Symmetric, positive definite.
    pc : DirectionsPC
        What proposes the directions.
    previous : int
        At least 1.

    Returns
    -------
    petsc4py.PETSc.KSP
        With the tolerances of PETSc, on the norm of the residual itself.

    Raises
    ------
    Invalid
        If the matrix is spread over several ranks, or of another size than the grid has cells.
    """
    from petsc4py import PETSc

    alone(matrix.getComm().size)
    rows, cells = matrix.getSize()[0], len(pc._operator.places)
    if rows != cells:
        raise Invalid(
            f"the system has {rows} unknowns, the domain {cells} cells: learned directions need one unknown "
            "for each cell, in C order"
        )
    ksp = PETSc.KSP().create(matrix.getComm())
    ksp.setOptionsPrefix(f"sciflow_directions_{next(_NUMBERS)}_")
    ksp.setOperators(matrix)
    ksp.setType("fcg")
    ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
    ksp.getPC().setType("python")
    ksp.getPC().setPythonContext(pc)
    prefix = ksp.getOptionsPrefix()
    wanted = {f"{prefix}ksp_fcg_mmax": previous, f"{prefix}ksp_fcg_nprealloc": previous}
    with _options({**wanted, f"{prefix}ksp_fcg_truncation_type": "standard"}):
        ksp.setFromOptions()
    # A solver with a preconditioner in Python that outlives petsc4py's modules ends in a segmentation
    # fault when Python does, for example as a global variable: what Python is taken out before.
    weakref.finalize(ksp, _without_python, ksp.getPC())
    return ksp


def _without_python(pc: Any) -> None:
    pc.setType("none")
    pc.destroy()


def alone(size: int) -> None:
    """Refuse several ranks.

    Raises
    ------
    Invalid
        If there are more than one.
    """
    if size > 1:
        raise Invalid(
            f"learned directions look at the whole grid on one rank, this solver has {size}; run it on one, "
            "or take another solver"
        )


class Progress:
    """Convergence test of PETSc that also ends an iteration which stands still.

    Holds nothing of the solver that calls it: Python could not see that cycle, and would keep both.

    Attributes
    ----------
    goal : float
        Norm of the residual to reach.
    """

    def __init__(self) -> None:
        self.goal = 0.0
        self._norms: list[float] = []

    def __call__(self, ksp: Any, iteration: int, norm: float) -> int:
        """The reason to stop, 0 to go on."""
        from petsc4py import PETSc

        reasons = PETSc.KSP.ConvergedReason
        self._norms = [*self._norms[:iteration], norm]
        if not np.isfinite(norm):
            return int(reasons.DIVERGED_NANORINF)
        if norm <= self.goal:
            return int(reasons.CONVERGED_RTOL)
        if iteration >= WINDOW and norm > self._norms[-1 - WINDOW] / 2:
            return int(reasons.DIVERGED_BREAKDOWN)
        return 0


class DirectionsSolving(Solving):
    """Systems of one member, by learned directions and, where these fail, by the problem's own solver.

    Parameters
    ----------
    ksp : petsc4py.PETSc.KSP
        The safe one, with operators and tolerances.
    pc : DirectionsPC
        What proposes the directions.
    previous, iterations : int
        See `LearnedDirections`.
    failures : int
        In a row so far.
    """

    def __init__(self, ksp: Any, pc: DirectionsPC, previous: int, iterations: int, failures: int = 0) -> None:
        self.safe, self.pc, self._iterations, self.failures = ksp, pc, iterations, failures
        self.learned = flexible_cg(ksp.getOperators()[0], pc, previous)
        self._progress = Progress()
        self.learned.setConvergenceTest(self._progress)
        # A solver with a preconditioner in Python that outlives petsc4py's modules ends in a
        # segmentation fault when Python does; this is called before.
        weakref.finalize(self, self.learned.destroy)

    def solve(self, b: Any, x: Any, features: Mapping[str, float]) -> int:
        """See `Solving.solve`; iterations of both solvers together."""
        if self.failures >= PATIENCE:
            return self._safely(b, x)
        rtol, atol, _, _ = self.safe.getTolerances()
        self._progress.goal = max(rtol * b.norm(), atol)
        self.learned.setTolerances(max_it=self._iterations)
        warm = bool(self.safe.getInitialGuessNonzero())
        self.learned.setInitialGuessNonzero(warm)
        self.learned.setOperators(*self.safe.getOperators())
        start = x.duplicate()
        if warm:
            x.copy(start)
        self.learned.solve(b, x)
        spent = int(self.learned.getIterationNumber())
        if self.learned.getConvergedReason() > 0:
            self.failures = 0
            start.destroy()
            return spent
        self.failures += 1
        better = self._residual(b, x) < (self._residual(b, start) if warm else b.norm())
        if not better:
            start.copy(x)
        start.destroy()
        return spent + self._safely(b, x, from_here=better or warm)

    def _residual(self, b: Any, x: Any) -> float:
        """|b - A x|; NaN compares as no better than anything."""
        r = b.duplicate()
        self.safe.getOperators()[0].mult(x, r)
        r.aypx(-1.0, b)
        size = float(r.norm())
        r.destroy()
        return size

    def _safely(self, b: Any, x: Any, from_here: bool | None = None) -> int:
        """The problem's own solver.

        Raises
        ------
        Diverged
            If it fails as well.
        """
        warm = bool(self.safe.getInitialGuessNonzero())
        if from_here is not None:
            self.safe.setInitialGuessNonzero(from_here)
        self.safe.solve(b, x)
        self.safe.setInitialGuessNonzero(warm)
        reason = self.safe.getConvergedReason()
        if reason < 0:
            raise Diverged(
                f"the problem's own solver ended with PETSc's reason {reason} after "
                f"{self.safe.getIterationNumber()} iterations"
            )
        return int(self.safe.getIterationNumber())

    def restart(self) -> Mapping[str, np.ndarray]:
        """See `Solving.restart`."""
        return {"failures": np.array(self.failures)}
