"""One solve with an arm, within a budget and checked by its true residual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from petsc4py import PETSc

from sciflow_control.tuned.costs import Price

SLACK = 1.05
"""By how much a true residual may miss its target: rounding separates it from the recursive one."""
ROUNDS = 4
AIM = 0.7
"""Of the target, where a stopping rule in another norm is put right."""

LEAST = 1e-3
"""By which a tolerance is made smaller at once."""


@dataclass(frozen=True)
class Goal:
    """When a system counts as solved.

    Attributes
    ----------
    target : float
        Of the true residual, Euclidean norm.
    rhs : float
        Norm of the right-hand side.
    start : float
        Norm of the first residual.
    nonzero : bool
        Whether the iteration starts from what is in the solution.
    """

    target: float
    rhs: float
    start: float
    nonzero: bool


@dataclass(frozen=True)
class Outcome:
    """Of an attempt.

    Attributes
    ----------
    status : str
        ``ok``, ``failed`` (diverged, broke down, raised, not finite, not as accurate as it says) or
        ``censored`` (the budget ended).
    iterations : int
        Of the method.
    work : float
        Spent, in products with the operator, without the set-up.
    residual : float
        True norm at the end; NaN if it is not known.
    factor : float
        By which the method's own tolerance should be smaller next time.
    """

    status: str
    iterations: int
    work: float
    residual: float
    factor: float


class Workspace:
    """Vectors of an attempt: copies, so that an arm that fails leaves the caller's as they were.

    Parameters
    ----------
    like : PETSc.Vec
        A vector of the size and layout.
    """

    def __init__(self, like: Any) -> None:
        self.b, self.x, self.r = (like.duplicate() for _ in range(3))

    def residual(self, mat: Any) -> float:
        """``b - A x`` in `r`, and its norm."""
        mat.mult(self.x, self.r)
        self.r.aypx(-1.0, self.b)
        return float(self.r.norm())


def attempt(ksp: Any, space: Workspace, goal: Goal, price: Price, budget: float, factor: float) -> Outcome:
    """Solve ``A x = b`` for the vectors in `space` with what `budget` allows.

    Parameters
    ----------
    ksp : petsc4py.PETSc.KSP
        Of the arm, set up.
    space : Workspace
        Right-hand side and start; the solution comes into ``space.x``.
    goal : Goal
        When it is solved.
    price : Price
        Of an iteration and a check.
    budget : float
        In products with the operator.
    factor : float
        The method's own tolerance, relative to that of the goal.

    Raises
    ------
    petsc4py.PETSc.Error
        From PETSc; any other exception from an arm in Python.

    Notes
    -----
    A method that stops by another norm than the true one, or believes its recursive residual too long,
    goes on from where it is with a smaller tolerance, at most `ROUNDS` times in all.
    """
    mat = ksp.getOperators()[0]
    rtol = min(goal.target / goal.rhs * factor, 0.5)
    work, iterations, residual, status, advice = 0.0, 0, float("nan"), "failed", factor
    for turn in range(ROUNDS):
        left = int((budget - work - price.check) // price.iteration)
        if turn == 0:  # rounding shall not stop what was found to fit, and an arm that is ready must solve
            left = max(left, 1)
        if left < 1:
            status = "censored"
            break
        done, reason = _once(ksp, space, goal, turn, rtol, left)
        iterations += done
        work += done * price.iteration + price.check
        residual = space.residual(mat)
        if turn == 0:
            advice = _advice(factor, residual / goal.target)
        if residual <= SLACK * goal.target:
            return Outcome("ok", iterations, work, residual, advice)
        limited = reason == PETSc.KSP.ConvergedReason.DIVERGED_MAX_IT
        if not residual < float("inf") or (reason < 0 and not limited):
            break
        if limited:
            status = "censored"
            break
        rtol *= max(AIM * goal.target / residual, LEAST)
    return Outcome(status, iterations, work, residual, factor)


def _once(ksp: Any, space: Workspace, goal: Goal, turn: int, rtol: float, left: int) -> tuple[int, int]:
    """Iterations and reason of one run of the method."""
    if ksp.getType() == "preonly":
        if turn == 0:
            ksp.solve(space.b, space.x)
        else:  # one step of iterative refinement
            step = space.x.duplicate()
            ksp.solve(space.r, step)
            space.x.axpy(1.0, step)
            step.destroy()
        return 1, ksp.getConvergedReason()
    ksp.setTolerances(rtol=max(rtol, 1e-16), atol=1e-300, divtol=1e5, max_it=left)
    ksp.setInitialGuessNonzero(goal.nonzero or turn > 0)
    ksp.solve(space.b, space.x)
    return ksp.getIterationNumber(), ksp.getConvergedReason()


def _advice(factor: float, ratio: float) -> float:
    """The factor for the next time, after the true residual was so many times the target."""
    if not ratio > 0 or ratio == float("inf"):
        return factor
    correction = AIM / ratio
    gentle = correction if correction < 1 else min(correction**0.5, 2.0)
    return float(min(max(factor * gentle, LEAST), 1.0))
