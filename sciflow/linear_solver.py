"""LinearSolver: how the linear systems of a problem are solved, as a field of the problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow.component import Component

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Context


class Solving(ABC):
    """The linear systems of one member, one after the other; made by `LinearSolver.wrap`."""

    @abstractmethod
    def solve(self, b: Any, x: Any, features: Mapping[str, float]) -> int:
        """Solve with the operator that the wrapped solver holds; collective.

        Parameters
        ----------
        b, x : petsc4py.PETSc.Vec
            Right-hand side, and where the solution goes.
        features : mapping of str to float
            What is known before: time step, parameters, iteration of Newton's method.

        Returns
        -------
        int
            Iterations.

        Raises
        ------
        Diverged
            On every rank alike, if the problem's own solver fails as well.
        """

    def restart(self) -> Mapping[str, np.ndarray]:
        """What `LinearSolver.wrap` needs to go on from here with the same bits; none by default."""
        return {}

    def close(self) -> None:
        """The member is solved: note what was learned."""
        return


class LinearSolver(Component):
    """A way to solve the linear systems of a problem that takes one as a field."""

    kind: ClassVar[str] = "linear_solver"

    @abstractmethod
    def wrap(self, ksp: Any, ctx: Context, restart: Mapping[str, np.ndarray] | None = None) -> Solving:
        """Stand before the problem's own solver for one member; collective.

        Parameters
        ----------
        ksp : petsc4py.PETSc.KSP
            The problem's own solver with operators and tolerances: what is used where nothing else
            works. What is costly to set up may be kept with it for the next member.
        ctx : Context
            ``ctx.experience`` holds what other members learned.
        restart : mapping of str to ndarray or None
            What `Solving.restart` gave on this rank.
        """
