"""The last solution as a first guess, as a linear solver for sciflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow import Component, Context, Diverged, LinearSolver, Solving, hookimpl

if TYPE_CHECKING:
    import numpy as np

sciflow_api = "1.0"


class TemplateNameSolving(Solving):
    """The systems of one member, each begun from the solution of the one before.

    Parameters
    ----------
    ksp : petsc4py.PETSc.KSP
        The problem's own solver.
    last : ndarray or None, shape (unknown of this rank,)
        The solution to begin from.
    """

    def __init__(self, ksp: Any, last: np.ndarray | None = None) -> None:
        self._ksp, self._last = ksp, last

    def solve(self, b: Any, x: Any, features: Mapping[str, float]) -> int:
        """See `Solving.solve`."""
        guessed = self._last is not None
        if guessed:
            x.setArray(self._last)
        self._ksp.setInitialGuessNonzero(guessed)
        self._ksp.solve(b, x)
        self._ksp.setInitialGuessNonzero(False)
        reason = self._ksp.getConvergedReason()
        if reason < 0:
            raise Diverged(f"the linear solver stopped, PETSc reason {reason}")
        self._last = x.getArray().copy()
        return int(self._ksp.getIterationNumber())

    def restart(self) -> Mapping[str, np.ndarray]:
        """See `Solving.restart`."""
        return {} if self._last is None else {"last": self._last}


@dataclass(frozen=True)
class TemplateName(LinearSolver):
    """The problem's own solver, which begins where the last system of the member ended.

    Notes
    -----
    Saves iterations where neighbouring systems have like solutions, as in time steps; the tolerance stays
    that of the problem. Costs one vector.
    """

    name: ClassVar[str] = "template_name"
    requires: ClassVar[tuple[str, ...]] = ("petsc4py",)

    def wrap(self, ksp: Any, ctx: Context, restart: Mapping[str, np.ndarray] | None = None) -> Solving:
        """See `LinearSolver.wrap`."""
        return TemplateNameSolving(ksp, None if restart is None else restart.get("last"))


@hookimpl
def sciflow_components() -> list[type[Component]]:
    """Components of this package."""
    return [TemplateName]
