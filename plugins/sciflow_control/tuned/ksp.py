"""TunedKSP: a PETSc solver whose method, preconditioner and relaxation a tuner chooses for every solve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sciflow.controller import Controller
from sciflow_control.tuned.book import decided
from sciflow_control.tuned.tuning import Rules, Solved, Tuning


class TunedKSP:
    """Stands in for a KSP: chooses how each system is solved, and learns from what it cost.

    Everything but `solve` and the answers about the last solve goes to the given solver. That solver,
    with its own settings, is the safe arm: it takes the first system, those of which nothing is
    known, and whatever an arm does not finish, from where the arm got to.

    Parameters
    ----------
    ksp : petsc4py.PETSc.KSP
        With its tolerances; the operators may come later and change.
    tuner : Controller
        Chooses; its arms are settings that `sciflow_control.tuned.arms.choice` reads.
    cost : {"work", "iterations", "seconds"}
        What the tuner learns from.
    limit : float
        How many times the work of the safe arm one solve may take, greater than 1.
    seed : int
        Of the tuner's random numbers.
    state : mapping of str to ndarray or None
        From `restart`: go on from there.
    context : callable or mapping or None
        Features of every solve, or what gives them; those passed to `solve` go before.
    rtol : float or None
        Of the true residual that arms must reach, relative to the right-hand side; None: the given
        solver's, or 1e-10 where that is direct.
    hold : int
        Solves that a decision is held for; 0: so many that deciding is short beside solving.
    amortise : bool
        Whether a set-up that breaks the limit may be paid once as much has been spent on this operator,
        or on its pattern for what is not done again while that stays.

    Raises
    ------
    Invalid
        If an arm cannot run here, or a setting is none.

    Notes
    -----
    All arms must reach ``|b - A x| <= max(rtol |b|, atol)``, checked at the end with one product. The
    safe arm stops by its own rule, as without us. With ``S`` the work of the safe arm from the start, an
    arm may spend ``(limit - 1) S`` less a fifth, where S is the least that the safe arm took on the
    three nearest known systems, and those that are like this one. So a solve
    stays below ``limit S`` where systems do not become easier
    at once, and the safe arm is not slower from a smaller residual. Set-ups cannot be interrupted:
    they are estimated before, and an arm whose set-up does not fit is not tried.

    What a failed choice costs is what the whole solve took, the safe arm's part included.

    Decisions are made on rank 0. A tuner that raises is warned of once, and the safe arm solves.

    Examples
    --------
    >>> problem._solver = TunedKSP(problem.solver, Thompson(Solvers()))  # doctest: +SKIP
    """

    _ksp: Any
    _tuning: Tuning
    _context: Mapping[str, float] | Callable[[], Mapping[str, float]] | None

    def __init__(
        self,
        ksp: Any,
        tuner: Controller,
        *,
        cost: str = "work",
        limit: float = 2.0,
        seed: int = 0,
        state: Mapping[str, np.ndarray] | None = None,
        context: Mapping[str, float] | Callable[[], Mapping[str, float]] | None = None,
        rtol: float | None = None,
        hold: int = 0,
        amortise: bool = False,
    ) -> None:
        tuning = Tuning(ksp, tuner, Rules(cost, limit, seed, rtol, hold, amortise))
        if state:
            tuning.resume(state)
        self.__dict__.update(_ksp=ksp, _tuning=tuning, _context=context)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ksp, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._ksp, name, value)

    def solve(self, b: Any, x: Any, features: Mapping[str, float] | None = None) -> None:
        """Solve with the operator that the solver holds; collective.

        Parameters
        ----------
        b, x : petsc4py.PETSc.Vec
            Right-hand side, and where the solution goes; if the given solver starts from a nonzero
            guess, so do the arms.
        features : mapping of str to float or None
            What is known before, beside the context.
        """
        context = self._context() if callable(self._context) else self._context or {}
        self._tuning.solve(b, x, {**context, **(features or {})})

    def learn(self, log: Mapping[str, np.ndarray]) -> None:
        """Take in the `history` of somebody else, for example of an earlier run; collective."""
        if self._tuning.root:
            self._tuning.book.learn(log)

    def restart(self) -> dict[str, np.ndarray]:
        """All that `state` needs, as arrays of plain numbers; on every rank its own."""
        return self._tuning.restart()

    @property
    def history(self) -> dict[str, np.ndarray]:
        """The decisions so far: columns of one length, empty on ranks other than 0."""
        found = decided(self._tuning.book.history.columns())
        return found if len(found.get("arm", ())) else {}

    @property
    def solved(self) -> Solved | None:
        """How the last solve ended, with its work."""
        return self._tuning.last

    def getConvergedReason(self) -> int:  # noqa: N802 (PETSc's name)
        """PETSc's reason for the end of the last solve."""
        last = self._tuning.last
        return int(self._ksp.getConvergedReason()) if last is None else last.reason

    def getIterationNumber(self) -> int:  # noqa: N802 (PETSc's name)
        """Iterations of the last solve."""
        last = self._tuning.last
        return int(self._ksp.getIterationNumber()) if last is None else last.iterations

    def getResidualNorm(self) -> float:  # noqa: N802 (PETSc's name)
        """Norm of the last residual."""
        last = self._tuning.last
        return float(self._ksp.getResidualNorm()) if last is None else last.residual

    @property
    def reason(self) -> int:
        """See `getConvergedReason`."""
        return self.getConvergedReason()

    @property
    def its(self) -> int:
        """See `getIterationNumber`."""
        return self.getIterationNumber()

    @property
    def norm(self) -> float:
        """See `getResidualNorm`."""
        return self.getResidualNorm()

    @property
    def converged(self) -> bool:
        """Whether the last solve converged."""
        return self.getConvergedReason() > 0
