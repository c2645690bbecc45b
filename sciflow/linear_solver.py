"""LinearSolver: how the linear systems of a problem are solved, as a field of the problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sciflow.component import Component
from sciflow.errors import Diverged

if TYPE_CHECKING:
    import numpy as np

    from sciflow.context import Context

PREFIX = "solver_"
"""Of the arrays of a `Solving` among those that a problem goes on from."""
ROWS = "sciflow_rows"
"""Under this name a KSP or operator may carry a PETSc IS: where its rows are in the stored field."""


class Solving(ABC):
    """The linear systems of one member, one after the other; made by `wrapped`.

    A problem calls `solve` for each system, puts `saved` among the arrays of ``State.restart``, and calls
    `close` when the last system is solved but before it yields its last state: so no kill comes between
    a member that is whole and what was learned from it. A member that fails is not closed.
    """

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

    def saved(self) -> dict[str, np.ndarray]:
        """`restart` under names that begin with `PREFIX`, as `wrapped` looks for them."""
        return {f"{PREFIX}{name}": values for name, values in self.restart().items()}

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


class Plain(Solving):
    """The problem's own solver and nothing else.

    Parameters
    ----------
    ksp : petsc4py.PETSc.KSP
        With operators and tolerances.
    """

    def __init__(self, ksp: Any) -> None:
        self._ksp = ksp

    def solve(self, b: Any, x: Any, features: Mapping[str, float]) -> int:
        """See `Solving.solve`.

        Raises
        ------
        Diverged
            On every rank alike.
        """
        self._ksp.solve(b, x)
        reason = self._ksp.getConvergedReason()
        if reason < 0:
            residual = self._ksp.getResidualNorm()
            raise Diverged(f"the linear solver stopped at residual {residual:.2e}, PETSc reason {reason}")
        return int(self._ksp.getIterationNumber())


def wrapped(
    solver: LinearSolver | None, ksp: Any, ctx: Context, restart: Mapping[str, np.ndarray] | None = None
) -> Solving:
    """What solves the linear systems of one member of a problem with a field ``solver``; collective.

    Parameters
    ----------
    solver : LinearSolver or None
        None: the problem's own solver alone.
    ksp, ctx
        See `LinearSolver.wrap`.
    restart : mapping of str to ndarray or None
        What the problem goes on from, with `Solving.saved` in it.
    """
    if solver is None:
        return Plain(ksp)
    if restart is None:
        return solver.wrap(ksp, ctx)
    return solver.wrap(
        ksp, ctx, {k.removeprefix(PREFIX): v for k, v in restart.items() if k.startswith(PREFIX)}
    )


class TakesSolver(Component):
    """A component with a field ``solver : LinearSolver | None``.

    Where it is None it is left out of the configuration as JSON, so that the problem is the same as before
    there was such a field.
    """

    solver: LinearSolver | None

    def to_json(self) -> dict[str, Any]:
        """See `Component.to_json`."""
        document = super().to_json()
        if document.get("solver") is None:
            document.pop("solver", None)
        return document
